"""Decoders in processes of their own: a crash or a hang costs one request, and not the run.

Decoders of foreign containers are millions of lines of C that meet files from anywhere. Each
process here answers one request after another, over two pipes; a request is a few fields and
perhaps a file's content, an answer a few fields and perhaps samples. A process limits its own time
and memory in the kernel, where no library can hold it up, and ends with the process that asks.
Processes are started anew, not forked: a fork would copy the locks of threads.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import io
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from lora_whisper.errors import UserError

PIPE_BYTES = 1 << 20  # 0.2 s of a core for an hour of samples, against 0.5 s with 64 KiB
WAITED_SHARE = 10.0  # of the processor time that is allowed: nobody has a core for itself
STARTING_SECONDS = 60.0  # usually 0.3
STARTS = 3  # of a process that ends while it starts
REQUESTS_A_PROCESS = 20_000  # what libraries leak on broken files does not add up for ever
HEAD = struct.Struct("<IQ")  # lengths of the fields, in bytes, and of what follows them

Fields = dict[str, Any]
Allow = Callable[[float, float], None]  # seconds of processor time from now on, and bytes
Answer = tuple[Fields, np.ndarray | None]


class Crashed(Exception):
    """The process ended over a request; says how."""


class NotStarted(UserError):
    """A process ended before it was ready; says how."""


class TookTooLong(Crashed):
    """It was ended for that; says after how many seconds."""


class Stalled(TookTooLong):
    """It did not answer, and did not compute so long either."""


# ── the asking process ───────────────────────────────────────────────────────────────────────


class Pool:
    """Processes that answer requests; started when they are needed, one for each asking thread."""

    def __init__(self, served_by: str):
        """`served_by`: "module:function" that calls `serve`, in the new process."""
        self._served_by = served_by
        self._begin()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _begin(self) -> None:
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._room = threading.BoundedSemaphore(os.cpu_count() or 1)

    def ask(self, fields: Fields, content: bytes = b"") -> Answer:
        """Have a request answered.

        A process that ended otherwise than by its limits may have been killed from outside, and one
        that is silent may have been suspended: the request is put to a second one before it is
        blamed.

        Raises:
            Crashed: the process ended over it, twice, or took too long.
            UserError: no process can be started.
        """
        with self._room:
            try:
                return self._ask_once(fields, content)
            except Stalled:  # perhaps the whole machine slept
                return self._ask_once(fields, content)
            except TookTooLong:
                raise
            except Crashed:
                return self._ask_once(fields, content)

    def _ask_once(self, fields: Fields, content: bytes) -> Answer:
        try:
            process = self._idle.pop()  # of a list, this is atomic
        except IndexError:
            process = self._started()
        self._busy.add(process)
        try:
            answer = process.ask(fields, content)
        except BaseException:  # Ctrl-C as well: what it would answer is nobody's any more
            process.kill()
            raise
        finally:
            self._busy.discard(process)
        if process.requests < REQUESTS_A_PROCESS:
            self._idle.append(process)
        else:
            process.kill()
        return answer

    def _started(self) -> _Process:
        """A new one; one that was killed before it was there, as by a full memory, costs no run."""
        for _ in range(STARTS - 1):
            with contextlib.suppress(NotStarted):
                return _Process(self._served_by)
        return _Process(self._served_by)

    def close(self) -> None:
        """End all processes that wait for a request."""
        while self._idle:
            self._idle.pop().kill()

    def _forget(self) -> None:
        """In a forked process: the others are its parent's, and end when that one does."""
        for process in (*self._idle, *self._busy):
            process.forget()
        self._begin()


