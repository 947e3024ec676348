"""JSON in folders that somebody else made: read as an object, or refused in one line."""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lora_whisper.stand_ins import BEGINNING_BYTES, in_place_of

MOST_BYTES = 64_000_000  # the largest tokenizer.json of a Whisper has 4 MB
SHOWN_CHARACTERS = 60  # of a value that is not as it should be


def read_object(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file, whatever else the file is.

    Raises:
        ValueError: there is none; says in one line what was found.
    """
    data = read_bytes(path, most_bytes)
    if problem := in_place_of("JSON", path.name, data[:BEGINNING_BYTES]):
        raise ValueError(problem)
    try:
        text = data.decode("utf-8")
        values = json.loads(text, object_pairs_hook=_without_twins, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected JSON in UTF-8, found other bytes at {error.start}") from None
    except RecursionError:
        raise ValueError("expected JSON, found brackets that are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, found an error: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, found {shown(values)}")
    return values


def _without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values for one key, each program takes the one that it likes."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"expected each key once, found {shown(twice)} twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"expected JSON, found {name}, which is no number of it")


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """A small file's bytes; a pipe is not waited for.

    Raises:
        ValueError: it is no file, cannot be read, or is larger; says so in one line.
    """
    require_file(path)
    try:
        if (size := path.stat().st_size) > most_bytes:
            raise ValueError(f"expected at most {most_bytes:,} bytes, found {size:,}")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    if data.startswith(codecs.BOM_UTF8):
        raise ValueError("expected UTF-8 without a byte order mark, found one at its beginning")
    return data


def require_file(path: Path) -> None:
    """See that something is an ordinary file, which reading does not wait for.

    Raises:
        ValueError: it is not; says in one line what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    if stat.S_ISDIR(mode):
        raise ValueError("expected a file, found a folder")
    if not stat.S_ISREG(mode):
        raise ValueError("expected a file, found a pipe or a device")


def shown(value: Any) -> str:
    """A value as JSON has it, cut to what fits into a line."""
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


# ── schemas: what was expected where a value is not it, None where it is ─────────────────────

Check = Callable[[Any], str | None]


def whole(low: int, high: int) -> Check:
    """A whole number; True is none, and neither is 3.0."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"a whole number from {low:,} to {high:,}"

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> str | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (
            None if is_number and low <= value <= high else f"a number from {low:,g} to {high:,g}"
        )

    return check


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def text(value: Any) -> str | None:
    return None if isinstance(value, str) else "text"


def one_of(*choices: Any) -> Check:
    def check(value: Any) -> str | None:
        # 1 and true are equal in Python, and not in JSON.
        fits = any(type(value) is type(choice) and value == choice for choice in choices)
        return None if fits else f"{' or '.join(map(shown, choices))}"

    return check


def listed(check: Check, length: int | None = None) -> Check:
    """A list, of so many values if that is given."""

    def check_all(value: Any) -> str | None:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            return "a list" if length is None else f"a list of {length}"
        return next(
            (f"{wrong} at {at}" for at, one in enumerate(value) if (wrong := check(one))), None
        )

    return check_all


def named(check: Check) -> Check:
    """An object with any names."""

    def check_all(value: Any) -> str | None:
        if not isinstance(value, dict):
            return "names with their values"
        return next(
            (f"{wrong} for {shown(key)}" for key, one in value.items() if (wrong := check(one))),
            None,
        )

    return check_all


def optional(check: Check) -> Check:
    """Or null."""
    return lambda value: None if value is None else check(value)


def problems_with(
    file: str, values: Mapping[str, Any], schema: Mapping[str, Check], required: Iterable[str] = ()
) -> list[str]:
    """Every key of a file that is missing, or is not as its schema has it, in a line each."""
    missing = [f"{file}: {key}: missing" for key in required if key not in values]
    wrong = [
        f"{file}: {key}: expected {expected}, found {shown(values[key])}"
        for key, check in schema.items()
        if key in values and (expected := check(values[key]))
    ]
    return missing + wrong
