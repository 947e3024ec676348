"""int8 and nf4 bases really run on the CPU, and give what their codes say."""

import os
import weakref
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes.autograd._functions import MatMul8bitFp, MatMul8bitLt
from bitsandbytes.functional import QuantState, quantize_4bit
from peft import PeftModel
from peft.utils.integrations import dequantize_module_weight
from transformers import WhisperForConditionalGeneration

from lora_whisper.lora.adapter import adapter_parameters, attach, load_adapter, save_adapter
from lora_whisper.model.base import load_base
from lora_whisper.model.quantization import (
    FrozenLinear8bit,
    Nf4,
    forget_input,
    is_quantized,
    prepare_for_training,
    read_back,
    settle,
)
from lora_whisper.training.meta_model import MetaLinear4bit
from tests.configs import adapter_config
from tests.launched import together
from tests.lora.test_delta_weights import filled
from tests.toys import toy_inputs, toy_model

CPU = torch.device("cpu")
BLOCK = 64  # weights that share a scale in nf4
SCALES = 256  # of blocks that share one of their own
# The 16 levels of nf4, as QLoRA has them (appendix E).
LEVELS = [
    float(level)
    for level in """
    -1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635
    -0.18477343022823334 -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725
    0.24611230194568634 0.33791524171829224 0.44070982933044434 0.5626170039176941
    0.7229568362236023 1.0""".split()
]


def linear_layers(model: WhisperForConditionalGeneration) -> dict[str, torch.nn.Module]:
    modules = model.model.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, torch.nn.Linear)}


def read_by_hand(codes: torch.Tensor, state: QuantState) -> torch.Tensor:
    """Two codes a byte, each a level of its block's scale; blocks go on from row to row."""
    levels = torch.stack((codes.view(-1) >> 4, codes.view(-1) & 15), dim=1).view(-1)
    scales = state.absmax
    if state.nested:
        each = state.state2.absmax.repeat_interleave(SCALES)[: len(scales)]
        scales = state.offset + each * state.state2.code[scales.long()]
    each = scales.repeat_interleave(BLOCK)[: len(levels)]
    return (torch.tensor(LEVELS)[levels.long()] * each).view(state.shape)


def nf4_by_hand(weight: torch.Tensor) -> torch.Tensor:
    return read_by_hand(*quantize_4bit(weight, quant_type="nf4", compress_statistics=True))


def in_nf4(weight: torch.Tensor, double: bool) -> Any:
    """A layer with this weight, as `load_base` leaves it."""
    outputs, inputs = weight.shape
    layer = bitsandbytes.nn.Linear4bit(
        inputs, outputs, bias=False, compute_dtype=torch.float32, compress_statistics=double,
        quant_type="nf4",
    )  # fmt: skip
    layer.weight = bitsandbytes.nn.Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=double, module=layer
    )
    model: Any = torch.nn.Sequential(layer).to(CPU)
    settle(model)
    return model[0]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    "shape", [(160, 160), (640, 160), (160, 640), (24, 80), (20, 16), (5, 6), (128, 192), (1, 100)]
)
def test_whoever_reads_nf4_reads_what_was_written(shape, double):
    """Its product, our merging, and PEFT; of widths that 64 divides, or not."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer = in_nf4(weight, double)
    expected = read_by_hand(layer.weight.data, layer.weight.quant_state)
    assert (expected - weight).norm() < 0.13 * weight.norm()
    near = {"atol": 1e-6, "rtol": 1e-6}
    for training in (False, True):
        product = layer.train(training)(torch.eye(shape[1]))
        torch.testing.assert_close(product.T, expected, **near)
    torch.testing.assert_close(dequantize_module_weight(layer), expected, **near)
    torch.testing.assert_close(read_back(weight, Nf4(torch.float32, double)), expected, **near)


def test_a_layer_without_weights_has_the_shape_of_what_is_read():
    with torch.device("meta"):
        layer = MetaLinear4bit(torch.nn.Linear(160, 24), torch.bfloat16, True)
        weight = dequantize_module_weight(layer)
    assert (weight.shape, weight.dtype) == ((24, 160), torch.bfloat16)


def test_nf4_computes_with_the_weights_that_its_codes_say(checkpoint):
    """Width 16: bitsandbytes' own kernel would misread it."""
    reference = toy_model()
    for layer in linear_layers(reference).values():
        rounded = nf4_by_hand(layer.weight)
        assert (rounded - layer.weight).norm() < 0.13 * layer.weight.norm()
        layer.weight.data.copy_(rounded)
    quantized = load_base(checkpoint, "nf4", torch.float32, CPU)
    expected = reference(**toy_inputs()).logits
    for training in (False, True):
        logits = quantized.train(training)(**toy_inputs()).logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def a_step(model: PeftModel) -> list[torch.Tensor]:
    """Logits and gradients of a training step; the same inputs are dropped out each time."""
    torch.manual_seed(0)
    logits = model.train()(**toy_inputs()).logits
    logits.square().sum().backward()
    return [logits.detach(), *(one.grad for one in adapter_parameters(model).values())]


