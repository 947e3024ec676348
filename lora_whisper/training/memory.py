"""Micro-batches that become smaller in the middle of a run, when one does not fit into the memory.

A global batch is the same however it is split, because losses are summed and divided once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from accelerate.utils.memory import should_reduce_batch_size

from lora_whisper import processes
from lora_whisper.data.batches import Batch

OF_CUDA = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may help, on whatever device.

    accelerate knows what allocators say; calls to CUDA itself, such as those of bitsandbytes, and
    cuBLAS end in other words.
    """
    is_of_allocator = isinstance(error, MemoryError) or should_reduce_batch_size(error)
    return is_of_allocator or any(words in str(error) for words in OF_CUDA)


def split(batches: Iterable[Batch], windows: int) -> list[Batch]:
    """The same windows in batches of at most `windows`, in the same order.

    Seconds and bad audio stay with the first part; each part keeps the rows and remarks of all.
    """
    parts: list[Batch] = []
    for batch in batches:
        count = len(batch.labels)
        if count <= windows:
            parts.append(batch)
            continue
        for first in range(0, count, windows):
            part = slice(first, first + windows)
            parts.append(
                dataclasses.replace(
                    batch,
                    waveforms=batch.waveforms[part],
                    decoder_input=batch.decoder_input[part],
                    labels=batch.labels[part],
                    masks=batch.masks[part],
                    ends=batch.ends[part],
                    encoded=None if batch.encoded is None else batch.encoded[part],
                    is_encoded=batch.is_encoded[part],
                    audio_seconds=batch.audio_seconds if first == 0 else 0.0,
                    bad=batch.bad if first == 0 else (),
                )
            )
    return parts


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


CGROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Files of a control group: the most it may have, what it has, and of that what files could give up.
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def memory_at_hand() -> int:
    """Bytes that this process has or can still get; processes of one machine share what is free."""
    left = min([psutil.virtual_memory().available, *left_in_groups(CGROUPS, OWN_GROUPS)])
    return int(psutil.Process().memory_info().rss + left / processes.count_here())


def left_in_groups(root: Path, own: Path) -> Iterator[int]:
    """What each control group that this process is in, and each around it, may still take.

    Without them a container of Docker or Kubernetes, or a job of Slurm, would be told of memory
    that it is ended for taking. Elsewhere than on Linux there are none.
    """
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top = root / "memory" if controllers else root
            limit, used, reclaimable = VERSION_1 if controllers else VERSION_2
            group = top / path.strip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(top):
                    continue
                # There may be no such group, or its limit is "max".
                with contextlib.suppress(OSError, ValueError):
                    most, now = (int((folder / name).read_text()) for name in (limit, used))
                    lines = (folder / "memory.stat").read_text().splitlines()
                    yield most - now + int(dict(line.split() for line in lines).get(reclaimable, 0))
