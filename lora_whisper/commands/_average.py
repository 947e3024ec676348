"""The mean of several checkpoints, one more candidate for what ships: `training.averaging`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.config import AveragingConfig
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.run_folder import RunFolder, remove_folder, written_whole
from lora_whisper.terminal import percent

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

    from lora_whisper.training.averaging import Average
    from lora_whisper.training.checkpoints import Checkpoints

log = logging.getLogger("lora_whisper")

MORE = {"last": "checkpoint_every_steps", "best": "validate_every_steps"}  # a smaller one of these


def average_folder(folder: RunFolder) -> Path:
    """Where the mean lies until it is known whether it ships."""
    return folder.checkpoints / "average"


def write_average(
    folder: RunFolder,
    checkpoints: Checkpoints,
    settings: AveragingConfig | None,
    base: Checkpoint,
    model: PeftModel,
    parameters: Mapping[str, nn.Parameter],
    initial: Mapping[str, Tensor] | None,
) -> Average | None:
    """Write the mean aside, if it was asked for and there are several to average.

    Args:
        parameters: of the adapter in `model`, which are overwritten.
        initial: PiSSA's start, see `model.plain.plain_of`.
    """
    from lora_whisper.lora.delta_weights import write_plain
    from lora_whisper.training.averaging import average, to_average

    if settings is None:
        return None
    paths = to_average(checkpoints, settings)
    if len(paths) < 2:
        log.warning(
            "average     none: %d of %d checkpoints are there; a smaller training.%s=… makes more",
            len(paths),
            settings.count,
            MORE[settings.of],
        )
        return None
    mean, found = average(paths, model, parameters, initial, settings.rank)
    with written_whole(average_folder(folder)) as aside:
        write_plain(mean, aside, base)
    return found


def put_in_place(folder: RunFolder, ships: bool) -> None:
    """Let the mean take the place of the adapter, or drop it."""
    mean = average_folder(folder)
    if ships:
        with written_whole(folder.adapter) as aside:
            shutil.copytree(mean, aside, dirs_exist_ok=True)
    remove_folder(mean)


def announce_average(verdict: dict[str, Any]) -> None:
    """Say of which steps the mean is, what it lost, and whether it ships."""
    steps = ", ".join(map(str, verdict["steps"]))
    log.info("average     of steps %s: rank %d", steps, verdict["rank"])
    if verdict["svd_error"]:
        lost = percent(verdict["svd_error"])
        log.info("average     cut to that rank by SVD, which loses %s of what it adds", lost)
    if verdict["validation_wer"] is None:
        log.info("average     kept: there is no data.validation to compare it with the last")
        return
    wer, best = (percent(verdict[key]) for key in ("validation_wer", "validation_wer_of_best"))
    kept = "kept" if verdict["ships"] else "dropped"
    log.info("average     validation WER %s, the best alone has %s: %s", wer, best, kept)
