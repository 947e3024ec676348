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
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.amp import GradScaler
from transformers import WhisperForConditionalGeneration

from lora_whisper import processes
from lora_whisper.config import OptimizerConfig, TrainingConfig
from lora_whisper.data.batches import Batch
from lora_whisper.errors import UserError, listing
from lora_whisper.model.encoder import Known
from lora_whisper.model.features import LogMel
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.training.audit import GradientAudit
from lora_whisper.training.checkpoint_files import TrainingState
from lora_whisper.training.defaults import validate_every
from lora_whisper.training.loss import Inputs, find_targets, loss_sum
from lora_whisper.training.memory import MicroBatchLimit, is_out_of_memory
from lora_whisper.training.optim import learning_rate, set_rate
from lora_whisper.training.stopping import StopRequest

if TYPE_CHECKING:
    from lora_whisper.lora.adalora import RankSchedule

log = logging.getLogger("lora_whisper")

SKIPPED_IN_A_ROW = 3  # then the run is stopped
RESUME = "resume=auto goes on here"


class Diverged(UserError):
    """The loss or its gradient was not finite for some steps in a row."""


@dataclass(frozen=True)
class Trainer:
    """The parts of one run; what changes while it goes on stands last."""

    accelerator: Accelerator
    whisper: WhisperForConditionalGeneration  # with the adapter in it
    parameters: Mapping[str, nn.Parameter]  # the adapter's matrices
    optimizer: Any  # AdamW, prepared by accelerate
    features: LogMel
    total_steps: int
    peak_learning_rate: float
    optimizer_settings: OptimizerConfig
    settings: TrainingConfig
    seed: int
    rank_schedule: RankSchedule | None = None  # AdaLoRA's
    frozen_layers: int = 0  # of the encoder, below its adapters; what encoded windows are behind
    limit: MicroBatchLimit = field(default_factory=MicroBatchLimit)
    audit: GradientAudit = field(default_factory=GradientAudit)

    @property
    def whole_windows(self) -> int:
        """How many windows of full length there are in one step, over all processes."""
        return self.settings.whole_windows(self.features.window_samples / SAMPLING_RATE)

    def inputs(self, batch: Batch) -> Inputs:
        """What the model is given of a micro-batch, on its device."""
        device = self.accelerator.device
        features = batch.input_features(self.features).to(self.whisper.dtype)
        decoder_input = batch.decoder_input.to(device, non_blocking=True)
        return Inputs(features, decoder_input, *find_targets(batch.labels), self._known(batch))

    def _known(self, batch: Batch) -> Known | None:
        if batch.encoded is None:
            return None
        there = {"device": self.accelerator.device, "non_blocking": True}
        activations = batch.encoded.to(**there).to(self.whisper.dtype)
        return Known(activations, self.frozen_layers, torch.tensor(batch.missing).to(**there))


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
    stop_requested: bool  # a signal has reached one of the processes
    broken_off: bool = False  # by that signal, before its last micro-batch: nothing was learnt


def train_step(
    trainer: Trainer, step: int, micro_batches: list[Batch], stop: StopRequest | None = None
) -> StepResult:
    """Train on one global batch: the micro-batches of this process and of all others.

    The loss is the sum over all target tokens of the global batch, divided once by their number, so
    that 1×8, 2×4, 4×2 and 8×1 give the same adapter. A signal ends it after the micro-batch that it
    came in, as if it had not begun: on a slow core, a step of whisper-base can take minutes.
    """
    accelerator, ranks = trainer.accelerator, trainer.rank_schedule
    settings, peak = trainer.optimizer_settings, trainer.peak_learning_rate
    rate = learning_rate(step, trainer.total_steps, peak, settings)
    set_rate(trainer.optimizer, rate)
    tokens = sum(batch.target_tokens for batch in micro_batches)
    audio_seconds = sum(batch.audio_seconds for batch in micro_batches)
    bad_audio = sum(len(batch.bad) for batch in micro_batches)
    counts = _sum_of(accelerator, [tokens, audio_seconds, bad_audio])
    loss, is_whole = _accumulate(trainer, step, micro_batches, counts[0], stop)
    sums = _sum_over_processes(trainer, loss, is_whole, stop)
    if ranks is not None:  # of the adapter alone: once, not for each process or micro-batch
        accelerator.backward(ranks.regularization())
    norm = accelerator.clip_grad_norm_(trainer.parameters.values(), settings.max_gradient_norm)
    result = _read_result(rate, counts, sums, norm, accelerator.scaler)
    if result.broken_off:
        pass
    elif result.target_tokens and not result.skipped and math.isfinite(result.gradient_norm):
        trainer.audit.check(trainer.parameters, step)
        trainer.optimizer.step()
        if ranks is not None:  # needs the gradients, and has the last word on AdaLoRA's values
            ranks.update(step)
    elif accelerator.scaler is not None:
        accelerator.scaler.update()  # of what it has just seen: after an overflow, it scales down
    trainer.optimizer.zero_grad()
    return result


