"""What people see: one console for log lines, progress bars and tables, 80 columns wide or more.

Nothing that keeps it from being seen ends work: a terminal that was closed, a pipe whose reader has
left, a full disk behind standard output, an encoding that lacks a letter. `guarded` stands between.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lora_whisper import processes
from lora_whisper.errors import UserError

STREAMS = ("stdout", "stderr")
READER_LEFT = (errno.EPIPE, errno.EIO)  # of a pipe, and a terminal that was closed
console = Console(highlight=False, soft_wrap=False)
PLAIN_LINES = 10  # of one piece of work, where there is no terminal to draw a bar on
PLAIN_SECONDS = 5.0  # between two of them at least: what is done by then has no line
LABEL_COLUMNS = 12  # of a line of the log, before its text
# What a line with a command has in it, which nobody is to put together again.
TO_BE_COPIED = (
    *("lora-whisper ", "pip install ", "git lfs ", "torchrun ", "accelerate launch "),
    "python -c ",
)
LONG_SECONDS = 60  # work that will take longer says so as soon as that can be known
# Parts, such as batches, that a time left is told from. The first is not one of them: it waits for
# what starts up, and in decoding it has the longest windows.
TIMED_PARTS = 2


# ── streams ──────────────────────────────────────────────────────────────────────────────────


class _Guard:
    """A stream that takes whatever it is given; what cannot be shown is replaced, or lost."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self.is_missing = stream is None  # the process was started without one
        self.failure: OSError | None = None  # why what was printed did not arrive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream or sys.__stdout__, name)

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with suppress(ValueError, OSError, AttributeError):
            return cast(TextIO, self._stream).isatty()
        return False

    def write(self, text: str) -> int:
        if self._stream is not None:
            self._attempt(lambda stream: self._write_some(stream, text))
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._attempt(lambda stream: stream.flush())

    def _write_some(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            stream.write(text.encode(self.encoding, "replace").decode(self.encoding))

    def _attempt(self, action: Callable[[TextIO], object]) -> None:
        try:
            action(cast(TextIO, self._stream))
        except ValueError:  # somebody closed it
            self._stream = None
        except OSError as error:
            self.failure = error
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                self._let_go()

    def _let_go(self) -> None:
        """Send what is still waiting nowhere: Python would try it again at the exit, and fail."""
        stream, self._stream = cast(TextIO, self._stream), None
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


@contextmanager
def guarded() -> Iterator[None]:
    """See that nothing that is printed in here can fail, by whatever library."""
    _occupy_closed()
    before = {name: getattr(sys, name) for name in STREAMS}
    try:
        for name, stream in before.items():
            if not isinstance(stream, _Guard):
                setattr(sys, name, _Guard(stream))
        yield
    finally:
        for name, stream in before.items():
            guard = getattr(sys, name)
            if isinstance(guard, _Guard) and guard is not stream:
                guard.flush()
                setattr(sys, name, stream)


def _occupy_closed() -> None:
    """Open what was closed (`>&-`) onto nothing: the next file would else be standard output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free


def print_result(text: str) -> None:
    """Print what a command is there for, such as JSON for a program that reads it.

    Raises:
        UserError: it did not arrive, and not because its reader has left.
    """
    print(text)
    require_delivered(is_the_result=True)


def require_delivered(is_the_result: bool = False) -> None:
    """See that what was printed has arrived, as far as anybody is there who reads it.

    Args:
        is_the_result: whether the command is there for nothing but what it prints.

    Raises:
        UserError: it has not, such as on a full disk.
    """
    if is_the_result and getattr(sys.stdout, "is_missing", False):
        raise UserError("standard output is closed, and printing is all that this command does.")
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    if failure is not None and failure.errno not in READER_LEFT:
        raise UserError(f"standard output cannot be written to: {failure.strerror}.")


# ── log lines and bars ───────────────────────────────────────────────────────────────────────


def is_live() -> bool:
    """Whether a moving bar can be drawn: on a terminal that is not a CI's."""
    return console.is_terminal and os.environ.get("CI", "").lower() not in ("1", "true")


class _ConsoleHandler(logging.Handler):
    """Log lines above the live bar, not through it."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        message = hanging(self.format(record), console.width)
        console.print(message, markup=False, style=style, soft_wrap=True)


def print_error(message: str) -> None:
    """What ends a command; broken between words on a terminal, as it is in a file or a pipe."""
    shown = hanging(message, console.width) if sys.stderr.isatty() else message
    print(shown, file=sys.stderr)


def hanging(message: str, width: int) -> str:
    """Lines broken between words, and gone on with below the text of the first.

    Names and paths stay whole, and so do lines with a command: they are there to be copied.
    """
    return "\n".join(_hanging(line, width) for line in message.split("\n"))


def _hanging(line: str, width: int) -> str:
    if any(command in line for command in TO_BE_COPIED):
        return line
    label = line[:LABEL_COLUMNS]
    is_labelled = label[-1:] == " " and label[:1] != " " and ":" not in label
    indented = LABEL_COLUMNS if is_labelled else len(line) - len(line.lstrip(" -"))
    return textwrap.fill(
        line,
        max(width, 2 * indented),
        subsequent_indent=" " * indented,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )


def log_to_console() -> None:
    """Send the log of lora_whisper to the console, once however often this is called.

    The console is the main process's: the others print nothing, neither here nor elsewhere.
    """
    console.quiet = not processes.is_main()
    log = logging.getLogger("lora_whisper")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not any(isinstance(handler, _ConsoleHandler) for handler in log.handlers):
        log.addHandler(_ConsoleHandler())


def quiet_libraries() -> None:
    """Silence what libraries say of themselves, which is nothing that a user could act on.

    bitsandbytes reports a missing optional kernel on every import; transformers warns of a cache
    that the encoder would not have anyway; transformers and peft warn of each other's deprecations;
    Hydra warns of launchers that have our values instead of their own.
    """
    for name in ("bitsandbytes", "transformers.utils.generic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    # Two that decode audio have little to do, so that one core can be theirs and the training's.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against")


class _LogFile(logging.FileHandler):
    """Lines that find no room are lost: what a run has to store says so, and not its log."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Write the log of lora_whisper to `path` as well, with time stamps; the main process does."""
    if not processes.is_main():
        yield
        return
    log = logging.getLogger("lora_whisper")
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    except BaseException as error:  # the console shows it in its own way
        problem = logging.LogRecord(
            log.name, logging.ERROR, __file__, 0, "ended by %r", (error,), sys.exc_info()
        )
        handler.handle(problem)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


class Work:
    """One piece of work of known length; `update` says how far it is."""

    def update(self, done: int, figures: str = "") -> None:
        raise NotImplementedError


class _TimeLeft(TimeRemainingColumn):
    """Nothing until it can be told."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["parts"] > TIMED_PARTS else Text("-:--")


class _LiveWork(Work):
    def __init__(self, progress: Progress, title: str, total: int, done: int):
        self._progress, self._parts = progress, 0
        self._task = progress.add_task(title, total=total, completed=done, figures="", parts=0)

    def update(self, done: int, figures: str = "") -> None:
        self._parts += 1
        self._progress.update(self._task, completed=done, figures=figures, parts=self._parts)


class _PlainWork(Work):
    def __init__(self, title: str, total: int, done: int):
        self._title, self._total, self._start = title, total, time.monotonic()
        self._parts, self._first, self._first_seconds = 0, done, 0.0
        self._shown, self._shown_seconds = self._share(done), 0.0
        self._is_announced = False

    def _share(self, done: int) -> int:
        return done * PLAIN_LINES // max(1, self._total)

    def update(self, done: int, figures: str = "") -> None:
        seconds = time.monotonic() - self._start
        self._parts += 1
        if self._parts == 1:
            self._first, self._first_seconds = done, seconds
        left = None
        if self._parts > TIMED_PARTS and self._first < done < self._total:
            each = (seconds - self._first_seconds) / (done - self._first)
            left = each * (self._total - done)
        is_news = not self._is_announced and left is not None and left > LONG_SECONDS
        is_further = self._share(done) > self._shown
        is_due = seconds - self._shown_seconds >= PLAIN_SECONDS
        is_end = done >= self._total and self._shown_seconds > 0  # of what has had a line
        if (is_due and (is_further or is_news)) or (is_end and is_further):
            self._is_announced = self._is_announced or left is not None
            self._shown, self._shown_seconds = self._share(done), seconds
            times = clock(seconds) + (f" left {clock(left)}" if left is not None else "")
            line = f"{self._title} {done}/{self._total} {figures} {times}"
            console.print(" ".join(line.split()), markup=False)


@contextmanager
def work(title: str, total: int, done: int = 0) -> Iterator[Work]:
    """Show a piece of work of `total` parts: a live bar on a terminal, else ten lines at most."""
    if not is_live():
        yield _PlainWork(title, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        _TimeLeft(compact=True),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        expand=True,
        speed_estimate_period=3600.0,  # of rich's half minute, slow batches would leave nothing
    ) as progress:
        yield _LiveWork(progress, title, total, done)


def clock(seconds: float) -> str:
    """`1:05` or `2:03:04`"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """`less than a minute`, `about 25 min`, `about 2.5 h`, `about 3 days`"""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        return f"about {minutes:.0f} min"
    if hours < 36:
        return f"about {hours:.2g} h"
    return f"about {hours / 24:.0f} days"


def counted(number: int, noun: str) -> str:
    """`1 text`, `12 texts`"""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def passes(number: float) -> str:
    """`12.5`, `0.3` or `0.02`: how often speech is gone through"""
    return f"{number:.1f}" if number >= 0.05 else f"{number:.1g}"


def percent(share: float) -> str:
    """`12.3 %`"""
    return f"{100 * share:.1f} %"


def megabytes(size_bytes: int) -> str:
    """`3.1 MB`"""
    return f"{size_bytes / 1e6:.1f} MB"


def file_size(size_bytes: int) -> str:
    """`34,100 bytes`, `3.1 MB`, `3.1 GB`"""
    if size_bytes < 100_000:
        return f"{size_bytes:,} bytes"
    return megabytes(size_bytes) if size_bytes < 1e9 else gigabytes(size_bytes)


def gigabytes(size_bytes: int) -> str:
    """`3.1 GB`"""
    return f"{size_bytes / 1e9:.1f} GB"
