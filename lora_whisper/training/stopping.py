"""Ctrl-C and SIGTERM: finish the step, write a checkpoint, and exit with the signal's own code."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from lora_whisper import processes

log = logging.getLogger("lora_whisper")


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal after a checkpoint was written.

    A KeyboardInterrupt, so that it ends a whole sweep and is not taken for a failed point.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Notes SIGINT and SIGTERM instead of dying of them; a second Ctrl-C stops at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_agreed(self) -> bool:
        """Whether a signal came to any process of this run; all of them have to ask."""
        return any(processes.gather([self.signal_number]))

    def stopped(self, message: str) -> Stopped:
        """The exception that the signal becomes, the same in all processes."""
        return Stopped(next(filter(None, processes.gather([self.signal_number]))), message)

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt("at once; the last checkpoint is older than the last step")
        self.signal_number = signal_number
        log.warning("stopping after this step (once more to stop at once)")
