"""Micro-batches that the memory holds: found by trying, and lowered when one turns out too large.

A global batch is the same however it is split, because losses are summed and divided once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil

import torch
from accelerate.utils.memory import find_executable_batch_size, should_reduce_batch_size

from lora_whisper.data.batches import Batch
from lora_whisper.errors import UserError


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may help, on whatever device."""
    return should_reduce_batch_size(error)


def split(batches: Iterable[Batch], windows: int) -> list[Batch]:
    """The same windows in batches of at most `windows`, in the same order."""
    return [part for batch in batches for part in _parts(batch, windows)]


def _parts(batch: Batch, windows: int) -> list[Batch]:
    """What is told of the whole batch, such as its seconds, stays with the first part."""
    if len(batch.labels) <= windows:
        return [batch]
    slices = [slice(first, first + windows) for first in range(0, len(batch.labels), windows)]
    parts = [
        dataclasses.replace(
            batch,
            waveforms=batch.waveforms[part],
            decoder_input=batch.decoder_input[part],
            labels=batch.labels[part],
            masks=batch.masks[part],
        )
        for part in slices
    ]
    others = [dataclasses.replace(part, audio_seconds=0.0, bad=()) for part in parts[1:]]
    return [parts[0], *others]


@dataclass
class MicroBatchLimit:
    """The most windows that one forward pass of this process may have."""

    windows: int | None = None  # None: as they come

    def split(self, batches: list[Batch]) -> list[Batch]:
        return batches if self.windows is None else split(batches, self.windows)

    def lower(self, batches: list[Batch]) -> bool:
        """Halve it after `batches` did not fit; False where it is one window already."""
        largest = max(len(batch.labels) for batch in self.split(batches))
        if largest > 1:
            self.windows = largest // 2
        return largest > 1


def largest_micro_batch(try_windows: Callable[[int], None], windows: int) -> int:
    """The largest number of windows, up to `windows`, with which `try_windows` does not fail.

    Only numbers are tried that share out `windows` evenly over as few passes as can be.

    Raises:
        UserError: the memory does not suffice for one.
    """
    numbers = iter(_even_shares(windows))

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


def _even_shares(windows: int) -> list[int]:
    """16: 16, 8, 6, 4, 3, 2, 1"""
    return sorted({ceil(windows / passes) for passes in range(1, windows + 1)}, reverse=True)


def worst_batch(windows: int, samples: int, tokens: int) -> Batch:
    """As many windows, as long in sound and in text as a window can be; of silence and token 0."""
    sequence = torch.zeros(windows, tokens, dtype=torch.int64)
    return Batch(
        waveforms=torch.zeros(windows, samples),
        decoder_input=sequence,
        labels=sequence,
        audio_seconds=0.0,
        rows=("probe",) * windows,
        bad=(),
    )
