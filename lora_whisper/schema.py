"""What the groups of `config/` are made of: strict types with their ranges, and one message.

pydantic checks the values, whoever gives them: a command line, a file, Python. Its errors are told
in our words, all at once, each with what the key means.
"""

from __future__ import annotations

import dataclasses
import os
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import pydantic.dataclasses
from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
)
from pydantic import field_validator as rule

from lora_whisper import older_keys
from lora_whisper.errors import UserError, listing

__all__ = ["Field", "ValidationError", "ValidationInfo", "rule"]

if TYPE_CHECKING:  # mypy knows of these alone what replace, asdict and fields take and give
    from dataclasses import dataclass as group
else:
    group = partial(
        pydantic.dataclasses.dataclass,
        frozen=True,
        # Rules are held against defaults too: some speak of other keys.
        config=ConfigDict(
            extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
        ),
    )

Config = TypeVar("Config")
Item = TypeVar("Item")
TO_BE_TYPED = "???"  # in conf/, the value of a key that has no default


def _as_text(value: Any) -> Any:
    """A name of digits stays a name; nothing else is made text of."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    value = _plain(value)
    if isinstance(value, str) and value == TO_BE_TYPED:
        raise ValueError
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _as_list(value: Any) -> Any:
    """One alone is a list of one."""
    return [value] if isinstance(value, str | os.PathLike) else value


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's own."""
    is_numpy = type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0
    return value.item() if is_numpy else value


def _within_reach(value: Any) -> Any:
    """No run has so many of anything; libraries below would overflow."""
    most = 2**32 - 1 if isinstance(value, int) else 1e9
    require(abs(value) <= most, f"expected at most {most}, found {value}")
    return value


# No guessing: "4" is no number, 4.0 no whole one and "yes" not true; but 4 is a number as well.
Flag = Annotated[bool, BeforeValidator(_plain), Strict()]
Whole = Annotated[int, BeforeValidator(_plain), Strict(), AfterValidator(_within_reach)]
Number = Annotated[float, BeforeValidator(_plain), Strict(), AfterValidator(_within_reach)]
Positive = Annotated[Number, Gt(0)]
NonNegative = Annotated[Number, Ge(0)]
Share = Annotated[Number, Ge(0), Le(1)]
Count = Annotated[Whole, Ge(1)]
Amount = Annotated[Whole, Ge(0)]
Seed = Annotated[Whole, Ge(0), Le(2**32 - 1)]
Text = Annotated[str, BeforeValidator(_as_text), Strict()]
Listed = Annotated[tuple[Item, ...], BeforeValidator(_as_list)]


class Misfit(ValueError):
    """A value that does not go with another one: why, and at which key if not at the one checked.

    `at` counts from the group whose rule it is.
    """

    def __init__(self, reason: str, at: str | None = None):
        super().__init__(reason)
        self.at = at


def require(holds: bool, reason: str, at: str | None = None) -> None:
    if not holds:
        raise Misfit(reason, at)


# ── from values to a configuration ───────────────────────────────────────────────────────────


def from_values(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """The group `kind` of nested plain values; what is left out has its default.

    Raises:
        UserError: names every missing, unknown, mistyped and out-of-range value at once.
    """
    ignored = getattr(kind, "ignored", ())
    problems = []
    if isinstance(values, Mapping):
        try:
            return kind(**{str(key): value for key, value in values.items() if key not in ignored})
        except ValidationError as error:
            problems = problems_of(kind, error)
    else:
        problems = [f"configuration: expected a group of keys, found {values!r}"]
    raise UserError("The configuration cannot be used:\n" + listing(problems, shown=len(problems)))


def changed(config: Config, **changes: Any) -> Config:
    """The same group with other values.

    Raises:
        UserError: they do not fit.
    """
    try:
        return dataclasses.replace(config, **changes)  # type: ignore[type-var]
    except ValidationError as error:
        raise UserError("; ".join(problems_of(type(config), error))) from error


def problems_of(kind: type, error: ValidationError) -> list[str]:
    """What pydantic found in a group, one problem a key."""
    problems: dict[str, str] = {}
    errors = error.errors(include_url=False)
    unknown = {
        _place(kind, found["loc"])[0]: found["input"]
        for found in errors
        if found["type"] == UNKNOWN_KEY
    }
    for found in errors:
        path, hint, meaning = _place(kind, found["loc"])
        reason = found.get("ctx", {}).get("error")
        if isinstance(reason, Misfit):
            group = path.rpartition(".")[0]
            if reason.at is not None:
                path, meaning = f"{group}.{reason.at}".lstrip("."), ""
            text = f"{path}: {reason}"
        else:
            # Which of several names or numbers it is says the value; one may stand there alone.
            key = path if group_in(hint) else re.sub(r"\[\d+\]$", "", path)
            text = f"{key}: {_problem(key, hint, found['type'], found['input'], unknown)}"
        if meaning:
            text += "\n" + textwrap.fill(meaning, 76)
        if not any(other.startswith(f"{path}[") for other in problems):
            problems.setdefault(path, text)  # else it might have been no list, but is one
    return list(problems.values())


def _place(kind: type, location: Sequence[str | int]) -> tuple[str, Any, str]:
    """The key that a location of pydantic's leads to, its type, and what it means.

    Among its parts are the types that a value might have had, which nobody typed.
    """
    path, hint, meaning = "", typing.cast(Any, kind), ""
    for part in location:
        holder = group_in(hint)
        hints = hints_of(holder) if holder else {}
        if isinstance(part, int):
            path, hint = f"{path}[{part}]", item_of(hint)
        elif part in hints:
            meaning = meaning_of(holder, part)
            path, hint = f"{path}.{part}".lstrip("."), hints[part]
        elif part == location[-1] and hints:
            path, hint, meaning = f"{path}.{part}".lstrip("."), None, ""
    return path, hint, meaning


UNKNOWN_KEY = "unexpected_keyword_argument"  # as pydantic calls it
# What is expected where a value is of another type, by pydantic's name of the error.
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dataclass_type": "a group of keys",
}
EXAMPLES = {"run": "outputs/NAME", "repo": "owner/name"}  # of keys without a default


