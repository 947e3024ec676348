"""What a stored score says: its leading rate, units, groups, interval and padding, in words.

Nothing heavy is imported: what people are shown of a score needs no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def leading(score: Mapping[str, Any]) -> str:
    """The rate to look at: "wer", or "cer" where the script has no spaces."""
    return str(score.get("leading", "wer"))  # which older runs lack, here and below


def rate_name(score: Mapping[str, Any], rate: str) -> str:
    """`WER` of words only; of what it is where a text has no words between spaces."""
    if rate == "cer":
        return "CER"
    units = units_of(score)
    return "WER" if units == "words" else f"error rate of {units}"


def padding_of(score: Mapping[str, Any]) -> str:
    """How what is scored was padded: "sound" (all that older versions did) or "log-mel"."""
    return str(score.get("of", {}).get("decoding", {}).get("padding", "sound"))


def padded_as(score: Mapping[str, Any]) -> str:
    """`clips are padded as in Transformers and whisper.cpp`"""
    programs = {
        "sound": "Transformers and whisper.cpp",
        "log-mel": "openai-whisper and faster-whisper",
    }
    return f"clips are padded as in {programs[padding_of(score)]}"


def units_of(score: Mapping[str, Any]) -> str:
    """What stands for words in the texts."""
    return str(score.get("units", "words"))


def groups_of(score: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each group's name and scores, the worst first; of several columns, each is named."""
    columns = score["groups"]
    for column, groups in columns.items():
        for label, values in groups.items():
            yield f"{column}: {label}" if len(columns) > 1 else label, values


def both_rates(first: str) -> tuple[str, str]:
    """The leading rate, and the other one."""
    return ("cer", "wer") if first == "cer" else ("wer", "cer")


def interval(bounds: Sequence[float]) -> str:
    """`9.3 – 18.1 %`"""
    low, high = bounds
    return f"{100 * low:.1f} – {100 * high:.1f} %"


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
