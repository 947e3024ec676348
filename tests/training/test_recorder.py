"""What a run leaves behind: the lines of metrics.jsonl, what is kept, and what is said."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lora_whisper.files import DiskFull
from lora_whisper.run_folder import RunFolder
from lora_whisper.training import recorder as recorder_module
from lora_whisper.training.checkpoint_files import TrainingState
from lora_whisper.training.checkpoints import Checkpoints
from lora_whisper.training.display import StepFigures
from lora_whisper.training.loop import StepResult, main_loop, mean_loss
from lora_whisper.training.recorder import (
    Curves,
    Recorder,
    disagrees,
    guessing_loss,
    memory_bytes,
    memory_peaks,
    overfits,
)
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
        "stop_requested": False,
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


def trained(step: int, loss: float | None, tokens: int = 10) -> dict[str, Any]:
    return {"step": step, "loss_per_token": loss, "target_tokens": tokens}


def validated(step: int, wer: float, gap: float | None = 0.0) -> dict[str, Any]:
    return {"step": step, "validation_wer": wer, "loss_gap_per_token": gap}


def lines_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_going_back_drops_later_lines_and_one_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    curves = Curves(path)
    lines = [trained(5, 2.0), validated(5, 0.5), trained(10, 1.0), trained(15, 0.5)]
    for line in lines:
        curves.add(line)
    with path.open("a") as handle:
        handle.write('{"step": 20, "loss_per')
    Curves(path).go_back_to(10, validated=10)
    assert lines_in(path) == lines[:3]
    Curves(path).go_back_to(0, validated=0)
    assert lines_in(path) == []
    Curves(tmp_path / "none.jsonl").go_back_to(0, validated=0)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_validation_that_a_signal_broke_off_once_its_line_was_written_stands_there_once(
    tmp_path: Path,
) -> None:
    curves = Curves(tmp_path / "metrics.jsonl")
    lines = [validated(5, 0.5), trained(10, 1.0), validated(10, 0.4)]
    for line in lines:
        curves.add(line)
    resumed = Curves(curves.path)
    resumed.go_back_to(10, validated=9)
    assert lines_in(curves.path) == lines[:2]
    assert resumed.validations == lines[:1]
    assert resumed.training_loss() == 1.0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("2.0", "3.0"),
        lambda text: text[text.index("\n") + 1 :],
        lambda text: "",
        lambda text: "[1]\n" + text.replace("target_tokens", "target_tokenz"),
        lambda text: text.replace('"step": 5', '"step": "5"'),
        lambda text: text.replace("{", "\udc80", 1),
        lambda text: "[" * 100_000 + text,
    ],
)
def test_damage_is_seen_and_what_cannot_be_read_is_left_out(tmp_path: Path, damage: Any) -> None:
    curves = Curves(tmp_path / "metrics.jsonl")
    for line in (trained(5, 2.0), validated(5, 0.5), trained(10, 1.0)):
        curves.add(line)
    before = curves.sha256(validated=10)
    same = Curves(curves.path)
    same.go_back_to(10, validated=10)
    assert same.sha256(validated=10) == before
    text = damage(curves.path.read_text())
    curves.path.write_bytes(text.encode("utf-8", "surrogateescape"))
    damaged = Curves(curves.path)
    damaged.go_back_to(10, validated=10)
    assert damaged.sha256(validated=10) != before


def test_a_validation_that_comes_again_is_not_taken_for_damage(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "metrics.jsonl")
    for line in (trained(5, 2.0), validated(5, 0.5)):
        curves.add(line)
    before = curves.sha256(validated=4)
    resumed = Curves(curves.path)
    resumed.go_back_to(5, validated=4)
    assert resumed.sha256(validated=4) == before


def test_training_loss_is_weighed_by_tokens_and_begins_anew_with_each_validation(
    tmp_path: Path,
) -> None:
    curves = Curves(tmp_path / "metrics.jsonl")
    assert curves.training_loss() is None
    curves.add(trained(1, 9.0))
    curves.add(validated(1, 0.5))
    assert curves.training_loss() is None
    curves.add(trained(2, 1.0, tokens=30))
    curves.add(trained(3, None))  # all its steps were skipped
    curves.add(trained(4, 2.0, tokens=10))
    assert curves.training_loss() == pytest.approx(1.25)
    resumed = Curves(curves.path)
    resumed.go_back_to(4, validated=4)
    assert resumed.training_loss() == curves.training_loss()
    assert resumed.validations == curves.validations


@pytest.mark.parametrize(
    ("wers", "gaps", "expected"),
    [
        ([0.30, 0.31, 0.30, 0.32], [0.1, 0.2, 0.3, 0.4], True),
        ([0.30, 0.31, 0.29, 0.32], [0.1, 0.2, 0.3, 0.4], False),  # the WER fell meanwhile
        ([0.30, 0.31, 0.30, 0.32], [0.1, 0.2, 0.2, 0.4], False),  # once the gap did not grow
        ([0.30, 0.31, 0.30, 0.32], [0.1, None, 0.3, 0.4], False),
        ([0.31, 0.30, 0.32], [0.1, 0.2, 0.3], False),  # too few to tell
        ([0.20, 0.30, 0.31, 0.29, 0.28], [0.9, 0.1, 0.2, 0.3, 0.4], True),  # not as low as before
    ],
)
def test_overfitting_takes_a_growing_gap_and_a_wer_that_does_not_fall(
    wers: list[float], gaps: list[float | None], expected: bool
) -> None:
    pairs = enumerate(zip(wers, gaps, strict=True))
    assert overfits([validated(step, wer, gap) for step, (wer, gap) in pairs]) is expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes every opening and no byte."""
    with pytest.raises(DiskFull, match=r"/dev/full could not be written"):
        Curves(Path("/dev/full")).add(trained(1, 1.0))


