"""What settings of several subjects are made of: bounds, choices, names, dtypes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le, Lt
from pydantic import AfterValidator, BeforeValidator

from lora_whisper.paths import is_plain_name
from lora_whisper.schema import (
    Item,
    Listed,
    Number,
    Text,
    ValidationInfo,
    as_typed,
    require,
)

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

HUB_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"


def below_outputs(name: str) -> str:
    """None above outputs/, nor of those in it that hold sweeps and searches."""
    is_folder = bool(name.strip("./ ")) and all(map(is_plain_name, name.split("/")))
    holds = is_folder and name not in ("sweeps", "searches")
    require(holds, f"expected a folder name below outputs/, found {name!r}")
    return name


def owner_and_name(given: str) -> str:
    """As the hub takes it: letters, digits, "-", "_" and ".", up to 96 of them."""
    holds = (
        re.fullmatch(f"{HUB_NAME}/{HUB_NAME}", given) is not None
        and len(given) <= 96
        and not any(part in given for part in ("--", ".."))
        and not given.endswith(".git")
    )
    require(holds, f"expected owner/name as on the hub, found {given!r}")
    return given


def _are_two(bounds: Any) -> Any:
    is_pair = isinstance(bounds, list | tuple) and len(bounds) == 2
    require(is_pair, f"expected [lowest, highest], found {as_typed(bounds)}")
    return bounds


def _are_in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    require(bounds[0] <= bounds[1], f"expected [lowest, highest], found {as_typed(bounds)}")
    return bounds


# Of two numbers each, which both lie in what the item may be.
Bounds = Annotated[tuple[Item, Item], BeforeValidator(_are_two), AfterValidator(_are_in_order)]


def _are_choices(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    are_fit = 0 < len(choices) == len(set(choices))
    require(are_fit, f"expected a list of choices, none twice, found {list(choices)}")
    return choices


Choices = Annotated[Listed[Item], AfterValidator(_are_choices)]
Decibels = Annotated[Number, Ge(-100), Le(100)]  # 16 bits hold 96
Dropped = Annotated[Number, Ge(0), Lt(1)]
Scale = Annotated[Number, Ge(0), Le(10)]  # of what an adapter adds
Name = Annotated[Text, AfterValidator(below_outputs)]
HubId = Annotated[Text, AfterValidator(owner_and_name)]
USUAL_SEED = 1
OF_PICKLE = "read weights that are not in safetensors, which can run code"  # allow_pickle
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Task = Literal["transcribe", "translate"]
Targets = Literal["attention-qv", "attention", "all-linear"]


def require_one(first: str, others: Sequence[Any], info: ValidationInfo, expected: str) -> None:
    is_one = first not in info.data or bool(info.data[first]) != bool(others)
    require(is_one, f"expected {expected}", at=first)
