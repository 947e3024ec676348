"""Whether one model is better than another on the same utterances, or only luckier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lora_whisper.evaluation.resampling import (
    Interval,
    bootstrap_interval,
    chunks,
    sampling_units,
)
from lora_whisper.evaluation.rows import ScoredRow

Verdict = Literal["better", "worse", "no difference shown"]

SIGNIFICANCE = 0.05
FLIPS = 10_000  # 1,000 would leave a p-value of 0.05 uncertain by ±0.014, and verdicts to the seed
EXACT_UNITS = 13  # up to here there are no more ways to exchange outputs than would be drawn


@dataclass(frozen=True)
class Comparison:
    """One model beside another; the verdict is on the former."""

    difference: float  # its WER less that of the other, as a fraction: below 0 it has fewer errors
    ci95: Interval  # of the difference
    p_value: float  # two-sided
    verdict: Verdict
    resampled: Literal["speakers", "utterances"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self) | {"ci95": list(self.ci95)}


def compare(
    against: Sequence[ScoredRow], rows: Sequence[ScoredRow], samples: int, seed: int
) -> Comparison:
    """Compare what two models made of the same utterances, in the same order.

    The verdict is that of a paired test at 5 %. If the models were equally good, it would be chance
    which of them gave which output, so outputs are exchanged at random, a speaker's (or an
    utterance's) all together, and the p-value says how often that makes a difference as large as
    the one that was found: approximate randomization, Riezler and Maxwell 2005,
    https://aclanthology.org/W05-0908. Where one model suits these speakers and the other one those,
    but neither is better on the whole, 2 to 5 of 100 made-up pairs are told apart by speakers and
    39 by utterances (`benchmarks/evaluation_resampling.py`). The interval is by drawing the same
    units for both models; it says how large the difference may be, and near 5 % it need not agree
    with the test.

    With fewer than six utterances, or when fewer than six differ, no difference can be shown.

    Args:
        against: rows of the model that the other one is measured by, such as the base.
        samples: of the bootstrap; the test has its own number, `FLIPS`.
    """
    pairs = list(zip(against, rows, strict=True))
    assert all(
        (one.row, one.reference_normalized) == (other.row, other.reference_normalized)
        for one, other in pairs
    ), "the same utterances, in the same order"
    units = sampling_units([row.speaker for row in rows])
    more_errors = units.sums([other.errors - one.errors for one, other in pairs])
    words = units.sums([row.reference_words for row in rows])
    difference = float(more_errors.sum() / max(words.sum(), 1))
    p_value = randomization_p_value(more_errors, seed)
    return Comparison(
        difference=difference,
        ci95=bootstrap_interval(more_errors, words, samples, seed),
        p_value=p_value,
        verdict=_verdict(difference, p_value),
        resampled=units.resampled,
    )


def _verdict(difference: float, p_value: float) -> Verdict:
    if p_value >= SIGNIFICANCE:
        return "no difference shown"
    return "better" if difference < 0 else "worse"


def randomization_p_value(differences: np.ndarray, seed: int) -> float:
    """How often the sum is as far from 0 as it is, when the sign of each difference is chance.

    Both models have the same reference words, so that to exchange their outputs for a unit is to
    flip the sign of its difference in errors. Every way to do so is counted where they are few;
    else `FLIPS` are drawn, and the one that was found is counted among them, without which the
    p-value would be too small (Phipson and Smyth 2010, https://doi.org/10.2202/1544-6115.1585).

    Args:
        differences: (units,) whole numbers.
    """
    telling = differences[differences != 0]  # the sign of 0 does not matter
    found = abs(telling.sum())
    if len(telling) <= EXACT_UNITS:
        ways = np.arange(2 ** len(telling))
        flipped = ways[:, None] >> np.arange(len(telling)) & 1
        return float(np.mean(_sums(telling, flipped) >= found))
    generator = np.random.default_rng(seed)
    as_far = 0
    for rows in chunks(FLIPS, len(telling)):
        flipped = generator.integers(2, size=(rows, len(telling)), dtype=np.int8)
        as_far += int(np.count_nonzero(_sums(telling, flipped) >= found))
    return (1 + as_far) / (1 + FLIPS)


def _sums(differences: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """(units,), (ways, units) → (ways,) distances from 0; exact, since all are whole numbers."""
    return np.abs(differences.sum() - 2 * (flipped.astype(float) @ differences))
