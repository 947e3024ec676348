"""A run's configuration for people: what differs from the defaults, and whose paths it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import yaml

from lora_whisper.cli.compose import defaults
from lora_whisper.paths import mapped
from lora_whisper.run_config import flat
from lora_whisper.run_folder import MARKER, RunFolder

ALWAYS_OTHER = {"name", "overwrite", "resume"}  # say nothing about the adapter


def config_text(folder: RunFolder) -> str:
    """config.yaml as it is, below the line that makes it ours."""
    return folder.config.read_text(encoding="utf-8").removeprefix(MARKER)


def changes(config: str, path: Callable[[str], str]) -> list[tuple[str, str, str]]:
    """Each key that is not as in `lora-whisper train` with nothing typed, its value and default.

    Args:
        config: YAML of the run.
        path: how a text that may be a path is shown, `below_home` or `file_name`.
    """
    given, default = flat(yaml.safe_load(config)), flat(defaults("train"))
    return [
        (key, _shown(mapped(value, path)), _shown(default.get(key)))
        for key, value in given.items()
        if value != default.get(key) and key not in ALWAYS_OTHER
    ]


def _shown(value: Any) -> str:
    """On one line, as it is typed: null, true, 0.1"""
    line = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return line.removesuffix("...\n").strip()
