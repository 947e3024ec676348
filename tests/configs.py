"""Groups of the configuration as they are by default, for tests of what takes them."""

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
from lora_whisper.options import composed
from lora_whisper.schema import from_values


def data_config(source: str = "manifest", **changes: Any) -> DataConfig:
    """`data=SOURCE`, with `train` a.jsonl, and with these fields changed."""
    values = {"train": "a.jsonl"} | composed({"data": source})["data"]
    given = {key: "x" if value == "???" else value for key, value in values.items()}
    return dataclasses.replace(from_values(DataConfig, given), **changes)


def adapter_config(kind: str = "lora", **changes: Any) -> AdapterConfig:
    """`adapter=KIND` with these fields changed, and without dropout."""
    config = from_values(AdapterConfig, composed({"adapter": kind})["adapter"])
    return dataclasses.replace(config, **({"dropout": 0.0} | changes))


def model_config(checkpoint: object, **changes: Any) -> ModelConfig:
    return ModelConfig(str(checkpoint), **changes)


def quantization_config(kind: str, **changes: Any) -> QuantizationConfig:
    config = from_values(QuantizationConfig, composed({"quantization": kind})["quantization"])
    return dataclasses.replace(config, **changes)


def optimizer_config(**changes: Any) -> OptimizerConfig:
    return OptimizerConfig(**changes)


def training_config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**changes)
