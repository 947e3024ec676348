"""How long utterances are, by the headers of their files, kept beside a table on the disk; and why
a file is not there under the name that it was given.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import regex

from lora_whisper.data.audio import (
    END_TOLERANCE_SECONDS,
    AudioError,
    EncodedAudio,
    Header,
    Remark,
    read_header,
    slice_seconds,
)
from lora_whisper.data.dataset import ROWS_ON_DISK, Table, Utterances, published
from lora_whisper.terminal import work

ROWS_AT_A_TIME = 1_000  # that a thread measures before it is given more

# What is known of a row, and of the file that it was measured in (zeros where there is none).
KNOWN = np.dtype(
    [("seconds", "<f8"), ("modified_ns", "<i8"), ("file_bytes", "<i8"), ("measured", "?")]
)

URL = regex.compile(r"(?:^|/)((?:https?|ftp|s3|gs|hf|az):/+)(.+)", regex.IGNORECASE)
UNSEEN = regex.compile(r"[\p{Cf}\p{Cc}\p{Variation_Selector}]")
MOST_FOLDERS = 200  # below the one that was named, looked into for the file
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .opus .mp3 .m4a .mp4 .aac .webm .wma .amr .aif .aiff .wv .mkv .oga".split()
)

# What JSON and other texts make of one backslash and the letter behind it.
ESCAPED = {"\n": "/n", "\t": "/t", "\r": "/r", "\b": "/b", "\f": "/f"}
ESCAPES = frozenset(ESCAPED)


class Slice(NamedTuple):
    """One row's part of a recording, and what was known of it."""

    row: int  # in the table
    path: str
    start: float | None
    end: float | None
    known: tuple[float, int, int, bool]  # as KNOWN


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
            seconds[indices], reasons = durations.of(rows, advance)
            problems |= {int(index): reasons[row] for index, row in _among(indices, rows, reasons)}
            remarks |= {
                index: durations.remarks[row]
                for index, row in _among(indices, rows, durations.remarks)
            }
    return Durations(utterances.with_durations(seconds), problems, remarks)


