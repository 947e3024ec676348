"""The loop: one function around one `train_step`.

Only the adapter's matrices are trained. Gradients are averaged over processes by one explicit
reduction a step instead of DistributedDataParallel, because processes may have unequal numbers of
windows, or none in an epoch's last step, and the adapter is small (63 MB for rank 32 of large-v2).
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from lora_whisper.config import OptimizerConfig, TrainingConfig
from lora_whisper.data.batches import Batch
from lora_whisper.data.features import LogMel
from lora_whisper.data.sound.augmentation import apply_masks
from lora_whisper.errors import UserError, listing
from lora_whisper.training.audit import GradientAudit
from lora_whisper.training.checkpoints import TrainingState
from lora_whisper.training.defaults import validate_every
from lora_whisper.training.loss import window_loss_sum
from lora_whisper.training.memory import MicroBatchLimit, is_out_of_memory
from lora_whisper.training.optimizer import set_rate
from lora_whisper.training.schedule import learning_rate
from lora_whisper.training.stopping import Stopped, StopRequest

if TYPE_CHECKING:
    from lora_whisper.model.rank_schedule import RankSchedule

log = logging.getLogger("lora_whisper")

SKIPPED_IN_A_ROW = 3  # of these, the run is stopped


@dataclass(frozen=True)
class Trainer:
    """The parts of one run that do not change while it goes on, but for the last two."""

    accelerator: Accelerator
    whisper: WhisperForConditionalGeneration  # with the adapter in it
    parameters: Mapping[str, nn.Parameter]  # the adapter's matrices
    optimizer: Any  # AdamW, prepared by accelerate
    features: LogMel
    total_steps: int
    peak_learning_rate: float
    schedule: OptimizerConfig
    settings: TrainingConfig
    seed: int
    rank_schedule: RankSchedule | None = None  # AdaLoRA's
    limit: MicroBatchLimit = field(default_factory=MicroBatchLimit)
    audit: GradientAudit = field(default_factory=GradientAudit)


@dataclass(frozen=True)
class StepResult:
    """One optimizer step over all micro-batches and processes."""

    loss: float  # per target token
    gradient_norm: float  # before clipping
    target_tokens: int
    audio_seconds: float
    learning_rate: float
    bad_audio: int
    skipped: bool  # the loss or a gradient was not finite, and the adapter is as it was
    is_stopping: bool  # a signal has reached one of the processes


def train_step(
    trainer: Trainer, step: int, micro_batches: list[Batch], stop: StopRequest | None = None
) -> StepResult:
    """Train on one global batch: the micro-batches of this process and of all others.

    The loss is the sum over all target tokens of the global batch, divided once by their number, so
    that 1×8, 2×4, 4×2 and 8×1 give the same adapter.
    """
    accelerator, ranks = trainer.accelerator, trainer.rank_schedule
    rate = learning_rate(step, trainer.total_steps, trainer.peak_learning_rate, trainer.schedule)
    set_rate(trainer.optimizer, rate)
    counts = _global_counts(accelerator, micro_batches)
    loss_sum = _accumulate(trainer, step, micro_batches, counts[0])
    is_stopping = torch.tensor(float(stop is not None and stop.signal_number is not None))
    loss_sum, is_stopping = _sum_over_processes(trainer, loss_sum, is_stopping)
    if ranks is not None:  # once, and not for each process or micro-batch
        accelerator.backward(ranks.regularization())
    gradient_norm = accelerator.clip_grad_norm_(
        trainer.parameters.values(), trainer.schedule.max_gradient_norm
    )
    result = _read_result(trainer, rate, loss_sum, gradient_norm, counts, is_stopping)
    if result.target_tokens and not result.skipped:
        if math.isfinite(result.gradient_norm):
            trainer.audit.check(trainer.parameters, step)
        trainer.optimizer.step()
        if ranks is not None:
            ranks.update(step)
    elif accelerator.scaler is not None:
        accelerator.scaler.update()  # or it would wait for the step that it has unscaled
    trainer.optimizer.zero_grad()
    return result


def forward(trainer: Trainer, batch: Batch) -> Tensor:
    """The loss of one micro-batch, summed over its target tokens; a scalar in fp32."""
    device = trainer.accelerator.device
    waveforms = batch.waveforms.to(device, non_blocking=True)
    features = apply_masks(trainer.features(waveforms), batch.masks)
    with trainer.accelerator.autocast():
        return window_loss_sum(
            trainer.whisper,
            features.to(trainer.whisper.dtype),
            batch.decoder_input.to(device, non_blocking=True),
            batch.labels,
        )


@torch.no_grad()
def mean_loss(trainer: Trainer, loader: Iterable[list[Batch]]) -> float:
    """Loss per target token over all that `loader` yields, in all processes."""
    loss_sum, tokens = 0.0, 0
    for batches in loader:
        for batch in trainer.limit.split(batches):
            if batch.rows:
                loss_sum += forward(trainer, batch).item()
                tokens += batch.target_tokens
    sums = trainer.accelerator.reduce(_precise([loss_sum, tokens], trainer.accelerator.device))
    loss_sum, tokens = sums.tolist()
    return loss_sum / max(1, tokens)


def try_batch(trainer: Trainer, batch: Batch) -> None:
    """Go forward and backward through `batch`, with room for the optimizer's two moments.

    The model, its gradients and the optimizer are afterwards as they were.

    Raises:
        RuntimeError: the memory does not suffice, among others (`memory.is_out_of_memory`).
    """
    room = [torch.empty_like(value) for value in trainer.parameters.values() for _ in range(2)]
    try:
        trainer.accelerator.backward(forward(trainer, batch))
    finally:
        trainer.optimizer.zero_grad()
        del room


def main_loop(
    trainer: Trainer,
    loader: Iterable[list[Batch]],
    state: TrainingState,
    on_log: Callable[[TrainingState, StepResult], None],
    on_validate: Callable[[TrainingState], None],
    on_checkpoint: Callable[[TrainingState], None],
) -> None:
    """Train from `state.step` to the last step; `loader` yields one global batch after another.

    Raises:
        Stopped: a signal came; a checkpoint of the last finished step has been written.
        UserError: the loss has not been finite for some steps in a row.
    """
    settings, is_alone = trainer.settings, trainer.accelerator.num_processes == 1
    steps_between_validations = validate_every(trainer.total_steps, settings)
    batches, clock, saved_step, is_stopping = iter(loader), _Clock(state), state.step, False
    with StopRequest(breaks_off=is_alone) as stop:
        while True:
            if state.validation_due and stop.unless_stopped(lambda: on_validate(state)):
                state.validation_due = False
            clock.tick()
            is_over, is_stopping = _is_over(trainer, state), is_stopping or _stops_alone(...)
            is_due = is_over or is_stopping or state.step % settings.checkpoint_every_steps == 0
            if is_due and state.step > saved_step:
                on_checkpoint(state)
                saved_step = state.step
            if is_stopping:
                raise Stopped(...)
            if is_over:
                return
            micro_batches = next(batches)
            result = train_step(trainer, state.step, micro_batches, stop)
            ...
