"""The plan's memory against a GPU's own counters, for checkpoints, quantizations and micro-batches.

    python -m benchmarks.gpu_memory
    python -m benchmarks.gpu_memory --shapes small large-v3 --quantizations none nf4

Random weights at the true shapes take the memory of the real ones. Each row makes two steps of two
micro-batches, of full windows with as many tokens as the decoder takes, and holds
`torch.cuda.max_memory_reserved` against what `lora-whisper plan` says, less CUDA's own context,
which PyTorch does not count. Without a GPU, rows say "not measured" beside what is planned. A row
that does not fit says so. Results go to benchmarks/results/gpu_memory.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_training import NOT_MEASURED, QUANTIZATIONS, random_checkpoint
from benchmarks.parts import new_trainer, train_config
from benchmarks.results import write_result
from lora_whisper.lora.adapter import attach
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.model.device import choose_dtype, choose_precision, new_accelerator
from lora_whisper.model.published import shape, shape_names
from lora_whisper.training.loop import train_step
from lora_whisper.training.memory_estimator import Setup
from lora_whisper.training.memory_plan import MemoryPlan, plan_memory
from lora_whisper.training.micro_batch import worst_batch

SHAPES = ("tiny", "small", "large-v3", "large-v3-turbo")
MICRO_BATCHES = (1, 4)
STEPS = 2  # from the second on, the optimizer has its moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=shape_names(), default=SHAPES)
    parser.add_argument("--quantizations", nargs="+", choices=QUANTIZATIONS, default=QUANTIZATIONS)
    options = parser.parse_args()
    rows = [row for name in options.shapes for row in shape_rows(name, options.quantizations)]
    print(json.dumps(rows, indent=2))
    command = (
        f"python -m benchmarks.gpu_memory --shapes {' '.join(options.shapes)} "
        f"--quantizations {' '.join(options.quantizations)}"
    )
    print(f"written to {write_result('gpu_memory', command, {'rows': rows})}")


def shape_rows(name: str, quantizations: list[str]) -> list[dict[str, Any]]:
    """Each quantization, micro-batch and checkpointing; the weights are written once."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        has_gpu = torch.cuda.is_available()
        checkpoint = random_checkpoint(Path(folder), name) if has_gpu else None
        for quantization in quantizations:
            plan = planned(name, quantization)
            for checkpointing in (False, True):
                for windows in MICRO_BATCHES:
                    row = {"model": name, "quantization": quantization, "micro_batch": windows}
                    row["gradient_checkpointing"] = checkpointing
                    rows.append(row | compared(plan, row, checkpoint))
    return rows


def planned(name: str, quantization: str) -> MemoryPlan:
    config = train_config(f"quantization={quantization}")
    precision = choose_precision("auto") if torch.cuda.is_available() else "bf16"
    dtype = choose_dtype("auto", precision)
    setup = Setup(shape(name), config.quantization, config.adapter, dtype, precision)
    return plan_memory(setup, shape(name).max_target_positions)


def compared(
    plan: MemoryPlan, row: dict[str, Any], checkpoint: Checkpoint | None
) -> dict[str, Any]:
    """What is planned, what was reserved, and how far the plan is off."""
    windows, checkpointing = row["micro_batch"], row["gradient_checkpointing"]
    memory = plan.memory(windows, checkpointing)
    expected = memory.total - memory.context  # which `max_memory_reserved` does not see
    figures: dict[str, Any] = {"planned_gigabytes": round(expected / 1e9, 3)}
    if checkpoint is None:
        return figures | {"reserved_gigabytes": NOT_MEASURED, "difference": NOT_MEASURED}
    try:
        reserved = reserved_bytes(checkpoint, row["quantization"], windows, checkpointing)
    except torch.OutOfMemoryError:
        return figures | {"reserved_gigabytes": "out of memory", "difference": NOT_MEASURED}
    figures["reserved_gigabytes"] = round(reserved / 1e9, 3)
    return figures | {"difference": round(expected / reserved - 1, 3)}


def reserved_bytes(
    checkpoint: Checkpoint, quantization: str, windows: int, checkpointing: bool
) -> int:
    """The most that PyTorch's allocator held in two real steps, from an empty GPU."""
    gc.collect()
    torch.cuda.empty_cache()
    config = train_config(f"quantization={quantization}")
    accelerator = new_accelerator(config.training.precision)
    dtype = choose_dtype(config.model.dtype, config.training.precision)
    base = load_base(checkpoint, quantization, dtype, accelerator.device)
    model = attach(base, config.adapter, quantization, checkpointing, config.seed)
    trainer = new_trainer(model, config, accelerator, STEPS)
    samples = trainer.features.window_samples
    batch = worst_batch(windows, samples, base.config.max_target_positions)
    batch = dataclasses.replace(batch, audio_seconds=1.0)
    gc.collect()
    torch.cuda.empty_cache()  # what loading the weights needed
    torch.cuda.reset_peak_memory_stats()
    for step in range(STEPS):
        train_step(trainer, step, [batch, batch])
    return torch.cuda.max_memory_reserved()


if __name__ == "__main__":
    main()
