"""Shapes against published parameter counts and genuine configurations."""

import json
from pathlib import Path

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.model.published import shape, shape_names

GENUINE = Path(__file__).parents[3] / "shared" / "whisper"
# Millions of parameters, counted in the published weights, output projection tied.
MILLIONS = {
    "tiny": 37.8,
    "tiny.en": 37.8,
    "base": 72.6,
    "base.en": 72.6,
    "small": 241.7,
    "small.en": 241.7,
    "medium": 763.9,
    "medium.en": 763.9,
    "large": 1543.3,
    "large-v2": 1543.3,
    "large-v3": 1543.5,
    "large-v3-turbo": 808.9,
}
ARCHITECTURE = (
    "d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads "
    "encoder_ffn_dim decoder_ffn_dim num_mel_bins vocab_size max_source_positions "
    "max_target_positions bos_token_id eos_token_id decoder_start_token_id activation_function "
    "scale_embedding is_encoder_decoder dropout attention_dropout activation_dropout"
).split()


def test_all_published_shapes_are_there():
    assert shape_names() == sorted(MILLIONS)


@pytest.mark.parametrize(("name", "millions"), MILLIONS.items())
def test_parameter_counts_are_the_published_ones(name, millions):
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(shape(name))
    assert round(sum(value.numel() for value in model.parameters()) / 1e6, 1) == pytest.approx(
        millions, abs=0.11
    )


@pytest.mark.parametrize("name", ["tiny", "large-v3", "large-v3-turbo"])
def test_shapes_agree_with_the_genuine_configurations(name):
    path = GENUINE / f"whisper-{name}" / "config.json"
    if not path.exists():
        pytest.skip("the genuine configurations are not at hand")
    genuine, ours = json.loads(path.read_text()), shape(name).to_dict()
    assert {key: ours[key] for key in ARCHITECTURE} == {key: genuine[key] for key in ARCHITECTURE}


def test_english_vocabularies_end_and_start_one_token_earlier():
    english, multilingual = shape("base.en"), shape("base")
    assert (english.vocab_size, multilingual.vocab_size) == (51864, 51865)
    assert (english.eos_token_id, english.decoder_start_token_id) == (50256, 50257)


def test_an_unknown_shape_names_those_that_exist():
    with pytest.raises(UserError, match=r"huge.*large-v3-turbo"):
        shape("huge")
