"""Groups of the configuration as conf/ composes them, for tests of what takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

from lora_whisper.composing import to_config
from lora_whisper.config import DataConfig
from tests.composed import train_values


def data_config(source: str = "manifest", **changes: Any) -> DataConfig:
    """`conf/data/SOURCE.yaml`, with `train` a.jsonl, and with these fields changed."""
    required = {"path", "config"} if source in ("fleurs", "voxpopuli", "hub") else {"path"}
    given = [f"data.{key}=x" for key in sorted(required) if source != "manifest"]
    values = train_values(f"data={source}", *given)["data"]
    defaults = to_config(DataConfig, values | {"train": values["train"] or "a.jsonl"})
    return dataclasses.replace(defaults, **changes)
