"""Where a benchmark's figures go: `benchmarks/results/NAME.json`, with the machine and versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_whisper.environment import environment, versions
from lora_whisper.files import write_json

FOLDER = Path(__file__).parent / "results"


def write_result(name: str, command: str, figures: dict[str, Any]) -> Path:
    """Write the figures of one benchmark, replacing an earlier result; return its path."""
    path = FOLDER / f"{name}.json"
    made_with = {**environment(), "versions": versions()}
    write_json(path, {"command": command, **figures, "measured_on": made_with})
    return path
