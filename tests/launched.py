"""Functions in several processes at once, in the environment that a launcher gives them.

The processes are forked off a server that has imported what takes seconds.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tests.cli.processes import LOADED
from tests.threads import THREADS

PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Launched:
    """One of the processes."""

    process: Any
    result: Connection

    def wait(self) -> Any:
        """What the function returned; fails if it did not return in time."""
        assert self.result.poll(PATIENCE_SECONDS), "no result in time"
        found = self.result.recv()
        self.process.join(PATIENCE_SECONDS)
        return found


def launch(count: int, function: Callable[..., Any], *arguments: Any) -> list[Launched]:
    """Call the module-level `function` in `count` processes that know of each other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = []
    for rank in range(count):
        receiver, sender = context.Pipe(duplex=False)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        process: Any = context.Process(target=_call, args=(place, sender, function, arguments))
        process.start()
        found.append(Launched(process, receiver))
    return found


def together(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What the module-level `function` returned in each of `count` processes."""
    return [one.wait() for one in launch(count, function, *arguments)]


def _call(
    place: dict[str, int], result: Connection, function: Callable[..., Any], arguments: Any
) -> None:
    gc.freeze()  # what was loaded is for good
    os.environ.update({name: str(value) for name, value in place.items()})
    # As in the tests' own process: one, which torchrun has, too. Accelerate looks here.
    os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS=str(THREADS))
    torch.set_num_threads(THREADS)
    result.send(function(*arguments))


def command_line(folder: Path, *arguments: str) -> int:
    """`lora-whisper ARGUMENTS` in `folder`; what this process prints is in output-RANK.txt."""
    from lora_whisper.__main__ import main

    os.chdir(folder)
    output = os.open(f"output-{os.environ['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    sys.argv = ["lora-whisper", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
    return 0
