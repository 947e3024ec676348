"""Micro-batches become smaller without a window being lost or moved."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.augmentation import Mask
from lora_whisper.data.batches import Batch
from lora_whisper.training import memory
from lora_whisper.training.memory import (
    MicroBatchLimit,
    is_out_of_memory,
    left_in_groups,
    memory_at_hand,
    split,
)


def batch_of(windows: int) -> Batch:
    """Window number i has the label i, the sample i, the mask i, the activation i."""
    numbers = torch.arange(windows)
    return Batch(
        waveforms=numbers[:, None].float(),
        decoder_input=numbers[:, None],
        labels=numbers[:, None],
        audio_seconds=float(windows),
        rows=("a",) * (windows > 0),
        bad=(),
        masks=tuple((Mask("time", number, 1),) for number in range(windows)),
        ends=tuple(None if number % 2 else number for number in range(windows)),
        encoded=numbers[:, None, None].float(),
        is_encoded=tuple(number % 3 > 0 for number in range(windows)),
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 5))
def test_split_keeps_windows_order_and_sums(sizes: list[int], largest: int) -> None:
    batches = [batch_of(size) for size in sizes]
    parts = split(batches, largest)
    assert max((len(part.labels) for part in parts), default=0) <= largest
    for batch in (parts, batches):
        assert sum(one.audio_seconds for one in batch) == sum(sizes)
    for name in ("labels", "waveforms", "decoder_input", "encoded"):
        found = [getattr(one, name) for one in parts]
        given_ones = [getattr(one, name) for one in batches]
        assert torch.equal(
            torch.cat(found or [torch.empty(0)]), torch.cat(given_ones or [torch.empty(0)])
        )
    masks = [mask for one in parts for (mask,) in one.masks]
    assert masks == [mask for one in batches for (mask,) in one.masks]
    ends = [end for one in parts for end in one.ends]
    assert ends == [end for one in batches for end in one.ends]
    is_encoded = [known for one in parts for known in one.is_encoded]
    assert is_encoded == [known for one in batches for known in one.is_encoded]


def test_a_batch_without_masks_is_split_too() -> None:
    (whole,) = [batch_of(3)]
    bare = Batch(whole.waveforms, whole.decoder_input, whole.labels, 3.0, ("a",), ())
    assert [len(part.labels) for part in split([bare], 2)] == [2, 1]


def test_the_limit_is_halved_from_what_did_not_fit_down_to_one_window() -> None:
    limit, batches = MicroBatchLimit(), [batch_of(2), batch_of(11)]
    assert limit.split(batches) is batches
    found = []
    while limit.lower(batches):
        found.append(limit.windows)
    assert found == [5, 2, 1]
    assert len(limit.split(batches)) == 13


def test_what_the_cpus_allocator_says_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as full:
        torch.empty(2**56)
    assert is_out_of_memory(full.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(other.value)


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_what_cuda_itself_says_is_out_of_memory(words: str) -> None:
    assert is_out_of_memory(RuntimeError(f"{words} when calling `cublasCreate(handle)`"))


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
    group(root / "job/step", "max", 900, 100, memory.VERSION_2)
    group(root / "job", "1000", 950, 200, memory.VERSION_2)
    assert list(left_in_groups(root, own(tmp_path, "0::/job/step"))) == [250]


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    """Its path is that of the machine, which is not there."""
    root = tmp_path / "cgroup"
    group(root, "5000", 1000, 0, memory.VERSION_2)
    assert list(left_in_groups(root, own(tmp_path, "0::/docker/1a2b"))) == [4000]


def test_the_first_version_has_other_names(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(root / "memory/job", "3000", 1000, 500, memory.VERSION_1)
    group(root / "cpu/job", "1", 0, 0, memory.VERSION_1)
    lines = ("5:cpu,cpuacct:/job", "9:memory:/job")
    assert list(left_in_groups(root, own(tmp_path, *lines))) == [2500]


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(left_in_groups(tmp_path, tmp_path / "missing")) == []


def test_processes_of_one_machine_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=12_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(memory, "left_in_groups", lambda *_: iter([8_000_000_000]))
    own_bytes = psutil.Process().memory_info().rss
    assert memory_at_hand() == pytest.approx(8_000_000_000 + own_bytes, rel=0.01)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory_at_hand() == pytest.approx(4_000_000_000 + own_bytes, rel=0.01)
