"""Each part of the plan against real tensors, and what fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_whisper.model.adapter import adapter_bytes, adapter_parameters, attach, save_adapter
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.training.fake_step import Setup
from lora_whisper.training.loop import train_step
from lora_whisper.training.planning import Plan, adapter_file_bytes, make_plan
from tests.configs import adapter_config, quantization_config
from tests.toys import toy_config, toy_model
from tests.training.parts import micro_batches, toy_trainer, toy_windows

ADAPTER = adapter_config(rank=4, dropout=0.05)


@pytest.fixture(scope="module")
def plan() -> Plan:
    setup = Setup(toy_config(), quantization_config("none"), ADAPTER, torch.float32, "fp32")
    return make_plan(setup, 60)


def test_adapter_gradients_and_optimizer_are_those_of_a_real_step(plan: Plan) -> None:
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


def test_the_adapters_file_is_about_as_large_as_said(plan: Plan, tmp_path: Path) -> None:
    model = attach(toy_model(), ADAPTER, "none", False, seed=0)
    save_adapter(model, tmp_path, Checkpoint("toy", None, "toy"))
    assert adapter_file_bytes(plan, ADAPTER) == pytest.approx(adapter_bytes(tmp_path), rel=0.1)


def test_the_largest_micro_batch_fits_and_one_more_does_not(plan: Plan) -> None:
    memory = plan.memory(5, False).total
    assert plan.largest_micro_batch(memory, False, 16) == 5
    assert plan.largest_micro_batch(memory - 1, False, 16) == 4
    assert plan.largest_micro_batch(memory, False, 3) == 3
    assert plan.largest_micro_batch(memory, True, 64) > 5
    assert plan.largest_micro_batch(1, True, 16) == 0


def test_the_parts_add_up(plan: Plan) -> None:
    used = plan.memory(3, True)
    assert used.total == sum(vars(used).values())
    assert used.reserved == used.total - used.context
