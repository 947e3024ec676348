"""Which speech it was: hashes of a set's rows and texts, which are kept and compared later."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from os import stat_result
from pathlib import Path
from typing import Any

from lora_whisper.data.languages import code_of
from lora_whisper.data.table import Utterances
from lora_whisper.data.utterance import EncodedAudio

SPOKEN = ("start", "end", "language", "task")  # what a row says of its audio
SAID = ("text", "previous_text")


@dataclass(frozen=True)
class SpeechHashes:
    """Of a set in its order. Where its files lie, and when they were written, does not count."""

    utterances: int
    rows: str  # sha256 of what is heard: audio, slice, language and task of each utterance
    texts: str  # sha256 of what is said there, as it is written, and said before


def speech_hashes(utterances: Utterances, *, by_content: bool = False) -> SpeechHashes:
    """Hash what is heard and what is said.

    Args:
        by_content: whether audio counts by its bytes, as for what is scored; else by its file's
            name and size, which is enough to notice a change, and can be had of a million files.
    """
    rows, texts = hashlib.sha256(), hashlib.sha256()
    rows.update(_line(utterances.defaults.language_token))
    audio = _audio(utterances, by_content)
    for heard, *spoken in zip(audio, *_columns(utterances, SPOKEN), strict=True):
        start, end, language, task = spoken
        rows.update(_line(*heard, start, end, code_of(language or "en"), task))  # .en has no codes
    for said in zip(*_columns(utterances, SAID), strict=True):
        texts.update(_line(*said))
    return SpeechHashes(len(utterances), rows.hexdigest(), texts.hexdigest())


def _line(*values: object) -> bytes:
    return f"{json.dumps(values)}\n".encode()


def _columns(utterances: Utterances, names: tuple[str, ...]) -> Iterator[Iterator[Any]]:
    """Chunk by chunk: all texts of a large set need not be in memory."""
    for name in names:
        chunks = utterances.column(name).chunks
        yield chain.from_iterable(chunk.to_pylist() for chunk in chunks)


def _audio(utterances: Utterances, by_content: bool) -> Iterator[tuple[object, ...]]:
    of_audio = _bytes if by_content else _name_and_size
    [paths] = _columns(utterances, ("audio",))
    for index, path in enumerate(paths):
        yield of_audio(Path(path) if path else utterances[index].audio)


def _name_and_size(audio: Path | EncodedAudio) -> tuple[object, ...]:
    """Of audio inside a data set, its name alone: nothing is read that is large."""
    if isinstance(audio, EncodedAudio):
        return (audio.name,)
    stat = _stat(audio)
    return audio.name, stat and stat.st_size


def _bytes(audio: Path | EncodedAudio) -> tuple[object, ...]:
    if isinstance(audio, EncodedAudio):
        return (hashlib.sha256(audio.load()).hexdigest(),)
    stat = _stat(audio)
    return (stat and _digest(audio, stat.st_size, stat.st_mtime_ns),)


def _stat(path: Path) -> stat_result | None:
    """None where it is gone, which whoever reads it will say."""
    try:
        return path.stat()
    except OSError:
        return None


@functools.lru_cache(maxsize=100_000)
def _digest(path: Path, size_bytes: int, modified_ns: int) -> str:
    """Read once as long as it stays the same: all models are scored on the same files."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
