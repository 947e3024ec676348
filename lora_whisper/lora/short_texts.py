"""The decoder's attention to sound, of short texts: without keys and values of each position.

A layer asks q·(W x_j) of each position j, and sums up p_j (V x_j). Both can be bracketed otherwise:
(qᵀW)·x_j and V (Σ p_j x_j), where W and V meet as many rows as there are tokens and heads, and not
as many as there are positions. That is less work where tokens × heads are fewer than the width,
with Whisper's heads of 64 up to some 60 tokens, and it keeps no keys and values for the way back.

LoRA's matrices go the same way: their A still meets each position, behind its dropout, and their B
tokens and heads. So results differ by rounding alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperAttention

from lora_whisper.lora.variants import ADAPTER
from lora_whisper.model.cpu_kernels import FastLinear, products

MOST_ROWS = 0.6  # tokens × heads, of the width


class Parted(NamedTuple):
    """A projection of the sound, before any of it is projected."""

    weight: Tensor  # (heads, size, width)
    reduced: Tensor | None  # (batch, positions, rank), of LoRA's A
    up: Tensor | None  # (heads, size, rank), LoRA's B with its scale


class ShortTextAttention(WhisperAttention):
    """As its base class where texts are long, or an adapter is of another kind."""

    most_rows = MOST_ROWS

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, key_value_states: Tensor | None = None, **given: Any
    ) -> tuple[Any, ...]:
        """(batch, tokens, width), (batch, positions, width) → (batch, tokens, width), None."""
        rows = hidden_states.shape[1] * self.num_heads
        sound = key_value_states
        is_short = rows <= self.most_rows * self.embed_dim
        is_other = given.get("past_key_values") is not None or (self.training and self.dropout)
        projections = (self.k_proj, self.v_proj)
        if sound is None or is_other or not is_short or not all(map(_is_linear, projections)):
            return super().forward(hidden_states, key_value_states, **given)
        query = (self.q_proj(hidden_states) * self.scaling).unflatten(-1, (self.num_heads, -1))
        keys, values = (self._parted(projection, sound) for projection in projections)
        # A bias of keys would add the same to all positions, and Whisper has none.
        asked = torch.einsum("bths,hsw->bhtw", query, keys.weight).flatten(1, 2)
        scores = products(asked, sound)
        if keys.reduced is not None:
            asked = torch.einsum("bths,hsr->bhtr", query, keys.up).flatten(1, 2)
            scores = scores + products(asked, keys.reduced)
        shares = scores.float().softmax(-1).to(scores.dtype)
        heard = products(shares, sound.transpose(1, 2)).unflatten(1, (self.num_heads, -1))
        summed = torch.einsum("bhtw,hsw->bths", heard, values.weight)
        if values.reduced is not None:
            heard = products(shares, values.reduced.transpose(1, 2))
            heard = heard.unflatten(1, (self.num_heads, -1))
            summed = summed + torch.einsum("bhtr,hsr->bths", heard, values.up)
        summed = summed.flatten(2) + _base_of(self.v_proj).bias
        return self.out_proj(summed.to(hidden_states.dtype)), None

    def _parted(self, projection: Any, sound: Tensor) -> Parted:
        weight = _base_of(projection).weight.unflatten(0, (self.num_heads, -1))
        if not isinstance(projection, LoraLinear) or projection.disable_adapters:
            return Parted(weight, None, None)
        down: Any = projection.lora_A[ADAPTER]
        dropped = projection.lora_dropout[ADAPTER](sound.to(down.weight.dtype))
        up = projection.scaling[ADAPTER] * projection.lora_B[ADAPTER].weight
        return Parted(weight, down(dropped), up.unflatten(0, (self.num_heads, -1)))


def _base_of(projection: Any) -> Any:
    return projection.base_layer if isinstance(projection, LoraLinear) else projection


def _is_linear(projection: nn.Module) -> bool:
    """Whether its output is a product with one weight and, maybe, with LoRA's two."""
    if isinstance(projection, LoraLinear):
        is_plain = not projection.lora_variant and not projection.merged
        return (
            is_plain
            and projection.active_adapters == [ADAPTER]
            and _is_linear(_base_of(projection))
        )
    return type(projection) in (nn.Linear, FastLinear)


def use_short_texts(whisper: WhisperForConditionalGeneration) -> None:
    """Let the decoder attend so."""
    for layer in whisper.model.decoder.layers:
        layer.encoder_attn.__class__ = ShortTextAttention
