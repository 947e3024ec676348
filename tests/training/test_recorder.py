"""What a run leaves behind: the lines of metrics.jsonl, what is kept, and what is said."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lora_whisper.run_folder import RunFolder
from lora_whisper.training import recorder as recorder_module
from lora_whisper.training.checkpoints import Checkpoints, TrainingState
from lora_whisper.training.display import StepFigures
from lora_whisper.training.loop import StepResult, main_loop, mean_loss
from lora_whisper.training.recorder import Recorder, memory_bytes
from lora_whisper.training.tracking import Trackers
from tests.training.parts import micro_batches, toy_adapter, toy_trainer, toy_windows

NewRecorder = Callable[..., Recorder]


class Told(Trackers):
    """A tracker and a display that remember what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.figures: list[StepFigures] = []

    def log(self, line: Any) -> None:
        self.lines.append(dict(line))

    def update(self, figures: StepFigures) -> None:
        self.figures.append(figures)


@pytest.fixture
def new_recorder(tmp_path: Path) -> Iterator[NewRecorder]:
    """Recorders of one run, whose validation gives these WERs, one after another."""
    opened: list[Checkpoints] = []

    def new(wers: list[float], name: str = "run", **changes: Any) -> Recorder:
        trainer = toy_trainer(toy_adapter(), **({"total_steps": 4} | changes))
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        checkpoints = Checkpoints(folder.checkpoints, 2, 2, 2, config_hash="")
        opened.append(checkpoints)
        left = iter(wers)
        return Recorder(
            folder=folder,
            trainer=trainer,
            checkpoints=checkpoints,
            steps_per_epoch=4,
            validation=[micro_batches(toy_windows(4, seed=9), 2)],
            decode_validation=lambda: next(left),
            trackers=Told(),
        )

    yield new
    for checkpoints in opened:
        checkpoints.finish()


def batches(first: int, last: int) -> Iterator[Any]:
    return (micro_batches(toy_windows(4, seed=step), 2) for step in range(first, last))


def carry_out(recorder: Recorder, last: int = 4) -> TrainingState:
    state = recorder.resume()
    main_loop(
        recorder.trainer,
        batches(state.step, last),
        state,
        recorder.log,
        recorder.validate,
        recorder.checkpoint,
    )
    recorder.checkpoints.finish()
    return state


def written(recorder: Recorder) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = recorder.folder.metrics.read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def step_result(loss: float = 2.0, tokens: int = 10, **changes: Any) -> StepResult:
    values: dict[str, Any] = {
        "loss": loss,
        "gradient_norm": 1.0,
        "target_tokens": tokens,
        "audio_seconds": 30.0,
        "learning_rate": 1e-3,
        "bad_audio": 0,
        "skipped": not math.isfinite(loss),
        "is_last": False,
    }
    return StepResult(**(values | changes))


def do_step(recorder: Recorder, state: TrainingState, result: StepResult) -> None:
    """One second of training, as the loop counts it."""
    state.step += 1
    state.train_seconds += 1.0
    state.skipped_steps += result.skipped
    recorder.log(state, result)


def test_a_run_writes_both_curves(new_recorder: NewRecorder) -> None:
    recorder = new_recorder([0.5, 0.4], validate_every_steps=2, log_every_steps=3)
    state = carry_out(recorder)
    lines = written(recorder)
    # Steps 2 and 4 are validated, and 3 is a multiple of log_every_steps.
    assert [line["step"] for line in lines if "loss_per_token" in line] == [2, 3, 4]
    first, second = (line for line in lines if "validation_wer" in line)
    assert [first["validation_wer"], second["validation_wer"]] == [0.5, 0.4]
    recorder.trainer.whisper.eval()
    assert recorder.validation is not None
    loss = mean_loss(recorder.trainer, recorder.validation)
    assert second["validation_loss_per_token"] == pytest.approx(loss)
    training = [line for line in lines if line["step"] > 2 and "loss_per_token" in line]
    tokens = sum(line["target_tokens"] for line in training)
    mean = sum(line["loss_per_token"] * line["target_tokens"] for line in training) / tokens
    assert second["loss_gap_per_token"] == pytest.approx(loss - mean)
    assert 0 < first["validation_seconds"] < state.validation_seconds < state.train_seconds
    assert {"epoch", "learning_rate", "gradient_norm", "skipped_steps"} <= training[0].keys()
    assert lines[-2]["epoch"] == 1.0
    assert recorder.trackers.lines == lines  # type: ignore[attr-defined]


def test_a_resumed_run_writes_the_same_curves(new_recorder: NewRecorder) -> None:
    """Killed after the third step, it goes on from the second, whose validation is not repeated."""
    settings = {"validate_every_steps": 2, "checkpoint_every_steps": 2, "log_every_steps": 3}
    through = new_recorder([0.5, 0.4], "through", **settings)
    carry_out(through)
    killed = new_recorder([0.5], **settings)
    with pytest.raises(StopIteration):
        carry_out(killed, last=3)
    killed.checkpoints.finish()
    assert [line["step"] for line in written(killed)] == [2, 2, 3]
    resumed = new_recorder([0.4], **settings)
    state = carry_out(resumed)
    assert [unclocked(line) for line in written(resumed)] == [
        unclocked(line) for line in written(through)
    ]
    assert state.best is not None
    assert state.best.wer == 0.4


def unclocked(line: dict[str, Any]) -> dict[str, Any]:
    """Without what a clock or the memory says."""
    return {
        key: value
        for key, value in line.items()
        if not key.endswith(("train_seconds", "validation_seconds", "per_second", "_bytes"))
    }


