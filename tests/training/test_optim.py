"""Groups of the optimizer: who learns at which rate, and what decays."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer

from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.run_config import is_open_ended
from lora_whisper.training.optim import learning_rate, new_optimizer, set_rate
from tests.configs import adapter_config, optimizer_config
from tests.toys import toy_model


def attached(kind: str, tokens: tuple[int, ...] = ()) -> PeftModel:
    config = adapter_config(kind, rank=2)
    return attach(toy_model(), config, "none", False, seed=3, token_indices=tokens, total_steps=20)


def rates(model: PeftModel, optimizer: Any) -> dict[str, float]:
    names = {id(value): name for name, value in model.named_parameters()}
    return {
        names[id(value)]: group["lr"]
        for group in optimizer.param_groups
        for value in group["params"]
    }


@pytest.mark.parametrize("kind", ["lora", "dora", "adalora"])
def test_lora_plus_rates_are_pefts(kind: str) -> None:
    model = attached(kind)
    config = optimizer_config(lora_plus_ratio=16.0)
    ours = new_optimizer(adapter_parameters(model), config, 1e-3)
    set_rate(ours, 1e-3)
    pefts = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    assert rates(model, ours) == rates(model, pefts)
    assert set(rates(model, ours).values()) == {1e-3, 16e-3}


def test_without_lora_plus_all_learn_at_the_schedules_rate() -> None:
    model = attached("lora", tokens=(5,))
    optimizer = new_optimizer(adapter_parameters(model), optimizer_config(), 1e-3)
    set_rate(optimizer, 5e-4)
    assert set(rates(model, optimizer).values()) == {5e-4}
    assert rates(model, optimizer).keys() == adapter_parameters(model).keys()


@pytest.mark.parametrize(("kind", "tokens"), [("lora", (5,)), ("dora", ()), ("dora", (5,))])
def test_what_replaces_the_base_does_not_decay(kind: str, tokens: tuple[int, ...]) -> None:
    model = attached(kind, tokens)
    names = {id(value): name for name, value in model.named_parameters()}
    optimizer = new_optimizer(adapter_parameters(model), optimizer_config(weight_decay=0.1), 1e-3)
    decays = {
        names[id(value)]: group["weight_decay"] > 0
        for group in optimizer.param_groups
        for value in group["params"]
    }
    kept = {name for name, decay in decays.items() if not decay}
    assert kept == {name for name in decays if "tokens_delta" in name or "magnitude" in name}
    assert kept


def learning_rates(schedule: str, steps: int = 100, warmup: float = 0.1) -> list[float]:
    config = optimizer_config(schedule=schedule, warmup=warmup)
    return [learning_rate(step, steps, 2.0, config) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_steps_to_the_peak(schedule: str) -> None:
    found = learning_rates(schedule)
    assert found[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert max(found) == pytest.approx(2.0)


def test_what_follows_the_warm_up() -> None:
    assert set(learning_rates("constant")[10:]) == {2.0}
    linear = learning_rates("linear")[10:]
    assert linear == pytest.approx([2.0 * (1 - step / 90) for step in range(90)])
    cosine = learning_rates("cosine")[10:]
    assert cosine[45] == pytest.approx(1.0)
    assert cosine == pytest.approx([1 + math.cos(math.pi * step / 90) for step in range(90)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.999, 7])
def test_no_step_has_no_rate_at_all(schedule: str, warmup: float) -> None:
    assert min(learning_rates(schedule, 7, warmup)) > 0


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_from_one_on_a_warm_up_is_in_steps(schedule: str) -> None:
    config = optimizer_config(schedule=schedule, warmup=4.0)
    found = [learning_rate(step, 100, 2.0, config) for step in range(6)]
    assert found[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0, 7.0])
def test_open_ended_is_what_does_not_depend_on_the_number_of_steps(
    schedule: str, warmup: float
) -> None:
    """`is_open_ended` says what the schedule does: asked of the schedule itself."""
    config = optimizer_config(schedule=schedule, warmup=warmup)
    shorter, longer = (
        [learning_rate(step, total, 2.0, config) for step in range(40)] for total in (40, 90)
    )
    assert is_open_ended(config) == (shorter == longer)
