"""Hydra over `conf/` and the schema's defaults: what became of what was typed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lora_whisper.cli.command import Command, Config
from lora_whisper.config import (
    AdapterConfig,
    CheckConfig,
    DataConfig,
    DemoConfig,
    EvaluateConfig,
    EvaluationConfig,
    ExportConfig,
    MergeConfig,
    ModelConfig,
    OptimizerConfig,
    PlanConfig,
    PushConfig,
    QuantizationConfig,
    RecordConfig,
    ReportConfig,
    SearchConfig,
    SearchingConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
    TranscribeConfig,
)
from lora_whisper.errors import UserError
from lora_whisper.options import configuration_folder
from lora_whisper.schema import defaults_of, from_values, group_in, hints_of

COMMANDS = {
    "train": TrainConfig,
    "search": SearchConfig,
    "check": CheckConfig,
    "plan": PlanConfig,
    "evaluate": EvaluateConfig,
    "merge": MergeConfig,
    "export": ExportConfig,
    "push": PushConfig,
    "report": ReportConfig,
    "record": RecordConfig,
    "transcribe": TranscribeConfig,
    "demo": DemoConfig,
}
# What the options of a group begin with, by the name `_common_`.
COMMON = {
    "model": ModelConfig,
    "adapter": AdapterConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
    "search": SearchingConfig,
}


def _store_defaults() -> None:
    """Let files of `conf/` and of a user's folder build on the schema's defaults by name."""
    store = ConfigStore.instance()
    for group, kind in COMMON.items():
        store.store("_common_", defaults_of(kind), group)
    of_options = {*COMMON.values(), QuantizationConfig, TrackingConfig}
    for name, kind in COMMANDS.items():
        own = {key for key, hint in hints_of(kind).items() if group_in(hint) not in of_options}
        values = {key: value for key, value in defaults_of(kind).items() if key in own}
        store.store(f"_{name}_", values)


_store_defaults()


@contextmanager
def hydra_over(job_name: str, config_dir: str | None) -> Iterator[Hydra]:
    """Hydra over our `conf/` and, before it, the user's `--config-dir`."""
    search_path = create_config_search_path(str(configuration_folder()))
    if config_dir is not None:
        folder = Path(config_dir).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(f"--config-dir {config_dir}: there is no such folder.")
        search_path.prepend("command-line", f"file://{folder}", "main")
    try:
        yield Hydra.create_main_hydra2(job_name, search_path)
    finally:
        GlobalHydra.instance().clear()


@functools.lru_cache(maxsize=1)  # each answer takes Hydra 0.02 s, and every override asks
def groups_of(hydra: Hydra) -> frozenset[str]:
    """The groups of `conf/` and of the user's `--config-dir`."""
    return frozenset(hydra.config_loader.list_groups(""))


def options_of(hydra: Hydra, group: str) -> list[str]:
    """The names that can be typed for a group; `_common_` is a part of others."""
    known = hydra.config_loader.get_group_options(group)
    return [name for name in known if not name.startswith("_")]


# ── one configuration ────────────────────────────────────────────────────────────────────────


def plain_config(command: Command[Config, Any], composed: DictConfig) -> Config:
    ours = OmegaConf.masked_copy(composed, our_keys(composed))
    try:
        values = OmegaConf.to_container(ours, resolve=True)
        return from_values(command.kind, cast(dict[str, Any], values))
    except OmegaConfBaseException as error:
        raise unresolved(error) from error


def unresolved(error: Exception) -> UserError:
    """A ${…} that cannot be replaced by what it stands for."""
    message, *details = str(error).splitlines()
    key = next((line.split(": ")[1] for line in details if "full_key: " in line), "")
    return UserError(
        f"The configuration cannot be resolved: {key and f'{key}: '}{message}\n"
        "${…} stands for the value of another key or, as in ${oc.env:NAME}, of the environment."
    )


def our_keys(composed: DictConfig) -> list[str]:
    return [str(key) for key in composed if key != "hydra"]
