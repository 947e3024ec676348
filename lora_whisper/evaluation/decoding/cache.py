"""Transcriptions that were decoded before: the same model, speech and decoding give the same texts.

So the points of a sweep pay for their base once, and a report is made again in seconds. Files lie
beside the tables of `data.dataset`, are small, and may be deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lora_whisper
from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.dataset import Utterance, published
from lora_whisper.data.windows import BadAudio
from lora_whisper.evaluation.decoding.long_form import Segment
from lora_whisper.evaluation.decoding.transcribe import Transcriptions
from lora_whisper.paths import cache_folder

log = logging.getLogger("lora_whisper")

Kept = TypeVar("Kept")

SOURCES = ("evaluation", "data", "lora", "model")  # packages whose code does
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "ctranslate2", "soxr", "scipy", "av")


def transcriptions_key(
    model: str, utterances: Sequence[Utterance], decoding: Mapping[str, object]
) -> str:
    """Name what decides on hypotheses; audio counts by its file's size and time of change.

    Args:
        model: names weights, storage and device exactly.
        decoding: see `provenance.decoding_of`.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (_code(), model, dict(decoding)):
        digest.update(repr(part).encode())
    for utterance in utterances:
        digest.update(repr(_identity(utterance)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_transcriptions(key: str) -> Transcriptions | None:
    """What was decoded before; None if nothing was, or the file is damaged."""
    return read_kept(key, _transcriptions)


def _transcriptions(values: Any) -> Transcriptions:
    return Transcriptions(
        texts=tuple(values["texts"]),
        seconds=tuple(values["seconds"]),
        segments=tuple(tuple(Segment(**one) for one in some) for some in values["segments"]),
        bad=tuple(BadAudio(**one) for one in values["bad"]),
        decode_seconds=values["decode_seconds"],
    )


def read_kept(key: str, of: Callable[[Any], Kept]) -> Kept | None:
    """What `of` makes of what was kept as JSON; None if nothing was, or the file is damaged."""
    try:
        return of(json.loads(_path(key).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("cache       %s is damaged and will be written anew: %s", _path(key), error)
        return None


def write_transcriptions(key: str, transcriptions: Transcriptions) -> None:
    """Keep them, but for those of which some may be another time: they would be bad for ever."""
    if not any(one.may_pass for one in transcriptions.bad):
        keep(key, dataclasses.asdict(transcriptions))


def keep(key: str, values: Any) -> None:
    """Keep what JSON holds; a cache that cannot be written is done without."""
    text = json.dumps(values, ensure_ascii=False)
    try:
        _path(key).parent.mkdir(parents=True, exist_ok=True)
        with published(_path(key)) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        log.warning("cache       cannot be written: %s", error)


@contextlib.contextmanager
def decoded_by_one(key: str) -> Iterator[None]:
    """Hold what `key` names for this process: who else wants to decode it waits, and then reads it.

    The lock dies with the process. Where files cannot be locked, both decode.
    """
    path = _path(key).with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "w")  # noqa: SIM115  closed below
    except OSError:  # nor can anything be kept there
        yield
        return
    with handle:
        with contextlib.suppress(OSError):
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                log.info("cache       waiting for another process, which decodes the same")
                fcntl.lockf(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _path(key: str) -> Path:
    return cache_folder("hypotheses") / f"{key}.json"


def _identity(utterance: Utterance) -> tuple[object, ...]:
    """Of a data set's audio, the bytes: its name is the same in another revision."""
    audio = utterance.audio
    sound: tuple[object, ...]
    if isinstance(audio, EncodedAudio):
        sound = (hashlib.blake2b(audio.load(), digest_size=16).hexdigest(),)
    else:
        try:
            stat = os.stat(audio)
            sound = (str(audio), stat.st_size, stat.st_mtime_ns)
        except OSError:
            sound = (str(audio), "gone")
    asked = (utterance.language, utterance.language_token, utterance.task, utterance.previous_text)
    place = (utterance.row, utterance.start_seconds, utterance.end_seconds)
    return (*sound, *place, *asked)


@functools.cache
def _code() -> str:
    """Of what decodes: our own modules by content, others by version."""
    digest = hashlib.blake2b(digest_size=16)
    package = Path(lora_whisper.__file__).parent
    for path in sorted(path for name in SOURCES for path in (package / name).rglob("*.py")):
        digest.update(path.read_bytes())
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # some are extras
            digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.hexdigest()
