"""Words of a hypothesis that its transcript lacks, and the other way round.

Letters are aligned, and not words: a model that half knows a language spells and divides words in
its own way, and few of them are the transcript's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from lora_whisper.labels.evidence import Place

MISSING_SHARE = 0.6  # of a word's letters, which the other text has nothing for
FEWEST_LETTERS = 6  # of a run of words that is looked into
FEWEST_SHARED = 3  # letters that both texts have, which are more than chance at one side
MOST_LETTERS_BETWEEN = 3  # a run goes on over a word of so few letters

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
        at = int(np.searchsorted(other_ends, before[start] + 0.5)) if len(other_ends) else 0
        # Letters on both sides of it that both texts have.
        left, right = ~missing[:start], ~missing[int(ends[last - 1]) :]
        has_left, has_right = left.sum() >= FEWEST_SHARED, right.sum() >= FEWEST_SHARED
        place: Place = "middle" if has_left and has_right else "end" if has_left else "beginning"
        at = 0 if place == "beginning" else len(other) if place == "end" else at
        runs.append(Run(first, last, at, place, count))
    return sorted(runs, key=lambda run: -run.letters)


def _missing(text: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """For each letter of `text`, whether `other` lacks it, and how many of `other` are before."""
    if not text or not other:
        return np.ones(len(text), bool), np.zeros(len(text) + 1, int)
    missing, before = np.zeros(len(text), bool), np.zeros(len(text) + 1, int)
    for chunk in jiwer.process_characters(other, text).alignments[0]:
        span = slice(chunk.hyp_start_idx, chunk.hyp_end_idx)
        if chunk.type == "insert":
            missing[span], before[span] = True, chunk.ref_start_idx
        else:
            count = chunk.hyp_end_idx - chunk.hyp_start_idx
            before[span] = chunk.ref_start_idx + np.arange(count)
    before[-1] = len(other)
    return missing, before


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
