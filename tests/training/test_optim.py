"""Groups of the optimizer: who learns at which rate, and what decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer

from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.training.optim import new_optimizer, set_rate
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
