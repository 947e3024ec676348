"""Hashes of a split's rows, texts and sound: which rows changed, and which stand in training too.

A row counts by all that decides on what is learnt from it or scored by it: text, slice, language,
task, speaker, previous text, and its sound. The folder that the sound lies in does not count, nor
the number of the line: a set that was moved, or given another first line, is the same set.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.containers import PathOrBytes, cached_by_file
from lora_whisper.data.dataset import Utterances, split_key
from lora_whisper.model.tokenizer import code_of

# By what a file of sound counts. Scored speech by its bytes: it is decoded anyway, and a file that
# was cleaned of noise has the length of the one before. Training speech, of which there may be
# hundreds of gigabytes, by its size alone.
HashedBy = Literal["bytes", "size"]

SOUND_FIELDS = ("start", "end", "language", "task", "speaker")
TEXT_FIELDS = ("text", "previous_text")
FIELDS = (*SOUND_FIELDS, *TEXT_FIELDS)
SHARED_SHARE = 0.5  # of the shorter of two slices; subtitles after each other overlap a little


@dataclass(frozen=True)
class SpeechHashes:
    """Of what is heard in a set and of what is said there, to tell which of them has changed."""

    rows: str  # audio, slice, language, task and speaker of each utterance
    texts: str  # as they are written, and what was said before


def speech_hashes(utterances: Utterances, sound: HashedBy = "bytes") -> SpeechHashes:
    """Name a set by its rows and their sound, and by its texts, in their order."""
    rows = row_hashes(utterances, sound, SOUND_FIELDS)
    return SpeechHashes(hash_of(rows), hash_of(row_hashes(utterances, None, TEXT_FIELDS)))


def hash_of(hashes: np.ndarray) -> str:
    """Of a whole set, from those of its rows: 32 hexadecimal digits."""
    return hashlib.blake2b(hashes.astype("<u8").tobytes(), digest_size=16).hexdigest()


def row_hashes(
    utterances: Utterances, sound: HashedBy | None, fields: Sequence[str] = FIELDS
) -> np.ndarray:
    """(n,) uint64, one for each row; of these fields, and without sound where that is None."""
    columns: list[list[Any]] = []
    for name in fields:
        values = utterances.column(name).to_pylist()
        if name == "language":  # by code, whichever checkpoint read it: those for English have none
            codes = {one: code_of(one or "en") for one in set(values)}
            values = [codes[one] for one in values]
        columns.append(values)
    if sound is not None:
        tokens = [utterances.defaults.language_token] * len(utterances)
        columns = [_sounds(utterances, sound), *columns, tokens]
    texts = (repr(row).encode("utf-8", "surrogateescape") for row in zip(*columns, strict=True))
    hashes = (hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.fromiter((int.from_bytes(each, "little") for each in hashes), "<u8", len(utterances))


def _sounds(utterances: Utterances, sound: HashedBy) -> list[str]:
    """Of each row, its recording's name and what it counts by; each file is looked at once."""
    sounds = np.empty(len(utterances), object)
    for table, indices, rows in utterances.by_table():
        paths = table.column("audio").take(pa.array(rows)).to_pylist()
        if table.audio_of is None:
            names = sorted(set(paths))
            with ThreadPoolExecutor() as pool:
                values = pool.map(partial(_state_of, sound=sound), names)
                states = dict(zip(names, values, strict=True))
            sounds[indices] = [f"{Path(path).name} {states[path]}" for path in paths]
        else:
            audio = (table.audio(row, path) for row, path in zip(rows.tolist(), paths, strict=True))
            sounds[indices] = [
                _hash_of_bytes(one.load())
                if sound == "bytes" and isinstance(one, EncodedAudio)
                else one.name
                for one in audio
            ]
    return sounds.tolist()


def _state_of(path: str, sound: HashedBy) -> str:
    try:
        return _hash_of_bytes(path) if sound == "bytes" else str(os.stat(path).st_size)
    except OSError:
        return "gone"


