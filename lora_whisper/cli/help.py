"""`--help`: what can be typed for a command, each key with its value and its meaning."""

from __future__ import annotations

import inspect
import itertools
import re
import string
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from lora_whisper import older_keys
from lora_whisper.cli.compose import options_of, our_keys
from lora_whisper.cli.misfits import known_keys
from lora_whisper.errors import UserError
from lora_whisper.options import EXPERIMENT, configuration_folder
from lora_whisper.schema import (
    defaults_of,
    group_in,
    hints_of,
    meaning_of,
    plain_first,
    range_of,
    words,
)

COLUMNS = 80
GROUPS, GROUP_USAGE = "== Groups (group=option) ==", " [group=option …]"  # where there are any
MEANINGS_FROM = 34  # the column in which they begin


def help_of(
    kind: type, hydra: Hydra, primary: str, overrides: list[str], topics: Sequence[str] = ()
) -> str:
    """All that can be typed, or of some groups the keys below them.

    Hydra's own help lists the groups of all commands, and files that are parts of others.

    Raises:
        UserError: there is no such group.
    """
    composed = hydra.compose_config(primary, overrides, RunMode.RUN, with_log_configuration=True)
    keys = [key for key in our_keys(composed) if not is_ignored(kind, key)]
    shown = OmegaConf.to_container(OmegaConf.masked_copy(composed, keys), resolve=False)
    known = typing.cast(dict[str, Any], shown)
    values = {name: known.pop(name) for name in hints_of(kind) if name in known} | known
    values = plain_first(values)
    if topics:
        has_experiments = not is_ignored(kind, EXPERIMENT) and EXPERIMENT in known_keys(primary)
        return "\n\n".join(
            "\n".join(
                _experiment_lines(hydra)
                if topic == EXPERIMENT and has_experiments
                else _topic_lines(kind, values, topic)
            )
            for topic in topics
        )
    HydraConfig.instance().set_config(composed)
    choices = [str(group) for group in composed.hydra.runtime.choices if "/" not in str(group)]
    groups = [group for group in choices if not is_ignored(kind, group)]
    listed = [_wrapped(f"{group}: {', '.join(options_of(hydra, group))}") for group in groups]
    text = string.Template(composed.hydra.help.template).substitute(
        APP_CONFIG_GROUPS="\n".join([GROUPS, *listed, "", ""]) if listed else "",
        CONFIG="\n".join(_lines(kind, values)),
    )
    return text if listed else text.replace(GROUP_USAGE, "")


def _topic_lines(kind: type, values: Mapping[str, Any], topic: str) -> Iterator[str]:
    """One key, or the keys of one group, also where it is off."""
    held, path = kind, topic.split(".")
    for depth, name in enumerate(path):
        groups = {key: group_in(hint) for key, hint in hints_of(held).items()}
        if name in values and not groups.get(name) and name == path[-1]:
            yield from _lines(held, {name: values[name]})
            return
        if not groups.get(name):
            if answer := older_keys.answer(topic):
                raise UserError(f"--help {topic}: {answer}")
            known = ", ".join(".".join([*path[:depth], key]) for key, one in groups.items() if one)
            there_are = f"There are {known}." if known else "Nothing is below it."
            raise UserError(f"--help {topic}: there is no such group of keys. {there_are}")
        held, below = groups[name], values.get(name)
        values = below if isinstance(below, Mapping) else defaults_of(held)
    yield _wrapped(f"{topic}: {_summary(held)}")
    yield ""
    yield from _lines(held, values)


def _experiment_lines(hydra: Hydra) -> Iterator[str]:
    """The experiments that can be typed, each with what its file begins with."""
    yield "experiment: settings that go together; experiment=[A,B] takes two of them"
    yield ""
    names = options_of(hydra, EXPERIMENT)
    width = max(map(len, names), default=0) + 2
    for name in names:
        about = _beginning(configuration_folder() / EXPERIMENT / f"{name}.yaml")
        yield textwrap.fill(
            f"{name:<{width}}{about}".rstrip(),
            COLUMNS,
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )


def _beginning(path: Path) -> str:
    """The first sentence of a file's first comment; "" of a file in a folder of one's own."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    comments = (line.removeprefix("# ") for line in lines if not line.startswith("# @package"))
    comment = " ".join(itertools.takewhile(lambda line: not line.startswith("  "), comments))
    return re.split(r"(?<=[.]) ", comment)[0]


def is_ignored(kind: type, key: str) -> bool:
    """Whether the key is there for what is typed for other commands, and read by nobody."""
    return key.split(".")[0] in getattr(kind, "ignored", ())


def _wrapped(line: str) -> str:
    return textwrap.fill(line, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)


def _lines(kind: type, values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """YAML of one group, as it is typed in `conf/`, with a comment on each key."""
    hints = hints_of(kind)
    for name, value in values.items():
        if name in getattr(kind, "ignored", ()):
            continue
        group = group_in(hints.get(name))
        if group and isinstance(value, Mapping):
            if not indent:
                yield ""
            yield from _commented(f"{indent}{name}:", meaning_of(kind, name) or _summary(group))
            yield from _lines(group, value, indent + "  ")
        else:
            yield from _commented(f"{indent}{name}: {_in_yaml(value)}", _comment(kind, name))


def _comment(kind: type, name: str) -> str:
    """The words or the range that a key takes, and what it means."""
    if not (hint := hints_of(kind).get(name)):
        return ""
    group = group_in(hint)
    known = "" if group else " | ".join(filter(None, (range_of(hint), *words(hint))))
    meaning = meaning_of(kind, name) or (_summary(group) if group else "")
    return "; ".join(filter(None, (known, meaning)))


def _commented(line: str, meaning: str) -> Iterator[str]:
    """The comment beside the line, and below it where it is long."""
    beside = textwrap.wrap(meaning, COLUMNS - MEANINGS_FROM - 2, break_on_hyphens=False)
    if beside and len(line) >= MEANINGS_FROM:
        yield line
        line = ""
    for comment in beside:
        yield f"{line:<{MEANINGS_FROM}}# {comment}"
        line = ""
    if line:
        yield line


def _in_yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _summary(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()).replace("`", "")
