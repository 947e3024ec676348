"""How much memory this process can have on a CPU: what is free, and what its container allows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from lora_whisper import processes

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
            top, files = (root / "memory", VERSION_1) if controllers else (root, VERSION_2)
            group = top / path.strip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(top):
                    yield from _left(folder, *files)


def _left(group: Path, limit: str, used: str, reclaimable: str) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):  # no such group here, or its limit is "max"
        most, now = (int((group / name).read_text()) for name in (limit, used))
        lines = (group / "memory.stat").read_text().splitlines()
        yield most - now + int(dict(line.split() for line in lines).get(reclaimable, 0))
