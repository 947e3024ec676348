"""Merged folders of the published vocabularies, whose random weights say something, and end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

from benchmarks.random_checkpoint import write_companions
from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.model.base import load_generation_config
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.model.features import LogMel
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import read_special_tokens
from tests.evaluation.toy_decoder import Toy
from tests.merged import write_merged_folder

GENUINE = Path(__file__).parents[3] / "shared" / "whisper"
LAST_POSITION = 16  # of the decoder, where every text ends
NARROW = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
}


@dataclass(frozen=True)
class Merged:
    """A merged folder and the model in it."""

    folder: Path
    toy: Toy

    def text(self, clip: Utterance, prompt: str = "") -> str:
        """What Transformers hears, greedily."""
        return self.toy.transcribe([clip], prompt=prompt).texts[0]

    def window(self, clip: Utterance) -> Tensor:
        """Features of a clip, (mel bins, frames)."""
        return self.toy.features(torch.from_numpy(read_audio(clip.audio))[None])[0]

    def logits(self, window: Tensor, tokens: Sequence[int]) -> Tensor:
        """(tokens, vocabulary), of the token after each, by Transformers."""
        given = torch.tensor([tokens])
        return self.toy.model(input_features=window[None], decoder_input_ids=given).logits[0]


def whole_window(clip: Utterance) -> np.ndarray:
    """A clip of 30 s. Behind a shorter one, openai-whisper and faster-whisper fill up the log-mel
    with 0.0, which is louder than the silence that Transformers and whisper.cpp hear there."""
    samples = read_audio(clip.audio)
    return np.pad(samples, (0, 30 * SAMPLING_RATE - len(samples)))


def tiny(folder: Path) -> Merged:
    """Of whisper-tiny's genuine shape and files."""
    return merged(folder, "whisper-tiny", {"init_std": 0.12})


def narrow_large_v3(folder: Path) -> Merged:
    """With large-v3's 128 mel bins and 51,866 tokens; 2 layers of width 64."""
    return merged(folder, "whisper-large-v3", NARROW | {"init_std": 0.3})


def merged(folder: Path, name: str, changes: dict[str, float]) -> Merged:
    if not GENUINE.exists():
        pytest.skip("the genuine tokenizers are not at hand")
    base = folder / "base"
    base.mkdir(parents=True)
    values = json.loads((GENUINE / name / "config.json").read_text())
    config = WhisperConfig(**(values | changes | {"dtype": "float32"}))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = WhisperForConditionalGeneration(config).requires_grad_(False).eval()
    config.save_pretrained(base)
    processor = WhisperProcessor.from_pretrained(GENUINE / name)
    write_companions(base, config, GENUINE / name, processor.tokenizer)
    checkpoint = Checkpoint(str(base), None, name)
    generation = load_generation_config(checkpoint)
    special_tokens = read_special_tokens(processor.tokenizer, generation, config)
    speak(model, special_tokens.eot)
    write_merged_folder(model, checkpoint, folder / "merged")
    model.generation_config = generation
    features = LogMel(config.num_mel_bins, 30.0)
    return Merged(folder / "merged", Toy(model, processor, special_tokens, features))


def speak(model: WhisperForConditionalGeneration, eot: int) -> None:
    """Make texts vary with what is heard, hold text tokens only, and end."""
    decoder = model.model.decoder
    decoder.embed_positions.weight *= 2.0  # the token itself is likeliest otherwise
    for layer in decoder.layers:
        layer.encoder_attn.out_proj.weight *= 3.0
    tokens = decoder.embed_tokens.weight
    away = torch.zeros(model.config.d_model)
    away[0] = 1.0
    tokens[eot:] -= away  # what no text holds, and eot unless its position has come
    decoder.layer_norm.bias[0] = 5.0
    tokens[eot] += tokens[eot - 1000].flip(0)  # of whisper-tiny it is padding, and zero
    end = tokens[eot] - tokens[eot].mean()
    decoder.embed_positions.weight[LAST_POSITION:] = 1000 * end
