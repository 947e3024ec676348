"""Names and sizes, against the module that OpenAI published."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from whisper.model import ModelDimensions, Whisper

from lora_whisper.errors import UserError
from lora_whisper.export import ctranslate2, openai_whisper, whisper_cpp
from lora_whisper.export.openai_whisper import converted, openai_name, read_dimensions, read_tensors
from tests.evaluation.toy_decoder import NANO


def edited(folder: Path, **changes: object) -> Path:
    """A copy of nano with another config.json."""
    shutil.copytree(NANO, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_every_tensor_of_openais_module_is_given_in_its_shape() -> None:
    expected = Whisper(ModelDimensions(**dataclasses.asdict(read_dimensions(NANO)))).state_dict()
    found = {name: weight.shape for name, weight in read_tensors(NANO)}
    assert found == {name: weight.shape for name, weight in expected.items()}


def test_weights_are_read_from_all_shards_without_the_tied_copy(tmp_path: Path) -> None:
    folder = edited(tmp_path / "sharded")
    weights = load_file(NANO / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"].clone()
    names = sorted(weights)
    for number, part in enumerate((names[:50], names[50:]), start=1):
        path = folder / f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, path)
    whole, found = dict(read_tensors(NANO)), dict(read_tensors(folder))
    assert whole.keys() == found.keys()
    assert all(torch.equal(whole[name], found[name]) for name in whole)


def test_a_weight_of_something_else_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.decoder\.layers\.0\.fc1\.lora_A\.weight is no"):
        openai_name("model.decoder.layers.0.fc1.lora_A.weight")


@pytest.mark.parametrize(
    ("key", "value"),
    [("decoder_ffn_dim", 320), ("activation_function", "relu"), ("tie_word_embeddings", False)],
)
def test_what_the_layout_has_no_place_for_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    folder = edited(tmp_path / "other", **{key: value})
    for writer in (whisper_cpp, openai_whisper):
        with pytest.raises(UserError, match=f"{key}: found {value}, expected .*(?s:.*)format="):
            writer.write(folder, tmp_path, writer.DTYPES[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_broken_weights_are_named_in_any_precision(value: float) -> None:
    weight = torch.zeros(3, 4)
    weight[1, 2] = value
    with pytest.raises(UserError, match=r"conv1\.weight: values .* in float32"):
        converted("conv1.weight", weight, torch.float32)


@pytest.mark.parametrize("writer", [whisper_cpp, openai_whisper, ctranslate2])
def test_weights_too_large_for_float16_are_named(tmp_path: Path, writer: object) -> None:
    folder = edited(tmp_path / "large")
    weights = {
        name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()
    }
    weights["model.encoder.layers.0.fc1.weight"][0, 0] = 70_000.0
    save_file(weights, folder / "model.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match=r"encoder\.blocks\.0\.mlp\.0\.weight.*float16"):
        writer.write(folder, out, writer.DTYPES[0])  # type: ignore[attr-defined]
    writer.write(folder, out, writer.DTYPES[1])  # type: ignore[attr-defined]
