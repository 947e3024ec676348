"""Paths as users type them, and as they are named in what is advised to type.

`~` and `..`, relative ones, and what lies in the package itself.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_whisper.errors import UserError

EMBEDDED = "embedded:"  # prefix of what is in the package


def local_path(name: str) -> Path:
    """A path as the user typed it, absolute; `embedded:…` lies in the package.

    The shell expands no tilde after `=`, so it is expanded here.
    """
    if name.startswith(EMBEDDED):
        return Path(__file__).parent / "quickstart" / name.removeprefix(EMBEDDED)
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError:  # "~nobody": no such user, so a file may be called that
        return Path(name).absolute()


def is_plain_name(value: Any) -> bool:
    """A text for one line and one folder: no separators, nothing that moves a terminal's cursor."""
    return is_line(value) and not set(value) & set("/\\") and value not in (".", "..")


def is_line(value: Any) -> bool:
    """A text that a terminal shows as it is, and that a file's name has room for."""
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


def require_current_folder() -> None:
    """Raises UserError: it was deleted, so that no path of it leads anywhere."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"The current folder is not there any more ({error.strerror}).\n"
            "Type cd FOLDER, with one that is there, and the command again."
        ) from error


def cache_folder(kind: str) -> Path:
    """Where what can be made again lies: $LORA_WHISPER_CACHE, else as the XDG directories say."""
    own = os.environ.get("LORA_WHISPER_CACHE")
    if own:
        return Path(own) / kind
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(given) if given else Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in some containers
        home = Path(tempfile.gettempdir())
    return home / "lora_whisper" / kind


def below_home(text: str) -> str:
    """Paths below the home folder as "~/…": a page is passed on, and would name its user."""
    home = str(Path.home()).rstrip("/")
    return text.replace(f"{home}/", "~/") if home else text


def file_name(text: str) -> str:
    """The last part of an absolute path: nobody else has the folders above."""
    return Path(text).name if Path(text).is_absolute() else text


def mapped(value: Any, path: Callable[[str], str]) -> Any:
    """The same value, with `path` applied to every text in it."""
    if isinstance(value, list):
        return [mapped(each, path) for each in value]
    if isinstance(value, dict):
        return {key: mapped(each, path) for key, each in value.items()}
    return path(value) if isinstance(value, str) else value


def plain_name(name: str) -> str:
    """What can be a folder's name."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "set"


def program() -> str:
    """What to type for `lora-whisper`: its path, where a virtual environment is not activated."""
    if shutil.which("lora-whisper"):
        return "lora-whisper"
    return shlex.quote(short(Path(sys.executable).with_name("lora-whisper")))


def short(path: Path) -> str:
    """Relative to where the user is, if it lies there."""
    here = Path.cwd()
    absolute = path.absolute()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
