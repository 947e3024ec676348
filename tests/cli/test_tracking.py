"""Trackers on the command line: TensorBoard for real; the others have tests/training."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lora_whisper.training import loop
from tests.cli.conftest import Line, World


def events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "tracking/tensorboard")).Reload()


def curve(run: Path, key: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(key)]


def metrics(run: Path, key: str) -> list[tuple[int, Any]]:
    lines = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], pytest.approx(line[key])) for line in lines if key in line]


def test_tensorboard_shows_what_metrics_has_and_the_scores(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that breaks after its third step and goes on from its second."""
    monkeypatch.setenv("HOME", str(world.speech.parent))
    arguments = [
        "tracking=tensorboard",
        "training.log_every_steps=1",
        "training.checkpoint_every_steps=2",
    ]
    whole_step = loop.train_step

    def failing(trainer: Any, step: int, *more: Any) -> Any:
        if step == 3:
            raise RuntimeError("a power cut")
        return whole_step(trainer, step, *more)

    monkeypatch.setattr(loop, "train_step", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        line("train", *world.arguments("a", *arguments))
    run = Path("outputs/a")
    assert [step for step, _ in curve(run, "loss_per_token")] == [1, 2, 3]
    monkeypatch.setattr(loop, "train_step", whole_step)
    assert line("train", *world.arguments("a", *arguments, "resume=auto")) == 0
    for key in ("loss_per_token", "learning_rate", "validation_wer", "loss_gap_per_token"):
        assert curve(run, key) == metrics(run, key), key
    summary = json.loads((run / "summary.json").read_text())
    for model in ("base", "adapter"):
        assert curve(run, f"test_wer_{model}") == [(4, pytest.approx(summary[model]["wer"]))]
    hyperparameters = events(run).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"adapter.rank" in hyperparameters
    assert str(world.speech).encode() not in hyperparameters, "whose home it is, is nobody's affair"


def test_each_point_of_a_sweep_is_a_run_of_its_own(world: World, line: Line) -> None:
    settings = ["tracking=tensorboard", "training.max_steps=1", "data.test=null"]
    arguments = world.arguments("ranks", *settings)
    assert line("train", "-m", *arguments, "adapter.rank=2,3") == 0
    for point in ("adapter.rank-2", "adapter.rank-3"):
        run = Path("outputs/sweeps/ranks") / point
        assert curve(run, "validation_wer") == metrics(run, "validation_wer")


def test_a_missing_package_is_said_before_anything_is_read(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "mlflow" else found(name)
    )
    assert line("train", "name=a", "tracking=mlflow", "data.train=no_such_file.jsonl") == 2
    assert "pip install 'lora-whisper[mlflow]'" in capsys.readouterr().err
    assert not Path("outputs").exists()
