"""What libraries work out anew for each of a thousand command lines, worked out once.

Hydra reads some thirty files of `conf/` and merges them in 0.2 s: here once for each choice of its
groups. What lies between is as it stands: overrides are applied and refused by Hydra. Where a
folder of one's own is searched too, all of it is.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import jinja2
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

OURS = ["hydra", "main", "schema"]  # who brings what is searched: Hydra, conf/, what is in memory

_create = config_loader_impl.create_defaults_list
_compose = ConfigLoaderImpl._compose_config_from_defaults_list
_parse = OverridesParser.parse_rule
_lists: dict[Any, DefaultsList] = {}
_composed: dict[int, DictConfig | None] = {}  # by the identity of one of these lists


def remember() -> None:
    config_loader_impl.create_defaults_list = _create_once
    ConfigLoaderImpl._compose_config_from_defaults_list = _compose_once  # type: ignore[method-assign]
    # Each loader copies where it looks, which is one for all.
    ConfigStore.__deepcopy__ = lambda store, copied: store  # type: ignore[attr-defined]
    OverridesParser.parse_rule = lambda _, *given: copy.deepcopy(_parsed(*given))  # type: ignore
    jinja2.Environment.compile = functools.cache(jinja2.Environment.compile)  # PEFT's card


@functools.cache
def _parsed(text: str, rule: str) -> Any:
    return _parse(OverridesParser.create(), text, rule)


def _create_once(repo: Any, config_name: Any, overrides_list: Any, **how: bool) -> DefaultsList:
    sources = {source.provider: source.path for source in repo.get_sources()}
    if list(sources) != OURS:
        return _create(repo, config_name, overrides_list, **how)
    given = [one for one in overrides_list if not one.is_sweep_override()]
    chosen = [one for one in given if _is_choice(repo, one)]
    key = (config_name, *how.items(), *sources.values(), *(one.input_line for one in chosen))
    if key not in _lists:
        _lists[key] = _create(repo, config_name, chosen, **how)
        _composed[id(_lists[key].defaults)] = None
    known = _lists[key]
    others = [one for one in given if one not in chosen]
    return DefaultsList(known.defaults, known.defaults_tree, others, known.overrides)


def _is_choice(repo: Any, override: Override) -> bool:
    return not isinstance(override.value(), dict) and repo.group_exists(override.key_or_group)


def _compose_once(loader: ConfigLoaderImpl, defaults: Any, repo: Any) -> DictConfig:
    if id(defaults) not in _composed:
        return _compose(loader, defaults, repo)
    known = _composed[id(defaults)] or _compose(loader, defaults, repo)
    _composed[id(defaults)] = known
    return copy.deepcopy(known)
