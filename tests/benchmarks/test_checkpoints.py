"""The benchmarks of checkpoints run, at toy size; what they measure is not looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import checkpoint_stall
from benchmarks.kill_and_resume import STEPS, part_of, where
from lora_whisper.run_folder import MARKER, RunFolder


def test_the_adapter_has_the_size_of_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """rank · (inputs + outputs) of six layers a block, and of four more in the decoder's."""
    parameters = checkpoint_stall.parameters_of("tiny", 4)
    width, hidden, blocks = 384, 4 * 384, 4
    attention, feed_forward = 4 * 2 * width, 2 * (width + hidden)
    expected = blocks * 4 * (attention + feed_forward) + blocks * 4 * (2 * attention + feed_forward)
    assert sum(value.numel() for value in parameters.values()) == expected


def test_each_round_has_its_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_stall, "UNDISTURBED_SECONDS", 0.01)
    parameters = {"lora_A": nn.Parameter(torch.randn(3, 4))}
    figures = checkpoint_stall.measured(parameters, rounds=2, folder=tmp_path)
    assert figures["parameters"] == 12
    assert len(figures["stall_seconds"]) == 2
    assert figures["longest_stall_seconds"] == max(figures["stall_seconds"])
    assert list(tmp_path.iterdir()) == []


def test_where_a_kill_fell(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert part_of(run, before=0) == "loading, or scoring the base"
    run.config.write_text(MARKER)
    (run.checkpoints / "step-000007").mkdir(parents=True)
    assert part_of(run, before=7) == "loading, or scoring the base"
    (run.checkpoints / ".step-000008.part").mkdir()
    assert where(run, before=3) == {"in": "training", "step": 7, "half": True}
    (run.checkpoints / f"step-{STEPS:06d}").mkdir()
    assert part_of(run, before=STEPS) == "scoring the adapter"
