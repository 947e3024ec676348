"""Utterances of which no recording is needed, from the few fields that a test is about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lora_whisper.data.dataset import Defaults, Row, Table, Utterances


def toy_row(number: int, **values: Any) -> Row:
    common = dict.fromkeys(("task", "start", "end", "speaker", "previous_text", "split"))
    given = {"audio": f"/absent/{number}.wav", "text": "hi", "language": "en", "columns": "{}"}
    return Row(**({"place": f"a.jsonl:{number + 1}"} | common | given | values))


def toy_utterances(
    rows: Sequence[dict[str, Any]], seconds: Sequence[float] | float = 1.0
) -> Utterances:
    """One utterance for each mapping of `Row` fields; slices need no length of their own."""
    table = Table.from_rows(toy_row(number, **row) for number, row in enumerate(rows))
    lengths = np.broadcast_to(np.asarray(seconds, np.float64), len(rows)).copy()
    for index, row in enumerate(rows):
        if "start" in row and "end" in row:
            lengths[index] = row["end"] - row["start"]
    return Utterances([table], Defaults(None, "transcribe"), durations_seconds=lengths)


def recorded(folder: Path, seconds: Sequence[float], **values: Any) -> Utterances:
    """One utterance for each length, with a recording of another tone each."""
    from tests.toy_speech import write_clip

    rows = [
        {"audio": str(write_clip(folder / f"{index}.wav", length, frequency=150.0 + 20 * index))}
        for index, length in enumerate(seconds)
    ]
    return toy_utterances([row | values for row in rows], seconds)
