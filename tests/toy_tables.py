"""Rows and utterances without a source to read them from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lora_whisper.config import DataConfig
from lora_whisper.data.dataset import Row, Table, Utterances

OPTIONAL = ("language", "task", "start", "end", "speaker", "previous_text", "split")


def toy_row(number: int = 1, **columns: Any) -> Row:
    """Row `number` of a.jsonl; what is not given is as plain as can be."""
    values = {"audio": f"/speech/{number}.wav", "text": "hi"} | columns
    return Row(
        place=f"a.jsonl:{number}",
        audio=str(values["audio"]),
        text=values["text"],
        columns=json.dumps(columns, default=str),
        **{name: columns.get(name) for name in OPTIONAL},
    )


def toy_utterances(
    folder: Path, rows: Iterable[Mapping[str, Any]], config: DataConfig
) -> Utterances:
    """Utterances of rows as a manifest in `folder` would have them."""
    placed = (dict(row) | {"audio": str(folder / row["audio"])} for row in rows)
    table = Table.from_rows(toy_row(number, **row) for number, row in enumerate(placed, 1))
    return Utterances.of(table, config)
