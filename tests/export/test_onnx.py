"""ONNX graphs, run in ONNX Runtime, give what Transformers gives."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.onnx._internal.exporter._registration import ONNXRegistry
from transformers import WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.stepwise import StepwiseDecoder
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.export.onnx import DECODER, ENCODER, OnnxBackend, write
from lora_whisper.model.published import shape
from lora_whisper.stand_ins import POINTER
from tests.evaluation.toy_decoder import GREEDY, NANO, general_speech, nano

PROMPT = [50258, 50259, 50360, 50364]  # whatever they mean
STEPS = 6
NEAR_IN_FLOAT16 = 0.02  # of logits
NARROW = {
    "d_model": 64,
    "encoder_layers": 1,  # each takes the exporter seconds, of whatever width
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "init_std": 0.1,
}


@pytest.fixture(autouse=True, scope="module")
def operators_are_listed_once() -> Iterator[None]:
    """The exporter goes through all that it knows for each graph, which takes two seconds."""
    listed = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", listed)
        yield


def exported(checkpoint: Path, folder: Path, dtype: str = "float32") -> Path:
    folder.mkdir()
    write(checkpoint, folder, dtype)
    return folder


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of nano."""
    return exported(NANO, tmp_path_factory.mktemp("nano") / "float32")


def run_in_parts(folder: Path, features: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Logits (rows, tokens, vocabulary) of tokens given part by part, by the documented names."""
    encoder, decoder = (onnxruntime.InferenceSession(folder / name) for name in (ENCODER, DECODER))
    names = [one.name for one in encoder.get_outputs()]
    heard = encoder.run(None, {"input_features": features.numpy()})
    cache = as_past(names[1:], heard[1:])
    for one in decoder.get_inputs()[1:]:
        if ".decoder." in one.name:
            shape = (len(features), one.shape[1], 0, one.shape[3])
            cache[one.name] = np.zeros(shape, heard[1].dtype)
    logits = []
    for part in parts:
        given, *present = decoder.run(None, {"input_ids": part.numpy()} | cache)
        cache |= as_past([one.name for one in decoder.get_outputs()[1:]], present)
        logits.append(torch.from_numpy(given))
    return torch.cat(logits, dim=1)


def as_past(names: Sequence[str], values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name.replace("present", "past_key_values"): value
        for name, value in zip(names, values, strict=True)
    }


def test_the_graphs_are_well_formed_and_have_the_documented_borders(graphs: Path) -> None:
    encoder, decoder = (onnx.load(graphs / name) for name in (ENCODER, DECODER))
    for graph in (encoder, decoder):
        onnx.checker.check_model(graph, full_check=True)
        assert graph.opset_import[0].version <= 20, "what older runtimes know"
    kinds = [f"{layer}.{{}}.{kind}" for layer in range(2) for kind in ("key", "value")]
    own, sound = ([one.format(side) for one in kinds] for side in ("decoder", "encoder"))
    past_own, past_sound = ([f"past_key_values.{one}" for one in names] for names in (own, sound))
    assert borders(encoder.graph.input) == {"input_features": ["batch", 80, 500]}
    assert borders(encoder.graph.output) == {"last_hidden_state": ["batch", 250, 160]} | {
        f"present.{name}": ["batch", 4, 250, 40] for name in sound
    }
    assert borders(decoder.graph.input) == (
        {"input_ids": ["batch", "tokens"]}
        | {name: ["batch", 4, "past_tokens", 40] for name in past_own}
        | {name: ["batch", 4, 250, 40] for name in past_sound}
    )
    assert borders(decoder.graph.output) == {"logits": ["batch", "tokens", 1382]} | {
        f"present.{name}": ["batch", 4, "past_tokens + tokens", 40] for name in own
    }


def borders(values: Any) -> dict[str, list[str | int]]:
    """Names and sizes; of a sum, the exporter writes the terms in either order."""
    return {
        one.name: [
            " + ".join(sorted(size.dim_param.split(" + "))) or size.dim_value
            for size in one.type.tensor_type.shape.dim
        ]
        for one in values
    }


@pytest.mark.parametrize("timestamps", [False, True])
def test_texts_are_those_of_transformers(graphs: Path, timestamps: bool) -> None:
    clips, settings = general_speech(10), dataclasses.replace(GREEDY, timestamps=timestamps)
    known = nano()
    decoder = StepwiseDecoder(
        OnnxBackend.load(graphs),
        known.processor.tokenizer,
        known.model.generation_config,
        known.special_tokens,
        known.features,
    )
    found, expected = transcribe(decoder, clips, settings), known.transcribe(clips, settings)
    assert (found.texts, found.segments) == (expected.texts, expected.segments)
    assert any(found.texts)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_batch_and_a_cache_change_nothing(graphs: Path, rows: int) -> None:
    """Batches and pasts of other lengths than those that the graphs were made with."""
    assert_whole_and_in_parts(graphs, nano().model, rows, near=1e-4)  # of logits up to 11


def assert_whole_and_in_parts(graphs: Path, model: Any, rows: int, near: float) -> None:
    """Nine tokens give the same logits at once, part by part, and in Transformers."""
    generator = torch.Generator().manual_seed(rows)
    frames = 2 * model.config.max_source_positions
    features = torch.randn(rows, model.config.num_mel_bins, frames, generator=generator)
    tokens = torch.randint(0, 1000, (rows, 9), generator=generator)
    whole = run_in_parts(graphs, features, [tokens])
    in_parts = run_in_parts(graphs, features, tokens.split([3, 1, 1, 2, 2], dim=1))
    expected = model(input_features=features, decoder_input_ids=tokens).logits
    torch.testing.assert_close(in_parts, whole, atol=near, rtol=0)
    torch.testing.assert_close(whole, expected, atol=near, rtol=0)


def test_small_files_come_along_and_nothing_else(graphs: Path) -> None:
    beside = {path.name for path in NANO.iterdir()} - {"model.safetensors"}
    assert {path.name for path in graphs.iterdir()} == beside | {ENCODER, DECODER}
    for name in beside:
        assert (graphs / name).read_bytes() == (NANO / name).read_bytes()


def test_graphs_tell_nothing_of_where_they_were_made(graphs: Path) -> None:
    """The exporter notes the path and line of the code behind each node."""
    for name in (ENCODER, DECODER):
        content = (graphs / name).read_bytes()
        for trace in (b".py", b"site-packages", str(Path.home()).encode(), b"stack_trace"):
            assert trace not in content


def test_genuine_shapes_in_float16_step_by_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Large-v3's window, mel bins and tokens; narrow, as weights are random anyway."""
    checkpoint = random_checkpoint("large-v3", NARROW, tmp_path / "base")
    capfd.readouterr()
    graphs = exported(checkpoint, tmp_path / "graphs", "float16")
    assert not heard(capfd), "of the exporter's remarks"
    backend = OnnxBackend.load(graphs)
    for name in (ENCODER, DECODER):
        onnx.checker.check_model(onnx.load(graphs / name), full_check=True)
    model = WhisperForConditionalGeneration.from_pretrained(checkpoint).eval()
    assert backend.width == model.config.d_model
    assert_whole_and_in_parts(graphs, model, 3, NEAR_IN_FLOAT16)
    for seed in (1, 2):  # the second window begins anew
        features = torch.randn(
            model.config.num_mel_bins, 3000, generator=torch.Generator().manual_seed(seed)
        )
        assert_step_by_step(backend, model, features)


def random_checkpoint(name: str, changes: dict[str, Any], folder: Path) -> Path:
    """A published shape with some of its sizes changed."""
    config = shape(name)
    config.update(changes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def heard(capfd: pytest.CaptureFixture[str]) -> list[str]:
    lines = "".join(capfd.readouterr()).splitlines()
    return [line for line in lines if line.strip()]


@torch.no_grad()
def assert_step_by_step(backend: OnnxBackend, model: Any, features: Tensor) -> None:
    """Backend and model agree on the logits of each token that follows the prompt, greedily."""
    backend.encode(features)
    encoded = model.model.encoder(features[None])
    given, new = list(PROMPT), list(PROMPT)
    for _ in range(STEPS):
        found = backend.logits(new)
        output = model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([given]))
        expected = output.logits[0, -1]
        torch.testing.assert_close(found, expected, atol=NEAR_IN_FLOAT16, rtol=0)
        assert expected.std() > 10 * NEAR_IN_FLOAT16
        new = [int(expected.argmax())]
        given += new


def test_what_does_not_load_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.onnx: missing"):
        OnnxBackend.load(NANO)
    for name in (ENCODER, DECODER):
        (tmp_path / name).write_bytes(b"no graph")
    shutil.copyfile(NANO / "config.json", tmp_path / "config.json")
    with pytest.raises(UserError, match="does not load as an ONNX Whisper"):
        OnnxBackend.load(tmp_path)
    (tmp_path / DECODER).write_bytes(POINTER)
    with pytest.raises(UserError, match=r"git lfs pull --include decoder\.onnx"):
        OnnxBackend.load(tmp_path)


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for call in (lambda: write(NANO, tmp_path, "float32"), lambda: OnnxBackend.load(NANO)):
        with pytest.raises(UserError, match=r"pip install 'lora-whisper\[onnx\]'") as caught:
            call()
        assert "\n" not in str(caught.value)
