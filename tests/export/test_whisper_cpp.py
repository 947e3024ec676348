"""Files that whisper.cpp's own library reads, and what it makes of them."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import shlex
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_whisper.data.audio import read_audio
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.stepwise import StepwiseDecoder
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.export import whisper_cpp
from lora_whisper.export.openai_whisper import read_tensors
from lora_whisper.export.whisper_cpp import WhisperCppBackend, WhisperCppProgram, load_library
from lora_whisper.stand_ins import POINTER
from tests.evaluation.toy_decoder import GREEDY, NANO, PROMPT, general_speech, nano
from tests.export.toy_merged import Merged


class ContextSettings(ctypes.Structure):
    """`whisper_context_params` of include/whisper.h."""

    _fields_ = (
        ("use_gpu", ctypes.c_bool),
        ("flash_attn", ctypes.c_bool),
        ("gpu_device", ctypes.c_int),
        ("dtw_token_timestamps", ctypes.c_bool),
        ("dtw_aheads_preset", ctypes.c_int),
        ("dtw_n_top", ctypes.c_int),
        ("n_heads", ctypes.c_size_t),
        ("heads", ctypes.c_void_p),
        ("dtw_mem_size", ctypes.c_size_t),
    )


def exact(folder: Path) -> WhisperCppBackend:
    """Without flash attention, which looks at positions of zeros."""
    library = load_library()
    settings = library.functions.whisper_context_default_params
    settings.restype = ContextSettings
    load = library.functions.whisper_init_from_file_with_params
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ContextSettings]
    given = settings()
    given.flash_attn = False
    return WhisperCppBackend(library, load(str(folder / whisper_cpp.FILE).encode(), given))


def exported(checkpoint: Path, folder: Path, dtype: str = "f16") -> Path:
    folder.mkdir()
    whisper_cpp.write(checkpoint, folder, dtype)
    return folder


@pytest.fixture(scope="module")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(NANO, tmp_path_factory.mktemp("nano") / "ggml")


@pytest.fixture(scope="module")
def narrow_folder(narrow: Merged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(narrow.folder, tmp_path_factory.mktemp("narrow") / "ggml")


def test_nano_hears_what_the_checkpoint_hears(nano_folder: Path) -> None:
    """A window of 5 seconds and 1,382 tokens, which the program itself has no prompt for."""
    backend, toy, clips = WhisperCppBackend.load(nano_folder), nano(), general_speech(6)
    config, tokenizer = toy.model.generation_config, toy.processor.tokenizer
    decoder = StepwiseDecoder(backend, tokenizer, config, toy.special_tokens, toy.features)
    assert decoder.width == toy.model.config.d_model
    for prompt in ("", PROMPT):
        found = transcribe(decoder, clips, GREEDY, prompt=prompt).texts
        assert found == toy.transcribe(clips, prompt=prompt).texts


def test_logits_with_large_v3s_bins_and_tokens(narrow: Merged, narrow_folder: Path) -> None:
    """Of a standard deviation of 3; found: 0.04 at most."""
    backend = exact(narrow_folder)
    window = narrow.window(general_speech(1)[0])
    tokens = [*narrow.toy.special_tokens.start("yue", "translate"), 5, 6, 7, 8]
    expected = narrow.logits(window, tokens)
    backend.encode(window)
    for new in (tokens[:4], tokens[4:5], tokens[5:]):
        position = tokens.index(new[-1])
        torch.testing.assert_close(backend.logits(new), expected[position], atol=0.1, rtol=0)


def test_the_program_hears_what_the_checkpoint_hears(narrow: Merged, narrow_folder: Path) -> None:
    program = WhisperCppProgram.load(narrow_folder, flash_attention=False)
    assert program.name.startswith("whisper.cpp 1.")
    clip = general_speech(1)[0]
    text = program.transcribe(read_audio(clip.audio), "en", "transcribe")
    assert text == narrow.text(clip) != ""
    given = program.transcribe(read_audio(clip.audio), "en", "transcribe", initial_prompt=" a, bee")
    assert given == narrow.text(clip, "a, bee") != text


def test_the_program_as_it_is_hears_what_the_library_hears(
    narrow: Merged, narrow_folder: Path
) -> None:
    """With flash attention, which is another thing for random weights."""
    program, backend = WhisperCppProgram.load(narrow_folder), WhisperCppBackend.load(narrow_folder)
    toy, clip = narrow.toy, general_speech(1)[0]
    config, tokenizer = toy.model.generation_config, toy.processor.tokenizer
    decoder = StepwiseDecoder(backend, tokenizer, config, toy.special_tokens, toy.features)
    expected = transcribe(decoder, [clip], GREEDY).texts[0]
    assert program.transcribe(read_audio(clip.audio), "en", "transcribe") == expected != ""


@pytest.mark.slow
def test_the_program_runs_the_genuine_tiny(genuine_tiny: Merged, tmp_path: Path) -> None:
    clip = general_speech(1)[0]
    folder = exported(genuine_tiny.folder, tmp_path / "out")
    program = WhisperCppProgram.load(folder, flash_attention=False)
    text = program.transcribe(read_audio(clip.audio), "en", "transcribe")
    assert text == genuine_tiny.text(clip) != ""


def test_language_and_task_reach_the_prompt(narrow: Merged, narrow_folder: Path) -> None:
    program, clip = WhisperCppProgram.load(narrow_folder), general_speech(1)[0]
    samples = read_audio(clip.audio)
    asked = [("en", "transcribe"), ("yue", "transcribe"), ("en", "translate")]
    assert len({program.transcribe(samples, *request) for request in asked}) == 3


def test_words_are_the_bytes_that_the_tokenizer_decodes_to(narrow: Merged) -> None:
    words, tokenizer = whisper_cpp.read_words(narrow.folder), narrow.toy.processor.tokenizer
    assert len(words) == narrow.toy.special_tokens.eot
    for text in ("naïve ÿ", "日本語 ☃", "\t\x00\x7f\xad mashed"):
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        assert b"".join(words[token] for token in tokens).decode() == text


def test_the_library_knows_the_same_words(nano_folder: Path) -> None:
    library = load_library()
    word: Any = library.functions.whisper_token_to_str
    word.restype, word.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int]
    context = library.load(nano_folder / whisper_cpp.FILE)
    expected = whisper_cpp.read_words(NANO)
    found = [word(context, token) for token in range(len(expected))]
    library.functions.whisper_free(context)
    assert found == [given.split(b"\0")[0] for given in expected]  # C's strings end there


class File:
    """A file's parts, by the loader's order."""

    def __init__(self, path: Path):
        self.content, self.at = path.read_bytes(), 12 * 4
        self.filters = self.array("<f4", self.numbers(2))
        self.words = [self.text(self.numbers(1)[0]) for _ in range(self.numbers(1)[0])]
        self.tensors = dict(iter(self.tensor, None))

    def numbers(self, count: int) -> tuple[int, ...]:
        self.at += 4 * count
        return struct.unpack_from(f"<{count}i", self.content, self.at - 4 * count)

    def text(self, length: int) -> bytes:
        self.at += length
        return self.content[self.at - length : self.at]

    def array(self, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        data = self.text(np.dtype(kind).itemsize * math.prod(shape))
        return np.frombuffer(data, kind).reshape(shape)

    def tensor(self) -> tuple[str, np.ndarray] | None:
        if self.at == len(self.content):
            return None
        dimensions, length, kind = self.numbers(3)
        shape = self.numbers(dimensions)[::-1]
        return self.text(length).decode(), self.array(("<f4", "<f2")[kind], shape)


@pytest.mark.parametrize("dtype", whisper_cpp.DTYPES)
def test_weights_are_the_checkpoints(tmp_path: Path, dtype: str) -> None:
    """Nano's are in float16, so that both types hold them bit for bit."""
    path = exported(NANO, tmp_path / "out", dtype) / whisper_cpp.FILE
    found, expected = File(path).tensors, dict(read_tensors(NANO))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name].squeeze(), weight.numpy())
    halves = {name for name, weight in found.items() if weight.dtype == np.float16}
    assert bool(halves) is (dtype == "f16")
    assert whisper_cpp.read_type(path) == dtype


