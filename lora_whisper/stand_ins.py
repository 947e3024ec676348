"""What a download leaves in the place of a file: Git LFS's pointer to it, or the page around it."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePath

import regex

from lora_whisper.errors import UserError

BEGINNING_BYTES = 64  # that are looked at
POINTER = b"version https://git-lfs.github.com/spec/"
PAGE = regex.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|\?xml)", regex.I)


def require_itself(path: Path, expected: str) -> None:
    """See that a file is not what a download left in its place.

    Raises:
        UserError: it is, or it is empty.
    """
    with path.open("rb") as file:
        problem = in_place_of(expected, path.name, file.read(BEGINNING_BYTES))
    if problem is not None:
        raise UserError(f"{path}: {problem}.")


def in_place_of(expected: str, name: str, beginning: bytes) -> str | None:
    """What was expected, what the file is in its place, and what to do, or None."""
    if not beginning:
        return f"expected {expected}, found an empty file. Download or copy it again"
    what_it_is = stand_in(name, beginning)
    return what_it_is and f"expected {expected}; the file {what_it_is}"


def stand_in(name: str, beginning: bytes) -> str | None:
    """What a file is by its beginning, and how the one that was meant is fetched, or None."""
    if beginning.startswith(POINTER):
        return (
            "only names a file that Git LFS keeps elsewhere. In its repository, type: "
            f"git lfs pull --include {shlex.quote(PurePath(name).name)}"
        )
    if PAGE.match(beginning):
        return (
            "is a web page, and not the file that it shows. Download that itself: on the hub and "
            "on GitHub it is behind “raw” or “download”, and may ask for a login"
        )
    return None
