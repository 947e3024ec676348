"""What oneDNN computes against what PyTorch does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from lora_whisper.model import cpu_kernels
from lora_whisper.model.cpu_kernels import (
    FastLinear,
    encode,
    use_fast_adapter,
    use_fast_products,
)
from lora_whisper.model.encoder import encode_below

WIDTH = cpu_kernels.LEAST_WIDTH
NEEDS_AVX512 = pytest.mark.skipif(
    not cpu_kernels.has_fast_products(), reason="oneDNN has no AVX-512 here"
)


def close(found: Tensor, expected: Tensor) -> bool:
    """But for rounding, which grows with what is summed up."""
    return bool((found - expected).norm() <= 1e-5 * expected.norm())


def layers(bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """One as PyTorch has it, and the same by oneDNN."""
    torch.manual_seed(0)
    plain = nn.Linear(WIDTH, 2 * WIDTH, bias)
    fast = copy.deepcopy(plain)
    use_fast_products(fast)
    assert isinstance(fast, FastLinear)
    return plain, fast


@NEEDS_AVX512
@pytest.mark.parametrize("rows", [1, cpu_kernels.LEAST_ROWS, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_and_its_gradients(rows: int, bias: bool) -> None:
    found = []
    for layer in layers(bias):
        torch.manual_seed(1)
        x = torch.randn(2, rows, WIDTH, requires_grad=True)
        out = layer(x)
        (out * torch.randn_like(out)).sum().backward()
        found.append([out, x.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        assert close(other, one)


@NEEDS_AVX512
@pytest.mark.parametrize("rows", [1, 2, cpu_kernels.LEAST_ROWS - 1])
@pytest.mark.parametrize("shape", [(WIDTH, 2 * WIDTH), (2 * WIDTH, WIDTH)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_decoder_s_step_has_few_rows(rows: int, shape: tuple[int, int], bias: bool) -> None:
    plain = nn.Linear(*shape, bias=bias)
    fast = copy.deepcopy(plain)
    use_fast_products(fast)
    x = torch.randn(rows, 1, shape[0])
    with torch.inference_mode():
        found = fast(x)
        assert found.shape == (rows, 1, shape[1])
        assert close(found, plain(x))


@NEEDS_AVX512
@pytest.mark.parametrize("shape", [(WIDTH, 16), (4, WIDTH)])
def test_products_with_the_matrices_of_lora_have_all_gradients(shape: tuple[int, int]) -> None:
    plain = nn.Linear(*shape, bias=False)
    fast = copy.deepcopy(plain)
    use_fast_adapter(fast)
    assert isinstance(fast, FastLinear)
    x, weight = torch.randn(3, 50, shape[0], requires_grad=True), torch.randn(3, 50, shape[1])
    found = []
    for layer in (plain, fast):
        out = layer(x)
        found.append([out, *torch.autograd.grad((out * weight).sum(), [x, layer.weight])])
    for one, other in zip(*found, strict=True):
        assert close(other, one)


@NEEDS_AVX512
def test_frozen_weights_have_no_gradient_and_keep_no_input() -> None:
    _, layer = layers()
    layer.requires_grad_(False)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda x: x):
        layer(torch.randn(16, WIDTH, requires_grad=True))
    assert [one.data_ptr() for one in kept] == [layer.weight.data_ptr()]
    assert not layer(torch.randn(16, WIDTH)).requires_grad


@NEEDS_AVX512
def test_what_it_returns_may_be_changed_in_place() -> None:
    """AdaLoRA adds to it."""
    found = []
    for layer in layers():
        torch.manual_seed(1)
        x = torch.randn(2, 8, WIDTH, requires_grad=True)
        out = layer(x)
        out += x.repeat(1, 1, 2)
        out.square().sum().backward()
        found.append(x.grad)
    assert close(found[1], found[0])


@NEEDS_AVX512
def test_autocast_is_left_to_pytorch() -> None:
    _, layer = layers()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(16, WIDTH)).dtype == torch.bfloat16


def test_what_is_narrow_or_in_half_precision_stays_as_it_is() -> None:
    narrow, half = nn.Linear(16, WIDTH), nn.Linear(WIDTH, WIDTH).bfloat16()
    model = nn.Sequential(narrow, half)
    use_fast_products(model)
    assert {type(layer) for layer in model} == {nn.Linear}


@NEEDS_AVX512
def test_a_window_is_encoded_as_by_transformers() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=WIDTH,
        encoder_layers=2,
        encoder_attention_heads=6,
        encoder_ffn_dim=2 * WIDTH,
        num_mel_bins=16,
        max_source_positions=cpu_kernels.ROWS_AT_ONCE + 7,
        init_std=0.1,
    )
    encoder = WhisperEncoder(config).eval()
    features = torch.randn(1, 16, 2 * config.max_source_positions)
    with torch.inference_mode():
        expected = encoder(features).last_hidden_state
        use_fast_products(encoder)
        assert close(encode(encoder, features), expected)
    in_training = encode_below(encoder.train(), features.expand(2, -1, -1), layers=2)
    assert close(in_training, expected.expand(2, -1, -1))
    assert not in_training.requires_grad, "nothing is kept for the way back"


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    model = nn.Sequential(nn.Dropout(share))
    use_fast_adapter(model)
    x = torch.ones(400, 1000, requires_grad=True)
    torch.manual_seed(0)
    out = model(x)
    assert float((out == 0).float().mean()) == pytest.approx(share, abs=2e-3)
    assert float(out.mean()) == pytest.approx(1.0, abs=4e-3)
    rows = (out == 0).float()
    assert abs(float(torch.corrcoef(rows[:2])[0, 1])) < 0.15, "each is drawn by itself"
    out.sum().backward()
    assert torch.equal(x.grad, out), "what was dropped has no gradient"
    torch.manual_seed(0)
    assert torch.equal(model(x), out), "a function of PyTorch's seed, as dropout is"
    assert not torch.equal(model(x), out)
    assert torch.equal(model.eval()(x), x)
