"""What a run leaves behind while it goes on: curves, checkpoints, and what is said of it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from lora_whisper import processes
from lora_whisper.data.batches import Batch
from lora_whisper.data.windows import IGNORED
from lora_whisper.files import append_jsonl, write_whole
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import clock, percent
from lora_whisper.training.checkpoint_files import Best, TrainingState
from lora_whisper.training.checkpoints import Checkpoints
from lora_whisper.training.display import StepFigures, TrainingDisplay
from lora_whisper.training.loop import StepResult, Trainer, mean_loss
from lora_whisper.training.tracking import Trackers

log = logging.getLogger("lora_whisper")

SHOWN_STEPS = 20  # over which the display's loss and speed are means
SLOW_VALIDATION = 0.2  # share of the time, from which on a warning names the settings
SLOW_VALIDATION_SECONDS = 60.0  # in shorter ones there is nothing to gain
VALIDATIONS_OF_OVERFITTING = 3
FEWEST_TOKENS = 200  # of a validation set, to know how frequent each is
MOSTLY_WRONG = 0.8  # of WER
NEAR_GUESSING = 0.75  # of its loss
Number = int | float | None
Line = dict[str, Any]  # units in the keys; a line with "validation_wer" is of a validation


@dataclass(frozen=True)
class TimedStep:
    """A step, and the time since the last one, without validation."""

    result: StepResult
    seconds: float


@dataclass
class Recorder:
    """The three callbacks of `main_loop`. In all processes; the main one writes and shows."""

    folder: RunFolder
    trainer: Trainer
    checkpoints: Checkpoints
    steps_per_epoch: int | None  # None of a stream
    validation: Iterable[list[Batch]] | None  # can be iterated again and again
    decode_validation: Callable[[], float] | None  # WER on the validation sample
    trackers: Trackers = field(default_factory=Trackers)
    on_validated: Callable[[TrainingState], None] | None = None  # what it raises ends the run
    display: TrainingDisplay | None = None
    _unwritten: list[TimedStep] = field(default_factory=list)  # since the last line
    _recent: deque[TimedStep] = field(default_factory=lambda: deque(maxlen=SHOWN_STEPS))
    _trained_seconds: float = 0.0  # at the last step
    _guessing_loss: float = math.inf  # on the validation set, see `guessing_loss`
    _warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.curves = Curves(self.folder.metrics)

    def resume(self, without_best: bool = False, anew: bool = False) -> TrainingState:
        """Go back to the last sound checkpoint, if there is one, and forget what came after it.

        Args:
            without_best: see `Checkpoints.find`.
            anew: whether all validations are dropped, which were of another set.
        """
        trainer = self.trainer
        state = self.checkpoints.resume(
            trainer.parameters,
            trainer.optimizer,
            trainer.accelerator.scaler,
            trainer.rank_schedule,
            without_best or anew,
            anew,
        )
        if state.step:
            log.info("going on from step %d of %d", state.step, trainer.total_steps)
        self._trained_seconds = _trained_seconds(state)
        self.curves.go_back_to(state.step, -1 if anew else state.validated)
        if state.metrics_sha256 not in ("", self.curves.sha256(state.validated)):
            log.warning(
                "%s is not what it was at step %d: lines that cannot be read are left out of the "
                "curves; the adapter does not depend on them",
                self.folder.metrics.name,
                state.step,
            )
        return state

    # ── a step ───────────────────────────────────────────────────────────────────────────────

    def log(self, state: TrainingState, result: StepResult) -> None:
        """Note one step; write a line of metrics.jsonl when it is due."""
        self.checkpoints.raise_failure()
        before, self._trained_seconds = self._trained_seconds, _trained_seconds(state)
        step = TimedStep(result, self._trained_seconds - before)
        self._unwritten.append(step)
        self._recent.append(step)
        if self.display is not None:
            self.display.update(self._figures(state))
        is_last = state.step == self.trainer.total_steps
        if is_last or state.step % self.trainer.settings.log_every_steps == 0:
            self._write_steps(state)

    def _figures(self, state: TrainingState) -> StepFigures:
        validations = self.curves.validations
        return StepFigures(
            step=state.step,
            epoch=self._epoch(state),
            loss=loss_per_token(self._recent),
            wer=validations[-1]["validation_wer"] if validations else None,
            best_wer=state.best.wer if state.best else None,
            learning_rate=self._recent[-1].result.learning_rate,
            audio_seconds_per_second=audio_seconds_per_second(self._recent),
            # The GPU's comes last where there is one: it is the one that runs out.
            memory_bytes=list(memory_bytes(self.trainer.accelerator.device).values())[-1],
            skipped_steps=state.skipped_steps,
        )

    def _write_steps(self, state: TrainingState) -> None:
        """Write a line of what happened since the last one, if anything did."""
        if not self._unwritten:
            return
        steps, self._unwritten = self._unwritten, []
        last = steps[-1].result
        line = {
            "step": state.step,
            "epoch": self._epoch(state),
            "loss_per_token": loss_per_token(steps),
            "learning_rate": last.learning_rate,
            # Not finite where fp16's loss scaler skipped the step; JSON has no infinity.
            "gradient_norm": last.gradient_norm if math.isfinite(last.gradient_norm) else None,
            "target_tokens": sum(
                step.result.target_tokens for step in steps if not step.result.skipped
            ),
            "skipped_steps": state.skipped_steps,
            "audio_seconds": round(state.audio_seconds, 3),
            "audio_seconds_per_second": audio_seconds_per_second(steps),
            "train_seconds": round(state.train_seconds, 3),
            **memory_bytes(self.trainer.accelerator.device),
        }
        self._write(line)

    def _epoch(self, state: TrainingState) -> float | None:
        return round(state.step / self.steps_per_epoch, 4) if self.steps_per_epoch else None

    def _write(self, line: Line) -> None:
        self.curves.add(line)
        self.trackers.log(line)

    # ── a validation ─────────────────────────────────────────────────────────────────────────

    def validate(self, state: TrainingState) -> None:
        """Decode and score the validation sample; keep the adapter if none was better."""
        if self.validation is None or self.decode_validation is None:
            return
        self._write_steps(state)
        started = time.monotonic()
        self.trainer.whisper.eval()
        try:
            loss = mean_loss(self.trainer, self._counted(self.validation))
            validation = Best(state.step, self.decode_validation(), loss)
        finally:  # a signal may break it off
            self.trainer.whisper.train()
        seconds = time.monotonic() - started
        state.validation_seconds += seconds
        training_loss = self.curves.training_loss()
        # Over the mean of training since the last validation, where dropout and augmentation make
        # it harder: it is how the gap changes that shows overfitting.
        gap = None if training_loss is None else loss - training_loss
        self._write(
            {
                "step": validation.step,
                "validation_wer": validation.wer,
                "validation_loss_per_token": loss,
                "loss_gap_per_token": gap,
                "validation_seconds": round(seconds, 3),
            }
        )
        is_best = state.best is None or state.best.is_beaten_by(validation)
        note = ", the best so far" if is_best else ""
        beside = f" (training {loss - gap:.3f})" if gap is not None else ""
        wer = percent(validation.wer)
        log.info("step %d: validation WER %s, loss %.3f%s%s", state.step, wer, loss, beside, note)
        # The best adapters stay on disk; which these are is the checkpoints' business.
        self.checkpoints.save_best(validation, self.trainer.parameters)
        state.validations_without_gain = 0 if is_best else state.validations_without_gain + 1
        if is_best:
            state.best = validation
        self._warn_while_running(state, seconds)
        if self.on_validated is not None:
            self.on_validated(state)

    def _counted(self, loader: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """Note once how frequent each token of the validation set is."""
        tokens = Counter[int]()
        for batches in loader:
            for batch in batches:
                tokens.update(batch.labels[batch.labels != IGNORED].tolist())
            yield batches
        self._guessing_loss = guessing_loss(tokens)

    # ── warnings ─────────────────────────────────────────────────────────────────────────────

    def _warn_while_running(self, state: TrainingState, seconds: float) -> None:
        """Say once what a longer run had better change; `seconds` are not in its time yet."""
        several = len(self.curves.validations) >= 2  # the first one has the start-up's costs
        if several and "slow" not in self._warned:
            self._warn_of_slow_validation(state, state.train_seconds + seconds)
        if "other sound" not in self._warned and disagrees(
            self.curves.validations, self._guessing_loss
        ):
            self._warned.add("other sound")
            line = self.curves.validations[-1]
            loss = line["validation_loss_per_token"]
            log.warning(
                "step %d: the validation set looks as if its texts belonged to other sound: its "
                "loss is %.2f (guessing by how frequent words are has %.2f, training has %.2f), "
                "and its WER %s. Listen to some of its rows, or type lora-whisper check; until "
                "then, which adapter is the best one says nothing.",
                state.step,
                loss,
                self._guessing_loss,
                loss - line["loss_gap_per_token"],
                percent(line["validation_wer"]),
            )
        if overfits(self.curves.validations) and "overfits" not in self._warned:
            self._warned.add("overfits")
            self._warn_of_overfitting(state)

    def warn_of_slow_validation(self, state: TrainingState) -> None:
        """At the end, name the settings when validation took too long, if nobody has yet."""
        if "slow" not in self._warned:
            self._warn_of_slow_validation(state, state.train_seconds)

    def _warn_of_slow_validation(self, state: TrainingState, so_far_seconds: float) -> None:
        spent = state.validation_seconds
        if spent > max(SLOW_VALIDATION_SECONDS, SLOW_VALIDATION * so_far_seconds):
            self._warned.add("slow")
            log.warning(
                "validation took %s of %s; evaluation.max_validation_utterances and "
                "training.validate_every_steps make it cheaper",
                clock(spent),
                clock(so_far_seconds),
            )

    def _warn_of_overfitting(self, state: TrainingState) -> None:
        best, gap = state.best, self.curves.validations[-1]["loss_gap_per_token"]
        assert best is not None
        count = VALIDATIONS_OF_OVERFITTING
        log.warning(
            "step %d: the adapter seems to learn its training speech by heart. In %d validations "
            "in a row their loss moved further above that of training (by %.3f now), and none had "
            "a lower WER than the best, %s at step %d, which stays on disk. More speech, "
            "augmentation=noise or a smaller adapter.rank may help; training.patience=%d would end "
            "such a run here.",
            state.step,
            count,
            gap,
            percent(best.wer),
            best.step,
            count,
        )

    # ── a checkpoint ─────────────────────────────────────────────────────────────────────────

    def checkpoint(self, state: TrainingState) -> None:
        """Save everything, and first what a resumed run would not log any more."""
        self._write_steps(state)
        state.metrics_sha256 = self.curves.sha256(state.validated)
        trainer = self.trainer
        self.checkpoints.save(
            state,
            trainer.parameters,
            trainer.optimizer,
            trainer.accelerator.scaler,
            trainer.rank_schedule,
        )


def loss_per_token(steps: Iterable[TimedStep]) -> float | None:
    """Mean over the target tokens of the steps that were not skipped; None if all were."""
    done = [step.result for step in steps if not step.result.skipped]
    tokens = sum(result.target_tokens for result in done)
    return sum(result.loss * result.target_tokens for result in done) / tokens if tokens else None


def audio_seconds_per_second(steps: Iterable[TimedStep]) -> float:
    """Of speech that training goes through; validation is left out, skipped steps are not."""
    seconds, audio_seconds = 0.0, 0.0
    for step in steps:
        seconds += step.seconds
        audio_seconds += step.result.audio_seconds
    return audio_seconds / max(seconds, 1e-9)


def memory_bytes(device: torch.device) -> dict[str, int]:
    """What this process holds now, and the most that it has held of its GPU."""
    held = {"resident_memory_bytes": psutil.Process().memory_info().rss}
    if device.type == "cuda":
        held["gpu_memory_bytes"] = torch.cuda.max_memory_reserved(device)
    return held


def _trained_seconds(state: TrainingState) -> float:
    return state.train_seconds - state.validation_seconds


@dataclass
class Curves:
    """The lines so far; a resumed run reads those that it goes on from."""

    path: Path
    validations: list[Line] = field(default_factory=list)
    _loss_sum: float = 0.0  # of training, since the last validation
    _tokens: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)  # of all lines
    _without_last: str = ""  # of those before the last one, where that is of a validation

    def go_back_to(self, step: int, validated: int) -> None:
        """Read the file, and drop what will come again: the steps after `step`, and the validations
        after `validated`, one of which a signal may have broken off when its line was written.
        """
        kept = [
            line
            for line in _read(self.path)
            if line["step"] <= (validated if "validation_wer" in line else step)
        ]
        for line in kept:
            self._note(line)
        if processes.is_main() and self.path.is_file():
            write_whole(self.path, "".join(map(_text, kept)).encode())

    def add(self, line: Line) -> None:
        """Append a line; the main process writes.

        Raises:
            DiskFull: there is no room for it.
        """
        self._note(line)
        if processes.is_main():
            append_jsonl(self.path, line)

    def training_loss(self) -> float | None:
        """Mean per target token since the last validation; None without a finite step."""
        return self._loss_sum / self._tokens if self._tokens else None

    def sha256(self, validated: int) -> str:
        """Of the lines that are there after going back to this step.

        Args:
            validated: the last step whose validation is done.
        """
        comes_again = self._without_last and self.validations[-1]["step"] > validated
        return self._without_last if comes_again else self._hash.hexdigest()

    def _note(self, line: Line) -> None:
        is_validation = "validation_wer" in line
        self._without_last = self._hash.hexdigest() if is_validation else ""
        self._hash.update(_text(line).encode())
        if "validation_wer" in line:
            self.validations.append(line)
            self._loss_sum, self._tokens = 0.0, 0
        elif (loss := line["loss_per_token"]) is not None:
            self._loss_sum += loss * line["target_tokens"]
            self._tokens += line["target_tokens"]


def overfits(validations: list[Line]) -> bool:
    """Whether the run learns its training set by heart, as far as validation shows it.

    In each of the last three validations the loss lay further above that of training than in the
    one before, and none of them had a lower WER than was reached before them. The loss alone would
    not say so: it may rise for long while the WER falls.
    """
    count = VALIDATIONS_OF_OVERFITTING
    if len(validations) <= count:
        return False
    wers = [line["validation_wer"] for line in validations]
    gaps = [line["loss_gap_per_token"] for line in validations[-count - 1 :]]
    has_gained = min(wers[-count:]) < min(wers[:-count])
    grows = None not in gaps and all(earlier < later for earlier, later in itertools.pairwise(gaps))
    return grows and not has_gained


def guessing_loss(tokens: Counter[int]) -> float:
    """Nats per token of who knows how frequent each token is, and hears nothing; inf of too few."""
    count = tokens.total()
    if count < FEWEST_TOKENS:
        return math.inf
    return -sum(times / count * math.log(times / count) for times in tokens.values())


def disagrees(validations: list[Line], guessing: float) -> bool:
    """Whether the validation set looks as if its texts belonged to other sound.

    From the second validation on: its loss is hardly below that of guessing (`guessing_loss`),
    though training has come to less than a third of it, and hardly a word is right. Overfitting
    alone stays far from that. On 40 clips, of which guessing has about 4.5, nano had 4.6 and 4.5
    with their texts shuffled, 1.8 after training on 8 clips 60 times, and 0.7 after 48 clips.
    """
    if len(validations) < 2:
        return False
    last = validations[-1]
    loss, gap = last["validation_loss_per_token"], last["loss_gap_per_token"]
    learns = gap is not None and loss - gap < loss / 3
    return learns and loss > NEAR_GUESSING * guessing and last["validation_wer"] > MOSTLY_WRONG


def memory_peaks(path: Path) -> dict[str, int]:
    """The highest of each figure of memory in the metrics.jsonl at `path`."""
    lines = [line for line in _read(path) if "loss_per_token" in line]
    keys = {key: None for line in lines for key in line if key.endswith("_memory_bytes")}
    return {key: max(line.get(key, 0) for line in lines) for key in keys}


def _text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _read(path: Path) -> list[Line]:
    """All lines but those that were damaged, or cut by a crash."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            if _is_line(line := json.loads(text)):
                lines.append(line)
    return lines


def _is_line(line: Any) -> bool:
    """Whether it is one of ours, of a step or of a validation."""
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return False
    of_validation = ("validation_wer", "loss_gap_per_token")
    keys = of_validation if "validation_wer" in line else ("loss_per_token", "target_tokens")
    return all(key in line and isinstance(line[key], Number) for key in keys)
