"""Speech as utterances, and its rows in Arrow tables: a million of them in little memory, opened
again in no time.

A reader of `data/sources` yields `Row`s; a `Table` holds them, memory-mapped from the disk where
they are many; `Utterances` makes an `Utterance` of a row when somebody asks for it.

`datasets.Dataset` in the place of `Table` took 49 µs to read a row (here 17), 10 s to take in
200,000 (here 0.5), and 0.6 s to be imported, on one core in November 2026.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import operator
import os
import re
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lora_whisper.config import SPLITS
from lora_whisper.data.audio import EncodedAudio
from lora_whisper.model.tokenizer import SpecialTokens, code_of, language_code
from lora_whisper.paths import cache_folder

log = logging.getLogger("lora_whisper")

ROWS_ON_DISK = 20_000  # from here on a table goes to the disk; it is the size of its batches, too
FORGOTTEN_SECONDS = 86_400.0  # after a day, a temporary file is what a killed process left

AudioOf = Callable[[int], Path | EncodedAudio]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a source, or a piece of one that was split."""

    audio: Path | EncodedAudio
    text: str  # "" is no speech
    language: str | None  # what is spoken, as the row or the configuration names it
    task: str
    start_seconds: float | None  # of the slice; None: from the beginning of the file
    end_seconds: float | None  # None: to its end
    speaker: str | None
    row: str  # where it stands, "a.jsonl:17"
    columns: Mapping[str, Any]  # the row as it stands in its source
    duration_seconds: float = 0.0  # of the slice; `load_corpus` fills it from the audio's header
    previous_text: str | None = None  # what was said just before, for the prompt
    language_token: str | None = None  # language whose token stands for `language`; None: its own


def token_language(special_tokens: SpecialTokens, utterance: Utterance) -> str | None:
    """Code of the language whose token the decoder is given; None for English-only checkpoints.

    A language that Whisper lacks borrows the token of another, its `language_token`.

    Raises:
        UserError: a language that the checkpoint does not know, or none where one is needed.
    """
    return language_code(special_tokens, utterance.language_token or utterance.language)


def written_language(special_tokens: SpecialTokens, utterance: Utterance) -> str | None:
    """Code of the language that the text is in, which decides on spaces and normalization.

    A translation is English text, whatever was spoken. Under a borrowed token the language is the
    utterance's own, whether the checkpoint knows it or not.
    """
    if utterance.task == "translate":
        return "en"
    if utterance.language_token and utterance.language:
        return code_of(utterance.language)
    return token_language(special_tokens, utterance)


@dataclass(slots=True)
class Row:
    """One row of any source, checked by its reader. Not frozen: a million are made in a go."""

    place: str  # where it stands, "a.jsonl:17"
    audio: str  # absolute path; "" where the audio lies inside a data set
    text: str
    language: str | None  # None, here and below, and never "" where the row says nothing
    task: str | None
    start: float | None  # seconds into the recording
    end: float | None
    speaker: str | None
    previous_text: str | None
    split: str | None
    columns: str  # JSON of the row as it stands


NAMES = tuple(each.name for each in fields(Row))
SECONDS = ("start", "end")
SCHEMA = pa.schema([(name, pa.float64() if name in SECONDS else pa.string()) for name in NAMES])