def test_memory_peaks_are_those_of_all_lines(tmp_path: Path) -> None:
    """A part of the run was on a machine without a GPU."""
    curves = Curves(tmp_path / "metrics.jsonl")
    assert memory_peaks(curves.path) == {}
    figures = [{"resident_memory_bytes": 9}, {"gpu_memory_bytes": 5, "resident_memory_bytes": 4}]
    for step, memory in enumerate(figures, 1):
        curves.add(trained(step, 1.0) | memory)
    curves.add(validated(2, 0.5))
    assert memory_peaks(curves.path) == {"resident_memory_bytes": 9, "gpu_memory_bytes": 5}


@pytest.mark.parametrize(
    ("loss", "gap", "wer", "expected"),
    [
        (5.8, 5.7, 1.0, True),  # nano with the texts of other clips
        (1.8, 1.76, 0.72, False),  # nano on 8 clips, which it knows by heart
        (3.3, 3.2, 1.0, False),  # a hard language, learnt by heart: better than guessing
        (4.49, 4.18, 0.98, True),  # nano, at the second validation with such texts
        (5.8, 1.0, 1.0, False),  # nor does it learn its training speech
        (5.8, 5.7, 0.5, False),
        (5.8, None, 1.0, False),
    ],
)
def test_texts_of_other_sound_are_worse_than_guessing(
    loss: float, gap: float | None, wer: float, expected: bool
) -> None:
    lines = [validated(step, wer, gap) | {"validation_loss_per_token": loss} for step in (1, 2)]
    assert disagrees(lines, 4.5) is expected
    assert not disagrees(lines[:1], 4.5), "one validation is no evidence"


def test_guessing_by_frequency_has_the_entropy_of_the_tokens() -> None:
    assert guessing_loss(Counter({1: 100, 2: 100})) == pytest.approx(math.log(2))
    assert guessing_loss(Counter(range(500))) == pytest.approx(math.log(500))
    assert guessing_loss(Counter(range(50))) == math.inf, "too few to know"
