"""Groups of the configuration as conf/ composes them, for tests of what takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

from lora_whisper.config import (
    AdapterConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    QuantizationConfig,
    TrainingConfig,
)
from lora_whisper.schema import from_values
from tests.composed import train_values


def data_config(source: str = "manifest", **changes: Any) -> DataConfig:
    """`conf/data/SOURCE.yaml`, with `train` a.jsonl, and with these fields changed."""
    required = {"path", "config"} if source in ("fleurs", "voxpopuli", "hub") else {"path"}
    given = [f"data.{key}=x" for key in sorted(required) if source != "manifest"]
    values = train_values(f"data={source}", *given)["data"]
    defaults = from_values(DataConfig, values | {"train": values["train"] or "a.jsonl"})
    return dataclasses.replace(defaults, **changes)


def adapter_config(kind: str = "lora", **changes: Any) -> AdapterConfig:
    """`conf/adapter/KIND.yaml` with these fields changed, and without dropout."""
    config = from_values(AdapterConfig, train_values(f"adapter={kind}")["adapter"])
    return dataclasses.replace(config, **({"dropout": 0.0} | changes))


def model_config(checkpoint: object, **changes: Any) -> ModelConfig:
    config = from_values(ModelConfig, train_values("model=nano")["model"])
    return dataclasses.replace(config, checkpoint=str(checkpoint), **changes)


def quantization_config(kind: str, **changes: Any) -> QuantizationConfig:
    config = from_values(QuantizationConfig, train_values(f"quantization={kind}")["quantization"])
    return dataclasses.replace(config, **changes)


def optimizer_config(**changes: Any) -> OptimizerConfig:
    return dataclasses.replace(
        from_values(OptimizerConfig, train_values("optimizer=adamw")["optimizer"]), **changes
    )


def training_config(**changes: Any) -> TrainingConfig:
    return dataclasses.replace(
        from_values(TrainingConfig, train_values("training=default")["training"]), **changes
    )
