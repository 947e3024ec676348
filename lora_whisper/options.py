"""What `conf/` offers by name, read without Hydra: options of groups, and experiments.

    configured(TrainConfig, {"experiment": "quickstart", "name": "mine", "adapter": {"rank": 8}})
    configured(TrainConfig, {"model": "tiny", "adapter": "dora", "adapter.rank": 8, …})

The command line goes through Hydra, which reads the same files and sweeps over them.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lora_whisper.config import AdapterConfig, DataConfig
from lora_whisper.errors import UserError
from lora_whisper.schema import TO_BE_TYPED, Config, defaults_of, from_values

PACKAGE = Path(__file__).resolve().parent
EXPERIMENT = "experiment"
# Keys that options choose, with values that suit it: of these groups.
CHOOSERS: dict[str, tuple[str, type]] = {
    "adapter": ("kind", AdapterConfig),
    "data": ("source", DataConfig),
}


def configuration_folder() -> Path:
    """`conf/`: inside the installed package, or beside it in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def configured(kind: type[Config], given: Mapping[str, Any]) -> Config:
    """The configuration of values as they may be typed; what is left out has its default.

    Raises:
        UserError: an option that there is not, and whatever does not fit.
    """
    return from_values(kind, composed(given))


def composed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, with those of each option that is named in place of its name.

    A group's value may be the name of an option or a list of such names; a key may be a path, such
    as "adapter.rank". Experiments give way to options that are named, and both to values.

    Raises:
        UserError: an option that there is not, or a kind that is given without it.
    """
    options: dict[str, Sequence[str]] = {}
    values: dict[str, Any] = {}
    for key, value in given.items():
        names = [value] if isinstance(value, str) else value
        are_names = isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
        if are_names and (configuration_folder() / key).is_dir():
            options[key] = names
        else:
            merge(values, nested(key, value))
    own: dict[str, Any] = {}
    for name in options.pop(EXPERIMENT, ()):
        chosen, changes = _experiment(name)
        options = chosen | options
        merge(own, changes)
    found: dict[str, Any] = {}
    for group, names in options.items():
        for name in names:
            merge(found, {group: _option(group, name)})
    merge(found, own)
    merge(found, values)
    choices = {
        group: next(iter(options.get(group, ())), defaults_of(kind)[key])
        for group, (key, kind) in CHOOSERS.items()
    }
    if wrong := unsuited(choices, found, paths_of(values)):
        raise UserError("; ".join(wrong))
    return found


def unsuited(
    choices: Mapping[str, str], values: Mapping[str, Any], typed: Container[str]
) -> list[str]:
    """What is wrong with a kind of adapter or of source that was given without its option.

    Args:
        choices: the option of each group.
        values: what is composed of them and of what was given.
        typed: the paths of keys that were given, whose values are wanted as they are.
    """
    problems = []
    for group, (key, of_group) in CHOOSERS.items():
        given, option = values.get(group), choices.get(group)
        if not isinstance(given, Mapping) or option is None or not _is_option(group, option):
            continue
        usual = defaults_of(of_group)
        kind, had = given.get(key), usual | _option(group, option)
        if not isinstance(kind, str) or kind == had[key] or not _is_option(group, kind):
            continue
        suits = usual | _option(group, kind)
        left = [
            f"{group}.{one}={'null' if value is None else value}"
            for one, value in sorted(suits.items())
            if one != key and value not in (had[one], TO_BE_TYPED)
            if given.get(one, had[one]) == had[one] and f"{group}.{one}" not in typed
        ]
        if left:
            problems.append(
                f"{group}.{key}={kind}: it is chosen by {group}={kind}, with "
                f"{' and '.join(left)} to suit it.\nType that, or your own values as well."
            )
    return problems


def paths_of(values: Mapping[str, Any]) -> set[str]:
    """The paths of nested values, and of the groups that they stand in."""
    below = {
        f"{key}.{path}"
        for key, value in values.items()
        if isinstance(value, Mapping)
        for path in paths_of(value)
    }
    return below | set(values)


def nested(path: str, value: Any) -> dict[str, Any]:
    group, dot, key = path.partition(".")
    return {group: nested(key, value) if dot else value}


def merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put `changes` into `values`; a group takes the keys that are given, and keeps its others."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            below = values.get(key)
            values[key] = below = dict(below) if isinstance(below, Mapping) else {}
            merge(below, value)
        else:
            values[key] = value


def _is_option(group: str, name: str) -> bool:
    return not name.startswith("_") and (configuration_folder() / group / f"{name}.yaml").is_file()


def _option(group: str, name: str) -> dict[str, Any]:
    """`conf/GROUP/NAME.yaml`, over those that its `defaults` name."""
    found: dict[str, Any] = {}
    values = dict(_file(group, name))
    for base in values.pop("defaults", ["_self_"]):
        if not base.startswith("_"):  # what all options begin with is the schema's default
            merge(found, _option(group, base))
    merge(found, values)
    return found


def _experiment(name: str) -> tuple[dict[str, Sequence[str]], dict[str, Any]]:
    """The options that an experiment chooses, and its values; what it sweeps is Hydra's."""
    options: dict[str, Sequence[str]] = {}
    found: dict[str, Any] = {}
    values = dict(_file(EXPERIMENT, name))
    for entry in values.pop("defaults", []):
        if isinstance(entry, Mapping):
            ((override, chosen),) = entry.items()
            options[override.partition("/")[2]] = [chosen] if isinstance(chosen, str) else chosen
        elif entry != "_self_":
            chosen, changes = _experiment(entry)
            options = chosen | options
            merge(found, changes)
    values.pop("hydra", None)
    merge(found, values)
    return options, found


@functools.cache
def _file(group: str, name: str) -> Mapping[str, Any]:
    folder = configuration_folder() / group
    path = folder / f"{name}.yaml"
    if name.startswith("_") or not path.is_file():
        known = sorted(one.stem for one in folder.glob("*.yaml") if not one.stem.startswith("_"))
        raise UserError(f"{group}={name}: there is no such option. There are {', '.join(known)}.")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
