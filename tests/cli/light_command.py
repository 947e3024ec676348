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
from lora_whisper.run_folder import write_json


def check(config: TrainConfig, folder: Path) -> None:
    """All points can be run."""


def begin(config: TrainConfig, folder: Path) -> None:
    """Note where the point runs."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    write_json(folder.parent / f"{folder.name}.json", {"process": os.getpid(), "gpu": gpu})
    if config.seed == 2:
        raise UserError("seed 2 is unlucky")


def begin_and_train(config: TrainConfig, folder: Path) -> None:
    begin(config, folder)
    train.run(config, folder)


LIGHT = replace(train.COMMAND, check=check, run=begin, is_finished=None)
REAL = replace(train.COMMAND, run=begin_and_train)


def light(*arguments: str) -> int:
    return run_command(LIGHT, arguments)


def real(*arguments: str) -> int:
    return run_command(REAL, arguments)
