"""Precision and dtype follow each other."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import is_flash_attn_2_available

from lora_whisper.errors import UserError
from lora_whisper.model import device
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import locate
from lora_whisper.model.device import (
    choose_attention,
    choose_dtype,
    choose_precision,
    new_accelerator,
)
from tests.configs import model_config
from tests.toys import toy_checkpoint, toy_inputs


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


# ── which kernel computes attention ───────────────────────────────────────────────────────────────


CPU, GPU = torch.device("cpu"), torch.device("cuda")
HALF = (torch.bfloat16, torch.float16)


def machine(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 6), installed: bool = True
) -> None:
    """A machine with such a GPU, and with or without the package flash_attn."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(device, "is_flash_attn_2_available", lambda: installed)


@pytest.mark.parametrize("asked", ["auto", "flash"])
@pytest.mark.parametrize("dtype", HALF)
def test_flash_is_taken_where_it_runs(monkeypatch, asked, dtype):
    machine(monkeypatch)
    assert choose_attention(asked, dtype, GPU) == "flash_attention_2"
    assert choose_attention("sdpa", dtype, GPU) == "sdpa"


def test_auto_never_fails(monkeypatch):
    assert choose_attention("auto", torch.bfloat16, CPU) == "sdpa"
    machine(monkeypatch)
    assert choose_attention("auto", torch.float32, GPU) == "sdpa"
    machine(monkeypatch, installed=False)
    assert choose_attention("auto", torch.bfloat16, GPU) == "sdpa"
    machine(monkeypatch, capability=(7, 5))
    assert choose_attention("auto", torch.float16, GPU) == "sdpa"


def test_flash_without_a_gpu_and_without_half_precision_says_both():
    with pytest.raises(UserError) as caught:
        choose_attention("flash", torch.float32, CPU)
    for part in ("needs a GPU, found device cpu", "found float32", "model.dtype=bfloat16", "auto"):
        assert part in str(caught.value)


def test_flash_that_is_not_installed_says_how_to_install_it(monkeypatch):
    machine(monkeypatch, installed=False)
    with pytest.raises(UserError, match="pip install flash-attn"):
        choose_attention("flash", torch.bfloat16, GPU)


def test_flash_on_an_older_gpu_names_it(monkeypatch):
    machine(monkeypatch, capability=(7, 5))
    with pytest.raises(UserError, match="Ampere GPU or a newer one, found Tesla T4"):
        choose_attention("flash", torch.float16, GPU)


def test_the_kernel_reaches_every_layer(tmp_path, monkeypatch):
    checkpoint = locate(model_config(toy_checkpoint(tmp_path)))
    base = load_base(checkpoint, "none", torch.float32, CPU)
    layers = [base.model.encoder.layers[0].self_attn, base.model.decoder.layers[1].encoder_attn]
    assert {layer.config._attn_implementation for layer in layers} == {"sdpa"}
    # What choose_attention says is what Transformers is asked for.
    monkeypatch.setattr(device, "choose_attention", lambda *_: "eager")
    eager = load_base(checkpoint, "none", torch.float32, CPU, attention="flash")
    assert eager.model.encoder.layers[0].self_attn.config._attn_implementation == "eager"
    heard, expected = eager(**toy_inputs()).logits, base(**toy_inputs()).logits
    torch.testing.assert_close(heard, expected, atol=1e-4, rtol=0)


def test_load_base_refuses_flash_before_it_reads_weights(tmp_path):
    folder: Path = toy_checkpoint(tmp_path)
    checkpoint = locate(model_config(folder))
    (folder / "model.safetensors").write_bytes(b"unread")
    with pytest.raises(UserError, match=r"model\.attention=flash"):
        load_base(checkpoint, "none", torch.bfloat16, CPU, attention="flash")


@pytest.mark.gpu
@pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs a GPU and flash_attn")
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_flash_gives_the_logits_of_sdpa(tmp_path, quantization):
    checkpoint = locate(model_config(toy_checkpoint(tmp_path)))
    inputs = {name: value.to(GPU) for name, value in toy_inputs().items()}
    inputs["input_features"] = inputs["input_features"].bfloat16()
    sdpa, flash = (
        load_base(checkpoint, quantization, torch.bfloat16, GPU, attention=kernel)(**inputs).logits
        for kernel in ("sdpa", "flash")
    )
    torch.testing.assert_close(flash, sdpa, atol=0.05, rtol=0.05)
