"""Configurations composed by Hydra from conf/, as plain values."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lora_whisper.cli.compose import configuration_folder


def train_values(*overrides: str, primary: str = "train") -> dict[str, Any]:
    """What `lora-whisper train OVERRIDES` composes, with missing values as "???"."""
    return deepcopy(_composed(overrides, primary))


@cache  # it takes Hydra 0.15 s, and hundreds of tests ask for the same
def _composed(overrides: tuple[str, ...], primary: str) -> dict[str, Any]:
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        composed = compose(primary, list(overrides))
    return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
