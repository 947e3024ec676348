"""What ends a run: a signal, after a checkpoint of the last whole step; or a failure, explained.

Ctrl-C, SIGTERM and a closed terminal end it with their own exit codes. A full disk or memory, a
checkpoint that was damaged and a killed process end it with what to type, and where it goes on.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from lora_whisper import processes
from lora_whisper.errors import UserError, listing
from lora_whisper.files import is_disk_full, no_room
from lora_whisper.run_folder import RunFolder

log = logging.getLogger("lora_whisper")

_last = {"seconds": -math.inf}  # when a signal came to this process
_handlers: list[Callable[[int, FrameType | None], None]] = []  # in place, the outermost first
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NAMES = {
    signal.SIGINT: "by Ctrl-C",
    signal.SIGTERM: "by SIGTERM",
    signal.SIGHUP: "since its terminal was closed",
}
# A batch system sends its signal to all processes of a job, and torchrun passes it on to them.
ONE_SIGNAL_SECONDS = 1.0

LARGE_RANK, LARGE_BATCH = 64, 32  # beyond them, they are named where memory runs out
GOES_ON = "the same command goes on from here"


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal, and can go on.

    A KeyboardInterrupt, so that it ends a whole sweep and is not taken for a failed point.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class _BrokenOff(BaseException):
    """Raised by the signal in the middle of work that is done again later."""


class StopRequest:
    """Notes SIGINT, SIGTERM and SIGHUP instead of dying of them; a second one stops at once.

    Args:
        breaks_off: whether a signal ends what `unless_stopped` carries out. Not where other
            processes would wait for this one's part of it.
    """

    def __init__(self, breaks_off: bool = True) -> None:
        self.signal_number: int | None = None
        self._breaks_off, self._is_breakable = breaks_off, False
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> StopRequest:
        self._handlers.enter_context(_handled_by(self._note))
        return self

    def __exit__(self, *exception: object) -> None:
        self._handlers.close()

    def unless_stopped(self, work: Callable[[], None]) -> bool:
        """Carry out `work`, which can be long; return whether it was done to its end.

        It does not begin once a signal came, and ends at once when one comes; but where other
        processes wait for its part of the work, it is carried out whatever happens.
        """
        if self._breaks_off and self.signal_number is not None:
            return False
        try:
            self._is_breakable = self._breaks_off
            work()
        except _BrokenOff:
            return False
        finally:
            self._is_breakable = False
        return True

    def is_agreed(self) -> bool:
        """Whether a signal came to any process of this run; all of them have to ask."""
        return any(processes.gather([self.signal_number]))

    def stopped(self, message: str) -> Stopped:
        """The exception that the signal becomes, the same in all processes."""
        return Stopped(next(filter(None, processes.gather([self.signal_number]))), message)

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        if _is_the_same_as_before():
            return
        if self.signal_number is not None:
            raise KeyboardInterrupt("at once; the last checkpoint is older than the last step")
        self.signal_number = signal_number
        log.warning("stopping after this micro-batch (once more to stop at once)")
        if self._is_breakable:
            self._is_breakable = False
            raise _BrokenOff


@contextlib.contextmanager
def ended_by_signals(message: str = "") -> Iterator[None]:
    """Outside the loop, where no step is lost: signals end the work at once.

    Several within a second are one: a second one must not break off what the first one tidies up.

    Raises:
        Stopped: with the signal's exit code, and `message` for the user.
    """

    def end(signal_number: int, frame: FrameType | None) -> None:
        if not _is_the_same_as_before():
            raise Stopped(signal_number, message or NAMES[signal.Signals(signal_number)])

    with _handled_by(end):
        yield


def _is_the_same_as_before() -> bool:
    """Whether another one came just before, also to a handler that is not in place any more."""
    now = time.monotonic()
    is_same = now - _last["seconds"] < ONE_SIGNAL_SECONDS
    if not is_same:
        _last["seconds"] = now
    return is_same


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Python lets the main thread alone handle signals; in another, nothing changes."""
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        if not _handlers:  # else a signal may have come to the one around this
            _last["seconds"] = -math.inf
        # Whoever started this with nohup wants it to go on when the terminal is closed.
        is_of_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        met = [number for number in SIGNALS if number != signal.SIGHUP or not is_of_nohup]
        previous = {number: signal.signal(number, handler) for number in met}
        _handlers.append(handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
        if previous:
            _handlers.pop()


@contextlib.contextmanager
def failures_explained(folder: RunFolder, config: Any) -> Iterator[None]:
    """What ends a run against its will: say what to type, and where the run goes on.

    Raises:
        UserError: the disk or the memory is full, a checkpoint is damaged, or a process that loads
            speech was killed.
    """
    from lora_whisper.training.checkpoint_files import Damaged

    try:
        with out_of_memory_explained(config):
            yield
    except Damaged as error:  # after the run has begun to need it
        raise UserError(
            f"A checkpoint was damaged after it was written: {error}.\n"
            "Type the same command with resume=auto: it goes on from one that is sound."
        ) from error
    except Exception as error:
        text = str(error)
        if is_disk_full(error):
            refusal, path = no_room(error), folder.last_checkpoint()
            last = f"The last good checkpoint is {path}." if path else "There is no checkpoint yet."
            raise UserError(
                f"{refusal}\n{last} {refusal.advice}, and type the same command with resume=auto."
            ) from error
        is_of_loader = isinstance(error, RuntimeError) and "DataLoader worker" in text
        if not is_of_loader or not ("killed" in text or "exited" in text):
            raise
        path = folder.last_checkpoint()
        last = f"The last checkpoint is {path}." if path else "There is no checkpoint yet."
        raise UserError(
            f"A process that loads speech ended: {text.splitlines()[0]}\n"
            "Often the system ends one when the computer's memory runs out.\n"
            f"{last} Type the same command with resume=auto, and training.loader_workers=1 or 0 "
            "if memory is short."
        ) from error


@contextlib.contextmanager
def out_of_memory_explained(config: Any) -> Iterator[None]:
    """Say what to type when the memory does not suffice, not for a single window either.

    Args:
        config: of the command; what it asks for beyond the usual is named first.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        from lora_whisper.training.memory import is_out_of_memory  # and with it torch

        if not is_out_of_memory(error):
            raise
        why = (str(error).splitlines() or ["there is no more"])[0]
        raise UserError(
            f"The memory does not suffice: {why}\n" + "\n".join(_what_takes_less(config))
        ) from error


def _what_takes_less(config: Any) -> Iterator[str]:
    adapter, evaluation = (getattr(config, name, None) for name in ("adapter", "evaluation"))
    trains = hasattr(config, "training")
    asked = []
    if trains and adapter is not None and adapter.rank > LARGE_RANK:
        asked.append(f"adapter.rank={adapter.rank}: type overwrite=true adapter.rank=16")
    beams, batch = (getattr(evaluation, name, None) for name in ("beams", "batch_size"))
    if (beams or 1) > 1:
        asked.append(f"evaluation.beams={beams}, of which each takes as much: evaluation.beams=1")
    if (batch or 1) > LARGE_BATCH:
        asked.append(f"evaluation.batch_size={batch}: type evaluation.batch_size=4")
    if asked:
        yield "It was asked for more than is usual:"
        yield listing(asked)
    fewer = 4 if (batch or 1) > LARGE_BATCH else max(1, (batch or 4) // 2)
    smaller = f"evaluation.batch_size={fewer}"
    if trains:
        yield "Type the same command with resume=auto and, if it happened"
        yield "  in training: training.gradient_checkpointing=true"
        yield f"  in scoring: {smaller}"
        yield "Or begin anew with overwrite=true quantization=nf4."
    elif evaluation is not None:
        yield f"Type the same command with {smaller}, or on a machine with more."
    else:
        yield "Close what else is running, or type the same command on a machine with more."
