"""A base checkpoint as a command reads it: its configuration, its vocabulary, its window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lora_whisper.config import ModelConfig
from lora_whisper.model.checkpoint import Checkpoint, locate

if TYPE_CHECKING:
    from transformers import WhisperProcessor

    from lora_whisper.model.features import LogMel
    from lora_whisper.model.tokenizer import Vocabulary


@dataclass(frozen=True)
class Base:
    """Everything about the base checkpoint but its weights."""

    checkpoint: Checkpoint
    processor: WhisperProcessor
    vocabulary: Vocabulary
    features: LogMel
    mel_bins: int
    window_seconds: float


@lru_cache(maxsize=4)  # models that are scored side by side
def read_base(config: ModelConfig, with_weights: bool = True) -> Base:
    """Find the checkpoint and read its tokenizer and configurations.

    Without weights it suffices that those are there.

    Raises:
        UserError: it is not there, or its files do not belong together.
    """
    checkpoint = locate(config, with_weights)
    from lora_whisper.model.checkpoint import (
        load_config,
        load_generation_config,
        load_processor,
        window_seconds,
    )
    from lora_whisper.model.features import LogMel
    from lora_whisper.model.tokenizer import read_vocabulary

    shape, processor = load_config(checkpoint), load_processor(checkpoint)
    generation = load_generation_config(checkpoint)
    vocabulary = read_vocabulary(processor.tokenizer, generation, shape)
    seconds = window_seconds(shape)
    mel_bins = shape.num_mel_bins
    return Base(checkpoint, processor, vocabulary, LogMel(mel_bins, seconds), mel_bins, seconds)
