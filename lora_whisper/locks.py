"""One process at a time for a folder; the lock dies with its process, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from lora_whisper.errors import UserError
from lora_whisper.files import leftover_of, make_folder, tidy

WAIT_SECONDS = 0.5  # between two looks at who holds a folder


class InUse(UserError):
    """Another process has what this one wants to write to."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder `path` for this process; the lock dies with the process, however it ends.

    What a killed process left there is taken away, see `tidy_run`.

    The lock lies beside the folder and not in it, so that an overwritten run keeps its holder.

    Raises:
        InUse: another process holds it.
        UserError: nothing can be written beside it.
    """
    make_folder(path.parent)
    lock = _lock_of(path)
    with _held_here(path), open(lock, "w") as handle:
        if not is_acquired(handle, lock):
            raise _in_use(path)
        try:
            tidy_run(path)
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def locked_in_turn(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """As `locked`, after whoever holds it now, of which `on_wait` may tell."""
    with contextlib.ExitStack() as stack:
        is_told = False
        while True:
            try:
                stack.enter_context(locked(path))
                break
            except InUse:
                if not is_told:
                    on_wait()
                is_told = True
                time.sleep(WAIT_SECONDS)
        yield


_GUARD = threading.Lock()
_held: set[Path] = set()  # by this process, whose own locks the system does not hold against it


@contextlib.contextmanager
def _held_here(path: Path) -> Iterator[None]:
    place = path.absolute()
    with _GUARD:
        if place in _held:
            raise _in_use(path)
        _held.add(place)
    try:
        yield
    finally:
        _held.discard(place)


def require_free(path: Path) -> None:
    """See that nobody holds the folder `path`, before it is asked for; makes nothing.

    Raises:
        InUse: another process does, or another thread of this one.
    """
    if path.absolute() in _held:  # and looking at the file would let it go
        raise _in_use(path)
    lock = _lock_of(path)
    # What else is wrong with the place, `locked` says.
    with contextlib.suppress(OSError), open(lock, "r+") as handle:
        if not is_acquired(handle, lock) and lock.exists():
            raise _in_use(path)


def _lock_of(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"


def _in_use(path: Path) -> InUse:
    return InUse(f"{path} is in use by another process.\nWait for it, or type another name=…")


def is_acquired(handle: TextIO, lock: Path) -> bool:
    """Take the lock of the open file `lock` for this process, if no other one has it."""
    try:
        # Of the process, not of the open file: loader workers that outlive a SIGKILL of it by some
        # seconds have inherited the file, and must not hold the lock.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    # A holder that just ended may have removed the name of the file that was opened here.
    return lock.exists() and os.path.samestat(os.fstat(handle.fileno()), lock.stat())


PARTS = ("adapter", "merged", "export", "checkpoints", "evaluation")  # folders in a run's


def tidy_run(path: Path) -> None:
    """The same of the folder of a run, or of a report, and of all that is written in it.

    Only what this process holds: a search's folder has runs in it that others may be at.
    """
    tidy(path)
    if not path.is_dir():
        return
    inside = [one for part in PARTS for one in (path / part).rglob(".*")]
    mine = [one for one in path.iterdir() if one.is_file() or leftover_of(one) in PARTS]
    for one in mine + inside:
        if (name := leftover_of(one)) is not None:
            tidy(one.with_name(name))
