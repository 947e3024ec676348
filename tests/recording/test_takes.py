"""Takes as microphones give them: what is kept, warned of and refused."""

import numpy as np
import pytest

from lora_whisper.recording.takes import LONGEST_SECONDS, judge
from tests.toy_speech import tone

RATE = 48_000
TEXT = "Habari za asubuhi."
AROUND = np.zeros(RATE // 4, np.float32)


def spoken(loudness: float = 1.0, noise: float = 1e-4) -> np.ndarray:
    """Two seconds of a sound with half a second of pause around it."""
    samples = np.concatenate([AROUND, loudness * tone(2.0, RATE), AROUND])
    hiss = np.random.default_rng(0).normal(0, noise, len(samples)).astype(np.float32)
    return samples + hiss


def test_a_good_take_is_kept_without_a_word() -> None:
    take = judge(spoken(), RATE, TEXT)
    assert (take.refusal, take.warnings) == (None, ())
    assert take.seconds == 2.5
    assert take.loudest_dbfs == pytest.approx(-9.03, abs=0.1)  # a sine at half of full scale


@pytest.mark.parametrize(
    ("samples", "warning"),
    [
        ((4 * spoken()).clip(-1, 1), "Too loud"),
        (spoken(0.01, 1e-6), "Very quiet"),
        (spoken(noise=0.05), "Noisy"),
        (spoken()[RATE // 2 :], "It begins in the midst"),
        (spoken()[: -RATE // 2], "It ends in the midst"),
    ],
)
def test_what_is_wrong_is_said_and_that_alone(samples: np.ndarray, warning: str) -> None:
    take = judge(samples, RATE, TEXT)
    assert take.refusal is None
    (found,) = take.warnings
    assert found.startswith(warning)


def test_a_sentence_that_cannot_have_been_read_in_that_time() -> None:
    (found,) = judge(spoken(), RATE, 10 * TEXT).warnings
    assert found.startswith("Shorter than the sentence")


@pytest.mark.parametrize(
    ("samples", "refusal"),
    [
        (np.zeros(0, np.float32), "Nothing was recorded"),
        (spoken()[:100], "Nothing was recorded"),
        (np.zeros(RATE, np.float32), "Nothing was heard"),
        (np.full(RATE, 0.3, np.float32), "Nothing was heard"),  # a constant is no sound
        (np.tile(spoken(), 13), f"may last {LONGEST_SECONDS:.0f} s"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused(samples: np.ndarray, refusal: str) -> None:
    assert refusal in (judge(samples, RATE, TEXT).refusal or "")
