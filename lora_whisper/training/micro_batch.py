"""The micro-batch, by what the memory holds or by trying; and what a window takes.

The worst are windows full of sound, with texts as long as the decoder can be.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate.utils.memory import clear_device_cache, find_executable_batch_size
from torch import Tensor

from lora_whisper import processes
from lora_whisper.data.batches import Batch
from lora_whisper.errors import UserError
from lora_whisper.model.device import timed
from lora_whisper.model.published import FRAMES_PER_POSITION, HOP_SAMPLES
from lora_whisper.training.defaults import TINY_WIDTH, micro_batch_for_width
from lora_whisper.training.loop import Trainer
from lora_whisper.training.loss import loss_sum
from lora_whisper.training.memory import is_out_of_memory, memory_at_hand
from lora_whisper.training.memory_plan import MemoryPlan, micro_batch_on_cpu

log = logging.getLogger("lora_whisper")


def choose_micro_batch(trainer: Trainer, plan: Callable[[], MemoryPlan]) -> int:
    """Windows in one forward pass: as given, as the memory holds, or by the model's width.

    Args:
        plan: of the memory; asked for where a CPU trains a model that a window matters to.
    """
    given, width = trainer.settings.micro_batch, trainer.whisper.config.d_model
    if isinstance(given, int):
        return given
    share = math.ceil(trainer.whole_windows / processes.count())
    if is_cpu(trainer.accelerator.device) and width >= TINY_WIDTH:
        planned = micro_batch_on_cpu(plan(), memory_at_hand())
        most = min(processes.gather([planned]))
        return max(number for number in even_shares(share) if number <= most)
    if given is None or is_cpu(trainer.accelerator.device):
        return micro_batch_for_width(width)
    fitting = fitting_micro_batch(trainer)
    log.info("micro-batch %d windows, which the memory was found to hold", fitting)
    return fitting


def seconds_per_window(
    trainer: Trainer,
    micro_batch: int,
    tokens: int,
    positions: float | None = None,
    encoded: Tensor | None = None,
) -> float:
    """What a window takes forward and backward, all processes together.

    On a CPU, from tiny on, one window tells of several: what it takes grows with their number; of
    nano, eight took 0.8 times as long each. A micro-batch that does not fit is halved, as the loop
    will do it.

    Args:
        positions: of the encoder's, that windows keep on the mean; None: all.
        encoded: (1, positions, width), what it made of a window before; None: it is computed.
    """
    samples = trainer.features.window_samples
    if positions is not None:
        samples = min(samples, round(positions) * FRAMES_PER_POSITION * HOP_SAMPLES)
    device = trainer.accelerator.device
    is_much_work = is_cpu(device) and trainer.whisper.config.d_model >= TINY_WIDTH
    windows = 1 if is_much_work else min(micro_batch, trainer.whole_windows)
    while True:
        batch = worst_batch(windows, samples, tokens)
        if encoded is not None:
            known = encoded.expand(windows, *encoded.shape[1:])
            batch = replace(batch, encoded=known, is_encoded=(True,) * windows)
        try:
            seconds, _ = timed(lambda: try_batch(trainer, batch), device)  # noqa: B023  at once
            return max(processes.gather([seconds / windows])) / processes.count()
        except RuntimeError as error:
            if not is_out_of_memory(error) or windows == 1:
                raise
        windows //= 2
        clear_device_cache(garbage_collection=True)


def is_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


def fitting_micro_batch(trainer: Trainer) -> int:
    """The most windows in one forward pass for which every process has the memory.

    Raises:
        UserError: one of them has not enough for one window.
    """
    samples = trainer.features.window_samples
    tokens = trainer.whisper.config.max_target_positions
    share = math.ceil(trainer.whole_windows / processes.count())
    largest = largest_micro_batch(
        lambda windows: try_batch(trainer, worst_batch(windows, samples, tokens)), share
    )
    return min(processes.gather([largest]))


def largest_micro_batch(try_windows: Callable[[int], None], windows: int) -> int:
    """The largest number of windows, up to `windows`, with which `try_windows` does not fail.

    Only numbers are tried that share out `windows` evenly over as few passes as can be.

    Raises:
        UserError: the memory does not suffice for one.
    """
    numbers = iter(even_shares(windows))

    def smaller() -> int:
        number = next(numbers, None)
        if number is None:
            raise UserError(
                "training.micro_batch=auto: the memory does not suffice for one window.\n"
                "Type training.gradient_checkpointing=true quantization=nf4, or a smaller model=…"
            )
        return number

    @find_executable_batch_size(  # type: ignore[untyped-decorator]
        starting_batch_size=next(numbers), reduce_batch_size_fn=smaller
    )
    def tried(batch_size: int) -> int:
        try_windows(batch_size)
        return batch_size

    return int(tried())


def even_shares(windows: int) -> list[int]:
    """16: 16, 8, 6, 4, 3, 2, 1"""
    return sorted({math.ceil(windows / passes) for passes in range(1, windows + 1)}, reverse=True)


def try_batch(trainer: Trainer, batch: Batch) -> None:
    """Go forward and backward through `batch`, with room for the optimizer's two moments.

    The adapter, its gradients and the optimizer are afterwards as they were.

    Raises:
        RuntimeError: the memory does not suffice, among others (`memory.is_out_of_memory`).
    """
    room = [torch.empty_like(value) for value in trainer.parameters.values() for _ in range(2)]
    try:
        inputs, autocast = trainer.inputs(batch), trainer.accelerator.autocast()
        trainer.accelerator.backward(loss_sum(trainer.whisper, inputs, autocast))
    finally:
        trainer.optimizer.zero_grad()
        room.clear()


def worst_batch(windows: int, samples: int, tokens: int) -> Batch:
    """As many windows of silence, cut behind `samples`, with `tokens` targets each."""
    sequences = torch.zeros(windows, tokens, dtype=torch.int64)
    return Batch(
        waveforms=torch.zeros(windows, samples),
        decoder_input=sequences,
        labels=sequences,
        audio_seconds=0.0,
        rows=("silence",) * windows,
        bad=(),
        positions=0,  # and those with sound
    )
