"""The processes that run a sweep's points: how many, and which GPU each has to itself.

Hydra's basic launcher runs the points in this process, one after the other. joblib and submitit's
local launcher start processes on this machine, which share its GPUs out among themselves; on a
cluster SLURM does that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig

from lora_whisper import terminal
from lora_whisper.errors import UserError
from lora_whisper.locks import is_acquired

log = logging.getLogger("lora_whisper")

terminal.quiet_libraries()  # a worker composes its point before anything else is called

PACKAGES = {  # of launchers, and the extra that brings each
    "hydra_joblib_launcher": "joblib",
    "hydra_submitit_launcher": "submitit",
}
POLL_SECONDS = 0.2

_held: list[TextIO] = []  # the lock by which this process has its place, as long as it lives


@dataclass(frozen=True)
class Workers:
    """Who runs the points of a sweep."""

    launcher: str  # as it is typed: basic, joblib, submitit_local, submitit_slurm, …
    parent: int  # process id of the one that launches
    sweep: Path  # the sweep's folder
    gpus: tuple[str, ...]  # of each place of a worker here; empty: there is none, or SLURM decides
    batch_size: int | None  # points that are launched together; None: all

    @property
    def are_of_joblib(self) -> bool:
        return self.launcher == "joblib"

    @contextmanager
    def at_work(self, point: str) -> Iterator[None]:
        """Give the worker its GPU and its terminal, for the duration of a point."""
        if os.getpid() == self.parent:
            yield
            return
        terminal.log_to_console()
        gpu = self._claim_gpu()
        if not self.are_of_joblib:  # each process has a log of its own, in which all is said
            yield
            return
        # Several would write over each other; the whole story is in each point's train.log.
        terminal.console.quiet = True
        where = f", GPU {gpu}" if gpu else ""
        started = time.monotonic()
        print(f"{point}: begins (process {os.getpid()}{where})", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            took = terminal.clock(time.monotonic() - started)
            print(f"{point}: ended after {took}", file=sys.stderr, flush=True)

    def _claim_gpu(self) -> str | None:
        """Take a GPU that no other worker has, before anything asks CUDA what there is."""
        if not self.gpus:
            return None
        if not _held:
            place, handle = self._free_place()
            _held.append(handle)
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[place]
        return os.environ["CUDA_VISIBLE_DEVICES"]

    def _free_place(self) -> tuple[int, TextIO]:
        """The first place whose lock can be had; the one of a process that ended is free."""
        while True:
            for place in range(len(self.gpus)):
                lock = self.sweep / f".worker-{place}.lock"
                handle = open(lock, "w")  # noqa: SIM115  it stays open as long as the process lives
                if is_acquired(handle, lock):
                    return place, handle
                handle.close()
            time.sleep(POLL_SECONDS)


def workers_of(master: DictConfig) -> Workers:
    """Who runs the points of a sweep, by its composed configuration; how many is filled in there.

    Raises:
        UserError: the launcher's package is missing, or nobody says how many workers a machine
            without a GPU is to have.
    """
    launcher = str(master.hydra.runtime.choices.get("hydra/launcher"))
    _require_package(str(master.hydra.launcher.get("_target_")), launcher)
    batch_size = master.hydra.sweeper.get("max_batch_size")
    gpus: tuple[str, ...] = ()
    if launcher in ("joblib", "submitit_local"):
        gpus = visible_gpus()
    if launcher == "joblib":
        count = _count(master.hydra.launcher.n_jobs, gpus)
        master.hydra.launcher.n_jobs = count
        gpus = tuple(gpus[place % len(gpus)] for place in range(count)) if gpus else ()
    if launcher == "submitit_local" and batch_size is None:
        batch_size = max(1, len(gpus))  # it starts all that it is given at once
    return Workers(launcher, os.getpid(), Path(master.hydra.sweep.dir).absolute(), gpus, batch_size)


def _count(asked: int, gpus: tuple[str, ...]) -> int:
    if asked != -1:
        if asked < 1:
            raise UserError(f"hydra.launcher.n_jobs: expected 1 or more, or -1, found {asked}")
        return asked
    if not gpus:
        raise UserError(
            "hydra/launcher=joblib starts one worker a GPU, and there is none here. Type how many "
            "share the CPU: hydra.launcher.n_jobs=2"
        )
    return len(gpus)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name for name in map(str.strip, given.split(",")) if name)
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def _require_package(target: str, launcher: str) -> None:
    for package, extra in PACKAGES.items():
        if package not in target:
            continue
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(f"hydra_plugins.{package}") is not None:
                return
        raise UserError(
            f"hydra/launcher={launcher} needs a package: pip install 'lora-whisper[{extra}]'"
        )