@torch.no_grad()
def mean_loss(trainer: Trainer, loader: Iterable[list[Batch]]) -> float:
    """Loss per target token over all that `loader` yields, in all processes."""
    total, tokens = 0.0, 0
    for batches in loader:
        for batch in trainer.limit.split(batches):
            if batch.rows:
                inputs, autocast = trainer.inputs(batch), trainer.accelerator.autocast()
                total += loss_sum(trainer.whisper, inputs, autocast).item()
                tokens += batch.target_tokens
    total, all_tokens = _sum_of(trainer.accelerator, [total, tokens]).tolist()
    return total / max(1, all_tokens)


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
        Stopped: a signal came; a checkpoint of the last whole step, if any, has been written.
        Diverged: the loss has not been finite for some steps in a row.
    """
    validation_steps = validate_every(trainer.total_steps, trainer.settings.validate_every_steps)
    batches, clock, saved_step, is_stopping = iter(loader), _Clock(state), state.step, False
    with StopRequest(breaks_off=trainer.accelerator.num_processes == 1) as stop:
        while True:
            if state.validation_due and not is_stopping:
                state.validation_due = not stop.unless_stopped(lambda: on_validate(state))
                is_stopping = stop.is_agreed()
                clock.tick()
            is_over = state.step == trainer.total_steps or _stops_early(trainer, state)
            is_due = state.step % trainer.settings.checkpoint_every_steps == 0
            if state.step > saved_step and (is_due or is_over or is_stopping):
                on_checkpoint(state)
                saved_step = state.step
            if is_stopping:
                raise stop.stopped(f"at step {state.step} of {trainer.total_steps}; {RESUME}")
            if is_over:
                return
            micro_batches = next(batches)
            result = train_step(trainer, state.step, micro_batches, stop)
            clock.tick()
            is_stopping = result.stop_requested
            if result.broken_off:
                continue
            _count(state, result)
            on_log(state, result)
            if result.skipped:
                _name_skipped(trainer, state, result, micro_batches, saved_step)
            at_the_end = state.step == trainer.total_steps
            state.validation_due = at_the_end or state.step % validation_steps == 0


def is_out_of_patience(settings: TrainingConfig, state: TrainingState) -> bool:
    """Whether so many validations in a row brought nothing better that training ends here."""
    return settings.patience is not None and state.validations_without_gain >= settings.patience


def _stops_early(trainer: Trainer, state: TrainingState) -> bool:
    is_over = is_out_of_patience(trainer.settings, state) and not state.validation_due
    if is_over and state.step < trainer.total_steps:
        log.info(
            "training ends at step %d of %d: %d validations in a row were not better "
            "(training.patience)",
            state.step,
            trainer.total_steps,
            state.validations_without_gain,
        )
    return is_over


def _count(state: TrainingState, result: StepResult) -> None:
    state.step += 1
    state.audio_seconds += result.audio_seconds
    state.bad_audio += result.bad_audio
    state.skipped_steps += result.skipped
    state.skipped_in_a_row = state.skipped_in_a_row + 1 if result.skipped else 0


def _name_skipped(
    trainer: Trainer,
    state: TrainingState,
    result: StepResult,
    micro_batches: list[Batch],
    saved_step: int,
) -> None:
    """Say what was in a skipped step; after several in a row, that going on would be in vain.

    Raises:
        Diverged: with likely causes.
    """
    figures = f"loss {result.loss:g}, gradient norm {result.gradient_norm:g}"
    rows = processes.gather([row for batch in micro_batches for row in batch.rows])
    listed = listing(rows, len(rows))  # any of them may be the one with the broken sound
    log.warning("step %d skipped: %s; the adapter stays as it was\n%s", state.step, figures, listed)
    if state.skipped_in_a_row >= SKIPPED_IN_A_ROW:
        peak = trainer.peak_learning_rate
        causes = [
            f"too high a rate ({peak:.2g}): overwrite=true optimizer.learning_rate={peak / 2:.2g}"
        ]
        if trainer.accelerator.mixed_precision == "fp16" or trainer.whisper.dtype == torch.float16:
            causes.append("fp16, which ends at 65504: overwrite=true training.precision=bf16")
        causes.append("broken sound in the rows above, which train.log has too: lora-whisper check")
        last = f"The last checkpoint, of step {saved_step}, is sound." if saved_step else ""
        raise Diverged(
            f"Step {state.step} is the third in a row without a finite loss or gradient (it has "
            f"{figures}), so training stops. {last}\n"
            f"Likely causes, and what to type:\n{listing(causes)}"
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


# ── the parts of a step ──────────────────────────────────────────────────────────────────────


def _sum_of(accelerator: Accelerator, mine: list[float]) -> Tensor:
    """Numbers added up over the processes, as exactly as the device can."""
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    summed = accelerator.reduce(torch.tensor(mine, dtype=dtype, device=accelerator.device))
    assert isinstance(summed, Tensor)
    return summed


def _accumulate(
    trainer: Trainer,
    step: int,
    micro_batches: list[Batch],
    tokens: Tensor,
    stop: StopRequest | None,
) -> tuple[Tensor, bool]:
    """Add up the gradients of this process's windows.

    Returns their loss, summed over targets, and whether no signal came before the last of them.

    Where the memory does not suffice, it begins again with micro-batches of half the size, which
    stay so. No process waits for another in here, so one can do it alone.
    """
    accelerator = trainer.accelerator
    # Dropout is a function of seed and step, so that a resumed run repeats it.
    seed = hash((trainer.seed, step, accelerator.process_index)) & 0xFFFF_FFFF
    while True:
        torch.manual_seed(seed)
        total = loss = torch.zeros((), device=accelerator.device)
        try:
            for batch in (one for one in trainer.limit.split(micro_batches) if one.rows):
                if stop is not None and stop.signal_number is not None:
                    return total, False
                loss = loss_sum(trainer.whisper, trainer.inputs(batch), accelerator.autocast())
                accelerator.backward(loss / tokens.to(loss))
                total += loss.detach()
            return total, True
        except RuntimeError as error:
            if not is_out_of_memory(error) or not trainer.limit.lower(micro_batches):
                raise
        del loss  # and with it what the forward pass keeps for the way back
        trainer.optimizer.zero_grad()
        clear_device_cache(garbage_collection=True)
        log.warning(
            "step %d: out of memory; going on with %d windows in a micro-batch",
            step + 1,
            trainer.limit.windows,
        )


def _sum_over_processes(
    trainer: Trainer, loss: Tensor, is_whole: bool, stop: StopRequest | None
) -> Tensor:
    """Add up the gradients of all processes in place; one that had no window adds zeros.

    Returns their loss, how many of them were asked to stop, and how many broke off, (3,), from the
    same reduction.
    """
    parameters = list(trainer.parameters.values())
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    is_asked = stop is not None and stop.signal_number is not None
    sums = torch.stack([loss, torch.full_like(loss, is_asked), torch.full_like(loss, not is_whole)])
    if trainer.accelerator.num_processes == 1:
        return sums
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), sums])
    sizes = [gradient.numel() for gradient in gradients]
    *parts, sums = trainer.accelerator.reduce(flat).split([*sizes, len(sums)])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return sums


def _read_result(
    rate: float, counts: Tensor, sums: Tensor, norm: Tensor, scaler: GradScaler | None
) -> StepResult:
    """The only place of a step in which the processor waits for the GPU: all is read at once.

    In fp16 an infinite gradient of a finite loss is the loss scaler's business, which comes upon
    its scale by trying; such a step is not taken either, but it says nothing against the run. It
    does once the loss is not enlarged any more: then it is no scale that makes it infinite.
    """
    figures = torch.cat([counts, sums.to(counts), norm.detach().reshape(1).to(counts)])
    tokens, audio_seconds, bad_audio, total, asked, broken_off, gradient_norm = figures.tolist()
    loss = total / max(1, tokens)
    is_sound = math.isfinite(gradient_norm) or (scaler is not None and scaler.get_scale() > 1)
    return StepResult(
        loss=loss,
        gradient_norm=gradient_norm,
        target_tokens=int(tokens),
        audio_seconds=audio_seconds,
        learning_rate=rate,
        bad_audio=int(bad_audio),
        skipped=not (math.isfinite(loss) and is_sound),
        stop_requested=asked > 0,
        broken_off=broken_off > 0,
    )
