"""Speed and memory of training on this machine's GPU, beside the usual recipe's loop.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --shapes large-v3 --quantizations none nf4 --clip-seconds 5 30

Needs torch, Transformers and PEFT beside the package, and bitsandbytes for nf4 and int8. Random
weights at the true shapes take the time and memory of the real ones. Each row has clips of noise of
one length, with as many tokens as read speech has, through rank 32 on all linear layers. Ours: in
trimmed windows, by the micro-batch, checkpointing and precision that `train` would choose. The
recipe: the same adapter, precision and checkpointing, the loss of the model itself, clips padded
to 30 seconds, micro-batches of as many clips. The two take turns in one process. Said are seconds
of speech a second, padding not counted; their ratio; the share of what the GPU multiplied in a
product of two large matrices (what checkpointing computes twice counts twice); peak memory; and how
often one of our steps waits for the GPU. A row that does not fit says so; without a GPU, all say
"not measured". Results go to benchmarks/results/gpu.json.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_training import (
    NOT_MEASURED,
    host_synchronisations,
    loaded,
    random_checkpoint,
)
from benchmarks.parts import random_batches, train_config
from benchmarks.results import write_result
from lora_whisper.config import TrainConfig
from lora_whisper.data.batches import Batch
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.model.features import positions_with_sound
from lora_whisper.model.published import SECONDS_PER_TIMESTAMP, shape, shape_names
from lora_whisper.training.defaults import checkpoints_activations, micro_batch_for_width
from lora_whisper.training.loop import Trainer, train_step
from lora_whisper.training.memory_estimator import Setup, step_flops

SHAPES = ("large-v3", "large-v3-turbo")
QUANTIZATIONS = ("none", "nf4", "int8")
CLIP_SECONDS = (2.0, 5.0, 10.0, 30.0)
RANK = 32
MARGIN_POSITIONS = 80  # behind the longest clip: the mean of what is drawn
WARM_UP_STEPS, STEPS, TURNS = 2, 3, 2
FIGURES = (
    "recipe_speech_seconds_per_second",
    "ours_speech_seconds_per_second",
    "ratio",
    "recipe_peak_memory_gigabytes",
    "ours_peak_memory_gigabytes",
    "ours_share_of_peak_flops",
    "host_synchronisations_per_step",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=shape_names(), default=SHAPES)
    parser.add_argument("--quantizations", nargs="+", choices=QUANTIZATIONS, default=QUANTIZATIONS)
    parser.add_argument("--clip-seconds", nargs="+", type=float, default=CLIP_SECONDS)
    given = parser.parse_args()
    rows = {name: rows_of(name, given.quantizations, given.clip_seconds) for name in given.shapes}
    print(json.dumps(rows, indent=2))
    command = (
        f"python -m benchmarks.gpu --shapes {' '.join(given.shapes)} "
        f"--quantizations {' '.join(given.quantizations)} "
        f"--clip-seconds {' '.join(f'{seconds:g}' for seconds in given.clip_seconds)}"
    )
    print(f"written to {write_result('gpu', command, {'rows': rows})}")


def rows_of(
    name: str, quantizations: list[str], clip_seconds: list[float]
) -> dict[str, dict[str, Any]]:
    """A row for each quantization and clip length; the weights are written once."""
    keys = [(kind, seconds) for kind in quantizations for seconds in clip_seconds]
    names = {key: f"{key[0]}, {key[1]:g} s" for key in keys}
    if not torch.cuda.is_available():
        return {names[key]: dict.fromkeys(FIGURES, NOT_MEASURED) for key in keys}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder), name)
        for key in keys:
            try:
                rows[names[key]] = measured(checkpoint, name, *key)
            except torch.OutOfMemoryError:
                rows[names[key]] = dict.fromkeys(FIGURES, "out of memory")
            torch.cuda.empty_cache()
    return rows


def measured(
    checkpoint: Checkpoint, name: str, quantization: str, clip_seconds: float
) -> dict[str, Any]:
    """Both sides on the same clips, in turn."""
    config = train_config(f"quantization={quantization}", f"adapter.rank={RANK}")
    trainer = loaded(checkpoint, quantization, config)
    micro_batch, windows = micro_batch_for_width(trainer.whisper.config.d_model), 16
    padded = random_batches(shape(name), windows, micro_batch, clip_seconds=clip_seconds)
    trimmed = trimmed_batches(name, windows, micro_batch, clip_seconds)
    sides: dict[str, Callable[[], object]] = {
        "recipe": lambda: recipe_step(trainer, padded),
        "ours": lambda: train_step(trainer, 0, trimmed),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    memory = dict.fromkeys(sides, 0)
    for _ in range(TURNS):
        for side, step in sides.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            seconds[side].append(seconds_per_step(step))
            memory[side] = max(memory[side], torch.cuda.max_memory_allocated())
    speech = windows * clip_seconds
    flops = flops_of(trainer, config, trimmed)
    return {
        **{
            f"{side}_speech_seconds_per_second": speech / min(each)
            for side, each in seconds.items()
        },
        "ratio": round(min(seconds["recipe"]) / min(seconds["ours"]), 2),
        **{f"{side}_peak_memory_gigabytes": round(each / 1e9, 2) for side, each in memory.items()},
        "ours_share_of_peak_flops": round(flops / min(seconds["ours"]) / peak_flops(), 3),
        "host_synchronisations_per_step": host_synchronisations(trainer, trimmed),
        "precision": trainer.accelerator.mixed_precision,
        "micro_batches": {"recipe": micro_batch, "ours": len(trimmed[0].rows)},
        "gradient_checkpointing": checkpoints_activations(None, trainer.whisper.config.d_model),
        "attention": trainer.whisper.config._attn_implementation,
    }


def trimmed_batches(name: str, windows: int, micro_batch: int, clip_seconds: float) -> list[Batch]:
    """As `data.windows=trimmed` makes them: cut, and more of them in a forward pass."""
    config = shape(name)
    samples = round(clip_seconds / SECONDS_PER_TIMESTAMP) * 320
    positions = positions_with_sound(samples) + MARGIN_POSITIONS
    if positions >= config.max_source_positions:
        return random_batches(config, windows, micro_batch, clip_seconds=clip_seconds)
    size = micro_batch * config.max_source_positions // positions
    batches = random_batches(config, windows, size, clip_seconds=clip_seconds)
    return [dataclasses.replace(batch, positions=positions) for batch in batches]


def recipe_step(trainer: Trainer, batches: list[Batch]) -> None:
    """The plain loop: whole windows, the mean of each micro-batch, and the loss's number read."""
    for batch in batches:
        device = trainer.accelerator.device
        features = trainer.features(batch.waveforms.to(device)).to(trainer.whisper.dtype)
        with trainer.accelerator.autocast():
            loss = trainer.whisper(
                input_features=features,
                decoder_input_ids=batch.decoder_input.to(device),
                labels=batch.labels.to(device),
            ).loss
        (loss / len(batches)).backward()
        loss.item()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


def flops_of(trainer: Trainer, config: TrainConfig, batches: list[Batch]) -> int:
    """Floating-point operations of one step."""
    setup = Setup(
        copy.deepcopy(trainer.whisper.config),
        config.quantization,
        config.adapter,
        trainer.whisper.dtype,
        "fp32",
        trainer.accelerator.device.type,
    )
    if batches[0].positions is not None:
        setup.shape.max_source_positions = batches[0].positions
    checkpointing = checkpoints_activations(None, setup.shape.d_model)
    return sum(step_flops(setup, checkpointing, *batch.labels.shape) for batch in batches)


def seconds_per_step(step: Callable[[], object]) -> float:
    for _ in range(WARM_UP_STEPS):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / STEPS


def peak_flops(width: int = 8192) -> float:
    """Operations a second of a product of two bfloat16 matrices."""
    left, right = (torch.randn(width, width, device="cuda").bfloat16() for _ in range(2))
    return 2 * width**3 / seconds_per_step(lambda: left @ right)


if __name__ == "__main__":
    main()
