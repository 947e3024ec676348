"""What a run leaves behind while it goes on: metrics.jsonl, checkpoints, and a progress bar."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lora_whisper import processes
from lora_whisper.data.batches import Batch
from lora_whisper.run_folder import RunFolder, append_jsonl
from lora_whisper.terminal import Work, clock, percent
from lora_whisper.training.checkpoints import Best, Checkpoints, TrainingState
from lora_whisper.training.loop import StepResult, Trainer, mean_loss

log = logging.getLogger("lora_whisper")


@dataclass
class Recorder:
    """The three callbacks of `main_loop`."""

    folder: RunFolder
    trainer: Trainer
    checkpoints: Checkpoints
    steps_per_epoch: int | None  # None of a stream
    validation: Iterable[list[Batch]] | None  # can be iterated again and again
    decode_validation: Callable[[], float] | None  # WER on the validation sample
    work: Work | None = None
    _results: list[StepResult] = field(default_factory=list)  # since the last line
    _logged_seconds: float = 0.0
    _validation_seconds: float = 0.0  # of this process

    def resume(self) -> TrainingState:
        """Go back to the last checkpoint, if there is one, and forget what came after it."""
        trainer = self.trainer
        state = self.checkpoints.resume(
            trainer.parameters, trainer.optimizer, trainer.accelerator.scaler
        )
        if state.step:
            log.info("going on from step %d of %d", state.step, trainer.total_steps)
        self._logged_seconds = state.train_seconds
        if processes.is_main():
            forget_after(self.folder.metrics, state.step)
        return state

    def log(self, state: TrainingState, result: StepResult) -> None:
        """Note one step; write a line of metrics.jsonl when it is due."""
        self.checkpoints.raise_failure()
        self._results.append(result)
        if self.work is not None:
            best = f" WER {percent(state.best.wer)}" if state.best else ""
            self.work.update(state.step, f"loss {result.loss:.3f}{best}")
        is_last = state.step == self.trainer.total_steps
        if is_last or state.step % self.trainer.settings.log_every_steps == 0:
            self._write(self._line(state))

    def _line(self, state: TrainingState) -> dict[str, float | None]:
        """Means over the steps since the last line, weighted by their tokens."""
        results, self._results = self._results, []
        tokens = sum(result.target_tokens for result in results)
        seconds = state.train_seconds - self._logged_seconds
        self._logged_seconds = state.train_seconds
        norm = results[-1].gradient_norm
        return {
            "step": state.step,
            "epoch": round(state.step / self.steps_per_epoch, 4) if self.steps_per_epoch else None,
            "loss_per_token": sum(r.loss * r.target_tokens for r in results) / max(1, tokens),
            "learning_rate": results[-1].learning_rate,
            # Not finite where fp16's loss scaler skipped the step; JSON has no infinity.
            "gradient_norm": norm if math.isfinite(norm) else None,
            "target_tokens": tokens,
            "audio_seconds": round(state.audio_seconds, 3),
            "audio_seconds_per_second": sum(r.audio_seconds for r in results) / max(seconds, 1e-9),
            "train_seconds": round(state.train_seconds, 3),
        }

    def validate(self, state: TrainingState) -> None:
        """Decode and score the validation sample; keep the adapter if none was better."""
        if self.validation is None or self.decode_validation is None:
            return
        started = time.monotonic()
        self.trainer.whisper.eval()
        loss = mean_loss(self.trainer, self.validation)
        found = Best(state.step, self.decode_validation(), loss)
        self.trainer.whisper.train()
        self._validation_seconds += time.monotonic() - started
        self._write(
            {"step": state.step, "validation_wer": found.wer, "validation_loss_per_token": loss}
        )
        is_best = state.best is None or state.best.is_beaten_by(found)
        log.info(
            "step %d: validation WER %s, loss %.3f%s",
            state.step,
            percent(found.wer),
            loss,
            ", the best so far" if is_best else "",
        )
        if is_best:
            self.checkpoints.save_best(found, self.trainer.parameters)
            state.best = found

    def warn_of_slow_validation(self, state: TrainingState) -> None:
        """Name the settings when validation took more than a fifth of a run of some minutes."""
        if self._validation_seconds > max(60.0, state.train_seconds / 5):
            log.warning(
                "validation took %s of %s; evaluation.max_validation_utterances and "
                "training.validate_every_steps make it cheaper",
                clock(self._validation_seconds),
                clock(state.train_seconds),
            )

    def checkpoint(self, state: TrainingState) -> None:
        """Save everything, and first what a resumed run would not log any more."""
        if self._results:
            self._write(self._line(state))
        trainer = self.trainer
        self.checkpoints.save(
            state, trainer.parameters, trainer.optimizer, trainer.accelerator.scaler
        )

    def _write(self, line: dict[str, float | None]) -> None:
        if processes.is_main():
            append_jsonl(self.folder.metrics, line)


def forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps after `step`: they will be trained again."""
    if not metrics.is_file():
        return
    lines = [line for line in metrics.read_text(encoding="utf-8").splitlines() if line]
    kept = [line for line in lines if _step(line) <= step]
    aside = metrics.with_name(f".{metrics.name}.part")
    aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(aside, metrics)


def _step(line: str) -> float:
    """The step of a line; a line that was cut by a crash belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf
