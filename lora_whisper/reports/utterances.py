"""Utterances as pages show them: the reference, and what each model made of it, marked.

A page shows one with the macro `article` of `templates/marks.html.j2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lora_whisper.evaluation.metrics import Stretch, align, separator
from lora_whisper.evaluation.results import Score, ScoredUtterance
from lora_whisper.evaluation.run_summary import scored_utterances_of
from lora_whisper.run_folder import RunFolder


@dataclass(frozen=True)
class Transcription:
    """A hypothesis along its reference."""

    models: str  # that wrote it
    errors: int  # words
    stretches: Sequence[Stretch]


@dataclass(frozen=True)
class ShownUtterance:
    """Texts as they are, to be escaped."""

    row: str
    language: str
    space: str  # between two words
    bad_audio: str | None
    reference: str
    transcriptions: Sequence[Transcription]
    about: str = ""
    sound: str = ""  # a data URI
    orders: Mapping[str, float] = field(default_factory=dict)  # what the page's script sorts by


def shown(row: ScoredUtterance, transcriptions: Mapping[str, ScoredUtterance]) -> ShownUtterance:
    """An utterance with these transcriptions of it.

    Args:
        row: of any model: what they all share is taken from it.
    """
    return ShownUtterance(
        row.row,
        row.language or "en",
        separator(row.language),
        row.bad_audio,
        row.reference,
        [
            Transcription(models, one.errors, align(one.reference, one.hypothesis, one.language))
            for models, one in transcriptions.items()
        ],
    )


def badness(row: ScoredUtterance) -> float:
    """Errors over the square root of the words.

    By errors alone the longest utterances would come first, by WER those of a single word; where
    errors fall at random, this is as large for both.
    """
    return float(row.errors) / math.sqrt(max(row.reference_words, 1))


@dataclass(frozen=True)
class Sample:
    """One utterance of a run's own test set, as each model transcribed it."""

    rows: Mapping[str, ScoredUtterance]  # model → its line of hypotheses.jsonl

    @property
    def errors(self) -> int:
        """Words that the adapter has wrong."""
        return self.rows["adapter"].errors

    @property
    def gain(self) -> int:
        """Errors that the adapter took away; below zero, that it brought."""
        return self.rows["base"].errors - self.errors

    def shown(self) -> ShownUtterance:
        """The merged model's text is left out where it is the adapter's."""
        adapter = self.rows["adapter"]
        return shown(
            adapter,
            {
                model: row
                for model, row in self.rows.items()
                if model != "merged" or row.hypothesis != adapter.hypothesis
            },
        )


def samples_of(
    folder: RunFolder, scores: Mapping[str, Score | None], needed: Sequence[str]
) -> list[Sample]:
    """Every utterance of the run's test set, in its order.

    Args:
        scores: of the models that are shown.
        needed: without the transcriptions of these there are no samples.
    """
    rows = {
        model: transcriptions
        for model, score in scores.items()
        if score and (transcriptions := scored_utterances_of(folder, model, score))
    }
    if not rows.keys() >= {*needed} or len({*map(len, rows.values())}) > 1:
        return []
    return [Sample(dict(zip(rows, each, strict=True))) for each in zip(*rows.values(), strict=True)]
