"""Recall on a word list: of the words that matter, how many are heard?"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lora_whisper.errors import UserError
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.resampling import Interval, bootstrap_interval, sampling_units
from lora_whisper.evaluation.rows import ScoredRow

NORMAL_QUANTILE = 1.959964  # of 97.5 %

Phrase = tuple[str, ...]  # normalized words


@dataclass(frozen=True)
class KeywordRecall:
    """How a model does on a list of words and phrases; None where there is nothing to divide by."""

    recall: float | None  # found / said
    ci95: Interval | None  # of the recall
    said: int  # times that a keyword stands in a reference
    found: int  # those that the hypothesis has, too
    written: int  # times that a keyword stands in a hypothesis, said or not
    precision: float | None  # found / written
    resampled: Literal["speakers", "utterances"]
    words: tuple[tuple[str, int, int], ...]  # keyword, said, found: most often missed first

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self) | {
            "ci95": None if self.ci95 is None else list(self.ci95),
            "words": [list(word) for word in self.words],
        }


def read_keywords(path: Path) -> tuple[str, ...]:
    """Read a file with a word or a phrase a line, in UTF-8; empty lines do not count.

    Raises:
        UserError: no such file, not a text, or no keyword in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"evaluation.keywords={path}: {_why(error)}. "
            "Expected a text file in UTF-8 with a word or a phrase a line."
        ) from None
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise UserError(
            f"evaluation.keywords={path}: found no word in it. Write a word or a phrase a line."
        )
    return tuple(dict.fromkeys(words))


def _why(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})"
    return (error.strerror or str(error)).lower()


def keyword_recall(
    rows: Sequence[ScoredRow], keywords: Sequence[str], samples: int, seed: int
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
    said: Counter[str] = Counter()
    found: Counter[str] = Counter()
    written = 0
    per_row = np.zeros((2, len(rows)))  # said, found
    for index, row in enumerate(rows):
        if row.language not in lists:
            lists[row.language] = KeywordList(keywords, row.language)
        expected = lists[row.language].count(row.reference_normalized)
        heard = lists[row.language].count(row.hypothesis_normalized)
        both = expected & heard
        said.update(expected)
        found.update(both)
        written += heard.total()
        per_row[:, index] = expected.total(), both.total()
    units = sampling_units([row.speaker for row in rows])
    said_by, found_by = map(units.sums, per_row)
    return KeywordRecall(
        recall=found.total() / said.total() if said else None,
        ci95=_interval(found_by[said_by > 0], said_by[said_by > 0], samples, seed)
        if said
        else None,
        said=said.total(),
        found=found.total(),
        written=written,
        precision=found.total() / written if written else None,
        resampled=units.resampled,
        words=_most_missed_first(said, found),
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


def _interval(found: np.ndarray, said: np.ndarray, samples: int, seed: int) -> Interval:
    drawn = bootstrap_interval(found, said, samples, seed)
    alone = wilson_interval(int(found.sum()), int(said.sum()))
    return min(drawn[0], alone[0]), max(drawn[1], alone[1])


def wilson_interval(found: int, said: int) -> Interval:
    """95 % interval of a share of independent trials: Wilson 1927, doi:10.2307/2276774."""
    spread = NORMAL_QUANTILE**2 / said
    share = found / said
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def _most_missed_first(said: Counter[str], found: Counter[str]) -> tuple[tuple[str, int, int], ...]:
    """Those that were said."""
    words = [(word, count, found[word]) for word, count in said.items()]
    return tuple(sorted(words, key=lambda word: (word[2] - word[1], word[0])))
