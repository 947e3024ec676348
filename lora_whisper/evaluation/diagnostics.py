"""Errors beyond the rate: hallucination, words that matter, the most frequent mistakes.

A high error rate hides whether a model mishears words or runs away, and an average hides the words
that matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jiwer
import numpy as np

from lora_whisper.data.words import Phrases
from lora_whisper.evaluation.decoding.decoder import LOOP_REPEATS, most_letters
from lora_whisper.evaluation.decoding.long_form import LARGEST_COMPRESSION_RATIO, compression_ratio
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.results import (
    SEEN_AND_UNSEEN,
    ErrorAnalysis,
    HallucinatedText,
    Hallucination,
    Interval,
    ScoredUtterance,
    WordRecall,
)
from lora_whisper.evaluation.significance import bootstrap_interval, sampling_units

# ── hallucination: loops, and more text than the time allows ─────────────────────────────────
#
# The signs are looked for in each hypothesis alone, and count only where the reference does not
# show them as well.

LONGEST_LOOP = 12  # words, or graphemes of a script without spaces
SHOWN_EXAMPLES = 10


def find_hallucination(rows: Sequence[ScoredUtterance]) -> Hallucination:
    """Look for signs of hallucination in every hypothesis."""
    signs_of_rows = [(row, signs(row)) for row in rows]
    counts = {
        name: sum(name in names for _, names in signs_of_rows)
        for name in ("looping", "compression", "too_long", "on_silence")
    }
    examples = [
        HallucinatedText(row.row, row.hypothesis, ", ".join(names))
        for row, names in signs_of_rows
        if names
    ]
    return Hallucination(
        utterances=len(rows),
        **counts,
        any=len(examples),
        examples=tuple(examples[:SHOWN_EXAMPLES]),
    )


def signs(row: ScoredUtterance) -> list[str]:
    """The names of the signs that a hypothesis shows and its reference does not."""
    reference, hypothesis = row.reference_normalized, row.hypothesis_normalized
    spoken, written = (len("".join(text.split())) for text in (reference, hypothesis))
    rules = {
        "looping": loops(hypothesis) and not loops(reference),
        "compression": (
            compression_ratio(row.hypothesis)
            > LARGEST_COMPRESSION_RATIO
            >= compression_ratio(row.reference)
        ),
        "too_long": written > max(most_letters(row.seconds, row.language), spoken),
        "on_silence": bool(hypothesis) and not reference,
    }
    return [name for name, holds in rules.items() if holds]


def loops(normalized: str) -> bool:
    """Whether some words stand there `LOOP_REPEATS` times in a row."""
    words = normalized.split()
    lengths = range(1, min(LONGEST_LOOP, len(words) // LOOP_REPEATS) + 1)
    return any(_longest_run(words, length) >= LOOP_REPEATS for length in lengths)


def _longest_run(words: Sequence[str], length: int) -> int:
    """How often a stretch of `length` words follows itself, at most; it counts as well."""
    longest = equal = 0
    for word, later in zip(words, words[length:], strict=False):
        equal = equal + 1 if word == later else 0
        longest = max(longest, equal)
    return longest // length + 1


# ── recall on a word list: of the words that matter, how many are there? ─────────────────────

NORMAL_QUANTILE = 1.959964  # of 97.5 %


def word_recall(
    rows: Sequence[ScoredUtterance],
    words: Sequence[str],
    samples: int,
    seed: int,
    seen: Collection[str] | None = None,
) -> WordRecall:
    """Count the words of a list in references and hypotheses, normalized by the row's language.

    In each utterance a word is found as often as it was both said and written, wherever it
    stands. A word within another one ("aspirin" in "baby aspirin") counts for itself, too. Two
    that are the same when normalized are one; one that nothing is left of is never said.

    Args:
        seen: words that are said in training, which are counted apart from the others.
    """
    lists: dict[str | None, Phrases] = {}
    counts = []
    for row in rows:
        if row.language not in lists:
            normalize = normalizer_for(row.language)
            lists[row.language] = Phrases(words, lambda word, of=normalize: of(word).split())  # type: ignore[misc]
        phrases = lists[row.language]
        expected = phrases.count(row.reference_normalized.split())
        counts.append((expected, phrases.count(row.hypothesis_normalized.split())))
    whole = _recall(rows, counts, samples, seed)
    known = {word for word in words if word in seen} if seen is not None else set()
    if not known or known == {*words}:
        return whole
    parts = dict(zip(SEEN_AND_UNSEEN, (known, {*words} - known), strict=True))
    return replace(
        whole,
        parts={
            name: _recall(rows, [_only(part, *pair) for pair in counts], samples, seed)
            for name, part in parts.items()
        },
    )


def _only(words: Collection[str], *counts: Counter[str]) -> tuple[Counter[str], ...]:
    return tuple(Counter({word: one[word] for word in one if word in words}) for one in counts)


def _recall(
    rows: Sequence[ScoredUtterance],
    counts: Sequence[tuple[Counter[str], ...]],
    samples: int,
    seed: int,
) -> WordRecall:
    """
    Args:
        counts: of each row, in its reference and in its hypothesis.

    The interval of the recall is by drawing anew the speakers (or utterances) that said a word, and
    no narrower than Wilson's for as many independent words: when all are found, or none, every draw
    gives the same, and the interval would be a point. False alarms are drawn from all.
    """
    spoken: Counter[str] = Counter()
    recognized: Counter[str] = Counter()
    per_row = np.zeros((3, len(rows)))  # said, found, written
    for index, (expected, in_hypothesis) in enumerate(counts):
        both = expected & in_hypothesis
        spoken.update(expected)
        recognized.update(both)
        per_row[:, index] = expected.total(), both.total(), in_hypothesis.total()
    units = sampling_units([row.speaker for row in rows])
    said_by, found_by, written_by = map(units.sums, per_row)
    reference_words = units.sums([row.reference_words for row in rows])
    written, found = int(per_row[2].sum()), recognized.total()
    words = [(word, count, recognized[word]) for word, count in spoken.items()]
    alarms = None
    if reference_words.any():
        alarms = bootstrap_interval(written_by - found_by, reference_words, samples, seed)
    return WordRecall(
        recall=found / spoken.total() if spoken else None,
        ci95=_interval(found_by[said_by > 0], said_by[said_by > 0], samples, seed)
        if spoken
        else None,
        said=spoken.total(),
        found=found,
        written=written,
        precision=found / written if written else None,
        resampled=units.resampled,
        words=tuple(sorted(words, key=lambda word: (word[2] - word[1], word[0]))),
        false_alarm_rate=float((written - found) / reference_words.sum()) if alarms else None,
        false_alarm_ci95=alarms,
    )


def _interval(recognized: np.ndarray, spoken: np.ndarray, samples: int, seed: int) -> Interval:
    drawn = bootstrap_interval(recognized, spoken, samples, seed)
    alone = wilson_interval(int(recognized.sum()), int(spoken.sum()))
    return min(drawn[0], alone[0]), max(drawn[1], alone[1])


def wilson_interval(successes: int, trials: int) -> Interval:
    """95 % interval of a share of independent trials: Wilson 1927, doi:10.2307/2276774."""
    spread = NORMAL_QUANTILE**2 / trials
    share = successes / trials
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


# ── words taken for others, words lost, words made up ────────────────────────────────────────


def analyse_errors(rows: Sequence[ScoredUtterance], most: int) -> ErrorAnalysis:
    """Count word by word, along the alignment that the score is counted by.

    A word is lost where it was said and is not in its place: left out, or taken for another. So
    a name that is misheard in a new way each time is found, which no confusion would show.

    Args:
        most: how many of each kind.
    """
    pairs = Counter(pair for row in rows for pair in _aligned(row))
    spoken: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    confusions: Counter[tuple[str, str]] = Counter()
    for (word, instead), count in pairs.items():
        if word is None:
            assert instead is not None
            inserted[instead] += count
            continue
        spoken[word] += count
        if word != instead:
            lost[word] += count
        if instead is not None and word != instead:
            confusions[word, instead] += count
    return ErrorAnalysis(
        tuple((word, instead, count) for (word, instead), count in _most(confusions, most)),
        tuple((word, count, spoken[word]) for word, count in _most(lost, most)),
        tuple(_most(inserted, most)),
    )


def _aligned(row: ScoredUtterance) -> Iterator[tuple[str | None, str | None]]:
    """Words of the reference and the hypothesis in pairs; None where one has none."""
    alignment = jiwer.process_words(row.reference_normalized, row.hypothesis_normalized)
    reference, hypothesis = alignment.references[0], alignment.hypotheses[0]
    for chunk in alignment.alignments[0]:
        expected = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        written = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            yield from ((word, None) for word in expected)
        elif chunk.type == "insert":
            yield from ((None, word) for word in written)
        else:
            yield from zip(expected, written, strict=True)


def _most(counts: Counter[Any], most: int) -> list[tuple[Any, int]]:
    """The most frequent first; of equally frequent ones, in the order of the alphabet."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most]
