"""Checkpoints: whole or not there, and enough to go on bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_whisper.training import checkpoints
from lora_whisper.training.checkpoints import (
    Best,
    TrainingState,
    latest_checkpoint,
    load_checkpoint,
    load_parameters,
    save_best,
    save_checkpoint,
)
from lora_whisper.training.loop import Trainer, train_step
from tests.training.parts import micro_batches, toy_adapter, toy_trainer, toy_windows


def steps(trainer: Trainer, first: int, last: int) -> None:
    for step in range(first, last):
        train_step(trainer, step, micro_batches(toy_windows(seed=step), 4))


def matrices(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.parameters.items()}


def test_going_on_gives_the_bit_identical_adapter(tmp_path: Path) -> None:
    through = toy_trainer(toy_adapter(dropout=0.3))
    steps(through, 0, 6)
    half = toy_trainer(toy_adapter(dropout=0.3))
    steps(half, 0, 3)
    state = TrainingState(step=3, audio_seconds=1.5, best=Best(2, 0.5, 1.25))
    save_best(tmp_path, Best(2, 0.5, 1.25), half.parameters)
    save_checkpoint(tmp_path, state, half.parameters, half.optimizer, keep=2)
    resumed = toy_trainer(toy_adapter(dropout=0.3, seed=99))
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert load_checkpoint(path, resumed.parameters, resumed.optimizer) == state
    steps(resumed, 3, 6)
    expected = matrices(through)
    assert all(torch.equal(expected[name], value) for name, value in matrices(resumed).items())


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    trainer = toy_trainer(toy_adapter())
    save_best(tmp_path, Best(1, 0.1, 0.2), trainer.parameters)
    for step in (1, 2, 3, 10):
        state = TrainingState(step=step)
        save_checkpoint(tmp_path, state, trainer.parameters, trainer.optimizer, keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best", "step-000003", "step-000010"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000010"


def test_a_checkpoint_cut_short_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle leaves the checkpoint before it."""
    trainer = toy_trainer(toy_adapter())
    save_checkpoint(tmp_path, TrainingState(1), trainer.parameters, trainer.optimizer, keep=1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, TrainingState(2), trainer.parameters, trainer.optimizer, keep=1)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000001"


def test_best_can_be_replaced_and_loaded(tmp_path: Path) -> None:
    trainer = toy_trainer(toy_adapter())
    save_best(tmp_path, Best(1, 0.5, 0.2), trainer.parameters)
    steps(trainer, 0, 2)
    save_best(tmp_path, Best(2, 0.4, 0.2), trainer.parameters)
    other = toy_trainer(toy_adapter(seed=99))
    load_parameters(tmp_path / "best", other.parameters)
    expected = matrices(trainer)
    assert all(torch.equal(expected[name], value) for name, value in matrices(other).items())


@pytest.mark.parametrize(
    ("wer", "loss", "beaten"),
    [(0.4, 9.0, True), (0.5, 0.9, True), (0.5, 1.0, False), (0.6, 0.1, False)],
)
def test_lower_wer_first_then_lower_loss(wer: float, loss: float, beaten: bool) -> None:
    assert Best(1, 0.5, 1.0).is_beaten_by(Best(2, wer, loss)) == beaten
