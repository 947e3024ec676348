"""Errors beyond the rate: hallucination, keywords that are missed, the most frequent mistakes.

A high error rate hides whether a model mishears words or runs away, and an average hides the words
that matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.decoder import LOOP_REPEATS, most_letters
from lora_whisper.evaluation.decoding.long_form import LARGEST_COMPRESSION_RATIO, compression_ratio
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.results import (
    ErrorAnalysis,
    HallucinatedText,
    Hallucination,
    Interval,
    KeywordRecall,
    ScoredUtterance,
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

Phrase = tuple[str, ...]  # normalized words


def read_keywords(path: Path) -> tuple[str, ...]:
    """Read a file with a word or a phrase a line, in UTF-8; empty lines do not count.

    Raises:
        UserError: no such file, not a text, or no keyword in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            why = f"it is not UTF-8 (byte {error.start})"
        else:
            why = (error.strerror or str(error)).lower()
        raise UserError(
            f"evaluation.keywords={path}: {why}. "
            "Expected a text file in UTF-8 with a word or a phrase a line."
        ) from None
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise UserError(
            f"evaluation.keywords={path}: found no word in it. Write a word or a phrase a line."
        )
    return tuple(dict.fromkeys(words))


def keyword_recall(
    rows: Sequence[ScoredUtterance], keywords: Sequence[str], samples: int, seed: int
) -> KeywordRecall:
    """Count keywords in references and hypotheses, both normalized by the row's language.

    In each utterance a keyword is found as often as it was both said and written, wherever it
    stands. A keyword within another one ("aspirin" in "baby aspirin") counts for itself, too. Two
    that are the same when normalized are one; one that nothing is left of is never said.

    The interval is by drawing anew the speakers (or utterances) that said a keyword, and no
    narrower than Wilson's for as many independent words: when all are found, or none, every draw
    gives the same, and the interval would be a point.
    """
    lists: dict[str | None, KeywordList] = {}
    spoken: Counter[str] = Counter()
    recognized: Counter[str] = Counter()
    written = 0
    per_row = np.zeros((2, len(rows)))  # said, found
    for index, row in enumerate(rows):
        if row.language not in lists:
            lists[row.language] = KeywordList(keywords, row.language)
        expected = lists[row.language].count(row.reference_normalized)
        in_hypothesis = lists[row.language].count(row.hypothesis_normalized)
        both = expected & in_hypothesis
        spoken.update(expected)
        recognized.update(both)
        written += in_hypothesis.total()
        per_row[:, index] = expected.total(), both.total()
    units = sampling_units([row.speaker for row in rows])
    said_by, found_by = map(units.sums, per_row)
    words = [(word, count, recognized[word]) for word, count in spoken.items()]
    return KeywordRecall(
        recall=recognized.total() / spoken.total() if spoken else None,
        ci95=_interval(found_by[said_by > 0], said_by[said_by > 0], samples, seed)
        if spoken
        else None,
        said=spoken.total(),
        found=recognized.total(),
        written=written,
        precision=recognized.total() / written if written else None,
        resampled=units.resampled,
        words=tuple(sorted(words, key=lambda word: (word[2] - word[1], word[0]))),
    )


class KeywordList:
    """Keywords as they stand in normalized texts of one language."""

    def __init__(self, keywords: Sequence[str], language: str | None):
        normalize = normalizer_for(language)
        self.names: dict[Phrase, str] = {}  # phrase → keyword, the first of those that are the same
        for keyword in keywords:
            self.names.setdefault(tuple(normalize(keyword).split()), keyword)
        self.names.pop((), None)
        self.by_first: Mapping[str, list[Phrase]] = {}
        for phrase in self.names:
            self.by_first.setdefault(phrase[0], []).append(phrase)

    def count(self, normalized: str) -> Counter[str]:
        """How often each keyword stands in a text; occurrences of one do not overlap."""
        words = tuple(normalized.split())
        counts: Counter[str] = Counter()
        ends: dict[Phrase, int] = {}
        for start, word in enumerate(words):
            for phrase in self.by_first.get(word, ()):
                end = start + len(phrase)
                if words[start:end] == phrase and ends.get(phrase, 0) <= start:
                    counts[self.names[phrase]] += 1
                    ends[phrase] = end
        return counts


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
