"""Which micro-batch is chosen, and that what is tried for it leaves no trace."""

from __future__ import annotations

import pytest
import torch

from lora_whisper.errors import UserError
from lora_whisper.training import micro_batch
from lora_whisper.training.loop import train_step
from lora_whisper.training.memory_estimator import Peak
from lora_whisper.training.memory_plan import (
    CPU_MEMORY_SHARE,
    Assumed,
    MemoryPlan,
)
from lora_whisper.training.micro_batch import (
    choose_micro_batch,
    fitting_micro_batch,
    largest_micro_batch,
    seconds_per_window,
)
from tests.training.parts import (
    micro_batches,
    sizes,
    toy_adapter,
    toy_trainer,
    toy_windows,
    with_memory_for,
)


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
    tried = with_memory_for(2, micro_batch, monkeypatch)
    windows = micro_batches(toy_windows(4), 4)
    plain = toy_trainer(toy_adapter(dropout=0.5), global_batch=8)
    train_step(plain, 0, windows)
    no_speech_tests = toy_trainer(toy_adapter(dropout=0.5), global_batch=8)
    assert fitting_micro_batch(no_speech_tests) == 2
    assert sizes(tried) == [8, 4, 3, 2]
    assert all(inputs.decoder_input.shape[1] == 64 for inputs in tried)
    assert all(inputs.features.shape[2] == 200 for inputs in tried), "two seconds"
    assert all(value.grad is None for value in no_speech_tests.parameters.values())
    train_step(no_speech_tests, 0, windows)
    for name, value in plain.parameters.items():
        assert torch.equal(value, no_speech_tests.parameters[name])


def test_timing_leaves_the_run_as_it_would_have_been() -> None:
    windows = micro_batches(toy_windows(4), 4)
    plain, timed = (toy_trainer(toy_adapter(dropout=0.5), global_batch=8) for _ in range(2))
    assert seconds_per_window(timed, 4, tokens=20) > 0
    assert all(value.grad is None for value in timed.parameters.values())
    train_step(plain, 0, windows)
    train_step(timed, 0, windows)
    for name, value in plain.parameters.items():
        assert torch.equal(value, timed.parameters[name])


def test_the_time_is_that_of_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a micro-batch, which is halved where it does not fit, as the loop would."""
    tried = with_memory_for(3, micro_batch, monkeypatch)
    trainer = toy_trainer(toy_adapter())
    monkeypatch.setattr(micro_batch, "timed", lambda action, _: (0.6, action()))
    assert seconds_per_window(trainer, 16, tokens=5) == pytest.approx(0.3)
    assert sizes(tried) == [8, 4, 2], "no more than the global batch"
    tried.clear()
    monkeypatch.setattr(micro_batch, "TINY_WIDTH", 1)
    assert seconds_per_window(trainer, 16, tokens=5) == pytest.approx(0.6)
    assert sizes(tried) == [1], "of a wide model, a window takes a CPU as long alone"


@pytest.mark.parametrize("given", [None, "auto"])
def test_a_cpu_is_asked_for_its_memory_where_a_window_matters(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> MemoryPlan:
        raise AssertionError("a toy's windows take next to nothing")

    trainer = toy_trainer(toy_adapter(), micro_batch=given, global_batch=16)
    assert choose_micro_batch(trainer, never) == 8
    assert choose_micro_batch(toy_trainer(toy_adapter(), micro_batch=3), never) == 3
    monkeypatch.setattr(micro_batch, "TINY_WIDTH", 1)
    peak = Peak("loss", 0.0, 1e7, 0.0)
    plan = MemoryPlan(1_000_000_000, 1_000, 1, {False: [peak]}, Assumed(0, 1.5, 850_000_000), "cpu")
    chosen = []
    for windows in (1, 5, 7):
        room = plan.memory(windows, False).total / CPU_MEMORY_SHARE
        monkeypatch.setattr(micro_batch, "memory_at_hand", lambda room=room: room)
        chosen.append(choose_micro_batch(trainer, lambda: plan))
    assert chosen == [1, 4, 6], "shares of 16 that are even"
