"""Rows and utterances without a source, of the few fields that a test is about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lora_whisper.config import DataConfig
from lora_whisper.data.dataset import Defaults, Row, Table, Utterances
from lora_whisper.data.sources.hub import defaults
from tests.toy_speech import write_clip

OPTIONAL = ("language", "task", "start", "end", "speaker", "previous_text", "split")


def toy_row(number: int = 1, place: str | None = None, **columns: Any) -> Row:
    """Row `number` of a.jsonl; what is not given is as plain as can be."""
    values = {"audio": f"/absent/{number}.wav", "text": "hi"} | columns
    return Row(
        place=place or f"a.jsonl:{number}",
        audio=str(values["audio"]),
        text=values["text"],
        columns=json.dumps(columns, default=str),
        **{name: columns.get(name) for name in OPTIONAL},
    )


def manifest_utterances(
    folder: Path, rows: Iterable[Mapping[str, Any]], config: DataConfig
) -> Utterances:
    """Utterances of rows as a manifest in `folder` would have them."""
    placed = (dict(row) | {"audio": str(folder / row["audio"])} for row in rows)
    table = Table.from_rows(toy_row(number, **row) for number, row in enumerate(placed, 1))
    return Utterances([table], defaults(config))


def toy_utterances(
    rows: Sequence[Mapping[str, Any]], seconds: Sequence[float] | float = 1.0
) -> Utterances:
    """One English utterance for each mapping; slices need no length of their own."""
    table = Table.from_rows(
        toy_row(number, **{"language": "en", **row}) for number, row in enumerate(rows, 1)
    )
    lengths = np.broadcast_to(np.asarray(seconds, np.float64), len(rows)).copy()
    for index, row in enumerate(rows):
        if "start" in row and "end" in row:
            lengths[index] = row["end"] - row["start"]
    return Utterances([table], Defaults(None, "transcribe"), durations_seconds=lengths)


def recorded(folder: Path, seconds: Sequence[float], **values: Any) -> Utterances:
    """One utterance for each length, with a recording of another tone each."""
    rows = [
        {"audio": str(write_clip(folder / f"{index}.wav", length, frequency=150.0 + 20 * index))}
        for index, length in enumerate(seconds)
    ]
    return toy_utterances([row | values for row in rows], seconds)
