"""How long the loop stands still when it saves, at the adapter size of large-v3.

    python -m benchmarks.checkpoint_stall

The adapter's matrices on every linear layer of large-v3, at rank 16 and 32, with AdamW's two
moments of each; counted by the checkpoint's shape, filled with noise, on the GPU where there is
one. What stalls the loop is the copy to memory: a thread writes the files and syncs them. The worst
case is measured, a step that is validated as well: the best adapter is saved, and the checkpoint at
once after it.

Beside it, how long it takes until all is on disk, and what Python does meanwhile in the loop's
thread (small operations one after another), as a share of what it does undisturbed. Results go to
benchmarks/results/checkpoint_stall.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import WhisperForConditionalGeneration

from benchmarks.parts import train_config
from benchmarks.results import write_result
from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.model.published import shape
from lora_whisper.training.checkpoints import Best, Checkpoints, TrainingState

CHECKPOINT, RANKS = "large-v3", (16, 32)
TARGET_SECONDS = 1.0
UNDISTURBED_SECONDS = 1.0  # over which the loop's pace is measured first
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to write to; left empty")
    options = parser.parse_args()
    figures = {
        "checkpoint": CHECKPOINT,
        "device": str(DEVICE),
        "ranks": {
            rank: measured(parameters_of(CHECKPOINT, rank), options.rounds, options.folder)
            for rank in RANKS
        },
        "target_seconds": TARGET_SECONDS,
    }
    print(json.dumps(figures, indent=2))
    command = f"python -m benchmarks.checkpoint_stall --rounds {options.rounds}"
    print(f"written to {write_result('checkpoint_stall', command, figures)}")


def parameters_of(checkpoint: str, rank: int) -> dict[str, nn.Parameter]:
    """An adapter of that size, without the model beside it."""
    config = train_config("adapter=lora", f"adapter.rank={rank}").adapter
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(shape(checkpoint))
        adapted = attach(model, config, "none", gradient_checkpointing=False, seed=0)
    return {
        name: nn.Parameter(torch.randn(value.shape, device=DEVICE))
        for name, value in adapter_parameters(adapted).items()
    }


def measured(
    parameters: Mapping[str, nn.Parameter], rounds: int, folder: Path | None = None
) -> dict[str, Any]:
    """The stalls of some rounds, after one that is not counted."""
    optimizer = torch.optim.AdamW(parameters.values(), fused=True)
    for value in parameters.values():
        value.grad = torch.randn_like(value)
    optimizer.step()
    optimizer.zero_grad()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        found = [saved(Path(name), parameters, optimizer, step) for step in range(1, rounds + 2)]
    stalls, on_disk, paces = zip(*found[1:], strict=True)
    return {
        "parameters": sum(value.numel() for value in parameters.values()),
        "longest_stall_seconds": round(max(stalls), 3),
        "stall_seconds": [round(seconds, 3) for seconds in stalls],
        "until_on_disk_seconds": round(statistics.median(on_disk), 3),
        "pace_while_writing": round(statistics.median(paces), 3),
    }


def saved(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> tuple[float, float, float]:
    """Seconds of the stall, seconds until all is on disk, and the loop's pace meanwhile."""
    undisturbed = pace_until(time.monotonic() + UNDISTURBED_SECONDS)
    with Checkpoints(folder, 1, keep_last=1, keep_best=1, config_hash="") as checkpoints:
        started = time.monotonic()
        checkpoints.save_best(Best(step, 1 / step, 1.0), parameters)
        checkpoints.save(TrainingState(step), parameters, optimizer)
        stalled = time.monotonic()
        writing = threading.Thread(target=checkpoints.finish)
        writing.start()
        pace = pace_until(math.inf, writing)
        written = time.monotonic()
    return stalled - started, written - started, pace / undisturbed


def pace_until(moment: float, writing: threading.Thread | None = None) -> float:
    """Small operations a second that this thread gets done, to the end of `writing` at most."""
    tensor, done, started = torch.zeros(8, device=DEVICE), 0, time.monotonic()
    while time.monotonic() < moment and (writing is None or writing.is_alive()):
        tensor = tensor + 1
        done += 1
    return done / (time.monotonic() - started)


if __name__ == "__main__":
    main()
