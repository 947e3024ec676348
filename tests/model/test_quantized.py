"""int8 and nf4 bases really run on the CPU, and give what their codes say."""

import weakref
from pathlib import Path

import pytest
import torch
from bitsandbytes.autograd._functions import MatMul8bitFp, MatMul8bitLt
from bitsandbytes.functional import get_4bit_type, quantize_4bit
from transformers import WhisperForConditionalGeneration

from lora_whisper.model.checkpoint import Checkpoint, load_base, locate
from lora_whisper.model.quantized import forget_input, is_quantized, prepare_for_training
from tests.configs import model_config
from tests.toys import toy_checkpoint, toy_inputs, toy_model

CPU = torch.device("cpu")
BLOCK = 64  # weights that share a scale in nf4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = toy_checkpoint(tmp_path_factory.mktemp("toy"))
    return locate(model_config(folder))


def linear_layers(model: WhisperForConditionalGeneration) -> dict[str, torch.nn.Module]:
    modules = model.model.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, torch.nn.Linear)}


def nf4_by_hand(weight: torch.Tensor) -> torch.Tensor:
    """Round to the nearest of nf4's 16 levels in blocks of 64; bitsandbytes' own block scales."""
    codes, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    codes = codes.view(-1)
    levels = torch.stack((codes >> 4, codes & 15), dim=1).view(-1)
    scales = state.offset + state.state2.absmax * state.state2.code[state.absmax.long()]
    values = get_4bit_type("nf4", device="cpu")[levels.long()]
    return (values.view(-1, BLOCK) * scales.view(-1, 1)).view(weight.shape)


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


def test_int8_is_near_the_full_base(checkpoint):
    exact = toy_model()(**toy_inputs()).logits
    quantized = load_base(checkpoint, "int8", torch.float32, CPU)
    error = (quantized(**toy_inputs()).logits - exact).norm() / exact.norm()
    assert 0 < error < 0.03


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
