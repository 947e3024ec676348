"""Where a benchmark's figures go: `benchmarks/results/NAME.json`, with the machine and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from lora_whisper.run_folder import write_json

FOLDER = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


def write_result(name: str, command: str, figures: dict[str, Any]) -> Path:
    """Write the figures of one benchmark, replacing an earlier result; return its path."""
    path = FOLDER / f"{name}.json"
    write_json(path, {"command": command, **figures, "measured_on": surroundings()})
    return path


def surroundings() -> dict[str, Any]:
    """Machine, versions and commit."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
