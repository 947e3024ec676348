"""nano with two adapters on it, loaded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lora_whisper.data.audio import read_audio
from lora_whisper.lora.adapter import adapter_parameters, attach, save_adapter
from lora_whisper.model.checkpoint import locate
from lora_whisper.transcription.transcriber import Transcriber
from tests.configs import adapter_config, model_config
from tests.evaluation.toy_decoder import general_speech, nano

NANO = "embedded:nano"


def nano_adapter(folder: Path, seed: int) -> Path:
    """One that changes what nano hears, and not all of it."""
    model = attach(nano().model, adapter_config("lora", rank=4, alpha=8.0), "none", False, seed)
    generator = torch.Generator().manual_seed(seed)
    for value in adapter_parameters(model).values():
        value.data = 0.12 * torch.randn(value.shape, generator=generator)
    save_adapter(model, folder, locate(model_config(NANO)))
    return folder


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return nano_adapter(folder / "a", 1), nano_adapter(folder / "b", 2)


@pytest.fixture(scope="session")
def loaded(adapters: tuple[Path, Path]) -> Transcriber:
    return Transcriber.from_model(NANO, [str(one) for one in adapters])


@pytest.fixture
def transcriber(loaded: Transcriber) -> Transcriber:
    """The base."""
    loaded.use(None)
    return loaded


@pytest.fixture(scope="session")
def speech() -> list[np.ndarray]:
    """Samples of ten clips of 1 to 4 s."""
    return [read_audio(clip.audio) for clip in general_speech(10)]
