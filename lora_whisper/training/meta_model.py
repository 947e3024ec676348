"""Models without weights: every tensor has its true shape and dtype, and holds no numbers.

They lie on the meta device, for planning. A quantized layer is stood in for: bitsandbytes can make
its parameters on a real device only, so that what it stores is laid out here. How it computes is
its own code, whose operators know the shapes of what they return.
"""

from __future__ import annotations

import math
from typing import Any

import bitsandbytes
import torch
from bitsandbytes.autograd._functions import MatMul4Bit, MatMul8bitLt, MatmulLtState
from bitsandbytes.functional import QuantState
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from lora_whisper.model.quantization import ReadLinear4bit, forget_input, prepare_for_training

NF4_BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share one of their own, where they are quantized as well
CODES = 256  # values that a quantized scale can have


class MetaLinear4bit(ReadLinear4bit):
    """What `Linear4bit` stores of a layer, and the code that it runs on a GPU."""

    def __init__(self, layer: nn.Linear, compute_dtype: torch.dtype, double_quantization: bool):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype, self.bias = compute_dtype, layer.bias
        weights = layer.weight.numel()
        packed: Any = torch.empty(math.ceil(weights / 2), 1, dtype=torch.uint8)
        weight: Any = nn.Parameter(packed, requires_grad=False)
        weight.compress_statistics, weight.quant_type = double_quantization, "nf4"
        self.weight = weight
        scales = math.ceil(weights / NF4_BLOCK)
        kept = {"code": torch.empty(16)}
        if double_quantization:
            kept["absmax"] = torch.empty(scales, dtype=torch.uint8)
            kept["absmax2"] = torch.empty(math.ceil(scales / SCALE_BLOCK))
            kept |= {"code2": torch.empty(CODES), "offset": torch.empty(())}
        else:
            kept["absmax"] = torch.empty(scales)
        for name, value in kept.items():
            self.register_buffer(name, value)

    def _state(self) -> QuantState:
        nested: dict[str, Any] = {}
        if hasattr(self, "absmax2"):
            second = {"code": self.code2, "blocksize": SCALE_BLOCK, "dtype": torch.float32}
            nested = {"offset": self.offset, "state2": QuantState(self.absmax2, **second)}
        shape = torch.Size((self.out_features, self.in_features))
        kind: dict[str, Any] = {"blocksize": NF4_BLOCK, "quant_type": "nf4"}
        dtype = self.compute_dtype
        return QuantState(self.absmax, shape, self.code, dtype=dtype, **kind, **nested)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        inputs = x.to(self.compute_dtype)
        out: Tensor = MatMul4Bit.apply(inputs, self.weight, None, bias, self._state())
        return out.to(x.dtype)


class MetaLinear8bit(bitsandbytes.nn.Linear8bitLt):
    """What `Linear8bitLt` stores of a layer, and the code that it runs on a GPU.

    But for outliers, of which nobody knows the number before; they are few.
    """

    def __init__(self, layer: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias, self.index, self.state = layer.bias, None, MatmulLtState()
        self.state.has_fp16_weights = False
        codes: Any = torch.empty(layer.weight.shape, dtype=torch.int8)
        weight: Any = nn.Parameter(codes, requires_grad=False)
        self.weight = weight
        self.register_buffer("scales", torch.empty(self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        state: Any = self.state
        state.CB, state.SCB = self.weight.data, self.scales
        out: Tensor = MatMul8bitLt.apply(x, self.weight, None, self.bias, state)
        forget_input(out)
        return out


def new_meta_model(
    shape: WhisperConfig,
    quantization: str,
    dtype: torch.dtype,
    double_quantization: bool = True,
) -> WhisperForConditionalGeneration:
    """The frozen base as `load_base` would load it, on the meta device.

    Of a quantized one, what is not quantized is in fp32, as training has it.
    """
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(shape)
        nn.Module.to(model, dtype).requires_grad_(False)
        if quantization != "none":
            for path, layer in list(model.model.named_modules()):  # as in `bitsandbytes_config`
                if isinstance(layer, nn.Linear):
                    stand_in: nn.Module = (
                        MetaLinear8bit(layer)
                        if quantization == "int8"
                        else MetaLinear4bit(layer, dtype, double_quantization)
                    )
                    parent, _, name = path.rpartition(".")
                    setattr(model.model.get_submodule(parent), name, stand_in)
            marked: Any = model
            marked.is_loaded_in_8bit = quantization == "int8"
            marked.is_loaded_in_4bit = quantization == "nf4"
            prepare_for_training(model)
    model.tie_weights()
    return model


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, each once; what a quantized layer needs included."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())
