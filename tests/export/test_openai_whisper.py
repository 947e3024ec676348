"""What openai-whisper hears of an exported file."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from whisper.model import ModelDimensions, Whisper

from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.stepwise import StepwiseDecoder
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.export import ctranslate2, openai_whisper, whisper_cpp
from lora_whisper.export.openai_whisper import (
    OpenAIWhisperBackend,
    OpenAIWhisperProgram,
    converted,
    openai_name,
    read_dimensions,
    read_tensors,
)
from lora_whisper.stand_ins import POINTER
from tests.evaluation.toy_decoder import GREEDY, NANO, PROMPT, Toy, general_speech, nano
from tests.export.toy_merged import Merged, whole_window


def exported(checkpoint: Path, folder: Path, dtype: str = "float32") -> Path:
    folder.mkdir()
    openai_whisper.write(checkpoint, folder, dtype)
    return folder


def stepwise(folder: Path, toy: Toy) -> StepwiseDecoder:
    backend = OpenAIWhisperBackend.load(folder)
    config, tokenizer = toy.model.generation_config, toy.processor.tokenizer
    return StepwiseDecoder(backend, tokenizer, config, toy.special_tokens, toy.features)


def test_weights_are_the_checkpoints_bit_for_bit(tmp_path: Path) -> None:
    path = exported(NANO, tmp_path / "out") / "model.pt"
    found = torch.load(path, weights_only=True)["model_state_dict"]
    expected = dict(read_tensors(NANO))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].float()) for name in found)


@pytest.mark.parametrize("dtype", openai_whisper.DTYPES)
def test_nano_hears_what_the_checkpoint_hears(tmp_path: Path, dtype: str) -> None:
    folder, toy, clips = exported(NANO, tmp_path / "out", dtype), nano(), general_speech(6)
    decoder = stepwise(folder, toy)
    assert decoder.width == toy.model.config.d_model
    for prompt in ("", PROMPT):
        found = transcribe(decoder, clips, GREEDY, prompt=prompt).texts
        assert found == toy.transcribe(clips, prompt=prompt).texts


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 0.1)])
def test_logits_with_large_v3s_bins_and_tokens(
    narrow: Merged, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    """Of a standard deviation of 3."""
    backend = OpenAIWhisperBackend.load(exported(narrow.folder, tmp_path / "out", dtype))
    window = narrow.window(general_speech(1)[0])
    tokens = [*narrow.toy.special_tokens.start("yue", "translate"), 5, 6, 7, 8]
    with torch.inference_mode():
        backend.encode(window)
        expected = narrow.logits(window, tokens)
        for new in (tokens[:4], tokens[4:5], tokens[5:]):
            position = tokens.index(new[-1])
            torch.testing.assert_close(
                backend.logits(new), expected[position], atol=tolerance, rtol=0
            )


def test_the_program_hears_what_the_checkpoint_hears(narrow: Merged, tmp_path: Path) -> None:
    program = OpenAIWhisperProgram.load(exported(narrow.folder, tmp_path / "out"))
    assert program.name.startswith("openai-whisper 20")
    clip = general_speech(1)[0]
    text = program.transcribe(whole_window(clip), "en", "transcribe")
    assert text == narrow.text(clip) != ""
    given = program.transcribe(whole_window(clip), "en", "transcribe", initial_prompt="a, bee")
    assert given == narrow.text(clip, "a, bee") != text


@pytest.mark.slow
def test_the_program_runs_the_genuine_tiny(genuine_tiny: Merged, tmp_path: Path) -> None:
    clip = general_speech(1)[0]
    program = OpenAIWhisperProgram.load(exported(genuine_tiny.folder, tmp_path / "out", "float16"))
    text = program.transcribe(whole_window(clip), "en", "transcribe")
    assert text == genuine_tiny.text(clip) != ""


def test_what_does_not_load_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model\.pt; export it: format=openai"):
        OpenAIWhisperProgram.load(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"model\.pt does not load in openai-whisper"):
        OpenAIWhisperProgram.load(tmp_path)
    (tmp_path / "model.pt").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"git lfs pull --include model\.pt"):
        OpenAIWhisperProgram.load(tmp_path)
    torch.save({"dims": {}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt does not load in openai-whisper"):
        OpenAIWhisperProgram.load(tmp_path)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "whisper", None)
    with pytest.raises(UserError, match=r"pip install 'lora-whisper\[openai\]'"):
        openai_whisper.require_package()


# ── names and sizes ───────────────────────────────────────────────────────────────────────────────


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
