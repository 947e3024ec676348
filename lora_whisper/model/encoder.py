"""Whisper's encoder on as much of a window as is looked at.

Transformers' own forward takes whole windows alone. Whisper's positions are sinusoids that are
added one by one, so that the first ones stand for a shorter window; what a model that was
pre-trained on whole ones makes of it is another question (docs/speed.md).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout, gelu
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from lora_whisper.model.cpu_kernels import encoder_layer, has_fast_layer
from lora_whisper.model.published import FRAMES_PER_POSITION


class Known(NamedTuple):
    """Activations that were computed before, of whole windows, and what they are without."""

    activations: Tensor  # (batch, positions, width), of `missing` nothing that is looked at
    layers: int  # that they are behind; behind the last one, they are normed
    missing: Tensor  # (missing,) int64, numbers of the windows whose features are given


def encode(encoder: WhisperEncoder, features: Tensor, known: Known | None = None) -> Tensor:
    """(batch, mel bins, frames) → (batch, frames / 2, width), frames up to those of a window.

    On a whole window the same as `WhisperEncoder.forward` of Transformers 5, from which the order
    of operations is, but for LayerDrop, which no released checkpoint has.

    Args:
        known: then the features are of those windows alone that are missing there.
    """
    if known is None:
        return _above(encoder, encode_below(encoder, features, 0), 0)
    hidden = known.activations
    if len(known.missing):
        computed = encode_below(encoder, features, known.layers).to(hidden)
        hidden = hidden.index_copy(0, known.missing, computed)
    return _above(encoder, hidden, known.layers)


def encode_below(encoder: WhisperEncoder, features: Tensor, layers: int) -> Tensor:
    """What the first so many layers make of it, which are frozen; behind the last one, normed."""
    is_trained = not layers and torch.is_grad_enabled()  # what is above, if that is all of them
    with torch.set_grad_enabled(is_trained):
        hidden = gelu(encoder.conv2(gelu(encoder.conv1(features)))).permute(0, 2, 1)
        positions = encoder.embed_positions.weight[: features.shape[-1] // FRAMES_PER_POSITION]
        hidden = dropout(hidden + positions, encoder.dropout, encoder.training)
        return _through(encoder, hidden, range(layers))


def _above(encoder: WhisperEncoder, hidden: Tensor, layers: int) -> Tensor:
    return _through(encoder, hidden, range(layers, len(encoder.layers)))


def _through(encoder: WhisperEncoder, hidden: Tensor, layers: range) -> Tensor:
    for layer in encoder.layers[layers.start : layers.stop]:
        if has_fast_layer(layer, hidden):
            hidden = torch.cat([encoder_layer(layer, window) for window in hidden.split(1)])
        else:
            hidden = layer(hidden, None)
    if layers and layers.stop == len(encoder.layers):
        hidden = encoder.layer_norm(hidden)
    return hidden


def normed_bound(encoder: WhisperEncoder) -> float:
    """What no value behind the last layer can exceed: a layer norm's inputs have a variance of 1.

    The largest of n numbers with a mean of 0 and a variance of 1 is sqrt(n - 1) at most.
    """
    weight, bias = encoder.layer_norm.weight.float(), encoder.layer_norm.bias.float()
    return float((math.sqrt(len(weight) - 1) * weight.abs() + bias.abs()).max())
