"""Word, character and sentence error rate, and the alignment behind them, on jiwer.

Texts are compared as they are given, but for spaces: normalize them before
(`evaluation.normalizers`).

Where several processes decode, `evaluation.decoding.transcribe` gathers the texts of them all, and
the main process counts: a rate over a part would not add up to the rate over the whole, and the
counting takes a moment beside the decoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import jiwer

from lora_whisper.evaluation.normalizers import fold_spaces, normalizer_for
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES


@dataclass(frozen=True, slots=True)
class Counts:
    """Edits that turn a reference into a hypothesis, over words or characters."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    hits: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def reference_length(self) -> int:
        return self.substitutions + self.deletions + self.hits

    @property
    def rate(self) -> float:
        """Errors per unit of the reference; of an empty reference, the number of insertions."""
        return self.errors / max(self.reference_length, 1)


def total(counts: Iterable[Counts]) -> Counts:
    """Add up utterances, so that each word weighs the same and not each utterance."""
    parts = [(c.substitutions, c.insertions, c.deletions, c.hits) for c in counts]
    return Counts(*(sum(column) for column in zip(*parts, strict=True)))


def error_counts(reference: str, hypothesis: str) -> Counts:
    """Align words; either text may be empty."""
    return _counts(jiwer.process_words(fold_spaces(reference), fold_spaces(hypothesis)))


def character_error_counts(reference: str, hypothesis: str) -> Counts:
    """Align Unicode code points, the spaces between words among them."""
    return _counts(jiwer.process_characters(fold_spaces(reference), fold_spaces(hypothesis)))


def sentence_error_counts(reference: str, hypothesis: str) -> Counts:
    """Take each text as one unit: it is right, or it is another one."""
    is_right = fold_spaces(reference) == fold_spaces(hypothesis)
    return Counts(hits=1) if is_right else Counts(substitutions=1)


def _counts(alignment: jiwer.WordOutput | jiwer.CharacterOutput) -> Counts:
    return Counts(
        alignment.substitutions, alignment.insertions, alignment.deletions, alignment.hits
    )


# ── the edits that a word error rate counts, one by one ──────────────────────────────────────

Edit = Literal["equal", "substitute", "insert", "delete"]  # jiwer's names


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring words that share one fate."""

    edit: Edit
    reference: str  # empty where words were inserted
    hypothesis: str  # empty where words were deleted
    errors: int  # words; graphemes where the script has no spaces


def align(reference: str, hypothesis: str, language: str | None) -> list[Stretch]:
    """Align two texts as they are scored: normalized, by words, or by graphemes without spaces.

    The errors of all stretches together are those that the score counts. Either text may be empty.

    Args:
        language: Whisper's code of what the texts are in; `None` for an English-only model.
    """
    normalize = normalizer_for(language)
    aligned = jiwer.process_words(normalize(reference), normalize(hypothesis))
    space, stretches = separator(language), []
    for chunk in aligned.alignments[0]:
        expected = aligned.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
        written = aligned.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
        edit = cast(Edit, chunk.type)
        errors = 0 if edit == "equal" else max(len(expected), len(written))
        stretches.append(Stretch(edit, space.join(expected), space.join(written), errors))
    return stretches


def separator(language: str | None) -> str:
    """What stands between two words of a text."""
    return "" if language in SPACELESS_LANGUAGES else " "
