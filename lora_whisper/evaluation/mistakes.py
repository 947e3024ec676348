"""What a model gets wrong most often: words taken for others, words lost, words made up."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

from lora_whisper.evaluation.rows import ScoredRow


@dataclass(frozen=True)
class Mistakes:
    """The most frequent ones first. Words are normalized; graphemes where there are no spaces."""

    confusions: tuple[tuple[str, str, int], ...]  # reference, hypothesis, how often
    lost: tuple[
        tuple[str, int, int], ...
    ]  # word, how often it was not heard, how often it was said
    inserted: tuple[tuple[str, int], ...]  # word, how often nobody said it

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            name: [list(one) for one in found] for name, found in dataclasses.asdict(self).items()
        }


def find_mistakes(rows: Sequence[ScoredRow], most: int) -> Mistakes:
    """Count word by word, along the alignment that the score is counted by.

    A word is lost where it was said and is not in its place: left out, or taken for another. So
    a name that is misheard in a new way each time is found, which no confusion would show.

    Args:
        most: how many of each kind.
    """
    pairs = Counter(pair for row in rows for pair in _aligned(row))
    said: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    confusions: Counter[tuple[str, str]] = Counter()
    for (word, heard), count in pairs.items():
        if word is None:
            assert heard is not None
            inserted[heard] += count
            continue
        said[word] += count
        if word != heard:
            lost[word] += count
        if heard is not None and word != heard:
            confusions[word, heard] += count
    return Mistakes(
        tuple((word, heard, count) for (word, heard), count in _most(confusions, most)),
        tuple((word, count, said[word]) for word, count in _most(lost, most)),
        tuple(_most(inserted, most)),
    )


def _aligned(row: ScoredRow) -> Iterator[tuple[str | None, str | None]]:
    """Each word said beside the one heard in its place; None where there is none."""
    found = jiwer.process_words(row.reference_normalized, row.hypothesis_normalized)
    reference, hypothesis = found.references[0], found.hypotheses[0]
    for chunk in found.alignments[0]:
        said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        heard = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            yield from ((word, None) for word in said)
        elif chunk.type == "insert":
            yield from ((None, word) for word in heard)
        else:
            yield from zip(said, heard, strict=True)


def _most(counts: Counter[Any], most: int) -> list[tuple[Any, int]]:
    """The most frequent first; of equally frequent ones, in the order of the alphabet."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most]
