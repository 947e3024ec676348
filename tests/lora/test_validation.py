"""An adapter of another size is named layer by layer before anything is loaded into anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import WhisperConfig, WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import load_adapter
from lora_whisper.lora.saved import read_saved
from lora_whisper.lora.validation import require_shapes, shapes_of_weights
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import locate
from tests.configs import model_config
from tests.toys import toy_checkpoint, toy_config, toy_model

FC1, FC2 = "model.encoder.layers.0.fc1", "model.encoder.layers.0.fc2"


def adapter_of(folder: Path, **shape: int) -> Path:
    """Of a Whisper of another shape than the toy's, on fc1 and fc2."""
    config = WhisperConfig.from_dict(toy_config().to_dict() | shape)
    model = WhisperForConditionalGeneration(config)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["fc1", "fc2"]))
    adapted.save_pretrained(folder)
    return folder


def toy_shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in toy_model().state_dict().items()}


def test_what_fits_is_let_through(tmp_path):
    require_shapes(read_saved(adapter_of(tmp_path)), shapes_of_weights(toy_shapes()))


def test_the_module_is_named_with_what_was_found_and_expected(tmp_path):
    adapter_of(tmp_path, encoder_ffn_dim=24)
    with pytest.raises(UserError) as raised:
        require_shapes(read_saved(tmp_path), shapes_of_weights(toy_shapes()))
    message = str(raised.value)
    assert "does not fit its base, 4 of its 8 layers" in message
    assert f"{FC1}: found an adapter of 24 × 16 (outputs × inputs), expected 32 × 16" in message
    assert f"{FC2}: found an adapter of 16 × 24 (outputs × inputs), expected 16 × 32" in message
    assert "… and 1 more" in message


def test_a_layer_that_the_base_lacks_is_named(tmp_path):
    adapter_of(tmp_path, decoder_layers=3)
    with pytest.raises(UserError, match=r"decoder\.layers\.2\.fc1: the base has no such layer"):
        require_shapes(read_saved(tmp_path), shapes_of_weights(toy_shapes()))


def test_an_adapter_of_a_part_of_whisper_says_what_its_names_lack(tmp_path):
    encoder = toy_model().model.encoder
    get_peft_model(encoder, LoraConfig(r=2, target_modules=["fc1"])).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"put model\.encoder\. behind base_model\.model\. in each"):
        require_shapes(read_saved(tmp_path), shapes_of_weights(toy_shapes()))


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_loading_says_the_same_of_every_base(quantization, tmp_path):
    base = locate(model_config(toy_checkpoint(tmp_path / "toy")))
    adapter_of(tmp_path / "adapter", d_model=24)
    with pytest.raises(UserError, match=r"0\.fc1: found an adapter of 32 × 24.*expected 32 × 16"):
        load_adapter(
            load_base(base, quantization, torch.float32, torch.device("cpu")), tmp_path / "adapter"
        )