@pytest.mark.parametrize("dropout", [0.0, 0.2])  # with it, DoRA reads the weights once more
def test_dora_on_nf4_is_peft_s_on_full_weights_that_were_rounded_by_hand(
    checkpoint, dropout, tmp_path
):
    """Widths of 16 and 32, which blocks of 64 do not divide."""
    config = adapter_config("dora", rank=4, alpha=6.0, dropout=dropout)
    rounded = toy_model()
    for layer in linear_layers(rounded).values():
        layer.weight.data.copy_(nf4_by_hand(layer.weight))
    reference = filled(attach(rounded, config, "none", False, 0))
    model = filled(
        attach(load_base(checkpoint, "nf4", torch.float32, CPU), config, "nf4", False, 0)
    )
    save_adapter(model, tmp_path, checkpoint)
    loaded = load_adapter(load_base(checkpoint, "nf4", torch.float32, CPU), tmp_path).eval()
    heard, expected = loaded(**toy_inputs()).logits, reference(**toy_inputs()).logits
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)
    for ours, theirs in zip(a_step(model), a_step(reference), strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_int8_is_near_the_full_base(checkpoint):
    exact = toy_model()(**toy_inputs()).logits
    quantized = load_base(checkpoint, "int8", torch.float32, CPU)
    error = (quantized(**toy_inputs()).logits - exact).norm() / exact.norm()
    assert 0 < error < 0.03


def int8_errors(limit: str) -> list[float]:
    """Of two calls, relative to the length of what full weights give."""
    os.environ["ONEDNN_MAX_CPU_ISA"] = limit  # read when it is first used
    torch.manual_seed(0)
    x, full = torch.randn(20, 64), torch.nn.Linear(64, 32)
    layer: Any = bitsandbytes.nn.Linear8bitLt(64, 32, has_fp16_weights=False)
    layer.load_state_dict(full.state_dict())
    layer = layer.to("cpu").eval()
    layer.__class__ = FrozenLinear8bit
    with torch.no_grad():
        errors = [float((layer(x) - full(x)).norm() / full(x).norm()) for _ in range(2)]
    assert not layer.training
    return errors


def test_int8_is_right_where_integers_overflow():
    """oneDNN keeps to its first limit, so that processes of their own ask."""
    for limit in ("AVX2", "ALL"):
        (errors,) = together(1, int8_errors, limit)
        assert all(0 < error < 0.03 for error in errors), limit


@pytest.mark.parametrize("function", [MatMul8bitLt, MatMul8bitFp])  # of GPUs and of CPUs
def test_int8_has_its_gradients_without_its_inputs(checkpoint, function):
    layer = load_base(checkpoint, "int8", torch.float32, CPU).model.encoder.layers[0].fc1
    torch.manual_seed(0)
    x = torch.randn(3, 7, layer.in_features, requires_grad=True)
    layer(x)  # lays out the weights

    def multiplied() -> torch.Tensor:
        return function.apply(2 * x, layer.weight, None, layer.bias, layer.state)

    (expected,) = torch.autograd.grad(multiplied().square().sum(), x)
    out = multiplied()
    forget_input(out)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(gradient, expected, atol=0, rtol=0)


def test_an_int8_layer_forgets_its_input(checkpoint):
    layer = load_base(checkpoint, "int8", torch.float32, CPU).train().model.encoder.layers[0].fc1
    x = torch.randn(3, 7, layer.in_features, requires_grad=True)
    inputs = 2 * x
    gone = weakref.ref(inputs)
    out = layer(inputs)
    del inputs
    assert gone() is None
    out.sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_preparing_leaves_codes_alone_and_everything_else_in_fp32(checkpoint, kind):
    base = load_base(checkpoint, kind, torch.bfloat16, CPU)
    codes = {name: layer.weight.clone() for name, layer in linear_layers(base).items()}
    prepare_for_training(base)
    assert is_quantized(base)
    assert not is_quantized(toy_model())
    for name, layer in linear_layers(base).items():
        assert torch.equal(layer.weight, codes[name])
    stored = {parameter.dtype for parameter in base.parameters()}
    assert stored == {torch.float32, codes.popitem()[1].dtype}
    assert base.proj_out.weight is base.model.decoder.embed_tokens.weight
    assert base(**toy_inputs()).logits.dtype == torch.float32


@pytest.mark.parametrize("double", [False, True])
def test_the_scales_of_nf4_are_quantized_where_asked(checkpoint, double):
    base = load_base(checkpoint, "nf4", torch.float32, CPU, double_quantization=double)
    states = [layer.weight.quant_state for layer in linear_layers(base).values()]
    assert {state.nested for state in states} == {double}
    assert {state.absmax.dtype for state in states} == {torch.uint8 if double else torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nf4_multiplies_in_the_compute_dtype(checkpoint, dtype):
    base = load_base(checkpoint, "nf4", torch.float32, CPU, compute_dtype=dtype)
    layer = base.model.encoder.layers[0].fc1
    inputs = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    weight = nf4_by_hand(toy_model().model.encoder.layers[0].fc1.weight)
    rounded = [value.to(dtype) for value in (inputs, weight, layer.bias)]
    expected = torch.nn.functional.linear(*rounded).float()
    assert torch.equal(layer(inputs), expected)


def test_nf4_computes_in_the_dtype_of_the_weights_unless_told(checkpoint):
    base = load_base(checkpoint, "nf4", torch.bfloat16, CPU)
    assert {layer.compute_dtype for layer in linear_layers(base).values()} == {torch.bfloat16}
