"""Products of float32 on a CPU by oneDNN, where PyTorch would ask MKL.

MKL multiplies with AVX2 on AMD's processors, whatever they are capable of; oneDNN, which PyTorch
brings as well and keeps for bfloat16 and convolutions, with AVX-512. On one core of an EPYC (Zen 5)
a linear layer of whisper-base ran at 256 instead of 111 GFLOP/s, and the encoder's attention, most
of which is products too, took 29 instead of 52 ms a layer. Both round to float32; sums are taken in
another order.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST_ROWS = 8  # of a product; with 2 to 7, oneDNN lays out most weights for longer than it saves
LEAST_WIDTH = 384  # of whisper-tiny; below, a call costs more than its product
ROWS_AT_ONCE = 500  # of an attention's scores, which then stay in the cache (3 MB)


@functools.cache
def has_fast_products() -> bool:
    """Whether oneDNN is there and would compute with AVX-512.

    Looked up and not timed, for a run has to compute the same when it goes on.
    """
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `functional.linear`, by oneDNN and without a gradient.

    Shapes: (…, inputs), (outputs, inputs), (outputs,) → (…, outputs).
    """
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `product`, with its sides exchanged.

    From weights that are not in the cache, as at each step of a decoder, two rows of 512 by 2,048
    took 0.20 ms, of oneDNN 0.29 and as `functional.linear` 0.44; one row 0.26, 0.20 and 0.27.
    """
    turned = x.flatten(0, -2).T
    out = weight @ turned if bias is None else torch.addmm(bias[:, None], weight, turned)
    return out.T.reshape(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """A product of which input, weight and bias may have gradients; input (rows, inputs)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if of_x else None,
            grad.t() @ x if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


class FastLinear(nn.Linear):
    """A linear layer that asks oneDNN for products that are worth it."""

    def forward(self, input: Tensor) -> Tensor:
        is_plain = input.dtype == self.weight.dtype == torch.float32
        rows = input.numel() // self.in_features
        is_of_few = rows < LEAST_ROWS and torch.is_grad_enabled()
        if not is_plain or is_of_few or _is_cast():
            return super().forward(input)
        if 1 < rows < LEAST_ROWS and self.in_features <= self.out_features:
            return few_rows(input, self.weight, self.bias)
        if torch.is_grad_enabled():
            # In rows, for what such a function returns may be no view where it is changed in place.
            out: Tensor = _Linear.apply(input.flatten(0, -2), self.weight, self.bias)  # type: ignore[no-untyped-call]
            return out.view(*input.shape[:-1], -1)
        return product(input, self.weight, self.bias)


def products(x: Tensor, y: Tensor) -> Tensor:
    """(batch, rows, inputs), (batch, columns, inputs) → (batch, rows, columns), with gradients."""
    is_plain = x.dtype == y.dtype == torch.float32 and x.device.type == "cpu"
    if is_plain and has_fast_products() and not _is_cast():
        pairs = zip(x, y, strict=True)
        return torch.stack([_Linear.apply(one, other, None) for one, other in pairs])  # type: ignore[no-untyped-call]
    return x @ y.transpose(1, 2)


def _is_cast() -> bool:
    return torch.is_autocast_enabled("cpu")


