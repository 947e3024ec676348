"""Models that CTranslate2's own converter made, against the checkpoints they were made from."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ctranslate2.converters import TransformersConverter

from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.ctranslate2 import (
    CTranslate2Decoder,
    is_ctranslate2,
    read_exported,
    read_shapes,
)
from lora_whisper.evaluation.decoding.decoder import BrokenModel, DecodingOptions, DecodingTask
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.stand_ins import POINTER
from tests.evaluation.toy_decoder import (
    GREEDY,
    NANO,
    Toy,
    general_speech,
    joined,
    make_toy,
    nano,
)

IN_BATCHES = dataclasses.replace(GREEDY, batch_size=5)


def exported(checkpoint: Path, folder: Path) -> Path:
    kept = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(checkpoint), copy_files=kept).convert(str(folder), quantization=None)
    return folder


@pytest.fixture(scope="module")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(NANO, tmp_path_factory.mktemp("exported") / "nano")


def always_say(toy: Toy, token: str) -> None:
    """By a bias that is saved: logits are products with the tied embeddings."""
    index = toy.processor.tokenizer.get_vocab()[token]
    toy.model.proj_out.weight[index] = 1.0  # eot's are zeros, as padding's
    toy.model.model.decoder.layer_norm.bias += 20.0


def exported_toy(toy: Toy, folder: Path) -> Path:
    toy.model.save_pretrained(folder / "checkpoint")
    toy.processor.tokenizer.save_pretrained(folder / "checkpoint")
    toy.processor.feature_extractor.save_pretrained(folder / "checkpoint")
    return exported(folder / "checkpoint", folder / "exported")


def test_the_folder_tells_all_that_the_checkpoint_tells(nano_folder: Path) -> None:
    hearing, decoder = nano(), CTranslate2Decoder.load(nano_folder)
    assert decoder.special_tokens == hearing.special_tokens
    assert decoder.features.window_samples == hearing.features.window_samples
    shapes = read_shapes(nano_folder / "model.bin")
    assert shapes["decoder/embeddings/weight"] == (1382, 160)


def test_texts_are_those_of_the_checkpoint(nano_folder: Path, tmp_path: Path) -> None:
    """Short and long, with and without timestamps, in batches of other sizes."""
    hearing, clips = nano(), general_speech(11)
    rows = [*clips, joined(clips[:4], tmp_path / "long.wav")]
    decoder = CTranslate2Decoder.load(nano_folder)
    for settings in (IN_BATCHES, dataclasses.replace(IN_BATCHES, timestamps=True)):
        expected = hearing.transcribe(rows, dataclasses.replace(settings, batch_size=3))
        found = transcribe(decoder, rows, settings)
        assert found.texts == expected.texts
        assert found.segments == expected.segments
        assert found.seconds == expected.seconds


def test_beams_find_what_is_more_probable(tmp_path: Path) -> None:
    decoder = CTranslate2Decoder.load(exported_toy(make_toy(), tmp_path))
    means = []
    for beams in (1, 4):
        found = decoder.decode(tasks(make_toy()), DecodingOptions(beams, probabilities=True))
        means.append(np.mean([result.mean_log_probability for result in found]))
    assert means[1] > means[0]


def tasks(toy: Toy, most_tokens: int = 40) -> list[DecodingTask]:
    windows = toy.features(torch.randn(3, 32_000, generator=torch.Generator().manual_seed(0)))
    prompt = tuple(toy.special_tokens.start("en", "transcribe"))
    return [DecodingTask(window, prompt, most_tokens, (0,)) for window in windows]


@pytest.mark.parametrize("speaks", [True, False])
def test_probabilities_are_those_of_the_checkpoint(tmp_path: Path, speaks: bool) -> None:
    """Also of a model that says nothing."""
    toy = make_toy()
    toy.model.proj_out.bias = None  # which is no part of a checkpoint
    if not speaks:
        always_say(toy, "<|endoftext|>")
        toy.model.generation_config.begin_suppress_tokens = []
    decoder = CTranslate2Decoder.load(exported_toy(toy, tmp_path))
    asked, options = tasks(toy), DecodingOptions(beams=1, probabilities=True)
    with toy.decoder.inference():
        expected = toy.decoder.decode(asked, options)
    assert any(result.tokens for result in expected) is speaks
    for one, other in zip(decoder.decode(asked, options), expected, strict=True):
        assert one.tokens == other.tokens
        if len(one.tokens) < asked[0].most_tokens:  # CTranslate2 goes on to see what would follow
            assert one.mean_log_probability == pytest.approx(other.mean_log_probability, abs=1e-4)
        assert one.no_speech_probability == pytest.approx(other.no_speech_probability, rel=1e-3)


def test_every_row_ends_at_its_own_limit(tmp_path: Path) -> None:
    toy = make_toy()
    always_say(toy, "a")
    decoder = CTranslate2Decoder.load(exported_toy(toy, tmp_path))
    limits = [7, 59, 30]
    asked = [
        dataclasses.replace(task, most_tokens=most)
        for task, most in zip(tasks(toy), limits, strict=True)
    ]
    found = decoder.decode(asked, DecodingOptions(beams=1))
    assert [len(result.tokens) for result in found] == limits


def test_a_model_of_no_numbers_is_refused(tmp_path: Path) -> None:
    toy = make_toy()
    toy.model.model.decoder.layers[0].fc1.weight[0, 0] = float("nan")
    decoder = CTranslate2Decoder.load(exported_toy(toy, tmp_path))
    with pytest.raises(BrokenModel):
        decoder.decode(tasks(toy), DecodingOptions(beams=1))


def test_fallback_is_refused_before_anything_is_heard(nano_folder: Path) -> None:
    settings = dataclasses.replace(GREEDY, temperature_fallback=True)
    with pytest.raises(UserError, match=r"Type evaluation\.temperature_fallback=false"):
        transcribe(CTranslate2Decoder.load(nano_folder), general_speech(1), settings)


def test_exported_folders_and_checkpoints_are_told_apart(nano_folder: Path) -> None:
    assert is_ctranslate2(nano_folder)
    assert not is_ctranslate2(NANO)


def test_what_is_missing_is_named(nano_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "part"
    shutil.copytree(nano_folder, folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocabulary.json").unlink()
    with pytest.raises(UserError) as refused:
        CTranslate2Decoder.load(folder)
    for name in ("tokenizer.json: missing", "vocabulary.json or vocabulary.txt: missing"):
        assert name in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "found an empty file"),
        (POINTER, "git lfs pull --include model.bin"),
        (b"no model", "does not load as a CTranslate2 Whisper"),
        (None, "does not load as a CTranslate2 Whisper"),
    ],
)
def test_weights_that_are_none(
    nano_folder: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(nano_folder, folder)
    weights = folder / "model.bin"
    weights.write_bytes(weights.read_bytes()[:200_000] if content is None else content)
    with pytest.raises(UserError, match=said):
        CTranslate2Decoder.load(folder)


def test_an_unknown_compute_type(nano_folder: Path) -> None:
    with pytest.raises(UserError, match=r"does not load as a CTranslate2 Whisper.*int3"):
        CTranslate2Decoder.load(nano_folder, compute_type="int3")


def test_the_missing_package_is_named(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2.models", None)
    with pytest.raises(UserError, match=r"pip install 'lora-whisper\[ctranslate2\]'"):
        CTranslate2Decoder.load(nano_folder)


@pytest.mark.parametrize("key", ["suppress_ids", "lang_ids"])
def test_ids_beyond_the_vocabulary_are_refused_before_ctranslate2_takes_them(
    key, nano_folder, tmp_path
):
    folder = Path(shutil.copytree(nano_folder, tmp_path / "copy"))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {key: [10**9]}))
    with pytest.raises(UserError, match=rf"config\.json: {key}: expected a whole number"):
        read_exported(folder)


def test_weights_that_say_more_than_they_hold_are_refused(nano_folder, tmp_path):
    folder = Path(shutil.copytree(nano_folder, tmp_path / "copy"))
    data = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="does not load as a CTranslate2 Whisper"):
        read_exported(folder)
