"""Folders that CTranslate2's converter makes of merged ones, and what faster-whisper hears."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lora_whisper.data.audio import read_audio
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.ctranslate2 import CTranslate2Decoder
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.export import ctranslate2
from lora_whisper.export.ctranslate2 import FasterWhisperProgram
from tests.evaluation.toy_decoder import GREEDY, NANO, PROMPT, general_speech, nano
from tests.export.toy_merged import Merged, whole_window


def exported(checkpoint: Path, folder: Path, dtype: str) -> Path:
    folder.mkdir()
    ctranslate2.write(checkpoint, folder, dtype)
    return folder


@pytest.mark.parametrize("dtype", ctranslate2.DTYPES)
def test_nano_hears_what_the_checkpoint_hears(tmp_path: Path, dtype: str) -> None:
    decoder = CTranslate2Decoder.load(exported(NANO, tmp_path / "out", dtype))
    clips, settings = general_speech(6), dataclasses.replace(GREEDY, batch_size=6)
    for prompt in ("", PROMPT):
        found = transcribe(decoder, clips, settings, prompt=prompt).texts
        assert found == nano().transcribe(clips, settings, prompt=prompt).texts


@pytest.mark.parametrize("dtype", ctranslate2.DTYPES)
def test_the_weights_are_of_the_type_that_was_asked_for(tmp_path: Path, dtype: str) -> None:
    whole = (exported(NANO, tmp_path / "whole", "float32") / "model.bin").stat().st_size
    found = (exported(NANO, tmp_path / "out", dtype) / "model.bin").stat().st_size
    shares = {"float32": (1, 1), "float16": (0.49, 0.51), "int8": (0.25, 0.3)}
    least, most = shares.get(dtype, (0.25, 0.3))
    assert least <= found / whole <= most


def test_config_says_what_the_generation_config_says(narrow: Merged, tmp_path: Path) -> None:
    for checkpoint in (NANO, narrow.folder):
        folder = exported(checkpoint, tmp_path / checkpoint.parent.name, "int8")
        found = json.loads((folder / "config.json").read_text())
        expected = json.loads((checkpoint / "generation_config.json").read_text())
        assert found["suppress_ids"] == expected["suppress_tokens"]
        assert found["suppress_ids_begin"] == expected["begin_suppress_tokens"]
        assert found["lang_ids"] == sorted(expected["lang_to_id"].values())
        if "alignment_heads" in expected:  # cannot be known of random weights
            assert found["alignment_heads"] == expected["alignment_heads"]
        for name in ctranslate2.COMPANIONS:
            assert (folder / name).read_bytes() == (checkpoint / name).read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_program_hears_what_the_checkpoint_hears(
    narrow: Merged, tmp_path: Path, dtype: str
) -> None:
    """128 mel bins and 51,866 tokens."""
    program = FasterWhisperProgram.load(exported(narrow.folder, tmp_path / "out", dtype))
    assert program.name.startswith("faster-whisper 1.")
    assert program.prompts_with_language
    clip = general_speech(1)[0]
    text = program.transcribe(whole_window(clip), "en", "transcribe")
    assert text == narrow.text(clip) != ""
    for option in ("hotwords", "initial_prompt"):
        given = program.transcribe(whole_window(clip), "en", "transcribe", **{option: "a, bee"})
        assert given == narrow.text(clip, "a, bee") != text


@pytest.mark.slow
def test_the_program_runs_the_genuine_tiny(genuine_tiny: Merged, tmp_path: Path) -> None:
    clip = general_speech(1)[0]
    folder = exported(genuine_tiny.folder, tmp_path / "out", "float16")
    heads = json.loads((folder / "config.json").read_text())["alignment_heads"]
    assert heads == [[2, 2], [3, 0], [3, 2], [3, 3], [3, 4], [3, 5]]
    text = FasterWhisperProgram.load(folder).transcribe(whole_window(clip), "en", "transcribe")
    assert text == genuine_tiny.text(clip) != ""


def test_language_and_task_reach_the_prompt(narrow: Merged, tmp_path: Path) -> None:
    program = FasterWhisperProgram.load(exported(narrow.folder, tmp_path / "out", "float32"))
    samples = read_audio(general_speech(1)[0].audio)
    asked = [("en", "transcribe"), ("yue", "transcribe"), ("en", "translate")]
    assert len({program.transcribe(samples, *request) for request in asked}) == 3


def test_a_small_vocabulary_is_taken_for_english(tmp_path: Path) -> None:
    program = FasterWhisperProgram.load(exported(NANO, tmp_path / "out", "float32"))
    assert not program.prompts_with_language


def test_what_does_not_load_is_said(tmp_path: Path) -> None:
    shutil.copyfile(NANO / "config.json", tmp_path / "config.json")
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(UserError, match="does not load in faster-whisper"):
        FasterWhisperProgram.load(tmp_path)


@pytest.mark.parametrize("missing", ["ctranslate2.converters", "faster_whisper"])
def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"pip install 'lora-whisper\[ctranslate2\]'"):
        ctranslate2.require_package()


def test_a_program_that_detects_no_language_is_named() -> None:
    """What `hear` does not show: it is told the language, and asks for no timestamps."""

    def transcribe(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    inner = SimpleNamespace(is_multilingual=True)
    program = FasterWhisperProgram(SimpleNamespace(model=inner, transcribe=transcribe))
    with pytest.raises(UserError, match=r"told no language .* IndexError"):
        program.try_out(np.zeros(16_000, dtype=np.float32))
