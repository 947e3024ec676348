"""JSON in folders that somebody else made: read as an object, or refused in one line."""

from __future__ import annotations

import codecs
import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 64_000_000  # the largest tokenizer.json of a Whisper has 4 MB
SHOWN_CHARACTERS = 60  # of a value that is not as it should be


def read_object(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file, whatever else the file is.

    Raises:
        ValueError: there is none; says in one line what was found.
    """
    try:
        text = read_bytes(path, most_bytes).decode("utf-8")
        values = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected JSON in UTF-8, found other bytes at {error.start}") from None
    except RecursionError:
        raise ValueError("expected JSON, found brackets that are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, found an error: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, found {shown(values)}")
    return values


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
