"""What is drawn for a trial, and the run that this makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_whisper.config import SearchConfig, SpaceConfig, TrainConfig
from lora_whisper.model.base import Base, load_config
from lora_whisper.schema import changed
from lora_whisper.training.defaults import learning_rate_for_width

WIDER = 4.0  # how far `learning_rate: auto` goes below and above the usual rate
Value = float | int | str


@dataclass(frozen=True)
class Range:
    """From the lowest to the highest value."""

    lowest: float
    highest: float
    is_logarithmic: bool

    def holds(self, value: Value) -> bool:
        return isinstance(value, int | float) and self.lowest <= value <= self.highest


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        return value in self.values


Space = Mapping[str, Range | Choice]  # by the keys of `search.space`


def train_config(config: SearchConfig) -> TrainConfig:
    """What all trials have in common; each goes on with its own folder where it stopped."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    values: dict[str, Any] = {name: getattr(config, name) for name in names}
    return TrainConfig(**values | {"overwrite": False, "resume": "auto"})


def space_of(asked: SpaceConfig, train: TrainConfig, base: Base) -> Space:
    """What is drawn, and from where; what is null is left out."""
    space: dict[str, Range | Choice] = {}
    if asked.learning_rate == "auto":
        rate = usual_rate(train, base)
        space["learning_rate"] = Range(_rounded(rate / WIDER), _rounded(rate * WIDER), True)
    elif asked.learning_rate is not None:
        lowest, highest = asked.learning_rate
        space["learning_rate"] = Range(lowest, highest, is_logarithmic=True)
    for name in ("rank", "alpha_per_rank", "targets"):
        if getattr(asked, name) is not None:
            space[name] = Choice(getattr(asked, name))
    if asked.dropout is not None:
        lowest, highest = asked.dropout
        space["dropout"] = Range(lowest, highest, is_logarithmic=False)
    return space


def usual_rate(train: TrainConfig, base: Base) -> float:
    """The learning rate that `train` would take."""
    if train.optimizer.learning_rate is not None:
        return train.optimizer.learning_rate
    width = load_config(base.checkpoint).d_model
    return learning_rate_for_width(width)


def usual_values(space: Space, train: TrainConfig, base: Base) -> dict[str, Value]:
    """What `train` would have, as far as it lies in the space."""
    adapter = train.adapter
    usual: dict[str, Value] = {
        "rank": adapter.rank,
        "alpha_per_rank": adapter.alpha / adapter.rank,
        "dropout": adapter.dropout,
        "targets": adapter.targets,
    }
    if "learning_rate" in space:
        usual["learning_rate"] = usual_rate(train, base)
    return {name: usual[name] for name, drawn in space.items() if drawn.holds(usual[name])}


def with_values(train: TrainConfig, values: Mapping[str, Value]) -> TrainConfig:
    """The run of a trial.

    Drawn numbers are rounded to what a person would type, so that what is printed is what was
    trained.

    Raises:
        UserError: the values do not go together.
    """
    changes: dict[str, Any] = dict(values)
    optimizer, adapter = train.optimizer, train.adapter
    if "learning_rate" in changes:
        rate = _rounded(changes.pop("learning_rate"))
        optimizer = changed(optimizer, learning_rate=rate)
    if "dropout" in changes:
        changes["dropout"] = round(changes["dropout"], 3)
    if "alpha_per_rank" in changes:
        changes["alpha"] = changes.pop("alpha_per_rank") * changes.get("rank", adapter.rank)
    return changed(train, optimizer=optimizer, adapter=changed(adapter, **changes))


def typed_values(space: Space, config: TrainConfig) -> dict[str, Value | None]:
    """What a trial has of what was searched, by the keys that `train` takes."""
    adapter = config.adapter
    keys: dict[str, tuple[str, Value | None]] = {
        "learning_rate": ("optimizer.learning_rate", config.optimizer.learning_rate),
        "rank": ("adapter.rank", adapter.rank),
        "alpha_per_rank": ("adapter.alpha", adapter.alpha),
        "dropout": ("adapter.dropout", adapter.dropout),
        "targets": ("adapter.targets", adapter.targets),
    }
    return dict(keys[name] for name in keys if name in space)


def shown(value: Value | None) -> str:
    """As it is typed: 0.0002 and not 2e-4, which some would take for a text; 32 and not 32.0."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
