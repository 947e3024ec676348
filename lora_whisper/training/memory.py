"""Micro-batches that become smaller in the middle of a run, when one does not fit into the memory.

A global batch is the same however it is split, because losses are summed and divided once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from accelerate.utils.memory import should_reduce_batch_size

from lora_whisper.data.batches import Batch

OF_CUDA = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may help, on whatever device.

    accelerate knows what allocators say; calls to CUDA itself, such as those of bitsandbytes, and
    cuBLAS end in other words.
    """
    return should_reduce_batch_size(error) or any(words in str(error) for words in OF_CUDA)


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
            ends=batch.ends[part],
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
