"""Texts against evaluation's and Transformers', adapters against what merge writes."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import lora_whisper as lw
from lora_whisper.config import TranscriptionConfig
from lora_whisper.data.audio import read_audio
from lora_whisper.model.checkpoint import locate
from lora_whisper.transcription import sound
from lora_whisper.transcription.results import Transcript
from lora_whisper.transcription.sound import FileSound, held_sound
from tests.configs import model_config
from tests.evaluation.decoding.test_long_form import fond_of_timestamps
from tests.evaluation.toy_decoder import GREEDY, general_speech, joined, nano
from tests.merged import merged_weights
from tests.transcription.conftest import NANO

PLAIN: Any = {"language": "en", "temperature_fallback": False}


def test_short_clips_have_the_texts_of_evaluation_and_of_generate(
    transcriber: lw.Transcriber,
) -> None:
    clips, toy = general_speech(6), nano()
    sounds = [FileSound(clip.audio) for clip in clips]
    for timestamps in (False, True):
        options = TranscriptionConfig(
            language="en", temperature_fallback=False, timestamps=timestamps
        )
        found = dict(transcriber.transcribe_all(sounds, options))
        texts = [found[index].text for index in range(len(clips))]
        settings = dataclasses.replace(GREEDY, timestamps=timestamps)
        assert texts == list(toy.transcribe(clips, settings).texts)
        for clip, text in zip(clips, texts, strict=True):
            mel = toy.features.clip(torch.from_numpy(read_audio(clip.audio)), "sound")
            tokens = toy.model.generate(
                mel[None], language="en", task="transcribe", return_timestamps=timestamps
            )
            assert text == toy.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()


def test_a_long_recording_has_evaluation_s_text_and_segments_however_it_is_read(
    transcriber: lw.Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = joined(general_speech(8), tmp_path / "long.flac")
    settings = dataclasses.replace(GREEDY, previous_text=True)
    expected = nano().transcribe([one], settings)
    monkeypatch.setattr(sound, "PIECE_SECONDS", 4.0)
    monkeypatch.setattr(sound, "HELD_BYTES", 1000)
    steps: list[float] = []
    found = transcriber.transcribe(one.audio, previous_text=True, on_progress=steps.append, **PLAIN)
    assert found.text == expected.texts[0]
    assert [(one.start_seconds, one.text) for one in found.segments] == [
        (one.start_seconds, one.text) for one in expected.segments[0]
    ]
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(found.seconds, abs=0.01)
    samples = read_audio(one.audio)
    assert transcriber.transcribe(samples, previous_text=True, **PLAIN).text == found.text


def logits(transcriber: lw.Transcriber) -> torch.Tensor:
    whisper: Any = transcriber._backend.base
    mel = torch.randn(1, 80, 500, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return whisper(input_features=mel, decoder_input_ids=torch.tensor([[1, 2, 3]])).logits


def test_adapters_are_switched_and_the_base_comes_back_to_the_bit(
    transcriber: lw.Transcriber, adapters: tuple[Path, Path], speech: list[np.ndarray]
) -> None:
    whisper: Any = transcriber._backend.base
    base, before = logits(transcriber), copy.deepcopy(whisper.state_dict())
    text = transcriber.transcribe(np.concatenate(speech[:4]), **PLAIN).text
    merged = {}
    for folder in adapters:
        transcriber.use(folder.name)
        expected = merged_weights(locate(model_config(NANO)), folder)
        state = whisper.state_dict()
        assert all(torch.equal(state[name], weight) for name, weight in expected.items())
        merged[folder.name] = (
            logits(transcriber),
            transcriber.transcribe(np.concatenate(speech[:4]), **PLAIN).text,
        )
        transcriber.use(folder.name, 0.5)
        assert not torch.equal(logits(transcriber), merged[folder.name][0])
        transcriber.use(folder.name, 0.0)
        assert torch.equal(logits(transcriber), base)
    assert len({text, *(text for _, text in merged.values())}) == 3, "all of them hear otherwise"
    began = time.perf_counter()
    transcriber.use("a")
    assert time.perf_counter() - began < 0.05
    assert torch.equal(logits(transcriber), merged["a"][0])
    transcriber.use(None)
    after = whisper.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert transcriber.transcribe(np.concatenate(speech[:4]), **PLAIN).text == text


def test_a_translation_is_that_of_generate(
    transcriber: lw.Transcriber, speech: list[np.ndarray]
) -> None:
    toy = nano()
    mel = toy.features.clip(torch.from_numpy(speech[1]), "sound")[None]
    tokens = toy.model.generate(mel, language="en", task="translate", return_timestamps=True)
    expected = toy.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert transcriber.transcribe(speech[1], task="translate", **PLAIN).text == expected


def test_words_of_a_given_prompt_are_before_every_text(
    transcriber: lw.Transcriber, speech: list[np.ndarray], tmp_path: Path
) -> None:
    words = tmp_path / "names.txt"
    words.write_text("Mwanza\n\n  Kilosa \n", encoding="utf-8")
    plain = transcriber.transcribe(speech[0], language="en")
    given = transcriber.transcribe(speech[0], prompt="Names:", words=str(words), language="en")
    same = transcriber.transcribe(speech[0], prompt="Names: Mwanza, Kilosa", language="en")
    assert given == same
    probabilities = [one.segments[0].mean_log_probability for one in (plain, given)]
    assert probabilities[0] != probabilities[1]
    long = transcriber.transcribe(np.concatenate(speech[:4]), prompt="Names:", **PLAIN)
    assert long.segments


def test_the_language_is_told_by_the_likeliest_token(
    transcriber: lw.Transcriber, speech: list[np.ndarray]
) -> None:
    """As Transformers detects it."""
    toy = nano()
    for samples in speech[:3]:
        found = transcriber.transcribe(samples, temperature_fallback=False)
        mel = toy.features.clip(torch.from_numpy(samples), "sound")[None]
        token = int(toy.model.detect_language(mel)[0])
        assert toy.processor.tokenizer.convert_ids_to_tokens(token) == f"<|{found.language}|>"
        assert found.language_probability is not None
        assert 1 / len(transcriber.languages) <= found.language_probability <= 1
        given = transcriber.transcribe(samples, language=found.language, temperature_fallback=False)
        assert (given.text, given.language_probability) == (found.text, None)


def test_word_times_go_forward_within_their_segments(tmp_path: Path) -> None:
    transcriber = lw.Transcriber.from_model(NANO)
    prefer = fond_of_timestamps().model.proj_out.bias
    transcriber._backend.base.proj_out.bias = prefer  # so that recordings have several segments
    recording = joined(general_speech(8), tmp_path / "long.wav")
    found = [
        transcriber.transcribe(recording.audio, word_times=True, beams=beams, **PLAIN)
        for beams in (1, 2)
    ] + [transcriber.transcribe(general_speech(1)[0].audio, word_times=True, **PLAIN)]
    assert len(found[0].segments) > 4
    for transcript in found:
        require_ordered(transcript)
    plain = transcriber.transcribe(recording.audio, **PLAIN)
    assert plain.text == found[0].text


def require_ordered(transcript: Transcript) -> None:
    for segment in transcript.segments:
        assert 0 <= segment.start_seconds <= segment.end_seconds <= transcript.seconds + 0.01
        assert " ".join(word.text for word in segment.words) == segment.text
        times = [segment.start_seconds]
        for word in segment.words:
            times += [word.start_seconds, word.end_seconds]
            assert 0 <= word.probability <= 1
        assert times == sorted(times)
        assert times[-1] <= segment.end_seconds


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (np.int16, 16_000),
        (np.float64, 192_000),
        (np.float32, 8_000),
    ],
)
def test_samples_of_any_kind_are_the_same_sound(samples: Any, rate: int) -> None:
    time_seconds = np.arange(rate) / rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * time_seconds)
    stored = (wave * 2**15).astype(np.int16) if samples is np.int16 else wave.astype(samples)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    for given in (stored, np.stack([stored] * 8, axis=1)):
        found = held_sound(given, rate).slice(0.0, None)
        assert found.dtype == np.float32
        assert np.abs(found - expected)[200:-200].max() < 0.002


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros(100), "0.01 s of sound"),
        (np.zeros((2, 2, 2)), "of shape (2, 2, 2)"),
        (np.full(16_000, np.nan), "not finite"),
        (np.array(["a"] * 16_000), "expected samples as numbers"),
        ("gone.wav", "gone.wav: no such file"),
        (Path(__file__), "test_transcriber.py: "),
    ],
)
def test_what_is_no_sound_is_said(transcriber: lw.Transcriber, given: Any, said: str) -> None:
    with pytest.raises(lw.UserError) as error:
        transcriber.transcribe(given)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"language": "klingon"}, "does not know the language 'klingon'"),
        ({"task": "sing"}, "task: expected transcribe or translate"),
        ({"beam": 5}, "beam"),
        ({"words": "gone.txt"}, "gone.txt"),
        ({"prompt": "word " * 400}, "there is room for"),
    ],
)
def test_an_option_that_does_not_fit_is_said(
    transcriber: lw.Transcriber, speech: list[np.ndarray], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(lw.UserError) as error:
        transcriber.transcribe(speech[0], **options)
    assert said in str(error.value)


@pytest.mark.parametrize("kind", ["silence", "noise", "click"])
def test_what_is_no_speech_has_an_end(transcriber: lw.Transcriber, kind: str) -> None:
    samples = np.zeros(7 * 16_000, np.float32)
    if kind == "noise":
        samples = np.random.default_rng(0).normal(0, 0.1, len(samples)).astype(np.float32)
    samples[10_000:10_010] = 0.9 if kind == "click" else samples[10_000:10_010]
    found = transcriber.transcribe(samples, word_times=True)
    assert found.seconds == 7.0
    require_ordered(found)


def test_an_adapter_that_there_is_not_is_said(transcriber: lw.Transcriber) -> None:
    with pytest.raises(lw.UserError, match="'c' is not among the adapters: a, b"):
        transcriber.use("c")
    with pytest.raises(lw.UserError, match="expected a run=…"):
        lw.Transcriber.from_model()


def test_a_file_in_pieces_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "noise.wav"
    soundfile.write(path, generator.normal(0, 0.1, 13 * 44_100 + 7), 44_100)
    whole = FileSound(path).slice(0.0, None)
    monkeypatch.setattr(sound, "PIECE_SECONDS", 4.0)
    pieces = list(FileSound(path).pieces())
    assert len(pieces) == 4
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
