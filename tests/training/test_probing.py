"""The largest micro-batch is found without a trace in what is trained."""

from __future__ import annotations

import pytest
import torch

from lora_whisper.data.batches import Batch
from lora_whisper.errors import UserError
from lora_whisper.training import probing
from lora_whisper.training.loop import Trainer, forward, train_step
from lora_whisper.training.probing import fitting_micro_batch, largest_micro_batch
from tests.training.parts import micro_batches, toy_adapter, toy_trainer, toy_windows


@pytest.mark.parametrize(("memory", "expected"), [(16, 16), (15, 8), (5, 4), (1, 1)])
def test_as_few_even_passes_as_memory_allows(memory: int, expected: int) -> None:
    tried = []

    def try_windows(windows: int) -> None:
        tried.append(windows)
        if windows > memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert largest_micro_batch(try_windows, 16) == expected
    assert tried == [one for one in (16, 8, 6, 4, 3, 2, 1) if one >= expected]


def test_memory_for_not_even_one_window_says_what_to_type() -> None:
    def never(windows: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(UserError, match="quantization=nf4"):
        largest_micro_batch(never, 4)


def test_another_failure_is_no_matter_of_memory() -> None:
    def broken(windows: int) -> None:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        largest_micro_batch(broken, 4)


def test_probing_leaves_the_run_as_it_would_have_been(monkeypatch: pytest.MonkeyPatch) -> None:
    """And tries the worst: windows full of sound, with texts as long as the decoder."""
    seen: list[Batch] = []

    def limited(trainer: Trainer, batch: Batch) -> torch.Tensor:
        seen.append(batch)
        loss = forward(trainer, batch)
        if len(batch.labels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss

    monkeypatch.setattr(probing, "forward", limited)
    windows = micro_batches(toy_windows(4), 4)
    plain = toy_trainer(toy_adapter(dropout=0.5), global_batch=8)
    train_step(plain, 0, windows)
    probed = toy_trainer(toy_adapter(dropout=0.5), global_batch=8)
    assert fitting_micro_batch(probed) == 2
    assert [tuple(batch.labels.shape) for batch in seen] == [(8, 64), (4, 64), (3, 64), (2, 64)]
    assert all(batch.waveforms.shape[1] == 32_000 for batch in seen)
    assert all(value.grad is None for value in probed.parameters.values())
    train_step(probed, 0, windows)
    for name, value in plain.parameters.items():
        assert torch.equal(value, probed.parameters[name])
