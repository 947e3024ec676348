"""Intervals and verdicts: how long they take, and whether they hold what they promise.

    python -m benchmarks.evaluation_resampling

Times are processor seconds (other programs on the machine do not count, and one thread does the
work) of the fastest of several rounds, on 10,000 made-up utterances of 10 words each, with 1,000
samples: the interval alone, over utterances and over 500 speakers; the paired test with its
interval; a whole score, which aligns words and characters of texts as they are written and
normalized, for two intervals; and the score with its 500 speakers as groups.

Promises are counted on made-up test sets of which the truth is known: each speaker's WER is drawn
from a beta distribution with a mean of 20 % and a standard deviation of 12 %, and each of 20
utterances has its errors by chance. An interval of 95 % should cover the 20 % in 95 of 100 sets.
Of two models that are equally good on the whole, though one is better for this speaker and one for
that (a fifth of the speaker's WER, by chance), the test at 5 % should tell 5 of 100 pairs apart.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.results import write_result
from lora_whisper.evaluation.results import ScoredUtterance
from lora_whisper.evaluation.score import score, score_utterance
from lora_whisper.evaluation.significance import (
    SIGNIFICANCE,
    bootstrap_interval,
    compare,
    randomization_p_value,
    sampling_units,
)

UTTERANCES, SPEAKERS, WORDS, SAMPLES = 10_000, 500, 10, 1_000
ROUNDS = 5
SETS, TESTS, UTTERANCES_EACH = 2_000, 2_000, 20
BETA = (2.0, 8.0)  # of the speakers' error rates
LIKING = 0.2  # how much better or worse a model is for a speaker, as a share of errors
SPEAKERS_IN_SETS = (6, 12, 40)


def main() -> None:
    result = {
        "utterances": UTTERANCES,
        "speakers": SPEAKERS,
        "samples": SAMPLES,
        **seconds(),
        "coverage_of_95_percent": {
            f"{count} speakers": coverage(count) for count in SPEAKERS_IN_SETS
        },
        "told_apart_at_5_percent": {
            f"{count} speakers": told_apart(count) for count in SPEAKERS_IN_SETS
        },
    }
    command = "python -m benchmarks.evaluation_resampling"
    path = write_result("evaluation_resampling", command, result)
    print(json.dumps(result, indent=2))
    print(f"written to {path}")


# ── time ─────────────────────────────────────────────────────────────────────────────────────


def seconds() -> dict[str, float]:
    generator = np.random.default_rng(0)
    before, after = made_up(generator, rate=0.2), made_up(generator, rate=0.18)
    names = [row.speaker for row in before]
    unknown = nameless(before), nameless(after)
    return {
        "interval_over_utterances_seconds": fastest(lambda: interval(before, [None] * UTTERANCES)),
        "interval_over_speakers_seconds": fastest(lambda: interval(before, names)),
        "paired_test_over_utterances_seconds": fastest(lambda: compare(*unknown, seed=0)),
        "paired_test_over_speakers_seconds": fastest(lambda: compare(before, after, seed=0)),
        "score_seconds": fastest(lambda: score(before, SAMPLES, seed=0)),
        "score_with_groups_seconds": fastest(
            lambda: score(before, SAMPLES, seed=0, groups={"speaker": [str(one) for one in names]})
        ),
    }


def made_up(generator: np.random.Generator, rate: float) -> list[ScoredUtterance]:
    """Rows with words wrong by chance; the utterances of a speaker come one after the other."""
    reference = " ".join(["nyumba"] * WORDS)
    return [
        score_utterance(
            f"made-up:{number}",
            "sw",
            reference,
            " ".join(["nyumbani"] * wrong + ["nyumba"] * (WORDS - wrong)),
            speaker=f"speaker {number * SPEAKERS // UTTERANCES}",
        )
        for number, wrong in enumerate(generator.binomial(WORDS, rate, UTTERANCES))
    ]


def nameless(rows: list[ScoredUtterance]) -> list[ScoredUtterance]:
    return [dataclasses.replace(row, speaker=None) for row in rows]


def interval(rows: list[ScoredUtterance], speakers: list[str | None]) -> tuple[float, float]:
    units = sampling_units(speakers)
    errors = units.sums([row.errors for row in rows])
    return bootstrap_interval(
        errors, units.sums([row.reference_words for row in rows]), SAMPLES, seed=0
    )


def fastest(call: Callable[[], Any]) -> float:
    """Processor seconds of the round that other programs disturbed least."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return round(min(times), 3)


# ── promises ─────────────────────────────────────────────────────────────────────────────────


def coverage(speakers: int) -> dict[str, float]:
    """Share of test sets whose interval covers the truth, by what is drawn for it."""
    generator = np.random.default_rng(speakers)
    truth = BETA[0] / sum(BETA)
    covered = {"drawing_speakers": 0, "drawing_utterances": 0}
    for _ in range(SETS):
        rates = generator.beta(*BETA, speakers).repeat(UTTERANCES_EACH)
        errors = generator.binomial(WORDS, rates).astype(float)
        by_speaker = errors.reshape(speakers, UTTERANCES_EACH).sum(axis=1)
        for name, sums in zip(covered, (by_speaker, errors), strict=True):
            words = np.full(len(sums), float(WORDS * speakers * UTTERANCES_EACH // len(sums)))
            low, high = bootstrap_interval(sums, words, SAMPLES, seed=0)
            covered[name] += low <= truth <= high
    return {name: round(count / SETS, 3) for name, count in covered.items()}


def told_apart(speakers: int) -> dict[str, float]:
    """Share of pairs of equally good models that the paired test tells apart."""
    generator = np.random.default_rng(speakers)
    found = {"by_speakers": 0, "by_utterances": 0}
    for _ in range(TESTS):
        rates = generator.beta(*BETA, speakers)
        liking = generator.normal(0, LIKING, speakers)
        one, other = (
            generator.binomial(WORDS, np.clip(rates * share, 0, 1).repeat(UTTERANCES_EACH))
            for share in (1 + liking, 1 - liking)
        )
        differences = (other - one).astype(float)
        by_speaker = differences.reshape(speakers, UTTERANCES_EACH).sum(axis=1)
        for name, units in zip(found, (by_speaker, differences), strict=True):
            found[name] += randomization_p_value(units, seed=0) < SIGNIFICANCE
    return {name: round(count / TESTS, 3) for name, count in found.items()}


if __name__ == "__main__":
    main()
