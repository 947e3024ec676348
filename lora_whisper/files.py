"""Files and folders that are written whole or not at all; a full disk is said.

Every file of a run is written here, or into a folder that `written_whole` gives; a test walks the
sources for others. What a killed process leaves has a name of its own, which `tidy` knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lora_whisper.errors import UserError
from lora_whisper.terminal import file_size

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, file too large


def make_folder(path: Path) -> None:
    """Make a folder that is to be written to, if it is not there.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"{path} cannot be written to: {error.strerror or error}.\n"
            "Go to a folder of yours, or mend what is named here."
        ) from error


UNFINISHED, REPLACED, REMOVED = "part", "replaced", "removed"  # .NAME.part and so on, beside NAME


LEFTOVER = re.compile(rf"\.(.+)\.(?:{UNFINISHED}|{REPLACED}|{REMOVED})")


class DiskFull(UserError):
    """There is no room for a file, for the reason that is said; `advice` is what helps."""

    def __init__(self, message: str, advice: str):
        super().__init__(message)
        self.advice = advice


@contextlib.contextmanager
def room_for(path: Path, size_bytes: int | None = None) -> Iterator[None]:
    """Turn the system's refusal to store more into `DiskFull`, which names what was written."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not is_disk_full(error):
            raise
        raise no_room(error, path, size_bytes) from error


def no_room(error: Exception, path: Path | None = None, size_bytes: int | None = None) -> DiskFull:
    """What the system's refusal means: a full disk, a quota or a limit have different cures."""
    if isinstance(error, DiskFull):
        return error
    what = "" if path is None else f" {path} could not be written:"
    needed = "" if size_bytes is None else f" it needs {file_size(size_bytes)};"
    number = _refusal(error)
    if number == errno.EDQUOT:
        message = f"Your quota on this disk is used up.{what}{needed} {error}."
        return DiskFull(message, "Free some of what is yours there")
    if number != errno.EFBIG:
        free = file_size(shutil.disk_usage(_existing(path or Path.cwd())).free)
        message = f"The disk is full.{what}{needed} {free} are free there ({error})."
        return DiskFull(message, "Free some space")
    limit_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit_bytes == resource.RLIM_INFINITY:
        message = f"The file is too large for its file system.{what}{needed} {error}."
        return DiskFull(message, "Write to another disk")
    limit = f"{file_size(limit_bytes)} a file are allowed (ulimit -f)"
    message = f"The file is larger than this process may write.{what}{needed} {limit}."
    return DiskFull(message, "Raise the limit")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def is_disk_full(error: Exception) -> bool:
    """Whether there is no room: on the disk, within a quota or a file's largest size."""
    return _refusal(error) is not None


def _refusal(error: Exception) -> int | None:
    """The system's number for that, or SQLite's word, behind what Optuna makes of it.

    safetensors has the number in its text alone.
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in NO_ROOM else None
    if isinstance(error, DiskFull):
        return errno.ENOSPC
    if isinstance(error, UserError):
        return None
    if "database or disk is full" in f"{error} {error.__cause__}":
        return errno.ENOSPC
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match is not None and int(match[1]) in NO_ROOM else None


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file to the disk, inside what `written_whole` gives.

    Raises:
        DiskFull: there is no room.
    """
    with room_for(path, len(data)):
        _write(path, data)


def reserve(path: Path, size_bytes: int) -> None:
    """Make a file that is filled later, inside what `written_whole` gives, with room for all of it.

    Raises:
        DiskFull: there is no room.
    """
    with room_for(path, size_bytes), open(path, "wb") as handle:
        handle.truncate(size_bytes)
        if size_bytes and hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(handle.fileno(), 0, size_bytes)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of one.

    Raises:
        DiskFull: there is no room; the old one is as it was.
    """
    with room_for(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = _beside(path, UNFINISHED)
        try:
            _write(aside, data)
            os.replace(aside, path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder`, in place of the old one, when all is written.

    A reader finds the old folder or the new one; when writing fails, nothing has changed.
    """
    is_first = not folder.parent.exists()
    with room_for(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        tidy(folder)
        aside = _beside(folder, UNFINISHED)
        aside.mkdir(parents=True)  # another process may have given up, and taken the parent away
        try:
            yield aside
            for written in [*aside.rglob("*"), aside]:
                sync(written)
            _put_in_place(aside, folder)
            sync(folder.parent)
        finally:
            tidy(folder)
            if is_first and not folder.exists():
                with contextlib.suppress(OSError):  # of others, which are not done
                    folder.parent.rmdir()


def _put_in_place(aside: Path, folder: Path) -> None:
    """Let `aside` have the name; what had it before is left at one of the names that `tidy` knows.

    Linux exchanges two folders at once. Where a file system does not, there is a moment without
    either; killed in it, `tidy` puts the old one back.
    """
    if folder.exists() and not _is_exchanged(aside, folder):
        folder.rename(_beside(folder, REPLACED))
    if aside.exists() and not folder.exists():
        aside.rename(folder)


def _is_exchanged(first: Path, second: Path) -> bool:
    """Exchange the names of two folders, if the system can."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return bool(exchange(here, names[0], here, names[1], swap) == 0)


def tidy(path: Path) -> None:
    """Take away what a killed process left of writing or removing `path`, beside it.

    A folder that it had put aside, and nothing in its place yet, is put back.
    """
    replaced = _beside(path, REPLACED)
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    for end in (UNFINISHED, REPLACED, REMOVED):
        _remove(_beside(path, end))


def leftover_of(path: Path) -> str | None:
    """The name that a killed process was writing or removing, where this is what it left."""
    match = LEFTOVER.fullmatch(path.name)
    return match and match[1]


def contents(path: Path) -> set[str]:
    """The names in a folder, if there is one, without what a killed process left."""
    names = path.iterdir() if path.is_dir() else ()
    return {entry.name for entry in names if leftover_of(entry) is None}


def folder_bytes(folder: Path) -> int:
    """Of all files below it; others may write there meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _beside(path: Path, end: str) -> Path:
    return path.with_name(f".{path.name}.{end}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder, under another name first: cut short, it leaves no half of one."""
    aside = _beside(path, REMOVED)
    _remove(aside)
    path.rename(aside)
    _remove(aside)


def sync(path: Path) -> None:
    """See that a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it, over FUSE
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """Raises ValueError: it is no JSON, or brackets without end."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def as_written(path: Path, keys: Iterable[str] = ()) -> dict[str, Any] | None:
    """The object with these keys that a file of ours holds; None: not there, or damaged since.

    Its values are believed, since whoever edits them means to.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        values = read_json(path)
        if isinstance(values, dict) and values.keys() >= set(keys):
            return values
    return None


def append_jsonl(path: Path, value: dict[str, Any]) -> None:
    """Add a line, or nothing.

    Raises:
        DiskFull: there is no room; the lines before are as they were.
    """
    line = f"{json.dumps(value, ensure_ascii=False)}\n".encode()
    with room_for(path), open(path, "ab", buffering=0) as handle:
        size_bytes = os.fstat(handle.fileno()).st_size
        try:
            if handle.write(line) < len(line):  # the rest says why
                handle.write(line[handle.tell() - size_bytes :])
        except OSError:
            with contextlib.suppress(OSError):  # /dev/full has no size
                handle.truncate(size_bytes)
            raise


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All lines but one that was cut by a crash; none where there is no file."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
