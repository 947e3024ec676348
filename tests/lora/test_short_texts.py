"""Attention of short texts, bracketed otherwise: the same but for rounding, as PyTorch has it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from lora_whisper.lora import short_texts
from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.lora.short_texts import ShortTextAttention, use_short_texts
from lora_whisper.model.cpu_kernels import has_fast_products
from lora_whisper.training.loss import loss_sum
from tests.configs import adapter_config
from tests.toys import toy_model
from tests.training.parts import micro_batches, require_same, toy_trainer, toy_windows

KINDS = [("lora", 0.3, "all"), ("rslora", 0.0, "decoder"), ("dora", 0.0, "all")]


def gradients(
    kind: str,
    dropout: float,
    layers: str,
    short: bool = True,
    autocast: AbstractContextManager[object] = nullcontext(),  # noqa: B008  it has no state
) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of a toy whose B are not zero, as they are where training begins."""
    config = adapter_config(kind, rank=2, alpha=4.0, dropout=dropout, layers=layers)
    model = attach(
        toy_model(), config, "none", gradient_checkpointing=False, seed=3, total_steps=10
    )
    generator = torch.Generator().manual_seed(4)
    for name, parameter in adapter_parameters(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    trainer = toy_trainer(model)
    if short:
        use_short_texts(trainer.whisper)
    (batch,) = micro_batches(toy_windows(4), 4)
    torch.manual_seed(5)
    loss = loss_sum(trainer.whisper, trainer.inputs(batch), autocast)
    loss.backward()
    return loss.item(), {name: one.grad.numpy() for name, one in trainer.parameters.items()}


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let toys attend so; how many projections of the sound were done without."""
    parted, found = ShortTextAttention._parted, list[int]()

    def noted(*given: Any) -> Any:
        found.append(1)
        return parted(*given)

    monkeypatch.setattr(ShortTextAttention, "most_rows", 100.0)
    monkeypatch.setattr(ShortTextAttention, "_parted", noted)
    return found


@pytest.mark.parametrize(("kind", "dropout", "layers"), KINDS)
def test_loss_and_gradients_are_the_same(
    kind: str, dropout: float, layers: str, used: list[int]
) -> None:
    loss, found = gradients(kind, dropout, layers)
    assert len(used) == (0 if kind == "dora" else 4), (
        "of two layers, for another kind is left alone"
    )
    expected_loss, expected = gradients(kind, dropout, layers, short=False)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    require_same([found], [expected])


def test_in_bfloat16_too(used: list[int]) -> None:
    short, plain = (
        gradients("lora", 0.3, "all", short, torch.autocast("cpu", torch.bfloat16))[0]
        for short in (True, False)
    )
    assert used
    assert short == pytest.approx(plain, rel=5e-3)


def test_long_texts_have_keys_and_values(used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShortTextAttention, "most_rows", 0.1)
    gradients("lora", 0.0, "all")
    assert not used


@pytest.mark.skipif(not has_fast_products(), reason="oneDNN has no AVX-512 here")
def test_products_by_onednn_have_both_gradients() -> None:
    x, y = (torch.randn(3, rows, 400, requires_grad=True) for rows in (20, 90))
    weight = torch.randn(3, 20, 90)
    outs = short_texts.products(x, y), x @ y.transpose(1, 2)
    fast, plain = ([out, *torch.autograd.grad((out * weight).sum(), [x, y])] for out in outs)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
