"""Rows of a `datasets` data set: which column holds what, and audio that nobody has decoded.

`datasets` would decode with torchcodec while it reads; with `Audio(decode=False)` it hands out the
file as it lies in the data set, and `data.audio` decodes it like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.dataset import Row
from lora_whisper.data.sources.rows import TASKS, USUAL_NAMES, ColumnNames, matching
from lora_whisper.errors import UserError, listing
from lora_whisper.model.tokenizer import code_of

if TYPE_CHECKING:
    from datasets import Dataset, Features

# Beside the names that every source knows. Start and end have none: where a data set has such
# columns its clips are mostly cut out already, and they speak of the recording that those are from.
HUB_NAMES = replace(
    USUAL_NAMES,
    text=(*USUAL_NAMES.text, "raw_transcription", "raw_text", "normalized_text"),
    language=(*USUAL_NAMES.language, "lang_id"),
    start=(),
    end=(),
    previous_text=("previous_text",),
)
NOBODY = ("", "none", "null", "nan", "unknown")  # None, which VoxPopuli writes as a word, too
ROWS_AT_A_TIME = 1_000


@dataclass(frozen=True)
class RowReader:
    """The columns of one data set, and how its rows become `Row`s."""

    place: str  # "google/fleurs train"
    folder: str | None  # local data sets: what the paths in them are relative to
    audio: str  # a column
    text: str
    optional: Mapping[str, str]  # "language" → the column that holds it, for those that are there
    values: tuple[str, ...]  # columns with one text or number, which go into a row's `columns`
    class_names: Mapping[str, tuple[str, ...]]  # of columns that hold the number of a name
    audio_is_path: bool  # a text column; else a structure of bytes and path

    def row(self, number: int | str, values: Mapping[str, Any]) -> Row:
        """A row, whose text must not be missing; a name does for its number, which streams lack."""
        named = {name: self._named(name, values[name]) for name in self.values}
        found = {field: named[column] for field, column in self.optional.items()}
        language, speaker = (found.get("language") or "").strip(), str(found.get("speaker"))
        return Row(
            place=f"{self.place}:{number}",
            audio=self.path(values[self.audio]) if self.audio_is_path else "",
            text=values[self.text],
            language=code_of(language) if language else None,  # a locale's
            task=found["task"] if found.get("task") in TASKS else None,
            start=found.get("start"),
            end=found.get("end"),
            speaker=None if speaker.strip().lower() in NOBODY else speaker,
            previous_text=found.get("previous_text"),
            split=None,
            columns=json.dumps(named, ensure_ascii=False, default=str),
        )

    def path(self, path: str | None) -> str:
        """Where a file lies that the data set names."""
        return str(Path(self.folder or "", path or ""))

    def _named(self, column: str, value: Any) -> Any:
        names = self.class_names.get(column)
        if names is None or value is None:
            return value
        return names[value] if 0 <= value < len(names) else None  # -1: unlabelled


def row_reader(
    features: Features, columns: Mapping[str, str | None], place: str, folder: str | None
) -> RowReader:
    """Find out which columns hold what.

    Args:
        columns: by field, the one that is to hold it, as `data.columns` has them.

    Raises:
        UserError: none holds audio or text, one that the configuration names is not there, or one
            is of a type that cannot hold it.
    """
    from datasets import ClassLabel, Value

    chosen = _columns_by_field(features, HUB_NAMES.chosen(columns), place)
    audio = chosen.pop("audio")
    values = tuple(
        name
        for name, feature in features.items()
        if isinstance(feature, Value | ClassLabel) and name != audio and _dtype(feature) != "binary"
    )
    return RowReader(
        place,
        folder,
        audio,
        chosen.pop("text"),
        chosen,
        values,
        {name: tuple(features[name].names) for name in values if "name" in _kinds(features[name])},
        "text" in _kinds(features[audio]),
    )


def _columns_by_field(features: Features, names: ColumnNames, place: str) -> dict[str, str]:
    """The column of each field that has one."""
    chosen: dict[str, str] = {}
    problems = []
    for field, kinds, expected in FIELDS:
        tried = names.of(field)
        column = next(iter(matching(tuple(features), tried)), None)
        if column is None and field in names.required:
            problems.append(f"data.columns.{field}={tried[0]}: there is no such column")
        elif column is None and field in ("audio", "text"):
            problems.append(f"no column holds the {field} (tried {', '.join(tried)})")
        elif column is not None and kinds & _kinds(features[column]):
            chosen[field] = column
        elif column is not None and (field in names.required or field in ("audio", "text")):
            problems.append(f"column {column} is {_dtype(features[column])}, expected {expected}")
    if problems:
        there = ", ".join(f"{name} ({_dtype(feature)})" for name, feature in features.items())
        raise UserError(
            f"The data set {place} cannot be read:\n{listing(problems)}\n"
            f"It has the columns {there}.\n"
            "Say which one it is: data.columns.audio=… data.columns.text=…"
        )
    return chosen


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__.lower())


def _kinds(feature: Any) -> set[str]:
    """What a column can hold: text may be paths of audio."""
    from datasets import Audio, ClassLabel

    if isinstance(feature, ClassLabel):
        return {"name"}
    if isinstance(feature, Audio) or (
        isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
    ):
        return {"audio"}
    if _dtype(feature) in ("string", "large_string"):
        return {"text", "audio"}
    return {"number"} if _dtype(feature).startswith(("int", "uint", "float")) else set()


FIELDS = (  # of a row: what a column must hold for it, and how that is called
    ("audio", {"audio"}, "audio, a structure of bytes and path, or text with paths"),
    ("text", {"text"}, "text"),
    ("language", {"text", "name"}, "text or names"),
    ("speaker", {"text", "name", "number"}, "text, names or numbers"),
    ("start", {"number"}, "seconds"),
    ("end", {"number"}, "seconds"),
    ("task", {"text", "name"}, "text or names"),
    ("previous_text", {"text"}, "text"),
)


# ── memory-mapped ────────────────────────────────────────────────────────────────────────────


def without_decoding(dataset: Any, audio: str) -> Any:
    """The data set, its audio as a structure of bytes and path."""
    from datasets import Audio

    if isinstance(dataset.features[audio], Audio):
        return dataset.cast_column(audio, Audio(decode=False))
    return dataset


def rows(dataset: Dataset, reader: RowReader, first: int, numbers: np.ndarray) -> Iterator[Row]:
    """The rows `numbers` of the data set, without their audio; `first` is the number of its own
    first row in the split that it is a slice of."""
    needed = [*reader.values, *([reader.audio] if reader.audio_is_path else [])]
    texts = dataset.select_columns(needed).with_format("arrow")
    chosen = iter(numbers.tolist())
    wanted = next(chosen, -1)
    for begin in range(0, len(dataset), ROWS_AT_A_TIME):
        for index, values in enumerate(texts[begin : begin + ROWS_AT_A_TIME].to_pylist(), begin):
            if index == wanted:
                yield reader.row(first + index, values)
                wanted = next(chosen, -1)


def transcribed(dataset: Dataset, text: str) -> tuple[np.ndarray, int]:
    """Numbers (rows,) of the rows with a text, and how many of these texts are empty."""
    texts = dataset.select_columns([text]).with_format("arrow")
    valid, empty = [np.zeros(0, bool)], 0
    for begin in range(0, len(dataset), ROWS_AT_A_TIME):
        some = texts[begin : begin + ROWS_AT_A_TIME].column(0)
        valid.append(some.is_valid().to_numpy())
        empty += pc.sum(pc.equal(pc.binary_length(some), 0)).as_py() or 0
    return np.flatnonzero(np.concatenate(valid)), empty


@dataclass(frozen=True)
class EmbeddedAudio:
    """The audio of a table's rows, read from the memory-mapped data set when it is wanted."""

    audio: Dataset  # of the one column
    numbers: np.ndarray  # (rows,) of the data set
    reader: RowReader
    first: int  # the data set's own first row, in the split that it is a slice of

    def __call__(self, row: int) -> Path | EncodedAudio:
        number = int(self.numbers[row])
        value = self._value(number)
        if value is None or value["bytes"].is_valid or not value["path"].is_valid:
            name = f"{self.reader.place}:{self.first + number}"
            return EncodedAudio(name, partial(self._bytes, number))
        return Path(self.reader.path(value["path"].as_py()))

    def _bytes(self, number: int) -> bytes:
        value = self._value(number)
        return (value and value["bytes"].as_py()) or b""

    def _value(self, number: int) -> Any:
        """The structure of bytes and path as an Arrow scalar, of which nothing is copied."""
        value = self.audio[number : number + 1].column(0)[0]
        return value if value.is_valid else None
