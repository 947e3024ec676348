"""Sound in which nobody speaks."""

from __future__ import annotations

import numpy as np
import pytest

from lora_whisper.data.audio import read_audio
from lora_whisper.evaluation.probes import KINDS, make_probes, probed
from lora_whisper.model.rates import SAMPLING_RATE


def test_each_kind_is_made_at_lengths_up_to_a_window_and_always_the_same() -> None:
    probes = make_probes(3, 5.0, "sw", "transcribe", seed=1)
    assert len(probes) == 3 * len(KINDS)
    assert [round(one.duration_seconds, 2) for one in probes[:3]] == [1.0, 3.0, 5.0]
    again = make_probes(3, 5.0, "sw", "transcribe", seed=1)
    for one, other in zip(probes, again, strict=True):
        heard = read_audio(one.audio)
        assert np.array_equal(heard, read_audio(other.audio))
        assert len(heard) == round(one.duration_seconds * SAMPLING_RATE)
        assert (one.text, one.language, one.task) == ("", "sw", "transcribe")


def test_they_sound_as_they_are_called() -> None:
    probes = make_probes(1, 4.0, "en", "transcribe", seed=1)
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
    probes = make_probes(2, 2.0, "en", "transcribe", seed=1)
    texts = ["Thank you.", "...", "", "", "♪", "la la", "", ""]
    found = probed(probes, texts)
    assert {kind: (one.clips, one.with_text) for kind, one in found.items()} == {
        "silence": (2, 1),
        "white": (2, 0),
        "tones": (2, 1),
        "breathing": (2, 0),
    }
    assert found["silence"].texts == ("Thank you.",)
