"""How long utterances are, by the headers of their files; kept beside a table on the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lora_whisper.data.audio import (
    END_TOLERANCE_SECONDS,
    AudioError,
    Header,
    Remark,
    read_header,
    slice_seconds,
)
from lora_whisper.data.table import ROWS_ON_DISK, Table, Utterances, published
from lora_whisper.data.utterance import EncodedAudio
from lora_whisper.terminal import work

ROWS_AT_A_TIME = 1_000  # that a thread measures before it is given more

# What is known of a row, and of the file that it was measured in (zeros where there is none).
KNOWN = np.dtype(
    [("seconds", "<f8"), ("modified_ns", "<i8"), ("file_bytes", "<i8"), ("measured", "?")]
)
# One row's slice: its number in the table, path, start and end, and what was known of it.
Slice = tuple[int, str, float | None, float | None, tuple[float, int, int, bool]]


class Durations(NamedTuple):
    """What the headers of all files tell, by the index of an utterance."""

    utterances: Utterances  # with their durations, NaN where the audio cannot be read
    problems: dict[int, AudioError]  # why it cannot
    remarks: dict[int, tuple[Remark, ...]]  # on what can be read


def measure(utterances: Utterances) -> Durations:
    """Read the headers of all files, in threads; nothing is decoded.

    What is known already is not read again, unless the file has changed since.
    """
    seconds = utterances.durations_seconds.copy()
    problems: dict[int, AudioError] = {}
    remarks: dict[int, tuple[Remark, ...]] = {}
    with _progress(int(np.isnan(seconds).sum())) as advance:
        for table, indices, rows in utterances.by_table():
            unknown = np.isnan(seconds[indices])
            indices, rows = indices[unknown], rows[unknown]
            durations = _TableDurations(table)
            found, reasons = durations.of(rows, advance)
            seconds[indices] = found
            problems |= {int(index): reasons[row] for index, row in _among(indices, rows, reasons)}
            said = durations.remarks
            remarks |= {index: said[row] for index, row in _among(indices, rows, said)}
    return Durations(utterances.with_durations(seconds), problems, remarks)


class _TableDurations:
    """The durations of a table's rows, from its last run if it is on the disk."""

    def __init__(self, table: Table):
        self.table = table
        self.file = table.path and table.path.with_suffix(".durations.npy")
        self.known = _read(self.file, len(table))
        self.is_new = False
        self.remarks: dict[int, tuple[Remark, ...]] = {}  # by row

    def of(
        self, rows: np.ndarray, advance: Callable[[int], None]
    ) -> tuple[np.ndarray, dict[int, AudioError]]:
        """Seconds of these rows, NaN where they cannot be read, and why not by row."""
        problems: dict[int, AudioError] = {}
        portions = np.array_split(rows, len(rows) // ROWS_AT_A_TIME + 1)
        with ThreadPoolExecutor() as pool:  # libsndfile waits for the disk without holding the GIL
            for portion, found in zip(portions, pool.map(self._measure, portions), strict=True):
                problems |= found
                advance(len(portion))
        if self.is_new and self.file is not None:
            _write(self.file, self.known)
        return np.where(
            np.isin(rows, list(problems)), np.nan, self.known["seconds"][rows]
        ), problems

    def _measure(self, rows: np.ndarray) -> dict[int, AudioError]:
        problems: dict[int, AudioError] = {}
        for _, group in groupby(self._slices(rows), key=self._recording):
            problems |= self._measure_recording(list(group))
        return problems

    def _slices(self, rows: np.ndarray) -> Iterator[Slice]:
        columns = (
            self.table.column(name).take(pa.array(rows)).to_pylist()
            for name in ("audio", "start", "end")
        )
        return zip(rows.tolist(), *columns, self.known[rows].tolist(), strict=True)

    def _recording(self, one: Slice) -> str | int:
        """What slices of one file have in common; it is opened once for all that stand together."""
        return one[1] if self.table.audio_of is None else one[0]

    def _measure_recording(self, slices: list[Slice]) -> dict[int, AudioError]:
        number, path, *_ = slices[0]
        audio = self.table.audio(number, path)
        state = _state(audio)
        slices = [one for one in slices if one[4][1:] != (*state, True)]
        if not slices:
            return {}
        try:
            header = read_header(audio)
        except AudioError as error:
            return dict.fromkeys((row for row, *_ in slices), error)
        problems = {}
        for row, _, start, end, _ in slices:
            try:
                begin, stop = slice_seconds(audio, header, start, end)
            except AudioError as error:
                problems[row] = AudioError(f"{error}{other_unit(header, start, end)}")
            else:
                # What there is a remark on is looked at in the next run, too, which says it again.
                self.known[row] = (stop - begin, *state, not header.remarks)
                self.is_new = True
                if header.remarks:
                    self.remarks[row] = header.remarks
        return problems


def other_unit(header: Header, start: float | None, end: float | None) -> str:
    """What unit the times of a slice seem to be in, where they lie outside of the file."""
    last = max(start or 0.0, end or 0.0)
    if last <= header.seconds + END_TOLERANCE_SECONDS:
        return ""
    units = {"milliseconds": 1_000, f"samples at {header.rate:g} a second": header.rate}
    for unit, in_second in units.items():
        if last / in_second <= header.seconds + END_TOLERANCE_SECONDS and last >= in_second / 10:
            seconds = ", ".join(f"{(time or 0.0) / in_second:g}" for time in (start, end))
            return f"; are its times {unit}? Expected seconds: {seconds}"
    return ""


def _among(
    indices: np.ndarray, rows: np.ndarray, chosen: Collection[int]
) -> Iterator[tuple[int, int]]:
    mask = np.isin(rows, list(chosen))
    return zip(indices[mask].tolist(), rows[mask].tolist(), strict=True)


def _state(audio: Path | EncodedAudio) -> tuple[int, int]:
    """Time of change and size; of what lies in a data set, the table's own key knows."""
    if isinstance(audio, EncodedAudio):
        return 0, 0
    try:
        stat = os.stat(audio)
    except OSError:  # whoever reads the header says what is wrong
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def _read(file: Path | None, rows: int) -> np.ndarray:
    """(rows,) of KNOWN; nothing is known where the file is missing, damaged or another table's."""
    if file is not None and file.is_file():
        with contextlib.suppress(OSError, ValueError, EOFError):
            known = np.load(file, allow_pickle=False)
            if known.dtype == KNOWN and known.shape == (rows,):
                return known
    return np.zeros(rows, KNOWN)


def _write(file: Path, known: np.ndarray) -> None:
    """Keep what is known, unless the disk is full: then it is measured again."""
    with contextlib.suppress(OSError), published(file) as opened:
        np.save(opened, known)


@contextlib.contextmanager
def _progress(rows: int) -> Iterator[Callable[[int], None]]:
    """Show how far it is where that takes more than a moment."""
    if rows < ROWS_ON_DISK:
        yield lambda more: None
        return
    with work("measuring", rows) as bar:
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            bar.update(done)

        yield advance
