"""From the nested values that Hydra composed to frozen dataclasses, with all problems at once."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from lora_whisper.errors import UserError, listing

Config = TypeVar("Config")
EXAMPLES = {"run": "outputs/NAME", "repo": "owner/name"}  # of keys without a default


class RangeError(ValueError):
    """The values of one group that are out of range, one problem a line."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


def require(**rules: tuple[bool, str]) -> None:
    """Raise `RangeError` with every rule that is broken: `field=(holds, "what is expected")`."""
    broken = [f"{name}: {expected}" for name, (holds, expected) in rules.items() if not holds]
    if broken:
        raise RangeError(broken)


def require_positive_counts(group: Any) -> None:
    """Every whole number in `group` has to be at least 1; null stands for "not given"."""
    counts = {name: value for name, value in vars(group).items() if type(value) is int}
    require(
        **{
            name: (value >= 1, f"expected 1 or more, found {value}")
            for name, value in counts.items()
        }
    )


def to_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build the dataclass `kind` from nested plain values.

    Raises:
        UserError: names every missing, unknown, mistyped and out-of-range value at once.
    """
    problems: list[str] = []
    config = _build(kind, values, "", problems)
    if problems:
        raise UserError(
            "The configuration cannot be used:\n" + listing(problems, shown=len(problems))
        )
    return typing.cast(Config, config)


def _build(kind: type, values: Any, path: str, problems: list[str]) -> Any:
    """Build one group; problems of all its fields and of their groups are collected.

    A group whose fields could all be converted has its ranges checked even if a group inside it is
    broken: with None in its place, which no range rule looks at.
    """
    if not isinstance(values, Mapping):
        problems.append(f"{path or 'configuration'}: expected a group of keys, found {values!r}")
        return None
    hints = typing.get_type_hints(kind)
    prefix = f"{path}." if path else ""
    unknown = [
        key for key in values if key not in hints and key not in getattr(kind, "ignored", ())
    ]
    problems += [f"{prefix}{key}: unknown key" for key in unknown]
    fields: dict[str, Any] = {}
    own: list[str] = []
    for name, hint in hints.items():
        if name not in values:
            own.append(f"{prefix}{name}: missing; type {prefix}{name}=…")
        elif group_in(hint) and typing.get_origin(hint) is not tuple and values[name] is not None:
            fields[name] = _build(group_in(hint), values[name], prefix + name, problems)
        else:
            fields[name] = _convert(values[name], hint, prefix + name, own)
    problems += own
    if own:
        return None
    try:
        return kind(**fields)
    except RangeError as error:
        problems += [prefix + problem for problem in error.problems]
        return None


def _convert(value: Any, hint: Any, path: str, problems: list[str]) -> Any:
    """Convert one YAML value to the type of its field, without guessing beyond int → float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value == "???":
        problems.append(f"{path}: missing; type {path}={_example(path, hint)}")
    elif origin in (Union, types.UnionType):
        return _converted_choice(value, arguments, path, problems)
    elif dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path, problems)
    elif origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        problems.append(f"{path}: expected {' or '.join(arguments)}, found {_shown(value)}")
    elif origin is tuple:
        return _converted_list(value, arguments[0], path, problems)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
        problems.append(f"{path}: expected a finite number, found {value}")
    elif hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    elif type(value) is hint:
        return value
    elif hint is str and isinstance(value, bool):
        problems.append(f"{path}: expected text, found {value}; quote it if it was no, yes or on")
    else:
        expected = {int: "a whole number", float: "a number", bool: "true or false"}
        problems.append(f"{path}: expected {expected.get(hint, 'text')}, found {_shown(value)}")
    return None


def _example(path: str, hint: Any) -> str:
    """What may be typed for a key that has no value of its own: one of its words, or a form."""
    words = [
        word
        for one in (hint, *typing.get_args(hint))
        if typing.get_origin(one) is Literal
        for word in typing.get_args(one)
    ]
    return " or ".join(words) or EXAMPLES.get(path, "…")


def _converted_choice(value: Any, hints: tuple[Any, ...], path: str, problems: list[str]) -> Any:
    """One of several types, such as `int | Literal["auto"] | None`."""
    if value is None and type(None) in hints:
        return None
    words = [hint for hint in hints if typing.get_origin(hint) is Literal]
    others = [hint for hint in hints if hint is not type(None) and hint not in words]
    if not others or (isinstance(value, str) and any(value in typing.get_args(w) for w in words)):
        others = words
    (hint,) = others
    return _convert(value, hint, path, problems)


def _converted_list(
    value: Any, kind: Any, path: str, problems: list[str]
) -> tuple[Any, ...] | None:
    """A list of texts, of numbers or of groups; a text alone is a list of one.

    In a group that stands in a list, null may be left out; a text there is the group's `shorthand`.
    """
    shorthand = getattr(kind, "shorthand", None)
    if isinstance(value, str) and (shorthand or not dataclasses.is_dataclass(kind)):
        value = [value]
    if shorthand and isinstance(value, list):
        value = [{shorthand: item} if isinstance(item, str) else item for item in value]
    if not isinstance(value, list):
        problems.append(f"{path}: expected a list, found {_shown(value)}")
    elif dataclasses.is_dataclass(kind):
        places = [f"{path}[{number}]" for number in range(len(value))]
        groups = [_with_nulls(typing.cast(type, kind), item) for item in value]
        return tuple(
            _build(typing.cast(type, kind), group, place, problems)
            for group, place in zip(groups, places, strict=True)
        )
    elif kind not in (int, float) and not all(isinstance(item, str) for item in value):
        problems.append(f"{path}: expected a list of names, found {_shown(value)}")
    else:
        return tuple(_convert(item, kind, path, problems) for item in value)
    return None


def _with_nulls(kind: type, values: Any) -> Any:
    """`values` with null for each key of `kind` that may be null; such a group has no conf file."""
    if not isinstance(values, Mapping):
        return values
    hints = typing.get_type_hints(kind)
    optional = [name for name, hint in hints.items() if type(None) in typing.get_args(hint)]
    nulls = dict.fromkeys(optional)
    nested = {
        name: _with_nulls(group_in(hints[name]), value)
        for name, value in values.items()
        if name in hints and group_in(hints[name])
    }
    return nulls | dict(values) | nested


def group_in(hint: Any) -> Any:
    """The dataclass that a field holds, if it holds one."""
    candidates = (hint, *typing.get_args(hint))
    return next((one for one in candidates if dataclasses.is_dataclass(one)), None)


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
