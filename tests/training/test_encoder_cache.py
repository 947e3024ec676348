"""The frozen part of the encoder: how much of it that is, what is kept of it, and by how many."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lora_whisper import processes
from lora_whisper.data.batches import StepDataset
from lora_whisper.data.loader import TrainingWindows, WindowKind
from lora_whisper.data.sampler import GlobalBatch, pack
from lora_whisper.data.windows import WindowMaker, WindowSource
from lora_whisper.lora.adapter import attach
from lora_whisper.model.device import join_processes
from lora_whisper.training.encoder_cache import (
    EncoderPlan,
    Encoding,
    encode_windows,
    frozen_layers,
    kept_dtype,
)
from lora_whisper.training.loop import Trainer
from tests.configs import adapter_config
from tests.launched import together
from tests.model.test_tokenizer import toy_special_tokens
from tests.toy_tokenizers import toy_tokenizer
from tests.toy_utterances import recorded
from tests.toys import WINDOW_SECONDS, toy_model
from tests.training.parts import forward, micro_batches, toy_trainer, toy_windows

SECONDS = [0.5, 1.4, 0.3, 0.9, 1.1, 0.2, 0.7, 1.3, 0.6, 0.8]
POSITIONS, WIDTH = 100, 16


def trainer_of(layers: str) -> Trainer:
    config = adapter_config(rank=2, layers=layers)
    trainer = toy_trainer(attach(toy_model(), config, "none", False, seed=3))
    vars(trainer)["frozen_layers"] = frozen_layers(trainer.parameters, 2)
    return trainer


@pytest.mark.parametrize(
    ("layers", "frozen"),
    [("all", 0), ("decoder", 2), ("encoder.1", 1), ("encoder.0+decoder", 0), ("decoder.1", 2)],
)
def test_frozen_is_what_lies_below_all_adapters(layers: str, frozen: int) -> None:
    """There nothing keeps an activation for the way back, nor goes it."""
    trainer = trainer_of(layers)
    assert trainer.frozen_layers == frozen
    outputs: dict[int, torch.Tensor] = {}
    for number, layer in enumerate(trainer.whisper.model.encoder.layers):
        layer.register_forward_hook(
            lambda *given, number=number: outputs.update({number: given[2]})
        )
    forward(trainer, micro_batches(toy_windows(2), 2)[0])
    assert [outputs[number].requires_grad for number in (0, 1)] == [
        number >= frozen for number in (0, 1)
    ]


def test_half_precision_is_kept_as_it_is_and_single_by_its_range() -> None:
    normed, between = trainer_of("decoder"), trainer_of("encoder.1")
    assert (kept_dtype(normed), kept_dtype(between)) == (torch.float16, torch.bfloat16)
    torch.nn.init.constant_(normed.whisper.model.encoder.layer_norm.weight, 20_000.0)
    assert kept_dtype(normed) == torch.bfloat16
    normed.whisper.to(torch.bfloat16)
    between.whisper.to(torch.float16)
    assert (kept_dtype(normed), kept_dtype(between)) == (torch.bfloat16, torch.float16)


def written(folder: Path) -> dict[str, Any]:
    """Ten windows, encoded by as many processes as there are; and their step's losses."""
    if processes.count() > 1:
        join_processes()
    os.environ["LORA_WHISPER_CACHE"] = str(folder / f"cache-{processes.count()}")
    tokenizer, special_tokens = toy_tokenizer(), toy_special_tokens()
    if processes.is_main():
        recorded(folder, SECONDS)
    utterances = processes.from_main(lambda: recorded(folder, SECONDS))
    packing = pack(utterances, tokenizer, special_tokens, WINDOW_SECONDS, "padded")
    source = WindowSource(utterances, packing)
    maker = WindowMaker(
        tokenizer, special_tokens, WINDOW_SECONDS, seed=3, log_mel_padding_share=0.5
    )
    dataset = StepDataset((source,), maker, 0.0, global_batch=GlobalBatch(4), micro_batch=2, seed=3)
    nothing: Any = None
    windows = TrainingWindows(WindowKind("padded"), nothing, nothing, 10, 3, None, dataset)
    trainer = trainer_of("decoder")
    ways = ["sound", "log-mel"]
    of = {"layers": 2, "kept": "float16", "shape": [POSITIONS, WIDTH], "paddings": ways}
    plan = EncoderPlan((Encoding(source, of),), 0.0)
    cached, summary = encode_windows(plan, windows, trainer)
    assert summary is not None
    (place,) = Path(os.environ["LORA_WHISPER_CACHE"], "encoder").iterdir()
    assert cached.dataset is not None
    return {
        "files": {path.name: path.read_bytes() for path in place.iterdir()},
        "steps": [
            [forward(trainer, batch).item() for batch in one[step]]
            for one in (dataset, cached.dataset)
            for step in range(7)
        ],
        "left": [path.name for path in place.parent.iterdir() if path != place],
    }


def test_several_processes_write_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And read it: each of them all of it, in any step, as it would be computed."""
    monkeypatch.setenv("LORA_WHISPER_CACHE", "set again for each")
    alone, (first, second) = written(tmp_path), together(2, written, tmp_path)
    assert first == second
    assert first["files"].keys() == alone["files"].keys() == {
        "encoded.json", "windows.npz", "activations.bin",
    }  # fmt: skip
    ours, theirs = (
        np.frombuffer(one["files"]["activations.bin"], np.float16) for one in (alone, first)
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert ours.any()
    assert first["left"] == []
    computed, read = alone["steps"][:7], alone["steps"][7:]
    for one, other in zip(computed, read, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_full_disk_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    utterances = recorded(tmp_path, SECONDS[:2])
    packing = pack(utterances, toy_tokenizer(), toy_special_tokens(), WINDOW_SECONDS, "padded")
    source = WindowSource(utterances, packing)
    of = {"layers": 2, "kept": "float16", "shape": [POSITIONS, WIDTH], "paddings": ["sound"]}
    plan = EncoderPlan((Encoding(source, of),), 0.0)
    windows: Any = SimpleNamespace(dataset=SimpleNamespace(maker=None), workers=0)
    found = encode_windows(plan, windows, trainer_of("decoder"))
    assert found == (windows, None)
    assert "computed in each step" in caplog.text
    assert [*(tmp_path / "cache/encoder").iterdir()] == []
