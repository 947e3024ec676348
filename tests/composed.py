"""Configurations as a command line asks for them, as plain values."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from lora_whisper.cli.compose import COMMANDS
from lora_whisper.options import composed, merge
from lora_whisper.schema import defaults_of


def train_values(*overrides: str, primary: str = "train") -> dict[str, Any]:
    """What `lora-whisper train OVERRIDES` composes, with missing values as "???".

    Hydra takes 0.1 s for it and a thousand tests ask; `tests/test_conf.py` has that both agree.
    """
    return deepcopy(_composed(overrides, primary))


@cache
def _composed(overrides: tuple[str, ...], primary: str) -> dict[str, Any]:
    values = defaults_of(COMMANDS[primary])
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    merge(values, composed({one.key_or_group: one.value() for one in parsed}))
    return values
