"""SciPy's permutation test is the authority; and what is planted is found, what is luck is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lora_whisper.evaluation import significance
from lora_whisper.evaluation.significance import (
    EXACT_UNITS,
    FLIPS,
    LEAST_SPEAKERS,
    Comparison,
    bootstrap,
    bootstrap_interval,
    compare,
    randomization_interval,
    randomization_p_value,
    sampling_units,
)
from tests.evaluation.toy_rows import chance_errors, with_errors


def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def scipys_p_value(differences: np.ndarray, resamples: int) -> float:
    found = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda one, other, axis: (one - other).sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        alternative="two-sided",
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("units", [2, 6, 11])
def test_the_exact_test_equals_scipys(units: int, seed: int) -> None:
    differences = np.random.default_rng(seed).integers(-3, 5, units).astype(float)
    assert randomization_p_value(differences, seed=0) == pytest.approx(
        min(1.0, scipys_p_value(differences, resamples=10**6))
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_drawn_test_is_near_scipys(seed: int) -> None:
    differences = np.random.default_rng(seed).integers(-4, 6, 60).astype(float)
    ours = randomization_p_value(differences, seed=0)
    assert ours == pytest.approx(scipys_p_value(differences, resamples=20_000), abs=0.02)


def test_a_p_value_is_never_zero() -> None:
    assert randomization_p_value(np.full(200, 3.0), seed=0) == 1 / (1 + FLIPS)
    assert randomization_p_value(np.full(EXACT_UNITS, 3.0), seed=0) == 2 / 2**EXACT_UNITS


def test_three_tenths_of_a_point_on_80_sentences_are_no_gain() -> None:
    """Of 960 words 100 were wrong and 97 are: two sentences better by two, one worse by one."""
    before = [1] * 60 + [2] * 20
    after = before.copy()
    after[70], after[75], after[3] = 0, 0, 2
    result = compare(with_errors(before, 12), with_errors(after, 12), seed=0)
    assert result.difference == pytest.approx(-0.003, abs=0.0002)
    assert result.verdict == "no difference shown"
    assert result.p_value == 4 / 8  # as far or farther: all three flipped or none, or the last only
    assert result.ci95[0] < result.difference < 0 <= result.ci95[1]


def test_a_large_gain_is_found() -> None:
    before = chance_errors(80, 10, 0.4, generator())
    after = [max(0, wrong - 2) for wrong in before]
    result = compare(with_errors(before, 10), with_errors(after, 10), seed=0)
    assert result.verdict == "better"
    assert result.p_value == 1 / (1 + FLIPS)
    assert result.ci95[1] < 0


def test_the_other_way_round_it_is_worse() -> None:
    before = with_errors(chance_errors(40, 10, 0.4, generator()), 10)
    after = with_errors(chance_errors(40, 10, 0.1, generator()), 10)
    better, worse = compare(before, after, seed=0), compare(after, before, seed=0)
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert worse.difference == -better.difference
    assert worse.p_value == better.p_value
    assert worse.ci95 == pytest.approx((-better.ci95[1], -better.ci95[0]))


def test_the_same_texts_differ_in_nothing() -> None:
    many = with_errors([1, 2, 0, 3] * 5, 10)
    same = Comparison(0.0, (0.0, 0.0), 1.0, "no difference shown", "utterances")
    assert compare(many, many, seed=0) == same
    rows = with_errors([1, 2, 0, 3], 10)
    assert compare(rows, rows, seed=0) == Comparison(
        0.0, None, 1.0, "too few to tell", "utterances"
    )


def test_of_five_utterances_nothing_can_be_shown() -> None:
    result = compare(with_errors([9] * 5, 10), with_errors([0] * 5, 10), seed=0)
    assert (result.p_value, result.verdict) == (2 / 2**5, "too few to tell")
    assert result.ci95 is None, "an interval without 0 would say that there is a difference"
    result = compare(with_errors([9] * 6, 10), with_errors([0] * 6, 10), seed=0)
    assert (result.p_value, result.verdict) == (2 / 2**6, "better")


def test_one_speaker_who_is_heard_better_is_no_proof() -> None:
    """Twenty utterances of one of eight speakers: much as utterances, little as speakers."""
    before, after = [3] * 160, [3] * 140 + [1] * 20
    apart = compare(with_errors(before, 10), with_errors(after, 10), seed=0)
    together = compare(
        with_errors(before, 10, speakers=8), with_errors(after, 10, speakers=8), seed=0
    )
    assert (apart.verdict, apart.resampled) == ("better", "utterances")
    assert (together.verdict, together.resampled) == ("no difference shown", "speakers")
    assert together.difference == apart.difference == -40 / 1600


@pytest.mark.parametrize("speakers", [None, 12])
def test_models_that_are_equally_good_differ_in_one_of_twenty_tests(speakers: int | None) -> None:
    """A speaker's difficulty is shared by both models; who wins is chance."""
    chance, found, tests = np.random.default_rng(8), 0, 400
    for _ in range(tests):
        difficulty = chance.beta(2, 8, speakers or 60).repeat(60 // (speakers or 60))
        one, other = (chance.binomial(10, difficulty) for _ in range(2))
        differences = (other - one).astype(float)
        if speakers is not None:
            differences = differences.reshape(speakers, -1).sum(axis=1)
        found += randomization_p_value(differences, seed=1) < 0.05
    assert 0.03 * tests < found < 0.07 * tests


@pytest.mark.parametrize("units", [6, 9, 14, 30])
def test_interval_and_test_are_of_one_mind(units: int) -> None:
    """0 is in the interval where no difference is shown, and only there."""
    chance = np.random.default_rng(units)
    shown = 0
    for seed in range(25):
        before, after = chance.binomial(10, 0.4, units), chance.binomial(10, 0.3, units)
        found = compare(with_errors(before, 10), with_errors(after, 10), seed)
        assert found.ci95 is not None
        low, high = found.ci95
        assert low <= found.difference <= high
        assert (
            (low <= 0 <= high)
            == (found.verdict == "no difference shown")
            == (found.p_value >= 0.05)
        )
        shown += found.verdict != "no difference shown"
    assert 0 < shown < 25


def test_the_interval_is_what_the_test_does_not_reject() -> None:
    """SciPy's test of every shifted difference, on a grid of shifts."""
    differences, words = np.array([-3.0, 1, -2, -4, 0, 2, -5, -1]), np.array([9.0] * 8)
    low, high = randomization_interval(differences, words, seed=0)
    for shift in np.linspace(low - 0.1, high + 0.1, 41):
        is_kept = scipys_p_value(differences - shift * words, 10**6) >= 0.05
        assert is_kept == (low <= shift <= high) or min(abs(shift - low), abs(shift - high)) < 1e-9


@pytest.mark.parametrize("units", [6, 12])
def test_what_is_called_95_percent_covers_about_that(units: int) -> None:
    """The bootstrap's percentiles cover 85 % with 6 units."""
    chance, covered, sets = np.random.default_rng(3), 0, 300
    words = np.full(units, 10.0)
    for _ in range(sets):
        differences = chance.binomial(10, 0.3, units) - chance.binomial(10, 0.4, units)
        low, high = randomization_interval(differences.astype(float), words, seed=0)
        covered += low <= -0.1 <= high
    assert 0.92 < covered / sets < 0.99


def test_the_verdict_does_not_hang_on_the_seed() -> None:
    before = with_errors(chance_errors(100, 10, 0.3, generator()), 10)
    after = with_errors(chance_errors(100, 10, 0.27, generator()), 10)
    values = [compare(before, after, seed=seed).p_value for seed in range(4)]
    assert max(values) - min(values) < 0.02


def test_other_utterances_are_our_mistake() -> None:
    rows = with_errors([1, 2, 3], 10)
    with pytest.raises(AssertionError, match="the same utterances"):
        compare(rows, rows[::-1], seed=0)


# ── SciPy's bootstrap is the authority; that speakers are drawn whole is shown on planted ones ───


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
    monkeypatch.setattr(significance, "CELLS", 50 * 7)
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
