"""Precision and dtype follow each other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch

from lora_whisper.errors import UserError
from lora_whisper.model import device
from lora_whisper.model.device import choose_dtype, choose_precision, new_accelerator


def test_a_cpu_computes_in_fp32_unless_told() -> None:
    assert choose_precision("auto") == "fp32"
    assert choose_dtype("auto", "auto") is torch.float32
    assert choose_dtype("auto", "bf16") is torch.bfloat16
    assert choose_dtype("float32", "bf16") is torch.float32


def test_a_gpu_without_bfloat16_holds_weights_in_what_it_computes_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert choose_dtype("auto", "auto") is torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert choose_dtype("auto", "auto") is torch.bfloat16
    assert choose_dtype("auto", "fp32") is torch.float32


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="needs a GPU"):
        choose_precision("fp16")


def test_a_second_precision_in_one_process_is_no_problem() -> None:
    assert new_accelerator("bf16").mixed_precision == "bf16"
    assert new_accelerator("fp32").mixed_precision == "no"


def test_what_accelerate_is_told_of_accumulation_changes_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would divide the loss, which is divided by its tokens already."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    value = torch.ones((), requires_grad=True)
    new_accelerator("fp32").backward(8 * value)
    assert value.grad == 8


def test_processes_wait_longer_for_each_other_than_nccl_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By itself it ends a run when one of them is ten minutes ahead, such as in reading speech."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(device, "PartialState", given.update)
    device.join_processes()
    assert given["timeout"] >= timedelta(hours=1)
