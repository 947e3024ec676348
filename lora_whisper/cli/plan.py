"""`lora-whisper plan`: what fits the card, before it is paid for.

    lora-whisper plan model=large-v3 quantization=nf4 adapter.rank=32 gpu_memory=8GB
    lora-whisper plan gpu_memory=8GB
    lora-whisper plan experiment=large-v3-8gb gpu_memory=8GB

Needs neither a GPU nor weights: the shapes of the published checkpoints are in the package.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.cli.command import Command
from lora_whisper.config import (
    UNSUPPORTED,
    ModelConfig,
    PlanConfig,
    QuantizationConfig,
    memory_bytes,
)
from lora_whisper.environment import CHECKOUT
from lora_whisper.errors import UserError
from lora_whisper.lora.targets import target_ranks
from lora_whisper.model import published
from lora_whisper.paths import local_path
from lora_whisper.reports.tables import PLAIN, Column, Table
from lora_whisper.terminal import (
    Work,
    console,
    gigabytes,
    megabytes,
    print_result,
    require_delivered,
    work,
)

if TYPE_CHECKING:
    from transformers import WhisperConfig

    from lora_whisper.training.memory_estimator import Setup
    from lora_whisper.training.planning import Memory, MemoryPlan

CHECKPOINTS = ("tiny", "base", "small", "medium", "large-v2", "large-v3", "large-v3-turbo")
# The others are of the same shapes: large of large-v2's, the .en ones but for a token.
SMALLER = ("large-v3-turbo", "medium", "small", "base", "tiny")  # to go down to, in this order
HOUR_SECONDS = 3600
NOT_MEASURED = "not measured"
RATES = CHECKOUT / "benchmarks" / "results" / "gpu_training.json"
ASSUMED = ("allocator", "context")
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


def prepare(config: PlanConfig, path: Path) -> PlanConfig:
    """See that the checkpoint's shape is known and has the layers that are asked for.

    Raises:
        UserError: it is not, or has not.
    """
    if config.model is not None:
        target_ranks(config.adapter, shape_of(config.model))
    return config


def run(config: PlanConfig) -> None:
    """Print the plan of one checkpoint, or the table of all."""
    memory = available_bytes(config)
    if config.model is None:
        rows = list(table_rows(config, memory))
        if config.json:
            values = {"gpu_memory_bytes": memory, "rows": [row.to_json() for row in rows]}
            print_result(json.dumps(values, indent=2))
        else:
            most = windows_in_step(config, published.shape(CHECKPOINTS[0]))
            console.print(overview(rows, memory, most).terminal())
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


def shape_of(config: ModelConfig) -> WhisperConfig:
    """The checkpoint's shape: its own config.json where it is at hand, else by its published name.

    Raises:
        UserError: neither is there.
    """
    from lora_whisper.model.base import load_config, load_shape
    from lora_whisper.model.checkpoint import locate

    folder = local_path(config.checkpoint)
    if (folder / "config.json").is_file():
        return load_shape(config)
    name = config.checkpoint.removeprefix("openai/whisper-")
    if not folder.exists() and name in published.shape_names():
        return published.shape(name)
    try:
        return load_config(locate(config, with_weights=False))
    except UserError:
        named = [one for one in published.shape_names() if f"whisper-{one}" in config.checkpoint]
        if not named or folder.exists():
            raise
        return published.shape(max(named, key=len))  # whisper-large-v3-turbo-sw holds three of them


def windows_in_step(config: PlanConfig, shape: WhisperConfig) -> int:
    return config.training.whole_windows(window_seconds(shape))


def window_seconds(shape: WhisperConfig) -> float:
    return shape.max_source_positions * published.SECONDS_PER_TIMESTAMP


# ── one checkpoint ───────────────────────────────────────────────────────────────────────────


def plan_of(config: PlanConfig, memory: int | None) -> Answer:
    """All that is printed of one checkpoint."""
    from lora_whisper.lora.variants import shipped_share
    from lora_whisper.training.defaults import checkpoints_activations, micro_batch_for_width
    from lora_whisper.training.memory_estimator import step_flops
    from lora_whisper.training.planning import adapter_file_bytes, even_shares, plan_memory

    assert config.model is not None
    shape, settings = shape_of(config.model), config.training
    tokens = config.tokens or shape.max_target_positions
    setup = setup_of(config, shape, quantization_of(config))
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
    import torch

    from lora_whisper.model.device import DTYPES
    from lora_whisper.training.memory_estimator import Setup

    precision = config.training.precision
    precision = "bf16" if precision == "auto" else precision
    asked = config.model.dtype if config.model else "auto"
    dtype = DTYPES[precision] if asked == "auto" else getattr(torch, asked)
    return Setup(shape, quantization, config.adapter, dtype, precision)


def quantization_of(config: PlanConfig) -> QuantizationConfig:
    return config.quantization or _quantization("none")


def _quantization(kind: str) -> QuantizationConfig:
    """`conf/quantization/KIND.yaml`"""
    return QuantizationConfig(kind)  # type: ignore[arg-type]


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
    is_plain = quantization_of(config).kind != "nf4"
    if is_plain and (config.adapter.kind, "nf4") not in UNSUPPORTED:
        reduced = dataclasses.replace(reduced, quantization=_quantization("nf4"))
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
    from lora_whisper.training.planning import plan_memory

    setup = setup_of(config, shape, quantization_of(config))
    return plan_memory(setup, tokens or shape.max_target_positions)


def largest_for(model: str, quantization: str, memory: int) -> tuple[int, bool]:
    """Windows in the largest micro-batch of a default run, and whether it is checkpointed."""
    config = PlanConfig(quantization=_quantization(quantization))
    needs = _needs(config, published.shape(model), memory)
    return needs.micro_batch, needs.gradient_checkpointing


# ── all checkpoints ──────────────────────────────────────────────────────────────────────────


def table_rows(config: PlanConfig, memory: int | None) -> Iterator[Row]:
    """One row for each checkpoint and quantization."""
    kinds = [config.quantization] if config.quantization else []
    kinds = kinds or [_quantization(kind) for kind in ("none", "int8", "nf4")]
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
