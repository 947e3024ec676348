"""Whisper models of a few thousand parameters, and complete checkpoint folders with them."""

from __future__ import annotations

import atexit
import copy
import functools
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from tests.toy_tokenizers import toy_generation_config, toy_tokenizer, write_tokenizer

WINDOW_SECONDS = 2
MEL_BINS = 16
POSITIONS_PER_SECOND = 50  # of the encoder
LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def toy_config(
    multilingual: bool = True,
    languages: int = 3,
    window_seconds: int = WINDOW_SECONDS,
    text_positions: int = 64,
) -> WhisperConfig:
    """Two layers of width 16 a side, with the token ids of the toy tokenizer."""
    ids = _ids(multilingual, languages, window_seconds)
    end_of_text = ids["<|endoftext|>"]
    return WhisperConfig(
        vocab_size=len(ids),
        num_mel_bins=MEL_BINS,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=16,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=window_seconds * POSITIONS_PER_SECOND,
        max_target_positions=text_positions,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        begin_suppress_tokens=[ids["Ġ"], end_of_text],
        init_std=0.1,  # the default of 0.02 leaves so narrow a model next to no signal
    )


@functools.cache
def _ids(multilingual: bool, languages: int, window_seconds: int) -> dict[str, int]:
    return toy_tokenizer(multilingual, languages, window_seconds).get_vocab()


def toy_model(seed: int = 0, text_positions: int = 64) -> WhisperForConditionalGeneration:
    """A frozen multilingual fp32 toy in evaluation mode; the same seed gives the same weights."""
    return copy.deepcopy(_toy_model(seed, text_positions))


@functools.cache
def _toy_model(seed: int, text_positions: int) -> WhisperForConditionalGeneration:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = WhisperForConditionalGeneration(toy_config(text_positions=text_positions))
    model.generation_config = toy_generation_config(toy_tokenizer(window_seconds=WINDOW_SECONDS))
    return model.requires_grad_(False).eval()


def toy_checkpoint(folder: Path, seed: int = 0, text_positions: int = 64) -> Path:
    """Write a multilingual toy with tokenizer, generation config and preprocessor; 2-s window."""
    kept = _toy_checkpoint(seed, text_positions)
    shutil.copytree(kept, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return folder


@functools.cache
def _toy_checkpoint(seed: int, text_positions: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lora_whisper-")) / "toy"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    toy_model(seed, text_positions).save_pretrained(folder)
    write_tokenizer(folder, window_seconds=WINDOW_SECONDS)
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=WINDOW_SECONDS)
    extractor.save_pretrained(folder)
    return folder


def toy_inputs(seed: int = 0, batch: int = 2) -> dict[str, torch.Tensor]:
    """Random log-mel features and target tokens for the forward pass of a multilingual toy."""
    generator = torch.Generator().manual_seed(seed)
    frames = 2 * WINDOW_SECONDS * POSITIONS_PER_SECOND
    return {
        "input_features": torch.randn(batch, MEL_BINS, frames, generator=generator),
        "decoder_input_ids": torch.randint(0, 256, (batch, 7), generator=generator),
    }
