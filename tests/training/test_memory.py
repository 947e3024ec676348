"""Micro-batches become smaller without a window being lost or moved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.augmentation import Mask
from lora_whisper.data.batches import Batch
from lora_whisper.training.memory import MicroBatchLimit, is_out_of_memory, split


def batch_of(windows: int) -> Batch:
    """Window number i has the label i, the sample i, the mask i."""
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
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 5))
def test_split_keeps_windows_order_and_sums(sizes: list[int], largest: int) -> None:
    batches = [batch_of(size) for size in sizes]
    parts = split(batches, largest)
    assert max((len(part.labels) for part in parts), default=0) <= largest
    for batch in (parts, batches):
        assert sum(one.audio_seconds for one in batch) == sum(sizes)
    for name in ("labels", "waveforms", "decoder_input"):
        found = [getattr(one, name) for one in parts]
        given_ones = [getattr(one, name) for one in batches]
        assert torch.equal(
            torch.cat(found or [torch.empty(0)]), torch.cat(given_ones or [torch.empty(0)])
        )
    masks = [mask for one in parts for (mask,) in one.masks]
    assert masks == [mask for one in batches for (mask,) in one.masks]
    ends = [end for one in parts for end in one.ends]
    assert ends == [end for one in batches for end in one.ends]


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