def test_the_best_are_kept_and_what_brings_nothing_is_counted(new_recorder: NewRecorder) -> None:
    recorder = new_recorder([0.5, 0.4, 0.6, 0.45, 0.3])
    state, counted = recorder.resume(), []
    for _ in range(5):
        do_step(recorder, state, step_result())
        recorder.validate(state)
        counted.append(state.validations_without_gain)
    assert counted == [0, 0, 1, 2, 0]
    assert state.best is not None
    assert (state.best.step, state.best.wer) == (5, 0.3)
    recorder.checkpoints.finish()
    assert [best.wer for best, _ in recorder.checkpoints.bests()] == [0.3, 0.4]


def test_a_skipped_step_is_counted_and_not_averaged(new_recorder: NewRecorder) -> None:
    recorder = new_recorder([0.5], log_every_steps=2)
    state = recorder.resume()
    do_step(recorder, state, step_result(loss=2.0, tokens=10))
    do_step(recorder, state, step_result(loss=math.nan, gradient_norm=math.inf))
    do_step(recorder, state, step_result(loss=math.inf))
    recorder.validate(state)
    first, second, validated = written(recorder)
    assert (first["loss_per_token"], first["target_tokens"]) == (2.0, 10)
    assert first["gradient_norm"] is None
    assert (second["loss_per_token"], second["target_tokens"]) == (None, 0)
    assert [first["skipped_steps"], second["skipped_steps"]] == [1, 2]
    assert validated["loss_gap_per_token"] is not None


def test_speed_is_that_of_training_alone(new_recorder: NewRecorder) -> None:
    """30 s of speech in each second of training; a validation of 100 s is not in it."""
    recorder = new_recorder([0.5])
    told = Told()
    recorder.display = told
    state = recorder.resume()
    do_step(recorder, state, step_result())
    state.train_seconds += 100.0
    state.validation_seconds += 100.0
    do_step(recorder, state, step_result())
    assert [line["audio_seconds_per_second"] for line in written(recorder)] == [30.0, 30.0]
    assert told.figures[-1].audio_seconds_per_second == 30.0


def test_the_display_has_the_figures_of_the_run(new_recorder: NewRecorder) -> None:
    recorder = new_recorder([0.5, 0.6])
    told = Told()
    recorder.display = told
    state = recorder.resume()
    do_step(recorder, state, step_result(loss=2.0, tokens=10))
    recorder.validate(state)
    do_step(recorder, state, step_result(loss=1.0, tokens=30))
    recorder.validate(state)
    do_step(recorder, state, step_result(loss=math.nan))
    first, second, third = told.figures
    assert (first.step, first.epoch, first.loss, first.wer) == (1, 0.25, 2.0, None)
    assert (second.loss, second.wer, second.best_wer) == (1.25, 0.5, 0.5)
    assert (third.loss, third.wer, third.best_wer, third.skipped_steps) == (1.25, 0.6, 0.5, 1)
    assert third.memory_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


def test_memory_is_the_gpus_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 7)
    assert "gpu_memory_bytes" not in memory_bytes(torch.device("cpu"))
    assert memory_bytes(torch.device("cuda"))["gpu_memory_bytes"] == 7


def test_a_validation_that_is_broken_off_leaves_no_trace(new_recorder: NewRecorder) -> None:
    recorder = new_recorder([])
    state = recorder.resume()
    do_step(recorder, state, step_result())

    def interrupted() -> float:
        raise KeyboardInterrupt

    recorder.decode_validation = interrupted
    with pytest.raises(KeyboardInterrupt):
        recorder.validate(state)
    assert recorder.trainer.whisper.training
    assert state.best is None
    assert all("validation_wer" not in line for line in written(recorder))


def test_slow_validation_is_said_once(
    new_recorder: NewRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = new_recorder([0.5] * 4)
    state = recorder.resume()
    counts = []
    with caplog.at_level(logging.WARNING, "lora_whisper"):
        for _ in range(4):
            do_step(recorder, state, step_result())
            state.train_seconds += 200.0
            state.validation_seconds += 50.0
            recorder.validate(state)
            counts.append(len(caplog.records))
        recorder.warn_of_slow_validation(state)
    assert counts == [0, 1, 1, 1]
    assert len(caplog.records) == 1
    assert "evaluation.max_validation_utterances" in caplog.text
    assert "training.validate_every_steps" in caplog.text


@pytest.mark.parametrize(("train_seconds", "validation_seconds"), [(100.0, 59.0), (1000.0, 199.0)])
def test_validation_that_is_short_or_a_small_share_is_not_slow(
    new_recorder: NewRecorder,
    caplog: pytest.LogCaptureFixture,
    train_seconds: float,
    validation_seconds: float,
) -> None:
    state = TrainingState(train_seconds=train_seconds, validation_seconds=validation_seconds)
    with caplog.at_level(logging.WARNING, "lora_whisper"):
        new_recorder([]).warn_of_slow_validation(state)
    assert not caplog.records


def test_overfitting_is_said_once(
    new_recorder: NewRecorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training falls, validation rises, and no WER is below the second one."""
    losses = iter([2.0, 2.1, 2.2, 2.3, 2.4, 2.5])
    monkeypatch.setattr(recorder_module, "mean_loss", lambda trainer, loader: next(losses))
    recorder = new_recorder([0.5, 0.4, 0.42, 0.41, 0.43, 0.44])
    state = recorder.resume()
    with caplog.at_level(logging.WARNING, "lora_whisper"):
        for step in range(6):
            do_step(recorder, state, step_result(loss=2.0 - step / 10))
            recorder.validate(state)
    (said,) = caplog.records
    message = said.getMessage()
    assert message.startswith("step 5:")
    assert "40.0 % at step 2" in message
    assert "training.patience=3" in message
