"""What a recognizer writes that nobody can have said: loops, and more than the time allows.

A high error rate hides whether a model mishears words or runs away. These signs are looked for in
each hypothesis alone, and count only where the reference does not show them as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lora_whisper.evaluation.endless import LOOP_REPEATS, most_letters
from lora_whisper.evaluation.fallback import LARGEST_COMPRESSION_RATIO, compression_ratio
from lora_whisper.evaluation.rows import ScoredRow

LONGEST_LOOP = 12  # words, or graphemes of a script without spaces
SHOWN_EXAMPLES = 10


@dataclass(frozen=True)
class Runaways:
    """In how many utterances there is a sign; one may show several."""

    utterances: int
    looping: int  # the same words at least four times in a row
    compression: int  # text that gzip shrinks by more than 2.4
    too_long: int  # more letters than the audio has time for
    on_silence: int  # any text where the reference has none
    any: int
    examples: tuple[dict[str, str], ...]  # row, hypothesis, why


def find_runaways(rows: Sequence[ScoredRow]) -> Runaways:
    """Look for signs of hallucination in every hypothesis."""
    found = [(row, signs(row)) for row in rows]
    counts = {
        name: sum(name in names for _, names in found)
        for name in ("looping", "compression", "too_long", "on_silence")
    }
    examples = [
        {"row": row.row, "hypothesis": row.hypothesis, "why": ", ".join(names)}
        for row, names in found
        if names
    ]
    return Runaways(
        utterances=len(rows),
        **counts,
        any=len(examples),
        examples=tuple(examples[:SHOWN_EXAMPLES]),
    )


def signs(row: ScoredRow) -> list[str]:
    """The names of the signs that a hypothesis shows and its reference does not."""
    said, heard = row.reference_normalized, row.hypothesis_normalized
    rules = {
        "looping": loops(heard) and not loops(said),
        "compression": (
            compression_ratio(row.hypothesis)
            > LARGEST_COMPRESSION_RATIO
            >= compression_ratio(row.reference)
        ),
        "too_long": len("".join(heard.split())) > _most_letters(row),
        "on_silence": bool(heard) and not said,
    }
    return [name for name, holds in rules.items() if holds]


def loops(normalized: str) -> bool:
    """Whether some words stand there `LOOP_REPEATS` times in a row."""
    words = normalized.split()
    return any(_longest_run(words, length) >= LOOP_REPEATS for length in _loop_lengths(words))


def _loop_lengths(words: Sequence[str]) -> Iterable[int]:
    return range(1, min(LONGEST_LOOP, len(words) // LOOP_REPEATS) + 1)


def _longest_run(words: Sequence[str], length: int) -> int:
    """How often a stretch of `length` words follows itself, at most; it counts as well."""
    longest = equal = 0
    for word, later in zip(words, words[length:], strict=False):
        equal = equal + 1 if word == later else 0
        longest = max(longest, equal)
    return longest // length + 1


def _most_letters(row: ScoredRow) -> float:
    said = len("".join(row.reference_normalized.split()))
    return max(most_letters(row.seconds, row.language), said)
