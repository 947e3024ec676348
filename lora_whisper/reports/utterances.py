"""Utterances as pages show them: the reference, and what each model made of it, marked.

A page shows one with the macro `article` of `templates/marks.html.j2`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_whisper.evaluation.metrics import Stretch, align, separator
from lora_whisper.evaluation.results import EvaluationResults, Score, ScoredUtterance
from lora_whisper.evaluation.run_summary import scored_utterances_of
from lora_whisper.run_folder import RunFolder

SHOWN_UTTERANCES = 500  # of a set, the worst ones
SHOWN_CHARACTERS = 1_000_000  # of a set's texts: recordings of an hour are shown in smaller numbers
PLAYERS = 50  # of a set, for the worst ones
COLUMN_CHARACTERS = 40  # of what a column of the manifest says

Row = ScoredUtterance
Hypotheses = Mapping[str, Sequence[Row]]  # model → its rows, in the order of the set
Sound = Callable[[str, Row], bytes | None]  # set and row → an MP3 file


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


# ── the worst of a set, with what several models made of each ────────────────────────────────


@dataclass(frozen=True)
class ShownSet:
    """The worst utterances of a set, each with what all models made of it."""

    name: str
    models: Sequence[str]  # the worst of the last one come first
    against: str  # the model that the last one is compared with; empty where there is none
    count: int  # of all its utterances
    utterances: Sequence[ShownUtterance]


def shown_set(
    results: EvaluationResults, name: str, hypotheses: Hypotheses, sound: Sound
) -> ShownSet:
    """Those of the last model first that it has most wrong, as far as the page has room."""
    models = list(hypotheses)
    rows = [dict(zip(models, each, strict=True)) for each in zip(*hypotheses.values(), strict=True)]
    order = sorted(range(len(rows)), key=lambda number: -badness(rows[number][models[-1]]))
    utterances = []
    for place, number in enumerate(order[: _room([rows[number] for number in order])]):
        row = rows[number]
        last = row[models[-1]]
        brought = last.errors - row[results.against].errors if results.against in row else 0
        worst_of = {f"model{each}": round(badness(one), 4) for each, one in enumerate(row.values())}
        audio = sound(name, last) if place < PLAYERS else None
        agreeing: dict[str, list[str]] = {}  # text → the models that wrote it
        for model, one in row.items():
            agreeing.setdefault(one.hypothesis, []).append(model)
        texts = {", ".join(same): row[same[0]] for same in agreeing.values()}
        utterances.append(
            replace(
                shown(last, texts),
                about=_about_row(last),
                sound=f"data:audio/mpeg;base64,{base64.b64encode(audio).decode()}" if audio else "",
                orders=worst_of | {"brought": brought, "taken": -brought, "place": -number},
            )
        )
    against = results.against if results.against in models[:-1] else ""
    return ShownSet(name, models, against, len(rows), utterances)


def _room(rows: Sequence[Mapping[str, Row]]) -> int:
    """How many of the rows the page has room for."""
    characters = 0
    for number, row in enumerate(rows[:SHOWN_UTTERANCES]):
        characters += sum(len(one.reference) + len(one.hypothesis) for one in row.values())
        if characters > SHOWN_CHARACTERS:
            return max(number, 1)
    return min(len(rows), SHOWN_UTTERANCES)


def _about_row(row: Row) -> str:
    """Its length and its columns."""
    facts = [f"{row.seconds:.1f} s"] if row.seconds else []
    for name, value in row.columns.items():
        if name != "duration" and value not in (None, ""):
            text = str(value)
            is_long = len(text) > COLUMN_CHARACTERS
            facts.append(
                f"{name} {text[: COLUMN_CHARACTERS - 1]}…" if is_long else f"{name} {text}"
            )
    return " · ".join(facts)
