"""The loop: one function around one `train_step`.

Only the adapter's matrices are trained. Gradients are averaged over processes by one explicit
reduction a step instead of DistributedDataParallel, because processes may have unequal numbers of
windows, or none in an epoch's last step, and the adapter is small (63 MB for rank 32 of large-v2).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from lora_whisper.config import OptimizerConfig, TrainingConfig
from lora_whisper.data.batches import Batch
from lora_whisper.data.features import LogMel
from lora_whisper.data.sound.augmentation import apply_masks
from lora_whisper.errors import UserError
from lora_whisper.training.checkpoints import TrainingState
from lora_whisper.training.defaults import validate_every
from lora_whisper.training.loss import window_loss_sum
from lora_whisper.training.schedule import learning_rate
from lora_whisper.training.stopping import Stopped, StopRequest

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class Trainer:
    """The parts of one run that do not change while it goes on."""

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


@dataclass(frozen=True)
class StepResult:
    """One optimizer step over all micro-batches and processes."""

    loss: float  # per target token
    gradient_norm: float  # before clipping
    target_tokens: int
    audio_seconds: float
    learning_rate: float
    bad_audio: int


def train_step(trainer: Trainer, step: int, micro_batches: list[Batch]) -> StepResult:
    """Train on one global batch: the micro-batches of this process and of all others.

    The loss is the sum over all target tokens of the global batch, divided once by their number, so
    that 1×8, 2×4, 4×2 and 8×1 give the same adapter.
    """
    accelerator = trainer.accelerator
    _seed_step(trainer, step)
    rate = learning_rate(step, trainer.total_steps, trainer.peak_learning_rate, trainer.schedule)
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    counts = _global_counts(accelerator, micro_batches)
    loss_sum = torch.zeros((), device=accelerator.device)
    for batch in (batch for batch in micro_batches if batch.rows):
        batch_loss_sum = forward(trainer, batch)
        accelerator.backward(batch_loss_sum / counts.target_tokens)
        loss_sum += batch_loss_sum.detach()
    _sum_gradients(accelerator, list(trainer.parameters.values()))
    gradient_norm = accelerator.clip_grad_norm_(
        trainer.parameters.values(), trainer.schedule.max_gradient_norm
    )
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    loss = accelerator.reduce(loss_sum).item() / max(1, counts.target_tokens)
    return StepResult(loss, float(gradient_norm), learning_rate=rate, **vars(counts))


def forward(trainer: Trainer, batch: Batch) -> Tensor:
    """The loss of one micro-batch, summed over its target tokens; a scalar in fp32."""
    device = trainer.accelerator.device
    features = apply_masks(trainer.features(batch.waveforms.to(device)), batch.masks)
    with trainer.accelerator.autocast():
        return window_loss_sum(
            trainer.whisper,
            features.to(trainer.whisper.dtype),
            batch.decoder_input.to(device),
            batch.labels.to(device),
        )


@torch.no_grad()
def mean_loss(trainer: Trainer, loader: Iterable[list[Batch]]) -> float:
    """Loss per target token over all that `loader` yields."""
    loss_sum, tokens = 0.0, 0
    for batch in (batch for batches in loader for batch in batches if batch.rows):
        loss_sum += forward(trainer, batch).item()
        tokens += batch.target_tokens
    return loss_sum / max(1, tokens)


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
        UserError: the loss is not finite any more.
    """
    settings, last = trainer.settings, trainer.total_steps
    steps_between_validations = validate_every(last, settings)
    clock = _Clock(state)
    with StopRequest() as stop:
        for micro_batches in loader:
            result = train_step(trainer, state.step, micro_batches)
            require_finite(trainer, result, state.step)
            state.step += 1
            state.audio_seconds += result.audio_seconds
            state.bad_audio += result.bad_audio
            clock.tick()
            on_log(state, result)
            if state.step % steps_between_validations == 0 or state.step == last:
                on_validate(state)
                clock.tick()
            due = state.step % settings.checkpoint_every_steps == 0 or state.step == last
            if due or stop.signal_number:
                on_checkpoint(state)
            if stop.signal_number:
                raise Stopped(
                    stop.signal_number, f"at step {state.step} of {last}; resume=auto goes on here"
                )


def require_finite(trainer: Trainer, result: StepResult, step: int) -> None:
    """Stop at the first loss or gradient that is not a number, before it reaches a checkpoint.

    In fp16 an infinite gradient is the loss scaler's business: it skips the step and scales down.
    """
    is_scaled = trainer.accelerator.scaler is not None
    if not (math.isfinite(result.loss) and (is_scaled or math.isfinite(result.gradient_norm))):
        raise UserError(
            f"Step {step + 1}: the loss is {result.loss} and the gradient's norm "
            f"{result.gradient_norm}, so the adapter is lost from here on.\n"
            "The last checkpoint is sound. Likely causes: too high an optimizer.learning_rate, or "
            "training.precision=fp16 (try bf16)."
        )


@dataclass
class _Clock:
    """Adds the wall clock since the last tick to the run's training time."""

    state: TrainingState
    last: float = field(default_factory=time.monotonic)

    def tick(self) -> None:
        now = time.monotonic()
        self.state.train_seconds += now - self.last
        self.last = now


@dataclass(frozen=True)
class _Counts:
    target_tokens: int
    audio_seconds: float
    bad_audio: int


def _global_counts(accelerator: Accelerator, micro_batches: list[Batch]) -> _Counts:
    """Sum what the micro-batches hold, over all processes."""
    mine = torch.tensor(
        [
            sum(batch.target_tokens for batch in micro_batches),
            sum(batch.audio_seconds for batch in micro_batches),
            sum(len(batch.bad) for batch in micro_batches),
        ],
        dtype=torch.float64 if accelerator.device.type != "mps" else torch.float32,
        device=accelerator.device,
    )
    tokens, seconds, bad = accelerator.reduce(mine).tolist()
    return _Counts(int(tokens), seconds, int(bad))


def _sum_gradients(accelerator: Accelerator, parameters: list[nn.Parameter]) -> None:
    """Add up the gradients of all processes; one that had no window adds zeros."""
    if accelerator.num_processes == 1:
        return
    gradients = [
        parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        for parameter in parameters
    ]
    summed = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = summed.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def _seed_step(trainer: Trainer, step: int) -> None:
    """Make the dropout of a step a function of seed and step, so that a resumed run repeats it."""
    process = trainer.accelerator.process_index
    torch.manual_seed(hash((trainer.seed, step, process)) & 0xFFFF_FFFF)
