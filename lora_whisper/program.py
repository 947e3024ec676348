"""How the program and the files are called in what is advised to type."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


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
