"""Each part of the plan against real tensors, and what fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_whisper.lora.adapter import adapter_bytes, adapter_parameters, attach, save_adapter
from lora_whisper.lora.variants import shipped_share
from lora_whisper.model.checkpoint import Checkpoint
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
from tests.configs import adapter_config, quantization_config
from tests.toys import toy_config, toy_model
from tests.training.parts import (
    micro_batches,
    toy_trainer,
    toy_windows,
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
