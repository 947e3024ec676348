"""One utterance of a test set, and what a model made of it: a line of `hypotheses.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_whisper.evaluation.metrics import error_counts
from lora_whisper.evaluation.normalizers import normalizer_for


@dataclass(frozen=True)
class ScoredRow:
    """Texts as they were written and as they are compared, and the edits between the latter.

    Words are what the normalizer parts by spaces: graphemes where the script has no spaces.
    """

    row: str  # of the manifest, "test.jsonl:17"
    language: str | None  # Whisper's code of what the text is in, which chose the normalizer
    speaker: str | None
    reference: str
    hypothesis: str
    reference_normalized: str
    hypothesis_normalized: str
    errors: int  # normalized words substituted, inserted or deleted
    substitutions: int
    insertions: int
    deletions: int
    reference_words: int  # normalized
    wer: float  # errors over reference words; of an empty reference, the number of insertions
    seconds: float  # of audio that was heard
    bad_audio: str | None  # why nothing could be heard
    columns: Mapping[str, Any] = field(default_factory=dict)  # of the manifest: no audio, no text


def scored_row(
    row: str,
    language: str | None,
    reference: str,
    hypothesis: str,
    *,
    speaker: str | None = None,
    seconds: float = 0.0,
    bad_audio: str | None = None,
    columns: Mapping[str, Any] | None = None,
) -> ScoredRow:
    """Normalize both texts by their language, and count. Either text may be empty."""
    normalize = normalizer_for(language)
    expected, heard = normalize(reference), normalize(hypothesis)
    counts = error_counts(expected, heard)
    return ScoredRow(
        row=row,
        language=language,
        speaker=speaker,
        reference=reference,
        hypothesis=hypothesis,
        reference_normalized=expected,
        hypothesis_normalized=heard,
        errors=counts.errors,
        substitutions=counts.substitutions,
        insertions=counts.insertions,
        deletions=counts.deletions,
        reference_words=counts.reference_length,
        wer=counts.rate,
        seconds=seconds,
        bad_audio=bad_audio,
        columns=columns or {},
    )
