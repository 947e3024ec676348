"""`train`, but that seed 2 fails at once; and without a training, where launching alone counts.

Workers import it by its name, so it loads nothing heavy.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from lora_whisper.cli import train
from lora_whisper.cli.app import run_command
from lora_whisper.config import TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.files import write_json


def prepare(config: TrainConfig, folder: Path) -> tuple[TrainConfig, Path]:
    """All points can be run."""
    return config, folder


def begin(point: tuple[TrainConfig, Path]) -> None:
    """Note where the point runs."""
    config, folder = point
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    write_json(folder.parent / f"{folder.name}.json", {"process": os.getpid(), "gpu": gpu})
    if config.seed == 2:
        raise UserError("seed 2 is unlucky")


def begin_and_prepare(
    config: TrainConfig, folder: Path, earlier: train.RunPlan | None = None
) -> train.RunPlan:
    """In a worker, which has one GPU: what fails there fails before anything heavy is loaded."""
    if "," not in os.environ["CUDA_VISIBLE_DEVICES"]:
        begin((config, folder))
    return train.prepare(config, folder, earlier)


LIGHT = replace(train.COMMAND, prepare=prepare, run=begin, is_finished=None, shares_inputs=False)
REAL = replace(train.COMMAND, prepare=begin_and_prepare)


def light(*arguments: str) -> int:
    return run_command(LIGHT, arguments)


def real(*arguments: str) -> int:
    return run_command(REAL, arguments)
