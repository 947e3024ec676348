"""From a model and a test set to a score and a line an utterance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lora_whisper import processes
from lora_whisper.config import EvaluationConfig
from lora_whisper.data.features import LogMel
from lora_whisper.data.utterance import Utterance
from lora_whisper.data.vocabulary import Vocabulary, written_language
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding import Hypotheses, Progress, transcribe
from lora_whisper.evaluation.metrics import error_counts
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.score import Score, score
from lora_whisper.evaluation.whisper_recognizer import WhisperRecognizer

NO_GROUP = "none"  # label of rows that lack the column of evaluation.group_by


@dataclass(frozen=True)
class ScoredRow:
    """One utterance of the test set, as it is written to the hypotheses file."""

    row: str  # of the manifest, "test.jsonl:17"
    language: str | None  # Whisper's code of what the text is in, which chose the normalizer
    reference: str
    hypothesis: str
    errors: int  # normalized words substituted, inserted or deleted
    reference_words: int  # normalized
    wer: float
    bad_audio: str | None  # why nothing could be heard


def evaluate_model(
    model: nn.Module,
    utterances: Sequence[Utterance],
    processor: Any,
    vocabulary: Vocabulary,
    features: LogMel,
    settings: EvaluationConfig,
    seed: int,
    on_progress: Progress | None = None,
) -> tuple[Score, list[ScoredRow]]:
    """Decode the utterances and score them; `seed` is that of the bootstrap.

    Audio that does not decode is counted in the score, and scored as if nothing was heard.

    Raises:
        UserError: no row has the column of `evaluation.group_by`; an unknown language.
    """
    groups = group_labels(utterances, next(iter(settings.group_by), None))
    recognizer = WhisperRecognizer(model, processor, vocabulary, features)
    found = transcribe(recognizer, utterances, settings, seed, on_progress=on_progress)
    # In one place, so that several processes go on with the same figures to the last bit.
    return processes.from_main(
        lambda: _judged(utterances, found, vocabulary, groups, settings.bootstrap_samples, seed)
    )


def _judged(
    utterances: Sequence[Utterance],
    found: Hypotheses,
    vocabulary: Vocabulary,
    groups: list[str] | None,
    bootstrap_samples: int,
    seed: int,
) -> tuple[Score, list[ScoredRow]]:
    references = [utterance.text for utterance in utterances]
    languages = [written_language(vocabulary, utterance) for utterance in utterances]
    result = score(references, found.texts, languages, bootstrap_samples, seed, groups)
    reasons = {bad.row: bad.reason for bad in found.bad}
    rows = [
        _scored(utterance, text, language, reasons.get(utterance.row))
        for utterance, text, language in zip(utterances, found.texts, languages, strict=True)
    ]
    return dataclasses.replace(
        result,
        bad_audio=len(found.bad),
        audio_seconds=found.audio_seconds,
        decode_seconds=found.decode_seconds,
    ), rows


def write_hypotheses(path: Path, rows: Iterable[ScoredRow]) -> None:
    """Write one JSON object a line, UTF-8."""
    lines = (json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def _scored(
    utterance: Utterance, text: str, language: str | None, bad_audio: str | None
) -> ScoredRow:
    normalize = normalizer_for(language)
    counts = error_counts(normalize(utterance.text), normalize(text))
    return ScoredRow(
        utterance.row,
        language,
        utterance.text,
        text,
        counts.errors,
        counts.reference_length,
        counts.rate,
        bad_audio,
    )


def group_labels(utterances: Sequence[Utterance], column: str | None) -> list[str] | None:
    """A label an utterance: what stands in its column `column`.

    Raises:
        UserError: no row has the column.
    """
    if column is None:
        return None
    if not any(column in utterance.columns for utterance in utterances):
        known = sorted({name for utterance in utterances for name in utterance.columns})
        raise UserError(
            f"evaluation.group_by={column}: no row of the test set has this column; "
            f"they have {', '.join(known)}"
        )
    return [str(utterance.columns.get(column, NO_GROUP)) for utterance in utterances]
