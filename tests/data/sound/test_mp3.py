"""What is encoded for a browser is what another decoder hears."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from lora_whisper.data.sound.mp3 import LONGEST_SECONDS, encode_mp3
from lora_whisper.model.rates import SAMPLING_RATE


def tone(seconds: float, hertz: float) -> np.ndarray:
    moments = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    return (0.5 * np.sin(2 * np.pi * hertz * moments)).astype(np.float32)


def decoded(file: bytes) -> np.ndarray:
    """(samples,) as FFmpeg's libraries hear it."""
    with av.open(io.BytesIO(file)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec.name[:3], stream.rate, stream.channels) == ("mp3", SAMPLING_RATE, 1)
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])


def test_the_tone_stays_the_tone() -> None:
    heard = decoded(encode_mp3(tone(2.0, 440.0)))
    assert len(heard) / SAMPLING_RATE == pytest.approx(2.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(heard))
    assert np.argmax(spectrum) * SAMPLING_RATE / len(heard) == pytest.approx(440.0, abs=1.0)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.05)


def test_ten_seconds_are_thirty_kilobytes() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * SAMPLING_RATE).astype(np.float32)
    assert len(encode_mp3(noise)) == pytest.approx(30_000, rel=0.05)


def test_a_long_recording_is_cut() -> None:
    heard = decoded(encode_mp3(tone(LONGEST_SECONDS + 5, 440.0)))
    assert len(heard) / SAMPLING_RATE == pytest.approx(LONGEST_SECONDS, abs=0.1)
