"""How much memory a process may have, of the machine's and of its container's."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from lora_whisper.training import room
from lora_whisper.training.room import left_in_groups, memory_at_hand


def group(folder: Path, most: str, now: int, files: int, names: tuple[str, str, str]) -> None:
    """A control group that has so much, some of it for files, as Linux tells of it."""
    limit, used, reclaimable = names
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit).write_text(f"{most}\n")
    (folder / used).write_text(f"{now}\n")
    (folder / "memory.stat").write_text(f"anon {now - files}\n{reclaimable} {files}\n")


def own(folder: Path, *lines: str) -> Path:
    path = folder / "self"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_group_and_those_around_it_count(tmp_path: Path) -> None:
    """https://docs.kernel.org/admin-guide/cgroup-v2.html: a limit holds for all below it."""
    root = tmp_path / "cgroup"
    group(root / "job/step", "max", 900, 100, room.VERSION_2)
    group(root / "job", "1000", 950, 200, room.VERSION_2)
    assert list(left_in_groups(root, own(tmp_path, "0::/job/step"))) == [250]


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    """Its path is that of the machine, which is not there."""
    root = tmp_path / "cgroup"
    group(root, "5000", 1000, 0, room.VERSION_2)
    assert list(left_in_groups(root, own(tmp_path, "0::/docker/1a2b"))) == [4000]


def test_the_first_version_has_other_names(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(root / "memory/job", "3000", 1000, 500, room.VERSION_1)
    group(root / "cpu/job", "1", 0, 0, room.VERSION_1)
    lines = ("5:cpu,cpuacct:/job", "9:memory:/job")
    assert list(left_in_groups(root, own(tmp_path, *lines))) == [2500]


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(left_in_groups(tmp_path, tmp_path / "missing")) == []


def test_processes_of_one_machine_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=12_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(room, "left_in_groups", lambda *_: iter([8_000_000_000]))
    own_bytes = psutil.Process().memory_info().rss
    assert memory_at_hand() == pytest.approx(8_000_000_000 + own_bytes, rel=0.01)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory_at_hand() == pytest.approx(4_000_000_000 + own_bytes, rel=0.01)
