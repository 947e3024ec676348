"""openai-whisper, which hears what `export.openai` wrote: the program, and the model below it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.export.openai import FILE


class OpenAIWhisperEngine:
    """OpenAI's own module in float32, for windows and vocabularies of any size.

    See `Engine` of evaluation/decoding/stepwise.py.
    """

    def __init__(self, model: Any):
        self.model, self.width = model.eval(), model.dims.n_audio_state
        # Its modules keep their keys and values in the dictionary that they are given.
        self.cache, _ = model.install_kv_cache_hooks()

    @classmethod
    def load(cls, folder: Path) -> OpenAIWhisperEngine:
        """Load the model.pt of a folder onto the CPU.

        Raises:
            UserError: the package is missing, or the file does not load.
        """
        return cls(load_model(folder, "cpu"))

    def hear(self, features: Tensor) -> None:
        """See `Engine`."""
        self.encoded = self.model.encoder(features[None])
        self.cache.clear()

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """See `Engine`."""
        # With keys of earlier tokens, its attention is right for one token at a time only.
        parts = [[token] for token in tokens] if self.cache else [tokens]
        for part in parts:
            given = torch.tensor([part])
            scores = self.model.decoder(given, self.encoded, kv_cache=self.cache)
        last: Tensor = scores[0, -1]
        return last


class OpenAIWhisperProgram:
    """openai-whisper as people run it, for models of a published size.

    Greedy, one window after the other, without timestamps, previous text, fallback and thresholds.
    It ends a window's text after 224 tokens, half of what the decoder has room for. Behind a
    recording that is shorter than its window, its log-mel goes on with 0.0; Transformers and
    whisper.cpp hear silence there, which is lower. Recordings of 30 s are heard alike.
    """

    def __init__(self, model: Any, device: str):
        self.model = model
        self.half = device != "cpu"  # as the program itself does by default
        self.name = f"openai-whisper {version('openai-whisper')}"

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> OpenAIWhisperProgram:
        """Load the model.pt of a folder.

        Raises:
            UserError: the package is missing, or the file does not load.
        """
        return cls(load_model(folder, device), device)

    def hear(self, samples: np.ndarray, language: str | None, task: str) -> str:
        """The text of mono audio at 16 kHz in float32.

        Args:
            language: Whisper's code; None for English-only models.
            task: transcribe or translate.
        """
        result = self.model.transcribe(
            samples,
            language=language or "en",
            task=task,
            temperature=0.0,
            fp16=self.half,
            without_timestamps=True,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            logprob_threshold=None,
            no_speech_threshold=None,
        )
        return str(result["text"]).strip()


def require_package() -> None:
    """See that openai-whisper is installed.

    Raises:
        UserError: it is not.
    """
    _package()


def load_model(folder: Path, device: str) -> Any:
    """Load an exported folder's file, by openai-whisper's own function.

    Raises:
        UserError: the package is missing, or the file does not load.
    """
    package, path = _package(), folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {FILE}; export it: format=openai")
    try:
        return package.load_model(str(path), device=device)
    except (OSError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} does not load in openai-whisper: {error}") from None


def _package() -> ModuleType:
    try:
        import whisper

        whisper.load_model  # noqa: B018 (another package has the same name)
    except (ImportError, AttributeError):
        raise UserError(
            "To run a model in OpenAI's layout, openai-whisper is needed: "
            "pip install 'lora-whisper[openai]'"
        ) from None
    return whisper  # type: ignore[no-any-return]