@cached_by_file(100_000)  # all models are scored on the same files
def _hash_of_bytes(source: PathOrBytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha1(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


@dataclass(frozen=True)
class Change:
    """How a set differs from what it was."""

    before: int  # rows
    now: int
    new: tuple[int, ...]  # indices of rows that were not there so; a changed row is one
    gone: int  # rows that are not there so any more; what a changed row was is one

    def __str__(self) -> str:
        """`20 rows before, 3 now; 17 are gone`"""
        if not (self.new or self.gone):
            changes = "the same ones in another order"
        elif len(self.new) == self.gone:
            changes = f"{self.gone} with another text, sound or slice"
        else:
            gone = f"{self.gone} not there any more" if self.gone else ""
            new = f"{len(self.new)} new" if self.new else ""
            changes = " and ".join(filter(None, (gone, new)))
        return f"{self.before} rows before, {self.now} now: {changes}"


def change(before: np.ndarray, now: np.ndarray) -> Change | None:
    """Compare the hashes of a set's rows with what they were; None where all are the same."""
    if np.array_equal(before, now):
        return None
    left, new = Counter(before.tolist()), []
    for index, row in enumerate(now.tolist()):
        if left[row]:
            left[row] -= 1
        else:
            new.append(index)
    return Change(len(before), len(now), tuple(new), sum(left.values()))


# ── what is in training, and scored all the same ─────────────────────────────────────────────────

# Pieces of audio, and texts. Vectorised over whole splits; of a million utterances none is made.


class Recordings:
    """The stretches of recordings that are trained on."""

    def __init__(self, training: Sequence[Utterances]):
        stretches = [_stretches(utterances) for utterances in training]
        self.files, self.starts, self.ends = (
            np.concatenate(each) for each in zip(*stretches, strict=True)
        )

    def shared_with(self, utterances: Utterances) -> list[int]:
        """Those, by index, of whose stretch or of one trained on at least half is in the other."""
        files, starts, ends = _stretches(utterances)
        near = np.isin(self.files, files)
        candidates = self.files[near], self.starts[near], self.ends[near]
        order = np.argsort(candidates[0], kind="stable")
        by_file, from_, to = (each[order] for each in candidates)
        first = np.searchsorted(by_file, files, side="left")
        last = np.searchsorted(by_file, files, side="right")
        shared = []
        for index in np.flatnonzero(last > first).tolist():
            begins, stops = (each[first[index] : last[index]] for each in (from_, to))
            overlaps = np.minimum(ends[index], stops) - np.maximum(starts[index], begins)
            shorter = np.minimum(ends[index] - starts[index], stops - begins)
            if (overlaps >= SHARED_SHARE * shorter).any():
                shared.append(index)
        return shared


def _stretches(utterances: Utterances) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) file number, start and end in seconds of measured utterances."""
    starts = utterances.column("start").fill_null(0.0).to_numpy()
    return _files(utterances), starts, starts + utterances.durations_seconds


def _files(utterances: Utterances) -> np.ndarray:
    """(n,) int64: the same for the same file, by whatever path or link it was reached."""
    files = np.empty(len(utterances), np.int64)
    for table, indices, rows in utterances.by_table():
        paths = table.column("audio").take(pa.array(rows)).to_pylist()
        known: tuple[str, int] = ("", 0)  # the last file: its rows stand together
        for index, row, path in zip(indices.tolist(), rows.tolist(), paths, strict=True):
            if table.audio_of is not None:
                known = ("", _identity(table.audio(row, path)))
            elif path != known[0]:
                known = (path, _identity(path))
            files[index] = known[1]
    return files


def _identity(audio: str | Path | EncodedAudio) -> int:
    if isinstance(audio, EncodedAudio):
        return hash(audio.name)
    try:
        stat = os.stat(audio)
    except OSError:  # gone since it was measured: nothing is learnt from it
        return hash(str(audio))
    return hash((stat.st_dev, stat.st_ino))


class Texts:
    """What is said in training, in any spelling of case and of composed letters."""

    def __init__(self, training: Sequence[Utterances]):
        self.hashes = np.unique(np.concatenate([_text_hashes(each) for each in training]))

    def shared_with(self, utterances: Utterances) -> list[int]:
        """Those, by index, whose text is trained on too; no text is nobody's."""
        known = np.isin(_text_hashes(utterances), self.hashes)
        trimmed = pc.utf8_trim_whitespace(utterances.column("text"))
        has_text = pc.greater(pc.binary_length(trimmed), 0).to_numpy()
        return np.flatnonzero(known & has_text).tolist()


def _text_hashes(utterances: Utterances) -> np.ndarray:
    """(n,) int64; with a million on both sides, two are equal by chance once in 10^7 runs."""
    chunks = utterances.column("text").iterchunks()
    hashes = (hash(split_key(None, text)) for chunk in chunks for text in chunk.to_pylist())
    return np.fromiter(hashes, np.int64, len(utterances))
