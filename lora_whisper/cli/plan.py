"""`lora-whisper plan`: what fits the card, before it is paid for.

    lora-whisper plan model=large-v3 quantization=nf4 adapter.rank=32 gpu_memory=8GB
    lora-whisper plan gpu_memory=8GB
    lora-whisper plan experiment=large-v3-8gb gpu_memory=8GB

Needs neither a GPU nor weights: the shapes of the published checkpoints are in the package.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper.cli.command import Command
from lora_whisper.config import PlanConfig, memory_bytes
from lora_whisper.lora.targets import target_ranks
from lora_whisper.reports.tables import PLAIN, Column, Table
from lora_whisper.terminal import console, gigabytes, megabytes, print_result, require_delivered

if TYPE_CHECKING:
    from lora_whisper.training.gpu_plan import Answer, Needs, Row

MEANINGS = {
    "weights": "of the base, as they are stored",
    "adapter": "fp32",
    "gradients": "of the adapter, fp32",
    "optimizer": "AdamW's two moments, fp32",
    "activations": "of the micro-batch, kept for the way back",
    "logits": "as wide as the vocabulary, in fp32",
    "allocator": "assumed: 5 % of the step, and cuBLAS",
    "context": "assumed: CUDA and its kernels",
}


def prepare(config: PlanConfig, path: Path) -> PlanConfig:
    """See that the checkpoint's shape is known and has the layers that are asked for.

    Raises:
        UserError: it is not, or has not.
    """
    if config.model is not None:
        from lora_whisper.model.base import shape_of

        target_ranks(config.adapter, shape_of(config.model))
    return config


def run(config: PlanConfig) -> None:
    """Print the plan of one checkpoint, or the table of all."""
    from lora_whisper.training.gpu_plan import plan_of, table_rows, windows_in_table

    memory = available_bytes(config)
    if config.model is None:
        rows = list(table_rows(config, memory))
        if config.json:
            values = {"gpu_memory_bytes": memory, "rows": [row.to_json() for row in rows]}
            print_result(json.dumps(values, indent=2))
        else:
            console.print(overview(rows, memory, windows_in_table(config)).terminal())
            _print_notes(config)
        return
    answer = plan_of(config, memory)
    if config.json:
        print_result(json.dumps(dataclasses.asdict(answer), indent=2))
    else:
        show(answer)
        _print_notes(config)


def available_bytes(config: PlanConfig) -> int | None:
    """The card's memory: as given, or of this machine's first GPU; None: nobody knows of one."""
    import torch

    if config.gpu_memory is not None:
        return memory_bytes(config.gpu_memory)
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return None


# ── showing ──────────────────────────────────────────────────────────────────────────────────


def overview(rows: Sequence[Row], memory: int | None, most: int) -> Table:
    """The table of all checkpoints, in 80 columns."""
    title = "training on one GPU: what a window of 30 s needs"
    if memory is not None:
        title = f"training on {gigabytes(memory)}: windows in the largest micro-batch, up to {most}"
    names = [
        Column(name, is_text=True, layout={"no_wrap": True})
        for name in ("model", "quantized", "fits")
    ]
    figures = map(Column, ("micro-batch", "checkpointed", "needs"))
    table = Table([*names, *figures], title, layout=PLAIN)
    for row in rows:
        table.add(row.model, row.quantization, *_row_cells(row.needs))
    return table


def _row_cells(needs: Needs | str) -> list[str]:
    if isinstance(needs, str):
        return ["refused", "–", "–", "–"]
    fits = {None: "–", True: "yes", False: "no"}[needs.fits]
    plain = 0 if needs.gradient_checkpointing else needs.micro_batch
    counts = (plain, needs.micro_batch_with_checkpointing)
    cells = ["–" if not count else str(count) for count in counts]
    return [fits, *cells, gigabytes(needs.total_bytes)]


def show(answer: Answer) -> None:
    """Print the plan of one checkpoint."""
    windows, used = answer.micro_batch, answer.memory_bytes
    how = "with" if answer.gradient_checkpointing else "without"
    table = Table(
        [Column("part", is_text=True), Column("memory"), Column(is_text=True)],
        f"{answer.checkpoint}, quantization {answer.quantization}, "
        f"{answer.precision}, micro-batch {windows} {how} checkpointing",
        layout=PLAIN,
    )
    for name, meaning in MEANINGS.items():
        table.add(name, megabytes(used[name]), meaning)
    table.add("total", gigabytes(used["total"]), _verdict(answer), style="bold")
    console.print(table.terminal())
    for line in _lines(answer):
        console.print(line, markup=False)


def _verdict(answer: Answer) -> str:
    if answer.gpu_memory_bytes is None:
        return "type gpu_memory=8GB to see whether it fits"
    word = "fits into" if answer.fits else "does not fit into"
    return f"{word} {gigabytes(answer.gpu_memory_bytes)}"


def _lines(answer: Answer) -> Iterator[str]:
    other = "without" if answer.gradient_checkpointing else "with"
    in_other_mode = (
        answer.memory_bytes_without_checkpointing
        if answer.gradient_checkpointing
        else answer.memory_bytes_with_checkpointing
    )
    total = in_other_mode["total"]
    yield f"{other} checkpointing: {gigabytes(total)}"
    if answer.gpu_memory_bytes is not None:
        plain, kept = answer.largest_micro_batch.values()
        yield f"largest micro-batch: {plain or 'none'} without checkpointing, {kept or 'none'} with"
    for suggestion in answer.suggestions:
        word = "fits" if suggestion.fits else "not yet"
        yield f"{word}, {gigabytes(suggestion.total_bytes)}: type {suggestion.type}"
    suggested = [suggestion.fits for suggestion in answer.suggestions]
    if answer.fits is False and not any(suggested):
        yield "nothing fits: take a card with more memory, or train model=tiny on the CPU"
    yield (
        f"adapter: {answer.trained_parameters:,} parameters, "
        f"{megabytes(answer.adapter_file_bytes)} on disk, in float32"
    )
    yield f"operations: {answer.flops_per_audio_hour / 1e12:,.0f} TFLOP an hour of audio"
    rate = answer.audio_seconds_per_second
    yield f"time: {rate if isinstance(rate, str) else f'{rate} s of audio a second'}"


def _print_notes(config: PlanConfig) -> None:
    tokens = config.tokens or "as many tokens as the decoder takes"
    console.print(
        f"For windows full of sound, with {tokens} each; an estimate, which "
        "benchmarks/gpu_memory.py holds against a GPU's own counters.",
        style="dim",
    )
    require_delivered(is_the_result=True)


COMMAND = Command("plan", PlanConfig, prepare, run)
