"""Pauses that were put into tones and noise, at every level."""

import numpy as np
import pytest

from lora_whisper.data.sound.pauses import find_pauses
from lora_whisper.model.rates import SAMPLING_RATE
from tests.toy_speech import tone


def silence(seconds: float, level_db: float = -70.0) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=round(seconds * SAMPLING_RATE))
    return (10 ** (level_db / 20) * noise).astype(np.float32)


@pytest.mark.parametrize("gain", [1.0, 0.01])
@pytest.mark.parametrize("floor_db", [-200.0, -70.0, -40.0])
def test_pauses_are_found_where_they_were_put(gain: float, floor_db: float) -> None:
    pause = silence(0.5, floor_db)
    clip = np.concatenate([tone(2.0), pause, tone(1.0), silence(0.2, floor_db), tone(1.0), pause])
    found = find_pauses(gain * clip)
    np.testing.assert_allclose(found, [[2.0, 2.5], [4.7, 5.2]], atol=0.03)


def test_a_click_does_not_end_a_pause() -> None:
    clip = np.concatenate([tone(1.0), silence(0.3), tone(0.05), silence(0.3), tone(1.0)])
    np.testing.assert_allclose(find_pauses(clip), [[1.0, 1.65]], atol=0.03)


def test_what_has_no_pauses() -> None:
    assert find_pauses(np.zeros(0, np.float32)).shape == (0, 2)
    assert find_pauses(np.zeros(100, np.float32)).shape == (0, 2)
    assert find_pauses(np.zeros(SAMPLING_RATE, np.float32)).shape == (0, 2)
    assert find_pauses(tone(3.0)).shape == (0, 2)
    assert find_pauses(silence(3.0)).shape == (0, 2)


def test_digital_zeros_are_not_the_floor_of_a_recording() -> None:
    """A clip that somebody has edited: its own quiet stays quiet beside the zeros."""
    room = silence(0.5, -60.0)
    clip = np.concatenate([np.zeros(SAMPLING_RATE, np.float32), tone(2.0), room, tone(1.0)])
    np.testing.assert_allclose(find_pauses(clip), [[0.0, 1.0], [3.0, 3.5]], atol=0.03)
