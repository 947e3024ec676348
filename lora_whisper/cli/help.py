"""`--help`: what can be typed for a command, each key with its value and its meaning.

The meaning is the comment beside the field in `config.py`, which has no other home; libraries that
make help of dataclasses read it from the source too.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import string
import textwrap
import tokenize
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import yaml
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from lora_whisper.cli.compose import options_of, our_keys
from lora_whisper.composing import group_in

COLUMNS = 80
MEANINGS_FROM = 34  # the column in which they begin


def help_of(kind: type, hydra: Hydra, primary: str, overrides: list[str]) -> str:
    """Hydra's own help lists the groups of all commands, and files that are parts of others."""
    composed = hydra.compose_config(primary, overrides, RunMode.RUN, with_log_configuration=True)
    HydraConfig.instance().set_config(composed)
    choices = [str(group) for group in composed.hydra.runtime.choices if "/" not in str(group)]
    groups = [group for group in choices if not is_ignored(kind, group)]
    keys = [key for key in our_keys(composed) if not is_ignored(kind, key)]
    values = OmegaConf.to_container(OmegaConf.masked_copy(composed, keys), resolve=False)
    return string.Template(composed.hydra.help.template).substitute(
        APP_CONFIG_GROUPS="\n".join(
            _wrapped(f"{group}: {', '.join(options_of(hydra, group))}") for group in groups
        ),
        CONFIG="\n".join(_lines(kind, typing.cast(Mapping[str, Any], values))),
    )


def is_ignored(kind: type, key: str) -> bool:
    """Whether the key is there for what is typed for other commands, and read by nobody."""
    return key.split(".")[0] in getattr(kind, "ignored", ())


def _wrapped(line: str) -> str:
    return textwrap.fill(line, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)


def _lines(kind: type, values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """YAML of one group, as it is typed in `conf/`, with a comment on each key."""
    hints, meanings = typing.get_type_hints(kind), meanings_of(kind)
    for name, value in values.items():
        group = group_in(hints.get(name))
        if group and isinstance(value, Mapping):
            yield from _commented(f"{indent}{name}:", meanings.get(name) or _summary(group))
            yield from _lines(group, value, indent + "  ")
        else:
            words = _words(hints.get(name)) if name in hints else ""
            meaning = "; ".join(filter(None, (words, meanings.get(name, ""))))
            yield from _commented(f"{indent}{name}: {_in_yaml(value)}", meaning)


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


def _words(hint: Any) -> str:
    """`fp32 | bf16` for a field that takes one of some words."""
    literals = [one for one in (hint, *typing.get_args(hint)) if typing.get_origin(one) is Literal]
    return " | ".join(word for one in literals for word in typing.get_args(one))


def _summary(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()).replace("`", "")


def meanings_of(kind: type) -> dict[str, str]:
    """The comment beside each field of a dataclass, which may go on in the lines below it."""
    meanings: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if dataclasses.is_dataclass(one):
            meanings |= _comments(inspect.getsource(one))
    return meanings


def _comments(source: str) -> dict[str, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token for token in tokens if token.type == tokenize.COMMENT]
    comments = {token.start[0]: token.string.lstrip("# ") for token in found}
    alone = {token.start[0] for token in found if token.line.lstrip().startswith("#")}
    (definition,) = ast.parse(source).body
    meanings = {}
    for field in typing.cast(ast.ClassDef, definition).body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            last = typing.cast(int, field.end_lineno)
            while last + 1 in alone:
                last += 1
            said = [comments[line] for line in range(field.lineno, last + 1) if line in comments]
            meanings[field.target.id] = " ".join(said).replace("`", "")
    return meanings
