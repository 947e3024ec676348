"""Hydra over `conf/`: what a command has where nothing is typed, and what became of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lora_whisper.cli.command import Command, Config
from lora_whisper.errors import UserError
from lora_whisper.schema import from_values

PACKAGE = Path(__file__).resolve().parent.parent


def configuration_folder() -> Path:
    """`conf/`: inside the installed package, or beside it in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


@functools.cache
def defaults(primary: str) -> dict[str, Any]:
    """What a command has where nothing is typed; "???" where something must be."""
    search_path = create_config_search_path(str(configuration_folder()))
    composed = ConfigLoaderImpl(search_path).load_configuration(primary, [], RunMode.RUN)
    values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    return {key: value for key, value in values.items() if key != "hydra"}


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
