"""Words of a hypothesis that its transcript lacks, and the other way round.

Letters are aligned, and not words: a model that half knows a language spells and divides words in
its own way, and few of them are the transcript's. One long gap costs less than many short ones
(Gotoh 1982, doi:10.1016/0022-2836(82)90398-9): where each missing letter costs the same, those of
a sentence that is missing find chance matches in the words beside it, and nobody sees where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_whisper.labels.evidence import Place

MISSING_SHARE = 0.6  # of a word's letters, which the other text has nothing for
FEWEST_LETTERS = 6  # of a run of words that is looked into
FEWEST_SHARED = 3  # letters that both texts have, which are more than chance at one side
MOST_LETTERS_BETWEEN = 3  # a run goes on over a word of so few letters
# What an alignment costs: another letter, the beginning of a gap, and each letter in it.
OTHER_LETTER, GAP, GAP_LETTER = 2, 4, 1

Words = Sequence[str]


@dataclass(frozen=True)
class Run:
    """Neighbouring words of one text that the other one has nothing for."""

    first: int
    last: int  # behind the last of them
    at: int  # the word of the other text before which they would stand
    place: Place
    letters: int


def letters_of(word: str) -> str:
    return "".join(character for character in word.casefold() if character.isalnum())


def missing_runs(text: Words, other: Words) -> list[Run]:
    """Runs of words of `text` that `other` lacks, the longest first."""
    spelled = [letters_of(word) for word in text]
    of_other = [letters_of(word) for word in other]
    missing, before = _missing("".join(spelled), "".join(of_other))
    ends = np.cumsum([len(word) for word in spelled], dtype=int)
    other_ends = np.cumsum([len(word) for word in of_other], dtype=int)
    shares = [
        float(missing[end - len(word) : end].mean()) if word else -1.0
        for word, end in zip(spelled, ends.tolist(), strict=True)
    ]
    runs = []
    for first, last in _stretches(shares, spelled):
        count = sum(map(len, spelled[first:last]))
        if count < FEWEST_LETTERS:
            continue
        start = int(ends[first]) - len(spelled[first])
        at = int(np.abs([0, *other_ends] - before[start]).argmin())
        # Letters on both sides of it that both texts have.
        left, right = ~missing[:start], ~missing[int(ends[last - 1]) :]
        has_left, has_right = left.sum() >= FEWEST_SHARED, right.sum() >= FEWEST_SHARED
        place: Place = "middle" if has_left and has_right else "end" if has_left else "beginning"
        at = 0 if place == "beginning" else len(other) if place == "end" else at
        runs.append(Run(first, last, at, place, count))
    return sorted(runs, key=lambda run: -run.letters)


def _missing(text: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """For each letter of `text`, whether `other` lacks it, and how many of `other` are before."""
    missing, before = np.ones(len(text), bool), np.zeros(len(text) + 1, int)
    if not text or not other:
        return missing, before
    best, above, gapless = _alignment_costs(_codes(text), _codes(other))
    row, column = len(text), len(other)
    before[row] = column
    while row:
        if best[row, column] < gapless[row, column]:  # letters that `other` has alone
            lengths = np.arange(column, 0, -1)
            opened = gapless[row, :column] + GAP + GAP_LETTER * lengths
            column = int(np.flatnonzero(opened == best[row, column])[-1])
        elif best[row, column] == above[row, column]:
            is_open = False
            while not is_open:
                is_open = above[row, column] == best[row - 1, column] + GAP + GAP_LETTER
                row -= 1
                before[row] = column
        else:
            row, column = row - 1, column - 1
            missing[row], before[row] = False, column
    return missing, before


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _alignment_costs(text: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, ...]:
    """(letters + 1, letters of the other + 1) each, a row at a time.

    Of the first letters of both: the cheapest alignment; the cheapest one that ends with letters
    of `text` alone; and the cheapest one that does not end with letters of `other` alone.
    """
    rows, columns = len(text) + 1, len(other) + 1
    extension = GAP_LETTER * np.arange(columns)
    best, above, gapless = (np.full((rows, columns), 1 << 30, np.int64) for _ in range(3))
    gapless[0, 0] = 0
    for row in range(rows):
        if row:
            above[row] = np.minimum(best[row - 1] + GAP, above[row - 1]) + GAP_LETTER
            letters = OTHER_LETTER * (other != text[row - 1])
            gapless[row, 1:] = best[row - 1, :-1] + letters
            gapless[row] = np.minimum(gapless[row], above[row])
        best[row] = gapless[row]
        opened = np.minimum.accumulate(gapless[row] - extension) + GAP + extension
        best[row, 1:] = np.minimum(best[row, 1:], opened[:-1] + GAP_LETTER)
    return best, above, gapless


def _stretches(shares: Sequence[float], spelled: Words) -> list[tuple[int, int]]:
    """First and last+1 word of each run; short words between two of them belong to it."""
    lacking = [share >= MISSING_SHARE for share in shares]
    for index, word in enumerate(spelled):
        inside = 0 < index < len(spelled) - 1
        if inside and len(word) <= MOST_LETTERS_BETWEEN and lacking[index - 1]:
            lacking[index] = lacking[index] or lacking[index + 1]
    found, at = [], 0
    for is_lacking, group in itertools.groupby(lacking):
        count = len(list(group))
        if is_lacking:
            found.append((at, at + count))
        at += count
    return found
