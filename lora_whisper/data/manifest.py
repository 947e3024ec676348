"""Manifests: one JSON object a line, each with the path of an audio file and its text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lora_whisper.data.utterance import Utterance
from lora_whisper.errors import UserError, listing

AUDIO_KEYS = ("audio", "file_name", "audio_filepath")  # our own, Hugging Face's, NeMo's
TEXT_KEYS = ("text", "transcription", "sentence")
TASKS = ("transcribe", "translate")
LONGEST_SECONDS = 1e9  # more than thirty years, so a mistake
SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}


class RowError(Exception):
    """What one row lacks: what was found, and what was expected."""


def read_manifest(path: Path, split: str, language: str | None, task: str) -> list[Utterance]:
    """Read the rows of `split`, in their order; a row's own language and task go first.

    A row with a `split` belongs to that split only, a row without one to whatever split the
    manifest is given for.

    Raises:
        UserError: no such manifest, or rows that cannot be read: all of them in one message.
    """
    utterances = []
    wanted = split_name(split)
    for row, values in _rows(path):
        if split_name(values.get("split") or wanted) == wanted:
            utterances.append(_utterance(path, row, values, language, task))
    return utterances


def split_counts(path: Path) -> Counter[str]:
    """How many rows name each split, for the message about an empty one."""
    return Counter(split_name(values.get("split") or "none named") for _, values in _rows(path))


def split_name(name: str) -> str:
    """One name for each split: "dev", "val" and "valid" are "validation"."""
    return SPLIT_NAMES.get(name.strip().lower(), name.strip().lower())


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's place and checked values; the errors of all rows come before the first row."""
    rows, problems = [], []
    # Lines of bytes: those of text would also end at U+2028, which JSON allows inside a string.
    for number, line in enumerate(_content(path).splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            rows.append((place, _checked(_parsed(line))))
        except RowError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise UserError(
            f"The manifest {path} has {len(problems)} lines that cannot be used:\n"
            f"{listing(problems)}\n"
            'Each line is one JSON object: {"audio": "clips/1.wav", "text": "what is said"}'
        )
    return iter(rows)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        found = "is a folder" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise UserError(
            f"The manifest {path} {found}. Expected a file with one JSON object a line; "
            "say data.train=FILE.jsonl (or data.validation=, data.test=)."
        ) from None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise RowError(f"found {_shown(line)}, expected UTF-8") from None
    except json.JSONDecodeError as error:
        found = _shown(line.decode("utf-8"))
        raise RowError(f"found {found}, expected JSON ({error.msg})") from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, brackets without end
        raise RowError(f"found {_shown(line)}, expected JSON of a sane size") from None
    if not isinstance(values, dict):
        raise RowError(f"found {_shown(values)}, expected an object in braces")
    return values


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The row itself, if each key that is read holds what it should."""
    audio, text = _present(values, AUDIO_KEYS), _present(values, TEXT_KEYS)
    _expect(values, audio, "a path", lambda path: _is_text(path) and bool(path.strip()))
    _expect(values, text, "text", _is_text)
    for key in ("language", "split"):
        _expect(values, key, "text or null", lambda name: name is None or _is_text(name))
    _expect(values, "task", " or ".join(TASKS), lambda task: task is None or task in TASKS)
    _expect(values, "speaker", "text", lambda name: isinstance(name, int | None) or _is_text(name))
    for key in ("start", "end"):
        _expect(values, key, "seconds from 0 on", lambda time: time is None or _is_seconds(time))
    start, end = values.get("start") or 0.0, values.get("end")
    if end is not None and end <= start:
        raise RowError(f"found end {end}, expected more than start {start}")
    return values


def _present(values: dict[str, Any], keys: tuple[str, ...]) -> str:
    """The first of `keys` that the row has."""
    for key in keys:
        if values.get(key) is not None:
            return key
    found = ", ".join(map(str, values)) or "no keys"
    raise RowError(f"found {_shown(found)}, expected one of the keys {', '.join(keys)}")


def _expect(values: dict[str, Any], key: str, expected: str, holds: Callable[[Any], bool]) -> None:
    if key in values and not holds(values[key]):
        raise RowError(f"found {key} {_shown(values[key])}, expected {expected}")


def _is_text(value: Any) -> bool:
    """Half of a surrogate pair is legal in JSON, but can be neither tokenized nor printed."""
    if not isinstance(value, str) or "\0" in value:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < LONGEST_SECONDS  # no for NaN, too


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _utterance(
    path: Path, row: str, values: dict[str, Any], language: str | None, task: str
) -> Utterance:
    speaker = values.get("speaker")
    return Utterance(
        audio=path.parent / values[_present(values, AUDIO_KEYS)],
        text=values[_present(values, TEXT_KEYS)],
        language=values.get("language") or language,
        task=values.get("task") or task,
        start_seconds=values.get("start"),
        end_seconds=values.get("end"),
        speaker=None if speaker is None else str(speaker),
        row=row,
        columns=values,
    )