class _TableDurations:
    """The durations of a table's rows, from its last run if it is on the disk."""

    def __init__(self, table: Table):
        self.table = table
        self.file = table.path and table.path.with_suffix(".durations.npy")
        self.known = np.zeros(len(table), KNOWN)
        if self.file is not None and self.file.is_file():
            with contextlib.suppress(OSError, ValueError, EOFError):  # a damaged one
                known = np.load(self.file, allow_pickle=False)
                if known.dtype == KNOWN and known.shape == self.known.shape:  # this table's
                    self.known = known
        self.is_new = False
        self.remarks: dict[int, tuple[Remark, ...]] = {}  # by row

    def of(
        self, rows: np.ndarray, advance: Callable[[int], None]
    ) -> tuple[np.ndarray, dict[int, AudioError]]:
        """Seconds of these rows, NaN where they cannot be read, and why not by row."""
        problems: dict[int, AudioError] = {}
        portions = np.array_split(rows, len(rows) // ROWS_AT_A_TIME + 1)
        with ThreadPoolExecutor() as pool:  # libsndfile waits for the disk without holding the GIL
            for portion, of_them in zip(portions, pool.map(self._measure, portions), strict=True):
                problems |= of_them
                advance(len(portion))
        if self.is_new and self.file is not None:  # a full disk: then it is measured again
            with contextlib.suppress(OSError), published(self.file) as opened:
                np.save(opened, self.known)
        is_bad = np.isin(rows, list(problems))
        return np.where(is_bad, np.nan, self.known["seconds"][rows]), problems

    def _measure(self, rows: np.ndarray) -> dict[int, AudioError]:
        problems: dict[int, AudioError] = {}
        columns = (
            self.table.column(name).take(pa.array(rows)).to_pylist()
            for name in ("audio", "start", "end")
        )
        slices = map(Slice, rows.tolist(), *columns, self.known[rows].tolist())
        # A file is opened once for all slices of it that stand together.
        recording = attrgetter("path" if self.table.audio_of is None else "row")
        for _, group in groupby(slices, key=recording):
            problems |= self._measure_recording(list(group))
        return problems

    def _measure_recording(self, slices: list[Slice]) -> dict[int, AudioError]:
        audio = self.table.audio(slices[0].row, slices[0].path)
        state = _state(audio)
        slices = [one for one in slices if one.known[1:] != (*state, True)]
        if not slices:
            return {}
        try:
            header = read_header(audio)
        except AudioError as error:
            return dict.fromkeys((one.row for one in slices), error)
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


# ── files that are not there ─────────────────────────────────────────────────────────────────────

# Why a file is not there under the name that it was given, as far as its neighbours tell. Names
# that look the same are not: é is one letter or two (macOS writes two), Windows knows neither
# capitals nor slashes, and a copied cell brings its spaces along.

Fold = Callable[[str], str]


def _letters(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _unseen(name: str) -> str:
    return UNSEEN.sub("", _letters(name))


# In what a name may differ from the one that is meant: each fold takes one more away.
FOLDS: tuple[tuple[Fold, str], ...] = (
    (_letters, "the same letters, composed in another way (Unicode NFC and NFD)"),
    (lambda name: " ".join(_letters(name).split()), "without the space around it"),
    (_unseen, "without the characters that are not seen"),
    (lambda name: _unseen(name).strip().casefold(), "in other capitals"),
    (lambda name: _unseen(unquote(name)).strip().casefold(), "without percent signs"),
    (lambda name: _unseen(unquote(name)).strip().casefold().partition("?")[0], "without its ?…"),
    (lambda name: _without_suffix(_unseen(name).strip().casefold()), "with another ending"),
)


def why_absent(audio: Path | EncodedAudio) -> str:
    """The same of an utterance's audio; "" where it is there."""
    return absent(audio) if isinstance(audio, Path) and not audio.exists() else ""


def absent(path: str | Path) -> str:
    """What there is in the place of a file that is not, "; there is …"; "" where nothing is near.

    A million are asked for in a go: folders are looked at once.
    """
    name = str(path)
    if url := URL.search(name):
        return f"; {url[1].rstrip('/')}//{url[2]} is a URL: fetch the file, and give its path"
    try:
        if os.path.islink(name):
            return f", but a link to {os.readlink(name)}, which is not there"
        reason = _backslashes(name) or _variables(name)
        if not reason:
            there, why = _resolved(name)
            reason = f"there is {there}, {why}"
            if not there:  # its path may be relative to another folder than the manifest's
                head, tail = os.path.split(name)
                files = (os.path.join(folder, tail) for folder in _other_folders(head))
                there = next(filter(os.path.isfile, files), "")
                reason = there and f"there is {there}: paths are relative to the manifest"
    except (OSError, ValueError):  # a folder that may not be read, a name with a NUL
        return ""
    return f"; {reason}" if reason else ""


def _backslashes(name: str) -> str:
    if ESCAPES & set(name):
        there = _existing("".join(ESCAPED.get(letter, letter) for letter in name))
        hint = f", {there} is there" if there else ""
        seen = ascii(next(letter for letter in name if letter in ESCAPES))[1:-1]
        return f"it holds {seen}, which one backslash became: write / instead of it{hint}"
    if "\\" not in name:
        return ""
    plain = name.replace("\\", "/")
    drive = regex.search(r"(?:^|/)[A-Za-z]:/", plain)
    if drive is None:
        there = _existing(plain)
        hint = f", {there} is there" if there else ""
        return f"its folders are parted by backslashes: write / for each \\{hint}"
    return "it is a path of Windows: write it relative to the manifest, with / for each \\"


def _variables(name: str) -> str:
    """A variable, or a tilde that is not the first letter, which nothing expands."""
    start = regex.search(r"(?:^|/)(\$\w+|\$\{\w+\}|%\w+%|~)(?=/)", name)
    if start is None:
        return ""
    inner = os.path.expanduser(os.path.expandvars(name[start.start(1) :]))
    there = f"; there is {inner}" if os.path.exists(inner) else ""
    return f"{start[1]} in it is not replaced: write out what it stands for{there}"


def _existing(name: str) -> str:
    """The file itself, or its twin; "" where there is neither."""
    return name if os.path.exists(name) else _resolved(name)[0]


def _resolved(name: str) -> tuple[str, str]:
    """The path that differs from this one in how its parts are written, and in what."""
    head, tail = os.path.split(name.rstrip("/"))
    return _inside(*_folder(head), tail)


@lru_cache(maxsize=10_000)
def _folder(name: str) -> tuple[str, str]:
    """The folder, or the one whose name differs from it in how it is written, and in what."""
    if os.path.isdir(name):
        return name, ""
    head, tail = os.path.split(name)
    if head == name or not tail:
        return "", ""
    there, why = _inside(*_folder(head), tail)
    return (there, why) if os.path.isdir(there) else ("", "")


def _inside(folder: str, why: str, name: str) -> tuple[str, str]:
    """What is meant by a name in a folder that was found already, and in what either differs."""
    if not folder:
        return "", ""
    if os.path.exists(os.path.join(folder, name)):
        return os.path.join(folder, name), why
    for (fold, difference), names in zip(FOLDS, _names(folder), strict=True):
        meant = names.get(fold(name))
        if meant is not None:
            return os.path.join(folder, meant), difference
    return "", ""


@lru_cache(maxsize=64)
def _names(folder: str) -> tuple[dict[str, str], ...]:
    """What a folder holds, by its name under each fold."""
    names = sorted(os.listdir(folder))
    files = [name for name in names if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES]
    return *({fold(one): one for one in names} for fold, _ in FOLDS[:-1]), {
        FOLDS[-1][0](one): one for one in files
    }


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix in AUDIO_SUFFIXES else name


@lru_cache(maxsize=10_000)
def _other_folders(folder: str) -> tuple[str, ...]:
    """Folders that the files of this one may lie in: of those that are there."""
    parts, count = Path(folder).parts, len(Path(folder).parts)
    # The last parts of the path, from where we are; all but some in the middle; one further down.
    named = [os.path.join(os.getcwd(), *parts[first:]) for first in range(1, count + 1)]
    for end in range(count, 0, -1):
        named += [os.path.join(*parts[:first], *parts[end:]) for first in range(end - 1, 0, -1)]
    if os.path.isdir(folder):
        inner = sorted(os.listdir(folder))[:MOST_FOLDERS]
        named += [os.path.join(folder, name) for name in inner]
    return tuple(dict.fromkeys(filter(os.path.isdir, named)))
