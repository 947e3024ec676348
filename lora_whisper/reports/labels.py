"""What the label doctor found, as check.json, terminal and page have it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_whisper.evaluation.metrics import Stretch
from lora_whisper.reports.tables import Cell, Column, Table
from lora_whisper.terminal import counted

SHOWN_IN_TERMINAL = 10
SHOWN_LETTERS = 160


@dataclass(frozen=True)
class Meaning:
    """How a finding about a transcript is called, and what accepting it does."""

    title: str
    advice: str


MEANINGS = {
    "other_clip": Meaning(
        "The transcript of another clip",
        "Accepted pairs exchange their transcripts in fix=FOLDER; others are left out.",
    ),
    "text_without_speech": Meaning(
        "Text that nobody speaks", "Leave them out, or take the words out: they teach to invent."
    ),
    "speech_without_text": Meaning(
        "Speech that is not written",
        "Write what is missing, cut the clip, or leave it out: they teach to leave out.",
    ),
    "wrong_language": Meaning("Another language", "Say it in the row's language, or leave it out."),
    "cut_ends": Meaning("Words cut off at the ends", "Cut further out, or leave them out."),
}


@dataclass(frozen=True)
class ShownLabel:
    """A finding about one row, ready to be shown; texts are as they are, to be escaped."""

    kind: str  # in MEANINGS
    certainty: float  # 0 … 1
    place: str  # beginning, middle, end; "" for the whole
    detail: str
    split: str
    row: str
    file: str
    seconds: float
    text: str
    hypothesis: str
    name: str  # of the row, by its sound and text; see `data.decisions`
    text_of: str = ""  # the row whose clip this transcript fits
    better_text: str = ""  # another row's transcript, which fits this clip
    fits: str = ""  # the name of that row
    start_seconds: float | None = None  # of speech without text
    end_seconds: float | None = None
    language: str = ""
    space: str = " "  # between two words
    stretches: Sequence[Stretch] = ()  # the hypothesis along the transcript
    sound: str = ""  # a data URI
    decision: str = ""  # what was decided before

    @property
    def title(self) -> str:
        return f"{MEANINGS[self.kind].title}{f' ({self.place})' if self.place else ''}"

    @property
    def line(self) -> str:
        """Its line of a file of decisions, but for the decision."""
        values = {
            "row": self.name,
            "finding": self.kind,
            "place": self.place,
            "at": f"{self.split}, {self.row}",
            "text": self.text,
        }
        if self.fits:
            values["fits"] = self.fits
        return json.dumps(values, ensure_ascii=False)


@dataclass(frozen=True)
class LabelSection:
    """What was listened to, by what, and what was found."""

    utterances: int
    not_heard: Mapping[str, int]  # by reason
    listener: str
    settings: Mapping[str, float]
    findings: Sequence[ShownLabel]  # the surest first

    @property
    def counts(self) -> dict[str, int]:
        """Rows with each kind of finding."""
        rows = {(one.kind, one.split, one.row) for one in self.findings}
        counts = Counter(kind for kind, _, _ in rows)
        return {kind: counts[kind] for kind in MEANINGS if counts[kind]}

    def to_json(self) -> dict[str, Any]:
        left_out = ("sound", "stretches", "space", "decision")
        rows = [
            {key: value for key, value in vars(one).items() if key not in left_out}
            for one in self.findings
        ]
        head = {name: getattr(self, name) for name in ("utterances", "not_heard", "listener")}
        return {**head, "settings": self.settings, "counts": self.counts, "findings": rows}


def table(section: LabelSection) -> Table:
    """The surest findings, for the terminal."""
    found = Table(
        [
            Column("sure"),
            Column("what it is", is_text=True, is_small_below=True, layout={"ratio": 4}),
            Column("transcript, and what is heard", is_text=True, layout={"ratio": 5}),
        ],
        f"Transcripts: {counted(len(section.findings), 'finding')}, the surest first",
    )
    for one in section.findings[:SHOWN_IN_TERMINAL]:
        what = Cell(one.title, f"{one.split}, {_printable(one.row)}: {_printable(one.detail)}")
        texts = f"{_brief(one.text)}\n→ {_brief(one.hypothesis)}"
        found.add(f"{100 * one.certainty:.0f} %", what, texts, starts_section=True)
    return found


def _brief(text: str) -> str:
    text = _printable(" ".join(text.split()))
    return text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS - 1]}…"


def _printable(text: str) -> str:
    """Without what would colour or turn round the rest of the terminal's line."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
