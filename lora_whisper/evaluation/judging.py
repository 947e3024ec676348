"""From what was heard to a score, and a line an utterance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lora_whisper.config import EvaluationConfig
from lora_whisper.data.dataset import Utterance, written_language
from lora_whisper.data.sources.rows import USUAL_NAMES
from lora_whisper.evaluation.decoding import Hypotheses
from lora_whisper.evaluation.groups import group_labels
from lora_whisper.evaluation.rows import ScoredRow, scored_row
from lora_whisper.evaluation.score import Score, score
from lora_whisper.model.tokenizer import Vocabulary


def judge(
    utterances: Sequence[Utterance],
    heard: Hypotheses,
    vocabulary: Vocabulary,
    settings: EvaluationConfig,
    seed: int,
) -> tuple[Score, list[ScoredRow]]:
    """Score what was heard. The same hypotheses and seed give the same figures.

    Audio that does not decode is counted in the score, and scored as if nothing was heard.

    Args:
        heard: of these utterances, in their order.

    Raises:
        UserError: no row has a column of `evaluation.group_by`.
    """
    reasons = {bad.row: bad.reason for bad in heard.bad}
    rows = [
        scored_row(
            utterance.row,
            written_language(vocabulary, utterance),
            utterance.text,
            text,
            speaker=utterance.speaker,
            seconds=seconds,
            bad_audio=reasons.get(utterance.row),
            columns=_other_columns(utterance),
        )
        for utterance, text, seconds in zip(utterances, heard.texts, heard.seconds, strict=True)
    ]
    groups = group_labels(utterances, settings.group_by)
    result = score(rows, settings.bootstrap_samples, seed, groups)
    return dataclasses.replace(result, decode_seconds=heard.decode_seconds), rows


def hypotheses_jsonl(rows: Iterable[ScoredRow]) -> bytes:
    """One JSON object a line, UTF-8."""
    lines = (json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode()


def _other_columns(utterance: Utterance) -> dict[str, Any]:
    """The row as it stands in its source, but for the audio and the text."""
    usual = {*USUAL_NAMES.audio, *USUAL_NAMES.text}
    return {
        name: value
        for name, value in utterance.columns.items()
        if name not in usual and value != utterance.text and not _is_audio(value, utterance)
    }


def _is_audio(value: object, utterance: Utterance) -> bool:
    """Whether a column of any name holds the path of the audio."""
    audio = utterance.audio
    return isinstance(audio, Path) and isinstance(value, str) and Path(value).name == audio.name
