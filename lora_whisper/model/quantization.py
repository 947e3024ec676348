"""Bases whose linear layers bitsandbytes holds in 8 or 4 bits: int8, nf4.

int8: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339. nf4 with doubly quantized scales:
QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

import copy
import functools
import logging
from dataclasses import dataclass
from typing import Any

import bitsandbytes
import torch
from peft import prepare_model_for_kbit_training
from torch import Tensor
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration


def bitsandbytes_config(
    kind: str, compute_dtype: torch.dtype, double_quantization: bool
) -> BitsAndBytesConfig:
    """Ask for int8 or nf4 linear layers, but not for the output projection.

    Only nf4 has a compute dtype and scales to quantize: int8 multiplies integers.
    """
    return BitsAndBytesConfig(
        load_in_8bit=kind == "int8",
        load_in_4bit=kind == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quantization,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=["proj_out"],  # tied to the embeddings, which stay as they are
    )


@dataclass(frozen=True)
class Nf4:
    """How a base's linear layers were stored while its adapter was trained."""

    dtype: torch.dtype  # of the weights that were quantized
    double_quantization: bool = True


def read_back(weight: Tensor, nf4: Nf4) -> Tensor:
    """What nf4 makes of a weight (outputs, inputs): quantized, and read as its layer reads it."""
    functional = bitsandbytes.functional
    quantized, state = functional.quantize_4bit(
        weight.to(nf4.dtype), quant_type="nf4", compress_statistics=nf4.double_quantization
    )
    return _dequantized(quantized, state).reshape(weight.shape)


def _dequantized(quantized: Tensor, state: Any) -> Tensor:
    """(1, weights): read as one long row, they are right. See `ReadLinear4bit`."""
    state = copy.copy(state)
    state.shape = torch.Size((1, state.shape.numel()))
    return bitsandbytes.functional.dequantize_4bit(quantized, state)


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether bitsandbytes holds the linear layers of the base."""
    return bool(getattr(model, "is_quantized", False))


def settle(model: WhisperForConditionalGeneration) -> None:
    """Make a freshly loaded quantized model compute rightly, quietly and in little memory."""
    # int8 warns at each layer of each step that it casts its input to float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for layer in model.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit) and layer.weight.device.type == "cpu":
            layer.__class__ = CpuLinear4bit
        elif isinstance(layer, bitsandbytes.nn.Linear8bitLt):
            layer.__class__ = FrozenLinear8bit


def prepare_for_training(base: WhisperForConditionalGeneration) -> None:
    """Cast what is not quantized to fp32: norms, biases, convolutions and the tied embeddings.

    The residual stream is fp32 then, as in QLoRA, and meets no half-precision weight. For large-v3
    these are 75 M of 1.5 G parameters, 150 MB more; on an unquantized base it would be all of them,
    which is why this is never called there. Checkpointing of activations is not switched on here.
    """
    prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)


def forget_input(out: Tensor) -> None:
    """Let go of the input that an int8 product keeps, which only gradients of its weights need.

    bitsandbytes 0.50.2 keeps it beside what autograd saves, so that checkpointing cannot drop it:
    counted for large-v3, 2.6 GB a window, with which an 8 GB card has room for one.
    """
    node: Any = out.grad_fn
    for name, nothing in (("tensors", (None, None, None)), ("A", None)):  # on GPUs, on CPUs
        if hasattr(node, name):
            setattr(node, name, nothing)


class FrozenLinear8bit(bitsandbytes.nn.Linear8bitLt):
    """An 8-bit layer whose weights are not trained, and need nothing of its input.

    On CPUs bitsandbytes multiplies weights that it reads back in training, and integers else:
    where these overflow, it always does as in training.
    """

    def forward(self, x: Tensor) -> Tensor:
        is_training = self.training
        if x.device.type == "cpu" and not integer_products_hold():
            self.training = True
        out: Tensor = super().forward(x)
        self.training = is_training
        forget_input(out)
        return out


@functools.cache
def integer_products_hold() -> bool:
    """Whether sums of products of 8-bit integers are right on this CPU, as PyTorch multiplies them.

    Kernels for AVX2 add pairs of them in 16 bits, which overflow: int8's logits were 26 % off.
    PyTorch avoids them by the processor, and does not see what ONEDNN_MAX_CPU_ISA asks for.
    """
    largest = torch.full((32, 32), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest) == 32 * 127 * 127).all())


class ReadLinear4bit(bitsandbytes.nn.Linear4bit):
    """A 4-bit layer that reads its weights itself, wherever they are asked for.

    bitsandbytes 0.50.2 quantizes blocks of 64 over the whole matrix, but on CPUs with AVX-512 reads
    them row by row: for input widths that 64 does not divide (the embedded nano has 160) the
    weights come back with 24 % error instead of 9 %. Published Whisper widths are multiples of 64.
    """

    @property
    def W_q(self) -> Tensor:
        """The codes. PEFT's DoRA asks a layer with this name (HQQ's) for its `dequantize`."""
        return self.weight

    def dequantize(self) -> Tensor:
        """The weights (outputs, inputs) as they were written, in the dtype that they had."""
        weight = _dequantized(self.weight.data, self._state())
        return weight.reshape(self.out_features, self.in_features)

    def _state(self) -> Any:
        weight: Any = self.weight  # Params4bit
        return weight.quant_state


class CpuLinear4bit(ReadLinear4bit):
    """A 4-bit layer that computes on a CPU with the weights that it reads.

    bitsandbytes would repack them for inference where there is AVX512-BF16, and then fails on
    output widths that 32 does not divide.
    """

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.compute_dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        weight = self.dequantize().to(dtype)
        return torch.nn.functional.linear(x.to(dtype), weight, bias).to(x.dtype)