def test_float32_loads_but_is_not_computed_by_older_versions(tmp_path: Path) -> None:
    """The library would end the process, not raise."""
    folder, library = exported(NANO, tmp_path / "out", "f32"), load_library()
    library.functions.whisper_free(library.load(folder / whisper_cpp.FILE))
    if library.computes("f32"):
        WhisperCppBackend.load(folder)
        return
    for kind in (WhisperCppBackend, WhisperCppProgram):
        with pytest.raises(UserError, match=r"in f32, .* since 1\.9\.2; 1\..* dtype=f16"):
            kind.load(folder)


def test_what_does_not_load_is_said(nano_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no ggml-model\.bin; export it: format=ggml"):
        WhisperCppBackend.load(tmp_path)
    file = tmp_path / whisper_cpp.FILE
    for content, said in (
        (b"", "found an empty file"),
        (b"no model at all, and longer than a head of 12 numbers", r"is no file of whisper\.cpp"),
        (POINTER, r"git lfs pull --include ggml-model\.bin"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            WhisperCppBackend.load(tmp_path)
    shutil.copyfile(nano_folder / whisper_cpp.FILE, file)
    file.write_bytes(file.read_bytes()[:2_000_000])
    for kind in (WhisperCppBackend, WhisperCppProgram):
        with pytest.raises(UserError, match=r"does not load in whisper\.cpp: .*not all tensors"):
            kind.load(tmp_path)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'lora-whisper\[ggml\]'"):
        whisper_cpp.require_package()


def test_the_quantizers_command() -> None:
    command = whisper_cpp.quantize_command(Path("outputs/a b/export/ggml"), "q5_0")
    source, target = "'outputs/a b/export/ggml/ggml-model.bin'", "ggml-model-q5_0.bin'"
    assert command.startswith(f"./build/bin/whisper-quantize {source} ")
    assert command.endswith(f"{target} q5_0")
    odd = Path("outputs/anna's/export/ggml")
    assert shlex.split(whisper_cpp.quantize_command(odd))[1] == str(odd / whisper_cpp.FILE)


def test_filters_and_words_are_the_processors(narrow_folder: Path, narrow: Merged) -> None:
    file = File(narrow_folder / whisper_cpp.FILE)
    expected = narrow.toy.processor.feature_extractor.mel_filters.T
    assert expected.shape == (128, 201)
    np.testing.assert_array_equal(file.filters, expected.astype(np.float32))
    assert file.words == whisper_cpp.read_words(narrow.folder)
