"""What all readers share: which column holds what, the checks of a row, and the bad ones' report.

A reader parses its files into values by column; `RowMaker` makes each a checked `Row`, and
`Problems` gathers what cannot be used, so that a file is refused once and for all its rows.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lora_whisper.data.dataset import Row, split_name
from lora_whisper.errors import UserError, listing

log = logging.getLogger("lora_whisper")

READERS_VERSION = 2  # of what the readers make of a file; cached tables of another are read anew
TASKS = ("transcribe", "translate")
LONGEST_SECONDS = 1e9  # more than thirty years, so a mistake
LOOKS_LIKE_AUDIO = re.compile(
    r"\.(wav|flac|ogg|oga|opus|mp3|m4a|mp4|aac|webm|wma|amr|aiff?|wv|mkv)\W*$", re.IGNORECASE
)
DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")  # 1:02:03.5
WITH_UNIT = re.compile(r"([\d.]+)\s*(ms|s|sec|seconds?)\.?", re.IGNORECASE)
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a letter beyond the first 65,536
SHOWN = 10  # problems of a file, or its columns, that are named; the rest are counted


class RowError(Exception):
    """What one row lacks: what was found, and what was expected."""


@dataclass(frozen=True)
class ColumnNames:
    """The columns that may hold each field of a row; of several that do, the first one counts.

    `*_NAME` stands for each column that ends so.
    """

    audio: tuple[str, ...]
    text: tuple[str, ...]
    language: tuple[str, ...]
    task: tuple[str, ...]
    speaker: tuple[str, ...]
    start: tuple[str, ...]  # seconds into the recording
    end: tuple[str, ...]
    duration: tuple[str, ...]  # seconds from `start`, where there is no end; else not looked at
    previous_text: tuple[str, ...]
    split: tuple[str, ...]
    required: tuple[str, ...] = ()  # fields whose one column has to be there

    def chosen(self, columns: Mapping[str, str | None]) -> ColumnNames:
        """The same, with the one column that `data.columns` names for a field."""
        given = {key: (name,) for key, name in columns.items() if name is not None}
        return replace(self, **given, required=tuple(given))

    def of(self, name: str) -> tuple[str, ...]:
        """The columns that may hold the field of this name."""
        columns: tuple[str, ...] = getattr(self, name)
        return columns


USUAL_NAMES = ColumnNames(  # ours, Hugging Face's, NeMo's, Common Voice's, Coqui's, Lhotse's
    audio=(
        *("audio", "file_name", "audio_filepath", "path", "audio_path", "audio_file"),
        *("wav", "wav_filename", "filename", "file"),
    ),
    text=("text", "transcription", "sentence", "transcript"),
    language=("language", "lang", "locale"),
    task=("task",),
    speaker=("speaker", "speaker_id", "client_id"),
    start=("start", "start_seconds", "start_time", "offset"),
    end=("end", "end_seconds", "end_time"),
    duration=("duration",),
    previous_text=("previous_text", "previous", "prev"),
    split=("split",),
)


ROW_FIELDS = tuple(each.name for each in fields(ColumnNames) if each.name != "required")


@dataclass(frozen=True)
class Part:
    """The files of a source that are read together, and how."""

    name: str  # of the split that they hold; "" where the rows say it, or nobody does
    place: str  # for messages
    key: str  # of their table, see `table_key`
    rows: Callable[[], Iterator[Row]] = field(compare=False)


class BadRows:
    """The rows of one file that cannot be used: the first ones are kept, the rest counted."""

    def __init__(self, file: str) -> None:
        """`file` is what rows are named by: row 17 is `file:17`."""
        self.file = file
        self.count = 0
        self._first: list[str] = []

    def add(self, line: int, problem: object) -> None:
        self.count += 1
        if len(self._first) < SHOWN:
            self._first.append(f"{self.file}:{line}: {problem}")

    def refuse(self, file: str, noun: str, expected: str) -> None:
        """Raise UserError if there are any: `file` has 17 `noun`s that cannot be used."""
        if self.count:
            raise UserError(f"{self._listed(file, noun)}\n{expected}")

    def warn(self, file: str, noun: str, consequence: str) -> None:
        """Log them if there are any."""
        if self.count:
            log.warning("%-11s %s", "left out", self._listed(file, noun, f" {consequence}"))

    def _listed(self, file: str, noun: str, consequence: str = "") -> str:
        nouns = noun if self.count == 1 else f"{noun}s"
        rest = self.count - len(self._first)
        lines = [
            f"{file} has {self.count} {nouns} that cannot be used{consequence}:",
            listing(self._first),
        ]
        return "\n".join([*lines, *([f"  … and {rest} more"] if rest else [])])


class RowMaker:
    """Makes rows of the values that a reader found, a million of them in seconds."""

    def __init__(self, folder: Path, names: ColumnNames):
        """`folder` is what audio is relative to."""
        self.folder = str(folder)
        self.names = names
        self.unseen = {names.of(field)[0] for field in names.required}
        self._present = lru_cache(maxsize=1_000)(self._columns_of)  # most rows are alike
        self._folder = lru_cache(maxsize=10_000)(self._absolute)

    def __call__(self, place: str, values: Mapping[str, Any], columns: str) -> Row:
        """The row at `place`; `columns` is the JSON of `values`.

        Raises:
            RowError: says what was found, and what was expected.
        """
        audio, texts, language, task, speaker, start, end, duration, previous, split = (
            self._present(tuple(values))
        )
        has_times = start or end
        begin, stop = self._times(values, start, end, duration) if has_times else (None, None)
        path = self._path(values, audio)
        text = _text(values, texts, "text")
        if text is None:
            raise RowError(_lacking(values, self.names.text))
        return Row(
            place,
            path,
            text,
            _optional(values, language) if language else None,  # 0.1 s of a million rows each
            _task(values, task) if task else None,
            begin,
            stop,
            _speaker(values, speaker) if speaker else None,
            _optional(values, previous) if previous else None,
            (split_name(_optional(values, split) or "") or None) if split else None,
            columns,
        )

    def require_columns(self, keys: tuple[str, ...]) -> None:
        """Raise RowError if a column that the rows need is neither among `keys` nor was before."""
        self._present(keys)
        missing = [f"{name!r} (see data.columns)" for name in sorted(self.unseen)]
        for names in (self.names.audio, self.names.text):
            if not matching((*keys, *self.unseen), names):
                missing.append(f"one of {', '.join(names)}")
        if missing:
            found = f"found the columns {listed(keys)}; expected {' and '.join(missing)}"
            raise RowError(found + why_no_columns(keys))

    def text_columns(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a table that may hold the text, where an empty cell says something."""
        return matching(keys, self.names.text)

    def _columns_of(self, keys: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """For each field of a row, the keys that may hold it."""
        self.unseen = {name for name in self.unseen if not matching(keys, (name,))}
        if len(texts := self.text_columns(keys)) > 1:
            _warn_of_choice(*texts)
        return tuple(matching(keys, self.names.of(field)) for field in ROW_FIELDS)

    def _path(self, values: Mapping[str, Any], keys: tuple[str, ...]) -> str:
        path = _text(values, keys, "a path")
        if path is None:
            raise RowError(_lacking(values, self.names.audio))
        if not path.strip():
            raise RowError(f"found {_first(values, keys)[0]} {excerpt(path)}, expected a path")
        if path.lower().startswith("file:/"):
            path = unquote(urlsplit(path).path)
        head, separator, tail = path.rpartition("/")
        return self._folder(head + separator) + tail

    def _absolute(self, folder: str) -> str:
        """The folder of a row's audio, with a slash; `..` goes up from where a link leads."""
        joined = os.path.join(self.folder, os.path.expanduser(folder))
        absolute = os.path.realpath(joined) if ".." in joined else os.path.normpath(joined)
        return os.path.join(absolute, "")

    def _times(
        self,
        values: Mapping[str, Any],
        starts: tuple[str, ...],
        ends: tuple[str, ...],
        durations: tuple[str, ...],
    ) -> tuple[float | None, float | None]:
        """Where the slice of the recording begins and ends, as far as the row says so."""
        _, start = self._seconds(values, starts)
        key, end = self._seconds(values, ends)
        if end is None and start is not None:
            key, duration = self._seconds(values, durations)
            end = None if duration is None else start + duration
        if end is not None and end <= (start or 0.0):
            expected = f"more than start {start or 0.0:g}" if key in ends else "more than 0"
            raise RowError(f"found {key} {excerpt(values[key])}, expected {expected}")
        return start, end

    def _seconds(
        self, values: Mapping[str, Any], keys: tuple[str, ...]
    ) -> tuple[str, float | None]:
        key, value = _first(values, keys)
        if value is None:
            return key, None
        seconds: Any = _number(value) if isinstance(value, str) else value
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if is_number and 0 <= seconds < LONGEST_SECONDS:  # no for NaN, too
            return key, float(seconds)
        raise RowError(f"found {key} {excerpt(value)}, expected seconds from 0 on{_as(value)}")


@cache  # once for all tables that are alike
def _warn_of_choice(text: str, *others: str) -> None:
    log.warning(
        "columns     the text is read from %r, and %s could be it: data.columns.text=NAME chooses",
        text,
        " or ".join(map(repr, others)),
    )


def matching(keys: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The keys that are called like one of the names, in the order of these.

    Exactly so first; else in capitals, with spaces around or a space or hyphen for the underscore.
    """
    exact = [key for name in names for key in keys if _matches(key, name)]
    alike = [key for name in names for key in keys if _matches(_plain(key), _plain(name))]
    return tuple(dict.fromkeys(exact + alike))


def _matches(key: str, name: str) -> bool:
    return key == name or (name.startswith("*_") and key.endswith(name[1:]))


@lru_cache(maxsize=1_000)
def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", trimmed(name).lower())


def trimmed(name: str) -> str:
    """Without spaces and marks of byte order around it."""
    return name.strip("\ufeff\u200b \t\r\n\xa0").strip()


def why_no_columns(keys: tuple[str, ...]) -> str:
    """What else the first line of a table may be, for the message."""
    if any(map(LOOKS_LIKE_AUDIO.search, keys)):
        return (
            "; the first line looks like a row and not like names of columns: put one on top of it"
        )
    if len(keys) == 1 and re.search(r"\w\W+\w", keys[0]):
        return "; columns are parted by commas, semicolons, tabs or |"
    return ""


def _as(value: Any) -> str:
    """How a time that is written in another way would be, for the message."""
    text = value.strip() if isinstance(value, str) else ""
    if DECIMAL_COMMA.fullmatch(text):
        return f": with a decimal point, {text.replace(',', '.')}"
    if clock := CLOCK.fullmatch(text):
        hours, minutes = int(clock[1] or 0), int(clock[2])
        return f": {3600 * hours + 60 * minutes + float(clock[3].replace(',', '.')):g}"
    if (unit := WITH_UNIT.fullmatch(text)) and (number := _number(unit[1])) is not None:
        return f": {number / 1000 if unit[2].lower() == 'ms' else number:g}"
    return ""


def _first(values: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, Any]:
    """The first of the keys that holds something, and what it holds."""
    for key in keys:
        value = values[key]
        if value is not None:
            return key, value
    return "", None


def _text(values: Mapping[str, Any], keys: tuple[str, ...], expected: str) -> str | None:
    """The first text under one of the keys; it is asked for several times in each of a million.

    Half of a surrogate pair is legal in JSON, but can be neither tokenized nor printed.
    """
    for key in keys:
        value = values[key]
        if value is None:
            continue
        if not isinstance(value, str):
            raise RowError(f"found {key} {excerpt(value)}, expected {expected}")
        if "\0" not in value and (value.isascii() or is_encodable(value)):
            return value
        flaw = " with a NUL (\\u0000) in it"
        if half := SURROGATE.search(value):
            code = f"\\u{ord(half[0]):04x}"  # as JSON writes it
            flaw = f" with half of a letter ({code}, a surrogate without its other half)"
        raise RowError(f"found {key} {excerpt(value)}{flaw}, expected {expected}")
    return None


def _optional(values: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    text = _text(values, keys, "text or null")
    return (text and text.strip()) or None


def _task(values: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    key, task = _first(values, keys)
    if task is not None and task not in TASKS:
        raise RowError(f"found {key} {excerpt(task)}, expected {' or '.join(TASKS)}")
    return task


def _speaker(values: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    _, speaker = _first(values, keys)
    return str(speaker) if type(speaker) is int else _text(values, keys, "text") or None


def is_encodable(text: str) -> bool:
    """Whether it is Unicode; bytes that are no UTF-8 are read as halves of surrogate pairs."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _number(cell: str) -> float | None:
    """A number in digits; `float` alone would read 1_500 too, which is a slip."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _lacking(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    if empty := [key for key in matching(tuple(values), names) if values[key] is None]:
        return f"{empty[0]} is null, expected a value"
    given = [key for key, value in values.items() if value is not None]
    return f"found {listed(given)}, expected a value for one of {', '.join(names)}"


def listed(keys: Iterable[str]) -> str:
    """For messages: the columns, but no more than fit on a few lines."""
    names = [excerpt(key) for key in keys]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*names[:SHOWN], *more]) or "nothing"


def excerpt(value: Any) -> str:
    """For messages: what was found, on one line and not too much of it."""
    if isinstance(value, bytes):  # as text, with what is no UTF-8 as \xe9
        text = repr(value.decode("utf-8", "backslashreplace")).replace("\\\\x", "\\x")
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
