"""Memory and speed of training on this machine's GPU, for checkpoints and quantizations.

    python -m benchmarks.gpu_training
    python -m benchmarks.gpu_training --shapes small large-v3 --quantizations none nf4

Random weights at the true shapes take the time and memory of the real ones. Each row trains
adapters in all linear layers on full 30-second windows of noise with 100 tokens each, with the
precision, micro-batch and checkpointing that `train` would choose for it: bfloat16 where the GPU
has it. Counted after some steps that warm up: peak memory, seconds of audio a second, and how often
a step waits for the GPU. A row that does not fit says so. Without a GPU, all say "not measured".
Results go to benchmarks/results/gpu_training.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.parts import new_trainer, random_batches, train_config
from benchmarks.random_checkpoint import write_weights
from benchmarks.results import write_result
from lora_whisper.config import TrainConfig
from lora_whisper.data.batches import Batch
from lora_whisper.lora.adapter import attach
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.model.device import choose_dtype, new_accelerator
from lora_whisper.model.published import shape, shape_names
from lora_whisper.training.defaults import checkpoints_activations, micro_batch_for_width
from lora_whisper.training.loop import Trainer, train_step

SHAPES = ("tiny", "base", "small", "medium", "large-v3", "large-v3-turbo")
QUANTIZATIONS = ("none", "int8", "nf4")
NOT_MEASURED = "not measured"
WARM_UP_STEPS, STEPS = 2, 5
FIGURES = ("peak_memory_gigabytes", "audio_seconds_per_second", "host_synchronisations_per_step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=shape_names(), default=SHAPES)
    parser.add_argument("--quantizations", nargs="+", choices=QUANTIZATIONS, default=QUANTIZATIONS)
    options = parser.parse_args()
    rows = {name: table_rows(name, options.quantizations) for name in options.shapes}
    print(json.dumps(rows, indent=2))
    command = (
        f"python -m benchmarks.gpu_training --shapes {' '.join(options.shapes)} "
        f"--quantizations {' '.join(options.quantizations)}"
    )
    print(f"written to {write_result('gpu_training', command, {'rows': rows})}")


def table_rows(name: str, quantizations: list[str]) -> dict[str, dict[str, Any]]:
    """One row for each quantization of the shape; the weights are written once."""
    if not torch.cuda.is_available():
        return {one: dict.fromkeys(FIGURES, NOT_MEASURED) for one in quantizations}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder), name)
        for quantization in quantizations:
            try:
                rows[quantization] = measured(checkpoint, name, quantization)
            except torch.OutOfMemoryError:
                rows[quantization] = dict.fromkeys(FIGURES, "out of memory")
            torch.cuda.empty_cache()
    return rows


def random_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Weights and configuration; the tokenizer, which loading the weights does not need, is not."""
    config = shape(name)
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    write_weights(folder, config, seed=0, dtype=torch.bfloat16)
    return Checkpoint(str(folder), None, name)


def measured(checkpoint: Checkpoint, name: str, quantization: str) -> dict[str, Any]:
    """Train some steps and read the GPU's own counters."""
    config = train_config(f"quantization={quantization}")
    torch.cuda.reset_peak_memory_stats()
    trainer = loaded(checkpoint, quantization, config)
    micro_batch = micro_batch_for_width(trainer.whisper.config.d_model)
    batches = random_batches(shape(name), config.training.global_batch, micro_batch)
    for step in range(WARM_UP_STEPS):
        train_step(trainer, step, batches)
    seconds = seconds_per_step(trainer, batches)
    audio_seconds = sum(batch.audio_seconds for batch in batches)
    return {
        "precision": trainer.accelerator.mixed_precision,
        "micro_batch": trainer.limit.windows or micro_batch,  # halved where it did not fit
        "gradient_checkpointing": checkpoints_activations(None, trainer.whisper.config.d_model),
        "attention": trainer.whisper.config._attn_implementation,
        "seconds_per_step": round(seconds, 3),
        "peak_memory_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "audio_seconds_per_second": round(audio_seconds / seconds, 1),
        "host_synchronisations_per_step": host_synchronisations(trainer, batches),
    }


def loaded(checkpoint: Checkpoint, quantization: str, config: TrainConfig) -> Trainer:
    accelerator = new_accelerator(config.training.precision)
    dtype = choose_dtype(config.model.dtype, config.training.precision)
    base = load_base(checkpoint, quantization, dtype, accelerator.device)
    checkpointing = checkpoints_activations(None, base.config.d_model)
    model = attach(base, config.adapter, quantization, checkpointing, config.seed)
    return new_trainer(model, config, accelerator, WARM_UP_STEPS + STEPS + 1)


def seconds_per_step(trainer: Trainer, batches: list[Batch]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    for step in range(WARM_UP_STEPS, WARM_UP_STEPS + STEPS):
        train_step(trainer, step, batches)
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / STEPS


def host_synchronisations(trainer: Trainer, batches: list[Batch]) -> int:
    """How often one step waits for the GPU, as PyTorch itself warns of it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train_step(trainer, WARM_UP_STEPS + STEPS, batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(one.message) for one in caught)


if __name__ == "__main__":
    main()
