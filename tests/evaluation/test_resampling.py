"""SciPy's bootstrap is the authority; that speakers are drawn whole is shown on planted ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lora_whisper.evaluation import resampling
from lora_whisper.evaluation.resampling import (
    LEAST_SPEAKERS,
    bootstrap,
    bootstrap_interval,
    sampling_units,
)


def random_utterances(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors and reference words."""
    generator = np.random.default_rng(1)
    words = generator.integers(1, 20, count)
    return np.floor(words * generator.random(count) / 2), words.astype(float)


def test_interval_equals_scipys_and_repeats_with_its_seed() -> None:
    errors, words = random_utterances(300)
    interval = bootstrap_interval(errors, words, 2_000, seed=3)
    assert interval == bootstrap_interval(errors, words, 2_000, seed=3)
    assert interval != bootstrap_interval(errors, words, 2_000, seed=4)
    theirs = stats.bootstrap(
        (errors, words),
        lambda errors, words, axis: errors.sum(axis) / words.sum(axis),
        paired=True,
        n_resamples=2_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval == pytest.approx((theirs.low, theirs.high), abs=0.004)
    assert interval[0] < errors.sum() / words.sum() < interval[1]


def test_rates_do_not_depend_on_how_many_are_drawn_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors, words = random_utterances(50)
    at_once = bootstrap(errors, words, 200, seed=0)
    assert at_once.shape == (200,)
    monkeypatch.setattr(resampling, "CELLS", 50 * 7)
    np.testing.assert_array_equal(bootstrap(errors, words, 200, seed=0), at_once)


def test_nothing_to_divide_by() -> None:
    assert bootstrap_interval(np.zeros(3), np.zeros(3), 100, seed=0) == (0.0, 0.0)
    assert bootstrap_interval(np.array([2.0]), np.zeros(1), 100, seed=0) == (2.0, 2.0)


def test_utterances_of_a_speaker_are_one_unit() -> None:
    units = sampling_units([name for name in "abcdefg" for _ in range(3)])
    assert units.resampled == "speakers"
    assert units.sums([1] * 20 + [5]).tolist() == [3, 3, 3, 3, 3, 3, 7]
    mixed = sampling_units([*"abcdefg"] * 3)
    assert mixed.sums(range(21)).tolist() == [21, 24, 27, 30, 33, 36, 39]


@pytest.mark.parametrize(
    "speakers",
    [
        [None] * 30,
        [*"abcde"] * 6,  # with five, the paired test could not reach 5 %
        [*"abcdefgh", None],  # of whom the last one is, nobody knows
    ],
)
def test_utterances_are_drawn_where_speakers_are_few_or_not_known(
    speakers: list[str | None],
) -> None:
    units = sampling_units(speakers)
    assert units.resampled == "utterances"
    assert units.numbers.tolist() == list(range(len(speakers)))


def test_six_speakers_are_the_least_that_the_paired_test_can_tell() -> None:
    """All of n units better: the two ways that far from 0 are the one found and its mirror."""
    smallest = [2 / 2**count for count in (LEAST_SPEAKERS - 1, LEAST_SPEAKERS)]
    assert smallest[1] < 0.05 < smallest[0]
    assert sampling_units([*"abcdef"]).resampled == "speakers"


def test_an_interval_over_utterances_is_too_narrow_where_speakers_differ() -> None:
    """30 of them, 20 utterances of each: how often does what is called 95 % cover the truth?"""
    generator = np.random.default_rng(0)
    covered = {"speakers": 0, "utterances": 0}
    sets = 200
    for _ in range(sets):
        rates = generator.beta(2, 8, 30).repeat(20)  # 30 speakers, 20 utterances of each
        errors, words = generator.binomial(10, rates), np.full(600, 10.0)
        for name in covered:
            speakers = [str(number // 20) for number in range(600)] if name == "speakers" else None
            units = sampling_units(speakers or [None] * 600)
            low, high = bootstrap_interval(units.sums(errors), units.sums(words), 200, seed=0)
            covered[name] += low <= 0.2 <= high
    assert covered["speakers"] > 0.88 * sets
    assert covered["utterances"] < 0.6 * sets