class Table:
    """Rows by number, and columns at once; nothing is read before it is asked for.

    A table on the disk is memory-mapped and pickled as its path, for loader workers.
    """

    def __init__(
        self, arrow: pa.Table, path: Path | None = None, audio_of: AudioOf | None = None
    ) -> None:
        """`audio_of` answers with the audio of a row where no file system has it."""
        self.path = path
        self.audio_of = audio_of
        self._arrow = arrow
        self._batches = arrow.to_batches()
        self._ends = np.cumsum([len(batch) for batch in self._batches])

    @classmethod
    def from_rows(cls, rows: Iterable[Row], audio_of: AudioOf | None = None) -> Table:
        """Hold the rows in memory."""
        return cls(pa.Table.from_batches(_batches(rows), SCHEMA), audio_of=audio_of)

    @classmethod
    def cached(
        cls, key: str, rows: Callable[[], Iterable[Row]], audio_of: AudioOf | None = None
    ) -> Table:
        """The table of this key (see `table_key`), read by `rows()` if it is not there already.

        Small tables stay in memory. A cache that cannot be read is written anew; one that cannot
        be written is done without.
        """
        path = cache_folder("tables") / f"{key}.arrow"
        table = _opened(path, audio_of)
        if table is not None:
            return table
        batches = _batches(rows())
        first = list(islice(batches, 1))
        if sum(map(len, first)) < ROWS_ON_DISK:
            return cls(pa.Table.from_batches(first, SCHEMA), audio_of=audio_of)
        try:
            _write(path, chain(first, batches))
        except OSError as error:
            log.warning("cache       cannot be written, so rows stay in memory: %s", error)
            return cls.from_rows(rows(), audio_of)
        return cls(_mapped(path), path, audio_of)

    def __len__(self) -> int:
        return len(self._arrow)

    def row(self, number: int) -> Row:
        """The row itself, from 0 on."""
        assert 0 <= number < len(self), "rows are counted from 0"
        batch = int(np.searchsorted(self._ends, number, side="right"))
        values = self._batches[batch]
        within = number - int(self._ends[batch]) + len(values)
        return Row(*(column[within].as_py() for column in values.columns))

    def column(self, name: str) -> pa.ChunkedArray:
        """A field of all rows."""
        return self._arrow.column(name)

    def audio(self, number: int, path: str) -> Path | EncodedAudio:
        """The audio of a row whose field `audio` is `path`."""
        return Path(path) if self.audio_of is None else self.audio_of(number)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return Table, (self._arrow, None, self.audio_of)
        return _reopened, (self.path, self.audio_of)


def table_key(reader: str, version: int, files: Sequence[Path], settings: object = None) -> str:
    """Name a table by what it is made from: as long as all of it is the same, so is the name.

    Its first half names the source, so that a table of what the source was before can be removed.

    Args:
        reader, version: whose rows they are; a reader that reads otherwise gets a new version.
        files: all that is read (not the audio); their sizes and times of change count.
        settings: whatever else decides what is read, as its `repr` shows it.
    """
    paths = sorted(os.path.abspath(path) for path in files)
    states = [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, paths)]
    return f"{_digest(reader, paths, settings)}-{_digest(version, states)}"


def _digest(*parts: object) -> str:
    return hashlib.blake2b(
        repr(parts).encode("utf-8", "surrogateescape"), digest_size=8
    ).hexdigest()


_values = operator.attrgetter(*NAMES)


def _batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """Turn rows into columns, a batch at a time: all that is in memory at once."""
    remaining = iter(rows)
    while some := list(islice(remaining, ROWS_ON_DISK)):
        columns = zip(*map(_values, some), strict=True)
        arrays = [pa.array(each, kind) for each, kind in zip(columns, SCHEMA.types, strict=True)]
        yield pa.record_batch(arrays, schema=SCHEMA)


