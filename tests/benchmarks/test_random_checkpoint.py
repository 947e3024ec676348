"""Random checkpoints load in stock Transformers, at their true shape."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from benchmarks import random_checkpoint
from benchmarks.random_checkpoint import write_random_checkpoint, write_weights
from lora_whisper.errors import UserError
from tests.toys import toy_config

SHARED = Path(__file__).parents[3] / "shared" / "whisper"
needs_genuine = pytest.mark.skipif(not SHARED.exists(), reason="genuine tokenizers not at hand")


def stock(folder: Path) -> WhisperForConditionalGeneration:
    model, report = WhisperForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model


def test_weights_are_all_there_in_shards_and_drawn_as_transformers_draws_them(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(random_checkpoint, "SHARD_BYTES", 20_000)
    config = toy_config()
    config.save_pretrained(tmp_path)
    write_weights(tmp_path, config, seed=3, dtype=torch.float32)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    torch.manual_seed(0)
    reference = dict(WhisperForConditionalGeneration(config).named_parameters())
    for name, drawn in stock(tmp_path).requires_grad_(False).named_parameters():
        if name.endswith("embed_tokens.weight"):
            assert not drawn[config.pad_token_id].any()
        if "encoder.embed_positions" in name:
            assert torch.equal(drawn, reference[name])
        assert drawn.mean().item() == pytest.approx(reference[name].mean().item(), abs=0.03), name
        assert drawn.std().item() == pytest.approx(reference[name].std().item(), rel=0.25), name


@needs_genuine
def test_the_command_line_writes_a_checkpoint_that_generates(tmp_path, monkeypatch):
    line = f"it --shape tiny --tokenizer {SHARED / 'whisper-tiny'} --dtype float16"
    monkeypatch.setattr(sys, "argv", [*line.split(), str(tmp_path / "tiny")])
    assert random_checkpoint.main() == 0
    model = stock(tmp_path / "tiny").float()
    assert model.config.dtype == torch.float16
    assert round(sum(value.numel() for value in model.parameters()) / 1e6, 1) == 37.8
    processor = WhisperProcessor.from_pretrained(tmp_path / "tiny")
    features = processor(torch.zeros(16_000).numpy(), sampling_rate=16_000, return_tensors="pt")
    tokens = model.generate(
        features.input_features, language="sw", task="transcribe", max_new_tokens=2
    )
    assert tokens.shape[1] <= 6


@needs_genuine
def test_a_missing_generation_config_is_derived_for_the_larger_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr(random_checkpoint, "write_weights", lambda *_: None)
    folder = tmp_path / "large-v3"
    write_random_checkpoint(folder, "large-v3", SHARED / "whisper-large-v3", 1, torch.float16)
    derived = random_checkpoint.GenerationConfig.from_pretrained(folder)
    assert len(derived.lang_to_id) == 100
    assert derived.lang_to_id["<|yue|>"] == 50358
    assert derived.no_timestamps_token_id == 50364
    assert WhisperProcessor.from_pretrained(folder).feature_extractor.feature_size == 128


@needs_genuine
def test_a_tokenizer_of_another_vocabulary_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="has 51865 tokens, large-v3 has 51866"):
        write_random_checkpoint(
            tmp_path / "out", "large-v3", SHARED / "whisper-tiny", 1, torch.float16
        )
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        write_random_checkpoint(tmp_path, "tiny", tmp_path, 1, torch.float16)