class _Process:
    """A process of the pool, from the side that asks."""

    def __init__(self, served_by: str):
        module, _, function = served_by.partition(":")
        code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function} as s; s()"
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # "double free or corruption", over a progress bar
                start_new_session=True,  # a signal to a whole job is for who asks
                env=environment,
                bufsize=0,
            )
        except OSError as error:
            raise UserError(f"No process for decoding can be started: {error}") from None
        self.requests = 0
        self._to = cast(io.FileIO, self._process.stdin)
        self._from = cast(io.FileIO, self._process.stdout)
        with contextlib.suppress(AttributeError, OSError):  # Linux alone has it
            for pipe in (self._to, self._from):
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._allowed_seconds = STARTING_SECONDS
        self._deadline = time.monotonic() + STARTING_SECONDS
        try:
            self._answer()  # that it is there
        except Crashed as error:
            self.kill()
            raise NotStarted(f"The process that decodes audio does not start: {error}") from None

    def ask(self, fields: Fields, content: bytes) -> Answer:
        self.requests += 1
        self._deadline = time.monotonic() + STARTING_SECONDS
        try:
            _write(self._to.fileno(), fields, content)
        except OSError:  # it ended while nobody looked
            raise Crashed(self._ending()) from None
        while True:
            found, samples = self._answer()
            if "allowed_seconds" not in found:
                return found, samples
            self._allowed_seconds = found["allowed_seconds"]
            self._deadline = time.monotonic() + WAITED_SHARE * self._allowed_seconds

    def _answer(self) -> Answer:
        length, size = HEAD.unpack(self._read(HEAD.size))
        fields = json.loads(self._read(length))
        samples = np.frombuffer(self._read(4 * size), np.float32) if size else None
        return fields, samples

    def _read(self, size: int) -> bytearray:
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            seconds = max(self._deadline - time.monotonic(), 0.0)
            if hasattr(select, "poll"):  # `select` itself refuses a descriptor from 1024 on
                poll = select.poll()
                poll.register(self._from.fileno(), select.POLLIN)
                is_readable = bool(poll.poll(1000 * seconds))
            else:
                is_readable = bool(select.select([self._from.fileno()], [], [], seconds)[0])
            if not is_readable:
                raise Stalled(f"{self._allowed_seconds:.0f} s")
            count = self._from.readinto(rest)
            if not count:
                ending = self._ending()
                if ending == "SIGPROF":
                    raise TookTooLong(f"{self._allowed_seconds:.0f} s")
                raise Crashed(ending)
            rest = rest[count:]
        return content

    def _ending(self) -> str:
        try:
            code = self._process.wait(timeout=STARTING_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close()

    def forget(self) -> None:
        self._close()
        self._process.returncode = 0  # it is not ours to wait for

    def _close(self) -> None:
        self._to.close()
        self._from.close()


# ── the answering process ────────────────────────────────────────────────────────────────────


def serve(answer: Callable[[Fields, bytes, Allow], Answer]) -> None:
    """Answer requests until nobody asks any more.

    `answer` takes the fields, the content, and a function by which it allows itself more time and
    memory when it knows how much there is to do.
    """
    requests, answers = os.dup(0), os.dup(1)
    with open(os.devnull, "r+b") as nothing:  # what a library prints must not get among the answers
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # meant for who asks, who ends this by closing
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _end_when_closed(requests)
    limits = _Limits()

    def allow(seconds: float, size_bytes: float) -> None:
        limits.set(seconds, size_bytes)
        _write(answers, {"allowed_seconds": seconds})

    with os.fdopen(requests, "rb") as file, contextlib.suppress(BrokenPipeError):
        _write(answers, {})
        while len(head := file.read(HEAD.size)) == HEAD.size:
            length, size = HEAD.unpack(head)
            result, samples = answer(json.loads(file.read(length)), file.read(size), allow)
            limits.lift()
            _write(answers, result, b"" if samples is None else samples.data, unit=4)


def _end_when_closed(pipe: int) -> None:
    """Notice the end of the asking process in the midst of a request, too."""
    if not hasattr(select, "poll"):
        return

    def wait() -> None:
        poll = select.poll()
        poll.register(pipe, 0)  # nothing but that it is closed
        poll.poll()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


class _Limits:
    """Processor time and memory of the running request; the kernel ends what exceeds the first."""

    def __init__(self) -> None:
        self._base_bytes = 0  # of memory that is mapped now; not known, nothing is limited
        with contextlib.suppress(OSError, ValueError, AttributeError):
            pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
            self._base_bytes = int(pages) * os.sysconf("SC_PAGE_SIZE")
        if self._base_bytes:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def set(self, seconds: float, size_bytes: float) -> None:
        if hasattr(signal, "ITIMER_PROF"):
            signal.setitimer(signal.ITIMER_PROF, seconds)
        self._set_memory(size_bytes)

    def lift(self) -> None:
        if hasattr(signal, "ITIMER_PROF"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        self._set_memory(None)

    def _set_memory(self, size_bytes: float | None) -> None:
        """So much more than this process had at its beginning; None: what was allowed it."""
        if self._base_bytes:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            most = hard if hard != resource.RLIM_INFINITY else sys.maxsize
            soft = most if size_bytes is None else min(self._base_bytes + round(size_bytes), most)
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ── both ─────────────────────────────────────────────────────────────────────────────────────


def _write(pipe: int, fields: Fields, content: bytes | memoryview = b"", unit: int = 1) -> None:
    """Fields and content; `unit` is what its length is counted in, in bytes."""
    head = json.dumps(fields).encode()
    rest = memoryview(content).cast("B")
    _write_all(pipe, HEAD.pack(len(head), len(rest) // unit) + head)
    _write_all(pipe, rest)


def _write_all(pipe: int, content: bytes | memoryview) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(pipe, rest) :]
