"""What stands in training and is scored all the same: pieces of audio, and texts.

Vectorised over whole splits; of a million utterances none is made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lora_whisper.data.splits import split_key
from lora_whisper.data.table import Utterances
from lora_whisper.data.utterance import EncodedAudio

SHARED_SHARE = (
    0.5  # of the shorter of two slices; subtitles that follow each other overlap a little
)


class Recordings:
    """The stretches of recordings that are trained on."""

    def __init__(self, learnt: Sequence[Utterances]):
        stretches = [_stretches(utterances) for utterances in learnt]
        self.files, self.starts, self.ends = (
            np.concatenate(each) for each in zip(*stretches, strict=True)
        )

    def shared_with(self, utterances: Utterances) -> list[int]:
        """Those, by index, of whose stretch or of one trained on at least half is in the other."""
        files, starts, ends = _stretches(utterances)
        near = np.isin(self.files, files)
        learnt = self.files[near], self.starts[near], self.ends[near]
        order = np.argsort(learnt[0], kind="stable")
        by_file, from_, to = (each[order] for each in learnt)
        first = np.searchsorted(by_file, files, side="left")
        last = np.searchsorted(by_file, files, side="right")
        return [
            index
            for index in np.flatnonzero(last > first).tolist()
            if _overlap(
                starts[index],
                ends[index],
                from_[first[index] : last[index]],
                to[first[index] : last[index]],
            )
        ]


def _overlap(start: float, end: float, starts: np.ndarray, ends: np.ndarray) -> bool:
    shared = np.minimum(end, ends) - np.maximum(start, starts)
    shorter = np.minimum(end - start, ends - starts)
    return bool((shared >= SHARED_SHARE * shorter).any())


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

    def __init__(self, learnt: Sequence[Utterances]):
        self.hashes = np.unique(np.concatenate([_text_hashes(each) for each in learnt]))

    def shared_with(self, utterances: Utterances) -> list[int]:
        """Those, by index, whose text is trained on too; no text is nobody's."""
        known = np.isin(_text_hashes(utterances), self.hashes)
        return np.flatnonzero(known & _has_text(utterances)).tolist()


def _has_text(utterances: Utterances) -> np.ndarray:
    trimmed = pc.utf8_trim_whitespace(utterances.column("text"))
    return pc.greater(pc.binary_length(trimmed), 0).to_numpy()


def _text_hashes(utterances: Utterances) -> np.ndarray:
    """(n,) int64; with a million on both sides, two are equal by chance once in 10^7 runs."""
    chunks = utterances.column("text").iterchunks()
    hashes = (hash(split_key(None, text)) for chunk in chunks for text in chunk.to_pylist())
    return np.fromiter(hashes, np.int64, len(utterances))
