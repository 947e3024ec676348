"""What a card's memory holds of a training: of one checkpoint, with what to change, and of all.

Needs neither a GPU nor weights: the shapes of the published checkpoints are in the package.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import WhisperConfig

from lora_whisper.config import (
    NOT_QUANTIZED,
    UNSUPPORTED,
    ModelConfig,
    PlanConfig,
    QuantizationConfig,
)
from lora_whisper.environment import CHECKOUT
from lora_whisper.lora.variants import shipped_share
from lora_whisper.model import published
from lora_whisper.model.base import shape_of, window_seconds
from lora_whisper.model.device import DTYPES
from lora_whisper.terminal import Work, work
from lora_whisper.training.defaults import checkpoints_activations, micro_batch_for_width
from lora_whisper.training.memory_estimator import Setup, step_flops
from lora_whisper.training.memory_plan import Memory, MemoryPlan, adapter_file_bytes, plan_memory
from lora_whisper.training.micro_batch import even_shares

CHECKPOINTS = ("tiny", "base", "small", "medium", "large-v2", "large-v3", "large-v3-turbo")
# The others are of the same shapes: large of large-v2's, the .en ones but for a token.
SMALLER = ("large-v3-turbo", "medium", "small", "base", "tiny")  # to go down to, in this order
INT8, NF4 = QuantizationConfig(kind="int8"), QuantizationConfig(kind="nf4")
HOUR_SECONDS = 3600
NOT_MEASURED = "not measured"
RATES = CHECKOUT / "benchmarks" / "results" / "gpu_training.json"


@dataclass(frozen=True)
class Suggestion:
    """What to type besides, and what is needed then."""

    type: str
    total_bytes: int
    fits: bool


@dataclass(frozen=True)
class Answer:
    """The plan of one checkpoint; with json=true, its fields are the keys."""

    checkpoint: str
    quantization: str
    precision: str
    tokens: int
    micro_batch: int
    gradient_checkpointing: bool
    gpu_memory_bytes: int | None  # None: nobody knows of a card, and whether it fits
    memory_bytes: Mapping[str, int]  # by part, and "total"
    memory_bytes_with_checkpointing: Mapping[str, int]
    memory_bytes_without_checkpointing: Mapping[str, int]
    fits: bool | None
    largest_micro_batch: Mapping[str, int | None]  # "without_checkpointing", "with_checkpointing"
    suggestions: Sequence[Suggestion]
    trained_parameters: int
    adapter_file_bytes: int
    flops_per_audio_hour: int
    audio_seconds_per_second: float | str  # measured, or that it was not


@dataclass(frozen=True)
class Needs:
    """Of a checkpoint in the table of all."""

    fits: bool | None
    micro_batch: int
    gradient_checkpointing: bool
    micro_batch_with_checkpointing: int | None  # None: it was not asked for
    total_bytes: int
    trained_parameters: int


@dataclass(frozen=True)
class Row:
    """A checkpoint on a quantization; `needs` is why that is refused, where it is."""

    model: str
    quantization: str
    needs: Needs | str

    def to_json(self) -> dict[str, object]:
        needs = self.needs
        name: dict[str, object] = {"model": self.model, "quantization": self.quantization}
        return name | ({"refused": needs} if isinstance(needs, str) else dataclasses.asdict(needs))


def windows_in_step(config: PlanConfig, shape: WhisperConfig) -> int:
    return config.training.whole_windows(window_seconds(shape))


def windows_in_table(config: PlanConfig) -> int:
    """In a step of each of CHECKPOINTS, whose windows are all of one length."""
    return windows_in_step(config, published.shape(CHECKPOINTS[0]))


# ── one checkpoint ───────────────────────────────────────────────────────────────────────────


def plan_of(config: PlanConfig, memory: int | None) -> Answer:
    """All that is printed of one checkpoint."""
    assert config.model is not None
    shape, settings = shape_of(config.model), config.training
    tokens = config.tokens or shape.max_target_positions
    setup = setup_of(config, shape, config.quantization or NOT_QUANTIZED)
    plan = plan_memory(setup, tokens)
    checkpointing = checkpoints_activations(settings.gradient_checkpointing, shape.d_model)
    windows = settings.micro_batch
    if not isinstance(windows, int):
        windows = micro_batch_for_width(shape.d_model)
    in_step = windows_in_step(config, shape)
    fitting = {
        word: plan.largest_micro_batch(memory, on, in_step) if memory else None
        for word, on in (("without_checkpointing", False), ("with_checkpointing", True))
    }
    most = fitting["with_checkpointing" if checkpointing else "without_checkpointing"]
    if settings.micro_batch == "auto" and most:
        windows = max(share for share in even_shares(in_step) if share <= most)
    flops = step_flops(setup, checkpointing, 1, tokens)
    used = plan.memory(windows, checkpointing)
    return Answer(
        checkpoint=config.model.checkpoint,
        quantization=setup.quantization.kind,
        precision=setup.precision,
        tokens=tokens,
        micro_batch=windows,
        gradient_checkpointing=checkpointing,
        gpu_memory_bytes=memory,
        memory_bytes=_rounded(used),
        memory_bytes_with_checkpointing=_rounded(plan.memory(windows, True)),
        memory_bytes_without_checkpointing=_rounded(plan.memory(windows, False)),
        fits=None if memory is None else used.total <= memory,
        largest_micro_batch=fitting,
        suggestions=suggestions(config, shape, plan, memory, checkpointing, windows),
        trained_parameters=plan.trained,
        adapter_file_bytes=adapter_file_bytes(plan, shipped_share(config.adapter)),
        flops_per_audio_hour=round(flops * HOUR_SECONDS / window_seconds(shape)),
        audio_seconds_per_second=measured_rate(config.model, setup.quantization.kind),
    )


def setup_of(config: PlanConfig, shape: WhisperConfig, quantization: QuantizationConfig) -> Setup:
    """On a GPU that has bfloat16, where the precision is left open."""
    precision = config.training.precision
    precision = "bf16" if precision == "auto" else precision
    asked = config.model.dtype if config.model else "auto"
    dtype = DTYPES[precision] if asked == "auto" else getattr(torch, asked)
    return Setup(shape, quantization, config.adapter, dtype, precision)


def _rounded(memory: Memory) -> dict[str, int]:
    parts = {name: round(value) for name, value in vars(memory).items()}
    return parts | {"total": sum(parts.values())}


def measured_rate(model: ModelConfig, quantization: str) -> float | str:
    """Seconds of audio a second, where benchmarks/gpu_training.py has measured it on some GPU."""
    if not RATES.is_file():
        return NOT_MEASURED
    rows = json.loads(RATES.read_text(encoding="utf-8"))["rows"]
    row = rows.get(model.checkpoint.removeprefix("openai/whisper-"), {}).get(quantization, {})
    rate: float | str = row.get("audio_seconds_per_second", NOT_MEASURED)
    return rate


# ── what to change ───────────────────────────────────────────────────────────────────────────


def suggestions(
    config: PlanConfig,
    shape: WhisperConfig,
    plan: MemoryPlan,
    memory: int | None,
    checkpointing: bool,
    windows: int,
) -> list[Suggestion]:
    """What makes it fit, from what costs least; each on top of those before it, until one does.

    Nothing of the adapter or the base is given up where a smaller micro-batch suffices: the global
    batch, and with it the result, stays the same.
    """
    if memory is None or plan.memory(windows, checkpointing).total <= memory:
        return []
    most = windows_in_step(config, shape)
    smaller = plan.largest_micro_batch(memory, checkpointing, most)
    if smaller:
        return [_suggestion(plan, [], smaller, checkpointing, memory)]
    typed: list[str] = []
    tried: list[Suggestion] = []
    if not checkpointing:
        typed = ["training.gradient_checkpointing=true"]
        fitting = plan.largest_micro_batch(memory, True, most)
        tried = [_suggestion(plan, typed, fitting, True, memory)]
    for override, one, its_shape in _steps_down(config, shape):
        if tried and tried[-1].fits:
            break
        its_plan = _plan_for(one, its_shape, config.tokens)
        typed = [word for word in typed if word.split("=")[0] != override.split("=")[0]]
        typed += override.split()
        fitting = its_plan.largest_micro_batch(memory, True, most)
        tried.append(_suggestion(its_plan, typed, fitting, True, memory))
    return tried


def _suggestion(
    plan: MemoryPlan, typed: list[str], windows: int, checkpointing: bool, memory: int
) -> Suggestion:
    more = [f"training.micro_batch={windows}"] if windows else []
    total = plan.memory(max(1, windows), checkpointing).total
    return Suggestion(" ".join([*typed, *more]), round(total), total <= memory)


def _steps_down(
    config: PlanConfig, shape: WhisperConfig
) -> Iterator[tuple[str, PlanConfig, WhisperConfig]]:
    """What to type next, with the configuration that then holds."""
    reduced = config
    is_plain = (config.quantization or NOT_QUANTIZED).kind != "nf4"
    if is_plain and (config.adapter.kind, "nf4") not in UNSUPPORTED:
        reduced = dataclasses.replace(reduced, quantization=NF4)
        yield "quantization=nf4", reduced, shape
    if config.adapter.targets != "attention-qv":
        adapter = dataclasses.replace(reduced.adapter, targets="attention-qv")
        reduced = dataclasses.replace(reduced, adapter=adapter)
        yield "adapter.targets=attention-qv", reduced, shape
    if config.adapter.rank > 8 and config.adapter.kind != "adalora":
        adapter = dataclasses.replace(reduced.adapter, rank=8)
        reduced = dataclasses.replace(reduced, adapter=adapter)
        yield "adapter.rank=8", reduced, shape
    for name in SMALLER:
        if published.shape(name).d_model < shape.d_model or (
            name == "large-v3-turbo" and shape.decoder_layers > 4 and shape.d_model == 1280
        ):
            assert reduced.model is not None
            # It may not have the layers that were asked for.
            adapter = reduced.adapter
            adapter = dataclasses.replace(adapter, layers="+".join(adapter.ranges))
            reduced = dataclasses.replace(reduced, adapter=adapter)
            yield f"model={name}", reduced, published.shape(name)


def _plan_for(config: PlanConfig, shape: WhisperConfig, tokens: int | None) -> MemoryPlan:
    setup = setup_of(config, shape, config.quantization or NOT_QUANTIZED)
    return plan_memory(setup, tokens or shape.max_target_positions)


def largest_for(model: str, quantization: str, memory: int) -> tuple[int, bool]:
    """Windows in the largest micro-batch of a default run, and whether it is checkpointed."""
    kind = QuantizationConfig(quantization)  # type: ignore[arg-type]
    config = PlanConfig(quantization=kind)
    needs = _needs(config, published.shape(model), memory)
    return needs.micro_batch, needs.gradient_checkpointing


# ── all checkpoints ──────────────────────────────────────────────────────────────────────────


def table_rows(config: PlanConfig, memory: int | None) -> Iterator[Row]:
    """One row for each checkpoint and quantization."""
    kinds = [config.quantization] if config.quantization else []
    kinds = kinds or [NOT_QUANTIZED, INT8, NF4]
    pairs = [(name, one) for name in CHECKPOINTS for one in kinds]
    with work("planning", len(pairs)) if not config.json else _quiet() as progress:
        for done, (name, quantization) in enumerate(pairs, 1):
            needs: Needs | str | None = UNSUPPORTED.get((config.adapter.kind, quantization.kind))
            if needs is None:
                one = dataclasses.replace(config, quantization=quantization)
                needs = _needs(one, published.shape(name), memory)
            yield Row(name, quantization.kind, needs)
            progress.update(done)


def _quiet() -> Any:
    class Quiet(Work):
        def update(self, done: int, figures: str = "") -> None:
            pass

    return nullcontext(Quiet())


def _needs(config: PlanConfig, shape: WhisperConfig, memory: int | None) -> Needs:
    """Without checkpointing where a window fits; with it, where that is needed or asked for."""
    plan, most = _plan_for(config, shape, config.tokens), windows_in_step(config, shape)
    asked = config.training.gradient_checkpointing
    modes = (False, True) if asked is None else (asked,)
    fitting = {
        on: plan.largest_micro_batch(memory, on, most) if memory is not None else 1 for on in modes
    }
    checkpointing = next((on for on in modes if fitting[on]), modes[-1])
    windows = fitting[checkpointing]
    return Needs(
        fits=None if memory is None else windows > 0,
        micro_batch=windows,
        gradient_checkpointing=checkpointing,
        micro_batch_with_checkpointing=fitting.get(True),
        total_bytes=round(plan.memory(max(1, windows), checkpointing).total),
        trained_parameters=plan.trained,
    )