def _write(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
    # What earlier states of the same source left, and forgotten temporary files.
    source = path.stem.partition("-")[0]
    outdated = [old for old in path.parent.glob(f"{source}-*") if old.stem != path.stem]
    for each in path.parent.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - each.stat().st_mtime > FORGOTTEN_SECONDS:
                outdated.append(each)
    for each in outdated:
        with contextlib.suppress(OSError):  # Windows keeps what another process has open
            each.unlink()


@contextlib.contextmanager
def published(path: Path) -> Iterator[BinaryIO]:
    """Write a whole file or none, also where two processes write the same one at a time."""
    descriptor, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name with zeros behind it
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _opened(path: Path, audio_of: AudioOf | None) -> Table | None:
    """The table at `path`; None if there is none, or one that is damaged or not ours."""
    if not path.is_file():
        return None
    with contextlib.suppress(OSError, pa.ArrowException):
        arrow = _mapped(path)
        if arrow.schema == SCHEMA:
            arrow.validate()  # raises where sizes do not fit
            # A text of negative length would be read outside of its buffer, which ends the process.
            # Arrow's own full validation reads all texts: 0.4 GB for a million rows, and not 36 MB.
            strings = (column for column in arrow.columns if pa.types.is_string(column.type))
            if all((pc.min(pc.binary_length(column)).as_py() or 0) >= 0 for column in strings):
                return Table(arrow, path, audio_of)
    log.warning("cache       %s is damaged and will be written anew", path)
    return None


def _reopened(path: Path, audio_of: AudioOf | None) -> Table:
    return Table(_mapped(path), path, audio_of)


# ── utterances ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Defaults:
    """What holds for rows that do not say otherwise."""

    language: str | None
    task: str
    language_token: str | None = None  # of rows in `language`
    codes: Mapping[str | None, str | None] = field(default_factory=dict)
    # what a language is called from here on, where the rows or the configuration name it otherwise

    def language_of(self, row: Row) -> tuple[str | None, str | None]:
        """The language, and the one whose token stands for it (None: its own)."""
        language = row.language or self.language
        token = self.language_token if language == self.language else None
        return self.codes.get(language, language), token


class Utterances(Sequence[Utterance]):
    """The chosen rows of one table or several, each an `Utterance` when it is asked for."""

    def __init__(
        self,
        tables: Sequence[Table],
        defaults: Defaults,
        rows: np.ndarray | None = None,
        durations_seconds: np.ndarray | None = None,
    ) -> None:
        """All rows of all tables, one table after the other, or those numbered in `rows`."""
        self.tables = tuple(tables)
        self.defaults = defaults
        self._ends = np.cumsum([len(table) for table in self.tables])
        total = int(self._ends[-1]) if len(self._ends) else 0
        self.rows = np.arange(total) if rows is None else np.asarray(rows, np.int64)
        unknown = np.full(len(self.rows), np.nan)
        self.durations_seconds = unknown if durations_seconds is None else durations_seconds
        assert len(self.durations_seconds) == len(self.rows), "one duration a row"

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> Utterances: ...
    def __getitem__(self, index: int | slice) -> Utterance | Utterances:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        index = range(len(self))[index]  # an IndexError as of any sequence
        table, number = self._located(index)
        row = table.row(number)
        language, token = self.defaults.language_of(row)
        seconds = float(self.durations_seconds[index])
        return Utterance(
            audio=table.audio(number, row.audio),
            text=row.text,
            language=language,
            task=row.task or self.defaults.task,
            start_seconds=row.start,
            end_seconds=row.end,
            speaker=row.speaker,
            row=row.place,
            columns=json.loads(row.columns),
            duration_seconds=0.0 if np.isnan(seconds) else seconds,
            previous_text=row.previous_text,
            language_token=token,
        )

    def select(self, indices: Sequence[int] | np.ndarray) -> Utterances:
        """These utterances, in this order; a mask of booleans selects, too."""
        chosen = np.asarray(indices)
        if chosen.dtype != bool:
            chosen = chosen.astype(np.int64)
        return Utterances(
            self.tables, self.defaults, self.rows[chosen], self.durations_seconds[chosen]
        )

    def column(self, name: str) -> pa.ChunkedArray:
        """A field of `Row` for each utterance; language and task as the `Utterance` has them."""
        chunks = chain.from_iterable(table.column(name).chunks for table in self.tables)
        whole = pa.chunked_array(chunks, SCHEMA.field(name).type)
        are_all = len(self) == len(whole) and bool((self.rows == np.arange(len(whole))).all())
        if not are_all:
            whole = whole.take(pa.array(self.rows))
        if name in ("language", "task"):
            default = getattr(self.defaults, name)
            whole = whole if default is None else pc.fill_null(whole, default)
        if name == "language":
            for called, code in self.defaults.codes.items():
                if called is not None and called != code:
                    is_called_so = pc.fill_null(pc.equal(whole, called), False)
                    whole = pc.if_else(is_called_so, pa.scalar(code, pa.string()), whole)
        return whole

    def row(self, index: int) -> Row:
        """The row behind an utterance, as its source has it."""
        table, number = self._located(index)
        return table.row(number)

    def by_table(self) -> Iterator[tuple[Table, np.ndarray, np.ndarray]]:
        """Each table, the utterances that it holds by index, and their row numbers in it."""
        begins = self._ends - [len(table) for table in self.tables]
        holding = np.searchsorted(self._ends, self.rows, side="right")
        for number, table in enumerate(self.tables):
            indices = np.flatnonzero(holding == number)
            yield table, indices, self.rows[indices] - begins[number]

    def with_durations(self, seconds: np.ndarray) -> Utterances:
        """The same with (n,) measured durations."""
        return Utterances(self.tables, self.defaults, self.rows, seconds)

    def with_codes(self, codes: Mapping[str | None, str | None], token: str | None) -> Utterances:
        """The same with languages called by code, and with the code of the borrowed token."""
        defaults = replace(self.defaults, codes=dict(codes), language_token=token)
        return Utterances(self.tables, defaults, self.rows, self.durations_seconds)

    def with_pieces(self, pieces: Mapping[int, Sequence[Utterance]]) -> Utterances:
        """Put pieces in the place of the utterances (by index) that they are cut from."""
        if not pieces:
            return self
        cut = [(index, piece) for index in sorted(pieces) for piece in pieces[index]]
        located = [self._located(index) for index, _ in cut]
        rows = [
            replace(
                table.row(number),
                place=piece.row,
                text=piece.text,
                start=piece.start_seconds,
                end=piece.end_seconds,
                previous_text=piece.previous_text,
                columns=json.dumps(dict(piece.columns)),
            )
            for (table, number), (_, piece) in zip(located, cut, strict=True)
        ]
        has_files = all(table.audio_of is None for table, _ in located)
        table = Table.from_rows(rows, None if has_files else _AudioOfPieces(tuple(located)))
        whole = np.setdiff1d(np.arange(len(self)), list(pieces))
        order = np.argsort([*whole, *(index for index, _ in cut)], kind="stable")
        numbers = int(self._ends[-1]) + np.arange(len(cut))
        seconds = [piece.duration_seconds for _, piece in cut]
        return Utterances(
            (*self.tables, table),
            self.defaults,
            np.concatenate([self.rows[whole], numbers])[order],
            np.concatenate([self.durations_seconds[whole], seconds])[order],
        )

    def _located(self, index: int) -> tuple[Table, int]:
        """The table that holds an utterance, and its row there."""
        row = int(self.rows[index])
        table = int(np.searchsorted(self._ends, row, side="right"))
        return self.tables[table], row - int(self._ends[table]) + len(self.tables[table])


@dataclass(frozen=True)
class _AudioOfPieces:
    """Pieces have the audio of the rows that they are cut from; a class, to be picklable."""

    wholes: tuple[tuple[Table, int], ...]

    def __call__(self, number: int) -> Path | EncodedAudio:
        table, whole = self.wholes[number]
        return table.audio(whole, table.row(whole).audio)


# ── splits ───────────────────────────────────────────────────────────────────────────────────────


SPLIT_NAMES = {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
}


@lru_cache(maxsize=100)  # of a million rows
def split_name(name: str) -> str:
    """One name for each split: "dev", "val" and "valid_manifest" are "validation"."""
    name = name.strip().lower()
    name = re.sub(r"(?<=.)[_-]manifest$", "", name)  # as NeMo's tutorials call their files
    return SPLIT_NAMES.get(name, name)


def folder_split(folder: Path, root: Path) -> str | None:
    """The split that a folder below `root` is called like, or the next one above it that is."""
    names = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    splits = (split_name(name) for name in reversed(names))
    return next((split for split in splits if split in SPLITS), None)


def split_key(speaker: str | None, text: str) -> str:
    """What must not stand in two splits: the speaker; where unknown, the text in any spelling."""
    if speaker is not None:
        return f"speaker {speaker}"
    folded = unicodedata.normalize("NFC", text.strip()).casefold()
    return f"text {unicodedata.normalize('NFC', folded)}"
