"""What a training step on a CPU gains by attention without keys and values, and in its adapter.

    python -m benchmarks.short_texts MODEL --clip-seconds 3 5 11

Steps of 8 windows of noise, with as many tokens as read speech has, one thread, processor time: as
PyTorch has it, with dropout and LoRA's products by `use_fast_adapter`, and with
`ShortTextAttention` as well; in turn, some rounds of each, of which the fastest counts. Trimmed
windows with the default adapter, and whole ones whose frozen encoder was computed before, with rank
32 on queries and values. Results go to benchmarks/results/short_texts.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperAttention

from benchmarks.parts import new_trainer, random_batches, train_config
from benchmarks.results import write_result
from lora_whisper.data.batches import Batch
from lora_whisper.lora.adapter import attach
from lora_whisper.lora.short_texts import ShortTextAttention
from lora_whisper.model.cpu_kernels import (
    LEAST_WIDTH,
    FastDropout,
    FastLinear,
    use_fast_adapter,
    use_fast_products,
)
from lora_whisper.model.device import new_accelerator
from lora_whisper.model.features import positions_with_sound
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.training.loop import Trainer, train_step

WINDOWS, MICRO_BATCH = 8, 2  # whole windows in a forward pass; of short ones there are more
MARGIN_POSITIONS = 80  # behind a clip, in the middle of what is drawn
SIDES = ("plain", "adapter", "both")
FROZEN = ["adapter.layers=decoder", "adapter.rank=32", "adapter.alpha=64"]
FROZEN += ["adapter.targets=attention-qv"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--clip-seconds", nargs="+", type=float, default=[3.0, 5.0, 11.0])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for encoder in ("trimmed", "frozen"):
        for seconds in given.clip_seconds:
            rows.append(compared(given, encoder == "frozen", seconds))
            print(rows[-1], flush=True)
    command = f"python -m benchmarks.short_texts {Path(given.model).name}"
    print(write_result("short_texts", command, {"precision": given.precision, "rows": rows}))


def compared(given: argparse.Namespace, is_frozen: bool, seconds: float) -> dict[str, Any]:
    """Processor milliseconds that a window takes, each side."""
    trainer, batches = parts(given.model, given.precision, is_frozen, seconds)
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(given.rounds + 1):  # the first warms up
        for side in SIDES:
            use(trainer.whisper, side)
            before = time.process_time()
            train_step(trainer, 1, batches)
            found[side].append(1_000 * (time.process_time() - before) / WINDOWS)
    return {
        "encoder": "frozen" if is_frozen else "trained",
        "clip_seconds": seconds,
        "tokens": batches[0].labels.shape[1],
        **{f"{side}_ms_a_window": round(min(times[1:]), 1) for side, times in found.items()},
    }


def use(whisper: WhisperForConditionalGeneration, side: str) -> None:
    for module in whisper.modules():
        if type(module) is FastDropout:
            module.__class__ = nn.Dropout
        elif type(module) is FastLinear and min(module.weight.shape) < LEAST_WIDTH:
            module.__class__ = nn.Linear
    if side != "plain":
        use_fast_adapter(whisper)
    for layer in whisper.model.decoder.layers:
        layer.encoder_attn.__class__ = ShortTextAttention if side == "both" else WhisperAttention


def parts(
    model: str, precision: str, is_frozen: bool, seconds: float
) -> tuple[Trainer, list[Batch]]:
    """A trainer of the checkpoint, and the micro-batches of a step."""
    config = train_config(*(FROZEN if is_frozen else []))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    whisper = WhisperForConditionalGeneration.from_pretrained(model, dtype=dtype)
    whisper.requires_grad_(False)
    use_fast_products(whisper)
    adapted = attach(whisper, config.adapter, "none", False, 0)
    trainer = new_trainer(adapted, config, new_accelerator(precision), total_steps=1_000)
    shape = whisper.config
    whole = shape.max_source_positions
    if is_frozen:
        trainer = dataclasses.replace(trainer, frozen_layers=shape.encoder_layers)
        batches = random_batches(shape, WINDOWS, MICRO_BATCH, clip_seconds=seconds)
        return trainer, [encoded(batch, whole, shape.d_model) for batch in batches]
    kept = positions_with_sound(round(seconds * SAMPLING_RATE)) + MARGIN_POSITIONS
    size = max(1, MICRO_BATCH * whole // kept)
    batches = random_batches(shape, WINDOWS, size, clip_seconds=seconds)
    return trainer, [dataclasses.replace(batch, positions=min(kept, whole)) for batch in batches]


def encoded(batch: Batch, positions: int, width: int) -> Batch:
    """With what an encoder might have made of its windows."""
    windows = len(batch.labels)
    known = torch.randn(windows, positions, width).half()
    return dataclasses.replace(batch, encoded=known, is_encoded=(True,) * windows)


if __name__ == "__main__":
    main()
