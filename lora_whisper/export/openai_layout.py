"""A checkpoint by the names and sizes that OpenAI's own code gives them.

openai-whisper and whisper.cpp read the same tensors: those of OpenAI's `Whisper` module
(https://github.com/openai/whisper, whisper/model.py).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_whisper.errors import UserError, listing
from lora_whisper.model import weights
from lora_whisper.model.weights import TIED, is_finite, is_pickled, weight_names

FEED_FORWARD_WIDTHS = 4  # of the model, in each feed-forward layer: not among the sizes

PARTS = {
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn.q_proj": "cross_attn.query",
    "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value",
    "encoder_attn.out_proj": "cross_attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
OUTSIDE_LAYERS = {
    "encoder.conv1.weight": "encoder.conv1.weight",
    "encoder.conv1.bias": "encoder.conv1.bias",
    "encoder.conv2.weight": "encoder.conv2.weight",
    "encoder.conv2.bias": "encoder.conv2.bias",
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.layer_norm.weight": "encoder.ln_post.weight",
    "encoder.layer_norm.bias": "encoder.ln_post.bias",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.layer_norm.weight": "decoder.ln.weight",
    "decoder.layer_norm.bias": "decoder.ln.bias",
}
LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a model, by the names of openai-whisper's `ModelDimensions`."""

    n_mels: int
    n_audio_ctx: int  # positions of the encoder, two frames each
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int  # tokens that the decoder has room for
    n_text_state: int
    n_text_head: int
    n_text_layer: int


def read_dimensions(checkpoint: Path) -> Dimensions:
    """Read the sizes from config.json.

    Raises:
        UserError: the model is of a kind that OpenAI's layout has no place for.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    width = config["d_model"]
    _require_plain(checkpoint, config, width)
    return Dimensions(
        n_mels=config["num_mel_bins"],
        n_audio_ctx=config["max_source_positions"],
        n_audio_state=width,
        n_audio_head=config["encoder_attention_heads"],
        n_audio_layer=config["encoder_layers"],
        n_vocab=config["vocab_size"],
        n_text_ctx=config["max_target_positions"],
        n_text_state=width,
        n_text_head=config["decoder_attention_heads"],
        n_text_layer=config["decoder_layers"],
    )


def _require_plain(checkpoint: Path, config: dict[str, Any], width: int) -> None:
    """All published checkpoints are; their files need not state what is as Transformers has it."""
    expected = {
        "encoder_ffn_dim": FEED_FORWARD_WIDTHS * width,
        "decoder_ffn_dim": FEED_FORWARD_WIDTHS * width,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
    }
    problems = [
        f"{key}: found {config[key]}, expected {value}"
        for key, value in expected.items()
        if config.get(key, value) != value
    ]
    if problems:
        raise UserError(
            f"{checkpoint} has no place in OpenAI's layout, which openai-whisper and whisper.cpp "
            f"read:\n{listing(problems)}\nExport it to another format: format=ctranslate2"
        )


def read_tensors(checkpoint: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield OpenAI's name and the weight as it is stored, one after the other."""
    names = weight_names(os.listdir(checkpoint))
    assert not is_pickled(names), "merged folders hold safetensors alone"
    for name, tensor in weights.read_tensors([checkpoint / one for one in names]):
        if name != TIED:
            yield openai_name(name), tensor


def openai_name(name: str) -> str:
    """`model.decoder.layers.0.fc1.bias` is `decoder.blocks.0.mlp.0.bias`.

    Raises:
        UserError: no weight of a Whisper.
    """
    inner = name.removeprefix("model.")
    if inner in OUTSIDE_LAYERS:
        return OUTSIDE_LAYERS[inner]
    match = LAYER.fullmatch(inner)
    if match is None or match[3] not in PARTS:
        raise UserError(f"{name} is no weight of a Whisper; merge the adapter again")
    return f"{match[1]}.blocks.{match[2]}.{PARTS[match[3]]}.{match[4]}"


def converted(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in another precision.

    Raises:
        UserError: it is not finite there.
    """
    result = weight.to(dtype)
    if not is_finite(result):
        raise UserError(
            f"{name}: values that are not finite numbers in {str(dtype).removeprefix('torch.')}. "
            "The weights are too large for it, or broken: say dtype=float32; if that gives "
            "the same, train again at a lower optimizer.learning_rate."
        )
    return result