def _problem(path: str, hint: Any, kind: str, value: Any, unknown: Mapping[str, Any]) -> str:
    if kind in (UNKNOWN_KEY, "invalid_key"):
        return older_keys.answer(path, value, unknown) or "unknown key"
    if kind == "missing" and "[" in path:  # nobody can type what stands in a list alone
        return "missing; give each entry of the list one"
    if kind == "missing" or (isinstance(value, str) and value == TO_BE_TYPED):
        return f"missing; type {path}={' or '.join(words(hint)) or EXAMPLES.get(path, '…')}"
    if kind == "string_type" and isinstance(value, bool):
        return f"expected text, found {value}; quote it if it was no, yes or on"
    if kind == "literal_error":
        expected = " or ".join(words(hint))
    else:
        expected = EXPECTED.get(kind) or range_of(hint)
    return f"expected {expected}, found {value if kind == 'finite_number' else as_typed(value)}"


def as_typed(value: Any) -> str:
    """A value that does not fit, as it would be typed."""
    if value is None:
        return "null"
    return repr(list(value) if isinstance(value, tuple) else value)


# ── changes to a group ───────────────────────────────────────────────────────────────────────


def changes_to(kind: type, names: str = "") -> Any:
    """A group of these fields of `kind`, or of all of them, each null where nothing is changed."""
    hints = hints_of(kind)
    means = {
        name: meaning_of(kind, name).partition("; null:")[0] for name in names.split() or hints
    }
    fields = {name: Field(None, description=meaning or None) for name, meaning in means.items()}
    types = {name: hints[name] | None for name in fields}
    name = kind.__name__.replace("Config", "Changes")
    return group(type(name, (), {"__annotations__": types, "__module__": kind.__module__} | fields))


def given_in(changes: Any) -> dict[str, Any]:
    """The values of its fields that are not null."""
    return {name: value for name, value in vars(changes).items() if value is not None}


# ── what a group holds ───────────────────────────────────────────────────────────────────────


def hints_of(kind: type) -> dict[str, Any]:
    """The type of each field, with its range."""
    return typing.get_type_hints(kind, include_extras=True)


def meaning_of(kind: type, name: str) -> str:
    return kind.__pydantic_fields__[name].description or ""  # type: ignore[attr-defined]


def defaults_of(kind: type) -> dict[str, Any]:
    """The plain values of a group of which nothing is given; "???" is to be typed."""
    found: dict[str, Any] = {}
    for name, hint in hints_of(kind).items():
        field = kind.__pydantic_fields__[name]  # type: ignore[attr-defined]
        if field.is_required():
            found[name] = TO_BE_TYPED
        elif field.default_factory is not None:
            found[name] = defaults_of(group_in(hint))
        else:
            usual = field.default
            found[name] = list(usual) if isinstance(usual, tuple) else usual
    return plain_first(found)


def plain_first(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values before groups of them, as files and help have them."""
    return dict(sorted(values.items(), key=lambda item: isinstance(item[1], Mapping)))


def is_group(hint: Any) -> bool:
    return isinstance(hint, type) and pydantic.dataclasses.is_pydantic_dataclass(hint)


def group_in(hint: Any) -> Any:
    """The group that a field holds, or a list of which it holds, if it holds one."""
    return next(filter(is_group, parts_of(hint)), None)


def item_of(hint: Any) -> Any:
    """What a field's list is of."""
    lists = (one for one in parts_of(hint) if typing.get_origin(one) is tuple)
    return next((typing.get_args(one)[0] for one in lists), None)


def words(hint: Any) -> list[str]:
    """Those that a field takes, if it takes some."""
    literals = (one for one in parts_of(hint) if typing.get_origin(one) is Literal)
    return [word for one in literals for word in typing.get_args(one)]


def range_of(hint: Any) -> str:
    """`1 or more`, `0 … below 1`; of a list, of each of its items; "" of what has none."""
    bounds = {
        type(bound): dataclasses.astuple(bound)[0]
        for one in parts_of(hint)
        if typing.get_origin(one) is Annotated
        for bound in one.__metadata__
        if isinstance(bound, Ge | Gt | Le | Lt)
    }
    lowest, above = bounds.get(Ge), bounds.get(Gt)
    highest, below = bounds.get(Le), bounds.get(Lt)
    start = f"more than {above}" if above is not None else f"{lowest}"
    if highest is not None:
        return f"at most {highest}" if start == "None" else f"{start} … {highest}"
    if below is not None:
        return f"{start} … below {below}"
    if above is not None:
        return start
    return f"{lowest} or more" if lowest is not None else ""


def parts_of(hint: Any) -> Iterator[Any]:
    """The type itself and what it consists of: of a union or a list, each."""
    yield hint
    if typing.get_origin(hint) is not Literal:
        for part in typing.get_args(hint)[: 1 if typing.get_origin(hint) is Annotated else None]:
            yield from parts_of(part)
