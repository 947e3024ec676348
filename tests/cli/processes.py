"""Real processes that train, for tests that kill them; started from one that has torch loaded."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from lora_whisper.__main__ import carry_out
from tests.threads import THREADS

LOADED = [  # once, which takes most of what a short run takes
    "peft",
    "matplotlib.backends.backend_svg",
    "lora_whisper.reports.run",
    "lora_whisper.cli.app",
    "lora_whisper.cli.train",
    "lora_whisper.evaluation.score",
    "lora_whisper.training.run",
]


def started(arguments: Sequence[str], folder: Path, command: str = "train") -> BaseProcess:
    """`lora-whisper train ARGUMENTS` in `folder`, in a session of its own, as from a shell."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    process = context.Process(target=_in_a_process, args=(command, list(arguments), folder))
    process.start()
    return process


def _in_a_process(command: str, arguments: list[str], folder: Path) -> None:
    gc.freeze()  # what was loaded is for good
    os.setsid()
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(THREADS)  # as in the tests' own process: sums depend on it
    sys.exit(carry_out(command, arguments))


def signalled(process: BaseProcess, number: signal.Signals, group: bool = False) -> int | None:
    """Send a signal to the process, or to its loader workers as well; return its exit code."""
    assert process.pid is not None
    if group:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    return ended(process)


def ended(process: BaseProcess, seconds: float = 120) -> int | None:
    process.join(seconds)
    return process.exitcode


def wait_for_step(run: Path, step: int, process: BaseProcess, seconds: float = 120) -> None:
    """Wait until the checkpoint of `step` or of a later one is there, or the process has ended."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and last_step(run) < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def last_step(run: Path) -> int:
    return max((int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")), default=0)
