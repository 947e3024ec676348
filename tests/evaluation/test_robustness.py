"""Each condition is what it is called, measured; and every model hears the same sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lora_whisper.config import Condition
from lora_whisper.data.audio import read_audio
from lora_whisper.data.augmentation import speech_power
from lora_whisper.evaluation.robustness import (
    KINDS,
    SOUNDS,
    change_for,
    chosen_conditions,
    no_speech_clips,
    no_speech_tests,
    padding_of,
)
from lora_whisper.model.published import SAMPLING_RATE
from tests.evaluation.toy_decoder import utterance

SPOKEN = utterance(Path("a.wav"), 2.0)


def speech(seconds: float = 2.0, low: float = 200.0, high: float = 6_500.0) -> np.ndarray:
    """Two tones that come and go, one below and one above what a telephone lets through."""
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (low, 1_000.0, high))
    return (0.1 * tones * (np.sin(2 * np.pi * 2 * time) > 0)).astype(np.float32)


def heard(condition: str, samples: np.ndarray, seed: int = 1, spoken=SPOKEN) -> np.ndarray:
    change = change_for(condition, seed)
    assert change is not None
    return change(samples, spoken)


def level(samples: np.ndarray, hertz: float) -> float:
    """Of one frequency, in dB."""
    spectrum = np.abs(np.fft.rfft(samples)) / len(samples)
    place = round(hertz * len(samples) / SAMPLING_RATE)
    return float(20 * np.log10(spectrum[place - 2 : place + 3].max() + 1e-9))


def test_clean_is_left_alone() -> None:
    assert change_for("clean", 1) is None


@pytest.mark.parametrize("snr_db", [20, 10, 5, 0])
def test_noise_is_so_far_below_speech(snr_db: int) -> None:
    samples = speech()
    noise = heard(f"noise-{snr_db}db", samples) - samples
    found = 10 * np.log10(speech_power(samples) / np.mean(np.square(noise, dtype=np.float64)))
    assert found == pytest.approx(snr_db, abs=0.01)


def test_louder_noise_is_the_same_noise() -> None:
    samples = speech()
    soft, loud = (heard(f"noise-{snr_db}db", samples) - samples for snr_db in (20, 0))
    assert np.corrcoef(soft, loud)[0, 1] > 0.999


def test_every_model_hears_the_same_and_every_utterance_and_seed_another() -> None:
    samples = speech()
    first = heard("noise-5db", samples)
    assert np.array_equal(first, heard("noise-5db", samples))
    assert not np.allclose(first, heard("noise-5db", samples, seed=2))
    other = utterance(Path("b.wav"), 2.0)
    assert not np.allclose(first, heard("noise-5db", samples, spoken=other))


@pytest.mark.parametrize(
    ("condition", "kept", "lost"), [("telephone", 1_000, 6_500), ("8khz", 200, 6_500)]
)
def test_a_narrow_line_takes_what_lies_beside_it(condition: str, kept: int, lost: int) -> None:
    samples = speech()
    narrow = heard(condition, samples)
    assert len(narrow) == len(samples)
    assert level(narrow, kept) == pytest.approx(level(samples, kept), abs=1)
    assert level(narrow, lost) < level(samples, lost) - 30


def test_a_telephone_takes_the_bass_as_well() -> None:
    samples = speech()
    assert level(heard("telephone", samples), 200) < level(samples, 200) - 6


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    changed = heard(f"speed-{speed}", speech())
    assert len(changed) == pytest.approx(2 * SAMPLING_RATE / speed, abs=2)
    assert level(changed, 1_000 * speed) > level(changed, 1_000) + 10


def test_a_room_goes_on_sounding_in_the_pauses() -> None:
    samples = speech()
    room = heard("reverberation", samples)
    pause = slice(round(0.30 * SAMPLING_RATE), round(0.45 * SAMPLING_RATE))
    assert len(room) == len(samples)
    assert not samples[pause].any()
    assert np.abs(room[pause]).mean() > 0.001


@pytest.mark.parametrize("condition", SOUNDS)
def test_silence_stays_finite(condition: str) -> None:
    changed = heard(condition, np.zeros(8_000, np.float32))
    assert np.isfinite(changed).all()
    assert changed.dtype == np.float32


def test_all_of_them_or_some_in_one_order() -> None:
    assert chosen_conditions(("all",), "sound") == (*SOUNDS, "padded-log-mel")
    given: tuple[Condition, ...] = ("telephone", "noise-5db", "clean")
    assert chosen_conditions(given, "sound") == ("noise-5db", "telephone")
    assert chosen_conditions((), "sound") == ()


def test_the_other_padding_is_a_condition_and_the_own_is_none() -> None:
    both: tuple[Condition, ...] = ("padded-sound", "padded-log-mel")
    assert chosen_conditions(both, "sound") == ("padded-log-mel",)
    assert chosen_conditions(both, "log-mel") == ("padded-sound",)
    assert padding_of("padded-log-mel", "sound") == "log-mel"
    assert padding_of("noise-5db", "sound") == padding_of("clean", "sound") == "sound"
    assert change_for("padded-log-mel", 1) is None, "the sound itself is left alone"


# ── Sound in which nobody speaks ────────────────────────────────────────────────────────────────


def test_each_kind_is_made_at_lengths_up_to_a_window_and_always_the_same() -> None:
    probes = no_speech_clips(3, 5.0, "sw", "transcribe", seed=1)
    assert len(probes) == 3 * len(KINDS)
    assert [round(one.duration_seconds, 2) for one in probes[:3]] == [1.0, 3.0, 5.0]
    again = no_speech_clips(3, 5.0, "sw", "transcribe", seed=1)
    for one, other in zip(probes, again, strict=True):
        heard = read_audio(one.audio)
        assert np.array_equal(heard, read_audio(other.audio))
        assert len(heard) == round(one.duration_seconds * SAMPLING_RATE)
        assert (one.text, one.language, one.task) == ("", "sw", "transcribe")


def test_they_sound_as_they_are_called() -> None:
    probes = no_speech_clips(1, 4.0, "en", "transcribe", seed=1)
    sound = {one.columns["kind"]: read_audio(one.audio) for one in probes}
    assert not sound["silence"].any()
    spectra = {
        kind: np.abs(np.fft.rfft(samples)) ** 2 for kind, samples in sound.items() if samples.any()
    }
    peaks = {kind: power.max() / power.mean() for kind, power in spectra.items()}
    assert peaks["tones"] > 100 * peaks["white"]  # a tone is a line, white noise is flat
    low = {kind: power[: len(power) // 8].sum() / power.sum() for kind, power in spectra.items()}
    assert low["breathing"] > 2 * low["white"] == pytest.approx(2 / 8, rel=0.1)


def test_what_was_written_is_counted_by_kind_and_punctuation_is_nothing() -> None:
    probes = no_speech_clips(2, 2.0, "en", "transcribe", seed=1)
    texts = ["Thank you.", "...", "", "", "♪", "la la", "", ""]
    found = no_speech_tests(probes, texts)
    assert {kind: (one.clips, one.with_text) for kind, one in found.items()} == {
        "silence": (2, 1),
        "white": (2, 0),
        "tones": (2, 1),
        "breathing": (2, 0),
    }
    assert found["silence"].texts == ("Thank you.",)
