"""The shapes of the published Whisper checkpoints, as configurations without weights.

A shape is six numbers (`shapes/*.json`, with the alignment heads where the shape tells them); the
rest follows from them in every published checkpoint.
Radford et al. 2022, https://arxiv.org/abs/2212.04356, table 1; large-v3 and turbo: model cards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.errors import UserError

if TYPE_CHECKING:
    from transformers import WhisperConfig

FOLDER = Path(__file__).parent / "shapes"

HEAD_WIDTH = 64
MEDIUM_WIDTH = 1024  # whisper-medium's
FEED_FORWARD_FACTOR = 4  # width of the hidden layer in units of the model's width
ENGLISH_VOCABULARY = 51864  # GPT-2's, with Whisper's special tokens
SPACE_TOKEN = 220  # " "; suppressed as first token, like <|endoftext|>


def shape_names() -> list[str]:
    """Names that `shape` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def alignment_heads(config: Mapping[str, Any]) -> list[list[int]] | None:
    """[decoder layer, head] of those whose attention follows the sound, from which times of words
    are taken; None for a shape that is no published one's, or large's, which two have.

    Args:
        config: values of a config.json.
    """
    keys = {
        "encoder_layers": "encoder_layers",
        "decoder_layers": "decoder_layers",
        "width": "d_model",
        "mel_bins": "num_mel_bins",
        "encoder_positions": "max_source_positions",
        "vocabulary_tokens": "vocab_size",
    }
    ours = {key: config[name] for key, name in keys.items()}
    for name in shape_names():
        values = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        heads: list[list[int]] | None = values.pop("alignment_heads", None)
        if values == ours:
            return heads
    return None


def shape(name: str) -> WhisperConfig:
    """Build the configuration of the published checkpoint `name`, e.g. "large-v3".

    Raises:
        UserError: no such shape; names those that exist.
    """
    from transformers import WhisperConfig

    if name not in shape_names():
        raise UserError(f"No shape {name!r}; there are: {', '.join(shape_names())}")
    values = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    width, vocabulary = values["width"], values["vocabulary_tokens"]
    end_of_text = 50256 if vocabulary == ENGLISH_VOCABULARY else 50257
    return WhisperConfig(
        encoder_layers=values["encoder_layers"],
        decoder_layers=values["decoder_layers"],
        encoder_attention_heads=width // HEAD_WIDTH,
        decoder_attention_heads=width // HEAD_WIDTH,
        d_model=width,
        encoder_ffn_dim=FEED_FORWARD_FACTOR * width,
        decoder_ffn_dim=FEED_FORWARD_FACTOR * width,
        num_mel_bins=values["mel_bins"],
        vocab_size=vocabulary,
        max_source_positions=values["encoder_positions"],
        max_target_positions=448,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        decoder_start_token_id=end_of_text + 1,
        begin_suppress_tokens=[SPACE_TOKEN, end_of_text],
    )