class FastDropout(nn.Dropout):
    """Dropout whose mask NumPy draws, 16 bits a number, from a seed that PyTorch draws.

    PyTorch draws one number after the other: 14 ms for four windows of whisper-tiny, these 3.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.p) or input.device.type != "cpu":
            return super().forward(input)
        generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
        drawn = np.frombuffer(generator.bytes(2 * input.numel()), np.uint16)
        dropped = round(self.p * 2**16)
        kept = np.float32(2**16 / (2**16 - dropped))
        mask = np.multiply(drawn >= dropped, kept, dtype=np.float32)
        return input * torch.from_numpy(mask).view(input.shape).to(input.dtype)


def use_fast_adapter(model: nn.Module) -> None:
    """Let an adapter on a CPU draw its dropout so, which gives other draws of the same kind.

    And let oneDNN compute LoRA's products, which are narrow on one side: of 5,048 positions of
    whisper-tiny by rank 16 in 0.4 instead of 1.4 ms, and their gradient in 0.4 instead of 1.2.
    """
    for layer in model.modules():
        if type(layer) is nn.Dropout:
            layer.__class__ = FastDropout
        is_wide = type(layer) is nn.Linear and max(layer.weight.shape) >= LEAST_WIDTH
        if is_wide and has_fast_products():
            layer.__class__ = FastLinear


def use_fast_products(model: nn.Module) -> None:
    """Let the linear layers of a Whisper use them, where this machine and its width do.

    Weights, names and what is saved stay as they are.
    """
    for layer in model.modules():
        if type(layer) is nn.Linear and is_worth_it(layer.weight):
            layer.__class__ = FastLinear


def is_worth_it(weight: Tensor) -> bool:
    """Whether products with this weight should be oneDNN's."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and min(weight.shape) >= LEAST_WIDTH
        and has_fast_products()
    )


def projected(projection: nn.Module, hidden: Tensor) -> Tensor:
    """(rows, width) → logits (rows, vocabulary) in float32.

    A CPU takes half of the time for the product with its sides exchanged: 14 and not 26 ms for 8
    rows of whisper-tiny, 25 and not 38 for 16, of 75 that a step takes. With AVX-512, oneDNN takes
    7.4 ms for 8 rows of whisper-base and 3.6 for one, where that takes 9.0 and 6.5; of 4, 6.3 and
    not 4.5.
    """
    if type(projection) in (nn.Linear, FastLinear) and projection.bias is None:
        is_of_onednn = len(hidden) >= LEAST_ROWS or len(hidden) == 1
        if is_of_onednn and is_worth_it(projection.weight):
            return product(hidden, projection.weight)
        if hidden.device.type == "cpu":
            return (projection.weight @ hidden.T).T.float()
    return projection(hidden).float()  # type: ignore[no-any-return]


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, without mask, scale and gradient, of (heads, positions, size) float32."""
    heads, positions, _ = query.shape
    value = value.transpose(1, 2).contiguous()
    out = torch.empty_like(query)
    for head in range(heads):
        for first in range(0, positions, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            scores = product(query[head, rows], key[head]).softmax(-1)
            out[head, rows] = product(scores, value[head])
    return out


def encode(encoder: Any, features: Tensor) -> Tensor:
    """A whole window as `WhisperEncoder.forward`, in inference: (1, mel bins, frames) float32.

    Returns:
        (1, positions, width)
    """
    hidden = functional.gelu(encoder.conv1(features))
    hidden = functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
    hidden = hidden + encoder.embed_positions.weight
    for layer in encoder.layers:
        hidden = encoder_layer(layer, hidden)
    normed: Tensor = encoder.layer_norm(hidden)
    return normed


def has_fast_layer(layer: Any, hidden: Tensor) -> bool:
    """Whether `encoder_layer` may take the place of a layer that nothing is trained of."""
    linear = (layer.self_attn.q_proj, layer.self_attn.out_proj, layer.fc1, layer.fc2)
    is_plain = hidden.dtype == torch.float32 and not (_is_cast() or torch.is_grad_enabled())
    return is_plain and all(type(one) is FastLinear for one in linear)


def encoder_layer(layer: Any, hidden: Tensor) -> Tensor:
    """One of the encoder's layers, in inference: (1, positions, width) float32 → the same."""
    hidden = hidden + _self_attention(layer.self_attn, layer.self_attn_layer_norm(hidden))
    inner = layer.fc1(layer.final_layer_norm(hidden))
    out: Tensor = hidden + layer.fc2(layer.activation_fn(inner))
    return out


def _self_attention(layer: Any, hidden: Tensor) -> Tensor:
    """(1, positions, width) → the same."""
    query, key, value = (
        part[0].unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(0, 1).contiguous()
        for part in (
            layer.q_proj(hidden) * layer.scaling,
            layer.k_proj(hidden),
            layer.v_proj(hidden),
        )
    )
    heard = attention(query, key, value).transpose(0, 1).flatten(1)
    out: Tensor = layer.out_proj(heard[None])
    return out
