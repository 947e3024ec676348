"""The mean of several checkpoints: of what they add to the weights, not of A and B each.

The mean of good points of a run is often better than each of them: Izmailov et al. 2018,
https://arxiv.org/abs/1803.05407. Whether it is here, the validation set says.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lora_whisper.config import Averaged
from lora_whisper.evaluation.run_summary import Averaging
from lora_whisper.files import remove_folder, written_whole
from lora_whisper.lora.delta_weights import (
    DeltaWeights,
    delta_weights_of,
    mean,
    truncate_rank,
)
from lora_whisper.run_folder import RunFolder, step_of
from lora_whisper.terminal import percent
from lora_whisper.training.checkpoint_files import load_parameters
from lora_whisper.training.checkpoints import Checkpoints

if TYPE_CHECKING:
    from peft import PeftModel


log = logging.getLogger("lora_whisper")

MORE = {"last": "checkpoint_every_steps", "best": "validate_every_steps"}  # a smaller one of these


@dataclass(frozen=True)
class Average:
    """How a mean came about."""

    steps: tuple[int, ...]  # of the checkpoints, in their order
    rank: int  # the highest of its layers
    svd_error: float  # Frobenius norm of what the SVD lost over that of all; 0 without one


def to_average(checkpoints: Checkpoints, asked: Averaged) -> list[Path]:
    """The checkpoints that are asked for, or what there is of them, by their steps."""
    if asked.of == "best":
        paths = [path for _, path in checkpoints.bests()[: asked.count]]
    else:
        paths = checkpoints.lasts()[-asked.count :]
    if len(paths) < 2:
        log.warning(
            "average     none: %d of %d checkpoints are there; a smaller training.%s=… makes more",
            *(len(paths), asked.count, MORE[asked.of]),
        )
    return sorted(paths, key=step_of)


def average(
    paths: Sequence[Path],
    model: PeftModel,
    parameters: Mapping[str, nn.Parameter],
    initial: Mapping[str, Tensor] | None,
    rank: int | None,
) -> tuple[DeltaWeights, Average]:
    """Average the checkpoints at `paths`, loading one after the other into `model`.

    Args:
        parameters: of the adapter in `model`; they are left as the last checkpoint has them.
        initial: PiSSA's start, see `delta_weights_of`.
        rank: to which the mean is cut; None for the exact one, whose rank is the sum of theirs.
    """
    adapters = []
    for path in paths:
        load_parameters(path, parameters)
        adapters.append(delta_weights_of(model, initial))
    averaged, error = mean(adapters), 0.0
    if rank is not None:
        averaged, error = truncate_rank(averaged, rank)
    return averaged, Average(tuple(map(step_of, paths)), max(averaged.ranks.values()), error)


def average_folder(folder: RunFolder) -> Path:
    """Where the mean lies until it is known whether it ships."""
    return folder.checkpoints / "average"


def put_in_place(folder: RunFolder, ships: bool) -> None:
    """Let the mean take the place of the adapter, or drop it."""
    mean = average_folder(folder)
    if ships:
        with written_whole(folder.adapter) as aside:
            shutil.copytree(mean, aside, dirs_exist_ok=True)
    remove_folder(mean)


def announce_average(averaging: Averaging) -> None:
    """Say of which steps the mean is, what it lost, and whether it ships."""
    steps = ", ".join(map(str, averaging.steps))
    log.info("average     of steps %s: rank %d", steps, averaging.rank)
    if averaging.svd_error:
        lost = percent(averaging.svd_error)
        log.info("average     cut to that rank by SVD, which loses %s of what it adds", lost)
    if averaging.validation_wer is None:
        log.info("average     kept: there is no data.validation to compare it with the last")
        return
    wer, best = percent(averaging.validation_wer), percent(averaging.validation_wer_of_best or 0)
    kept = "kept" if averaging.ships else "dropped"
    log.info("average     validation WER %s, the best alone has %s: %s", wer, best, kept)
