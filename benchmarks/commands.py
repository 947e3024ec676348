"""`lora-whisper train` as a process of its own, watched from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

POLL_SECONDS = 0.02


@contextmanager
def training(folder: Path, *overrides: str) -> Iterator[psutil.Popen]:
    """Run the command in `folder`; leaving the block ends it and all that it started."""
    command = [sys.executable, "-m", "lora_whisper", "train", *overrides]
    with (folder / "output.txt").open("w") as output:
        process = psutil.Popen(
            command,
            cwd=folder,
            env=os.environ | {"CI": "true"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                for one in [*process.children(recursive=True), process]:
                    one.kill()
            process.wait()


def require_success(process: psutil.Popen, folder: Path) -> None:
    """Raise with what the command said, if it failed."""
    if process.wait() != 0:
        raise RuntimeError((folder / "output.txt").read_text())


def last_step(metrics: Path) -> int:
    """The last step that metrics.jsonl speaks of, 0 while there is none."""
    lines = metrics.read_text().splitlines(keepends=True) if metrics.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def polls(process: psutil.Popen, seconds: float = POLL_SECONDS) -> Iterator[None]:
    """Once every so often, as long as the process runs."""
    while process.poll() is None:
        yield
        time.sleep(seconds)
