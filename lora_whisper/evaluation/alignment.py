"""Where a hypothesis leaves its reference: the edits that a word error rate counts, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import jiwer

from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES

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
    found = jiwer.process_words(normalize(reference), normalize(hypothesis))
    space = separator(language)
    return [
        _stretch(chunk, found.references[0], found.hypotheses[0], space)
        for chunk in found.alignments[0]
    ]


def separator(language: str | None) -> str:
    """What stands between two words of a text."""
    return "" if language in SPACELESS_LANGUAGES else " "


def _stretch(
    chunk: jiwer.AlignmentChunk, reference: Sequence[str], hypothesis: Sequence[str], space: str
) -> Stretch:
    expected = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    heard = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    edit = cast(Edit, chunk.type)
    errors = 0 if edit == "equal" else max(len(expected), len(heard))
    return Stretch(edit, space.join(expected), space.join(heard), errors)
