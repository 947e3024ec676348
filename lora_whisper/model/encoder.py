"""Whisper's encoder on as much of a window as is looked at.

Transformers' own forward takes whole windows alone. Whisper's positions are sinusoids that are
added one by one, so that the first ones stand for a shorter window; what a model that was
pre-trained on whole ones makes of it is another question (docs/speed.md).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import dropout, gelu
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from lora_whisper.model.published import FRAMES_PER_POSITION


def encode(encoder: WhisperEncoder, features: Tensor) -> Tensor:
    """(batch, mel bins, frames) → (batch, frames / 2, width), frames up to those of a window.

    On a whole window the same as `WhisperEncoder.forward` of Transformers 5, from which the order
    of operations is, but for LayerDrop, which no released checkpoint has.
    """
    hidden = gelu(encoder.conv2(gelu(encoder.conv1(features)))).permute(0, 2, 1)
    positions = encoder.embed_positions.weight[: features.shape[-1] // FRAMES_PER_POSITION]
    hidden = dropout(hidden + positions, encoder.dropout, encoder.training)
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    normed: Tensor = encoder.layer_norm(hidden)
    return normed
