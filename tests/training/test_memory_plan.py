"""Each part of the plan against real tensors, what fits, and what is tried without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import adapter_bytes, adapter_parameters, attach, save_adapter
from lora_whisper.lora.variants import shipped_share
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.training import micro_batch
from lora_whisper.training.loop import train_step
from lora_whisper.training.memory_estimator import Peak, Setup
from lora_whisper.training.memory_plan import (
    CPU_MEMORY_SHARE,
    CPU_MOST_WINDOWS,
    CPU_STEP_BYTES,
    Assumed,
    MemoryPlan,
    adapter_file_bytes,
    decoding_bytes,
    micro_batch_on_cpu,
    plan_memory,
)
from lora_whisper.training.micro_batch import (
    choose_micro_batch,
    fitting_micro_batch,
    largest_micro_batch,
    seconds_per_window,
)
from tests.configs import adapter_config, quantization_config
from tests.toys import toy_config, toy_model
from tests.training.parts import (
    micro_batches,
    sizes,
    toy_adapter,
    toy_trainer,
    toy_windows,
    with_memory_for,
)

ADAPTER = adapter_config(rank=4, dropout=0.05)


@pytest.fixture(scope="module")
def plan() -> MemoryPlan:
    setup = Setup(toy_config(), quantization_config("none"), ADAPTER, torch.float32, "fp32")
    return plan_memory(setup, 60)


def test_adapter_gradients_and_optimizer_are_those_of_a_real_step(plan: MemoryPlan) -> None:
    model = attach(toy_model(), ADAPTER, "none", False, seed=0)
    trainer = toy_trainer(model)
    seen: list[int] = []
    for value in trainer.parameters.values():
        value.register_post_accumulate_grad_hook(lambda one: seen.append(one.grad.nbytes))
    train_step(trainer, 0, micro_batches(toy_windows(2), 2))
    moments = sum(
        state[name].nbytes
        for state in trainer.optimizer.state.values()
        for name in ("exp_avg", "exp_avg_sq")
    )
    used = plan.memory(1, False)
    own = sum(value.nbytes for value in adapter_parameters(model).values())
    frozen = [value for name, value in model.named_parameters() if "lora_" not in name]
    assert used.adapter == pytest.approx(own, rel=0.01)
    assert used.gradients == pytest.approx(sum(seen), rel=0.01)
    assert used.optimizer == pytest.approx(moments, rel=0.01)
    assert used.weights == pytest.approx(sum(value.nbytes for value in frozen), rel=0.01)


def test_the_adapters_file_is_about_as_large_as_said(plan: MemoryPlan, tmp_path: Path) -> None:
    model = attach(toy_model(), ADAPTER, "none", False, seed=0)
    save_adapter(model, tmp_path, Checkpoint("toy", None, "toy"))
    assert adapter_file_bytes(plan, shipped_share(ADAPTER)) == pytest.approx(
        adapter_bytes(tmp_path), rel=0.1
    )


def test_the_largest_micro_batch_fits_and_one_more_does_not(plan: MemoryPlan) -> None:
    memory = plan.memory(5, False).total
    assert plan.largest_micro_batch(memory, False, 16) == 5
    assert plan.largest_micro_batch(memory - 1, False, 16) == 4
    assert plan.largest_micro_batch(memory, False, 3) == 3
    assert plan.largest_micro_batch(memory, True, 64) > 5
    assert plan.largest_micro_batch(1, True, 16) == 0


def test_the_parts_add_up(plan: MemoryPlan) -> None:
    used = plan.memory(3, True)
    assert used.total == sum(vars(used).values())


CPU = Assumed(0, 1.5, 850_000_000)


def on_cpu(window_bytes: float) -> MemoryPlan:
    """A model of 1 GB whose windows need so much each."""
    peak = Peak("loss", 0.0, window_bytes, 0.0)
    return MemoryPlan(1_000_000_000, 1_000, 1, {False: [peak]}, CPU, "cpu")


def test_a_cpu_gets_as_many_windows_as_its_memory_holds() -> None:
    """And never more than bring anything: beyond it, the rest of the memory is left to others."""
    plenty = 1e12
    chosen = [micro_batch_on_cpu(on_cpu(size), plenty) for size in (1e9, 2e8, 1e8, 1e3)]
    assert chosen == sorted(chosen)
    assert chosen[0] == 1, "one window takes all that is good for anything"
    assert chosen[-1] == CPU_MOST_WINDOWS
    more = on_cpu(2e8).memory(chosen[1], False).total - on_cpu(2e8).memory(0, False).total
    assert more <= CPU_STEP_BYTES
    assert 1 < chosen[1] < CPU_MOST_WINDOWS
    small = on_cpu(1e7)
    for windows in range(1, CPU_MOST_WINDOWS + 1):
        room = small.memory(windows, False).total / CPU_MEMORY_SHARE
        assert micro_batch_on_cpu(small, room) == windows
    assert micro_batch_on_cpu(small, 1e6) == 1, "it is tried all the same"


def test_a_plan_for_one_way_is_that_of_both(plan: MemoryPlan) -> None:
    setup = Setup(toy_config(), quantization_config("none"), ADAPTER, torch.float32, "fp32")
    for on in (False, True):
        alone = plan_memory(setup, 60, (on,))
        assert alone.memory(3, on).total == pytest.approx(plan.memory(3, on).total, rel=0.01)


def test_scoring_holds_each_rows_keys_and_values() -> None:
    """Those of a real decoder, of the window and of as many tokens as it takes."""
    model, rows = toy_model(), 3
    hidden = torch.zeros(rows, toy_config().max_source_positions, toy_config().d_model)
    tokens = torch.zeros(rows, toy_config().max_target_positions, dtype=torch.int64)
    with torch.inference_mode():
        cache = model.model.decoder(
            input_ids=tokens, encoder_hidden_states=hidden, use_cache=True
        ).past_key_values
    kept = sum(
        layer.keys.nbytes + layer.values.nbytes
        for part in (cache.self_attention_cache, cache.cross_attention_cache)
        for layer in part.layers
    )
    assert decoding_bytes(toy_config(), rows, 4) == 2 * kept


# ── the micro-batch, and what a window takes ─────────────────────────────────────────────────


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
