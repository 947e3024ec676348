"""Where speech is found, against Silero's own code and planted places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lora_whisper as lw
from lora_whisper.transcription import speech as speech_module
from lora_whisper.transcription.sound import HeldSound
from lora_whisper.transcription.speech import FRAME_SECONDS, SpeechDetector, joined, spoken

RATE = 16_000


class InPieces(HeldSound):
    def pieces(self):
        yield from np.array_split(self.samples, 7)


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    pytest.importorskip("silero_vad")
    return SpeechDetector(5.0)


def test_probabilities_are_silero_s_own(detector: SpeechDetector, speech: list[np.ndarray]) -> None:
    from silero_vad.sequence_vad import SileroVADSequence

    samples = np.concatenate([np.zeros(20_000, np.float32), *speech, *speech])
    expected = SileroVADSequence(str(speech_module.model_file())).audio_forward(samples)
    (*found,) = detector.probabilities(InPieces(samples))
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)


def test_what_is_spoken_between_silences_is_found_and_heard(
    detector: SpeechDetector, transcriber: lw.Transcriber, speech: list[np.ndarray]
) -> None:
    quiet = np.random.default_rng(0).normal(0, 1e-4, 8 * RATE).astype(np.float32)
    samples = np.concatenate([quiet, speech[0], quiet, speech[1], quiet])
    begins = [8.0, 16.0 + len(speech[0]) / RATE]
    spans = detector(HeldSound(samples))
    assert len(spans) == 2
    for (start, end), begin, clip in zip(spans, begins, speech, strict=False):
        assert begin - 0.4 < start < begin + 0.4
        assert begin + len(clip) / RATE - 0.7 < end < begin + len(clip) / RATE + 0.5
    options = {"language": "en", "temperature_fallback": False}
    steps: list[float] = []
    found = transcriber.transcribe(
        samples, vad=True, word_times=True, on_progress=steps.append, **options
    )
    parts = [samples[round(start * RATE) : round(end * RATE)] for start, end in spans]
    texts = [transcriber.transcribe(part, **options).text for part in parts]
    assert found.text == " ".join(texts)
    assert steps[-1] == pytest.approx(found.seconds, abs=0.01)
    for segment, (start, end) in zip(found.segments, spans, strict=True):
        assert start <= segment.start_seconds <= segment.end_seconds <= end + 0.01
        times = [one for w in segment.words for one in (w.start_seconds, w.end_seconds)]
        assert times == sorted(times)
        assert segment.start_seconds <= times[0]
        assert times[-1] <= segment.end_seconds
    assert transcriber.transcribe(quiet, vad=True, **options).text == ""


def probabilities(*stretches: tuple[float, float]) -> np.ndarray:
    """(seconds, probability) each."""
    return np.concatenate(
        [np.full(round(seconds / FRAME_SECONDS), value) for seconds, value in stretches]
    ).astype(np.float32)


def test_short_silences_part_nothing_and_short_sounds_are_none() -> None:
    found = spoken(
        probabilities((1, 0), (1, 0.9), (0.3, 0), (1, 0.9), (2, 0), (0.1, 0.9), (2, 0), (1, 0.9))
    )
    assert len(found) == 2
    assert found[0] == pytest.approx((0.8, 3.5), abs=0.05)
    assert found[1][1] == pytest.approx(8.4, abs=0.1)


def test_stretches_fit_into_a_window_and_are_cut_where_speech_is_least_probable() -> None:
    chances = probabilities((6, 0.9), (0.1, 0.6), (14, 0.9))
    found = joined([(0.0, 20.1)], chances, 8.0)
    assert found[0] == pytest.approx((0.0, 6.0), abs=0.05)
    assert all(0 < end - start <= 8.0 + 1e-9 for start, end in found)
    assert [start for start, _ in found[1:]] == [end for _, end in found[:-1]]
    assert joined([(0.0, 1.0), (2.0, 3.0), (7.5, 9.0)], chances, 8.0) == [(0.0, 3.0), (7.5, 9.0)]


def test_a_missing_package_is_said(
    transcriber: lw.Transcriber, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(speech_module, "find_spec", lambda name: None)
    monkeypatch.setattr(transcriber, "_detector", None)
    with pytest.raises(lw.UserError, match=r"pip install 'lora-whisper\[vad\]'"):
        transcriber.transcribe(np.zeros(RATE, np.float32), vad=True)
