"""The mean of several checkpoints: of what they add to the weights, not of A and B each.

The mean of good points of a run is often better than each of them: Izmailov et al. 2018,
https://arxiv.org/abs/1803.05407. Whether it is here, the validation set says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lora_whisper.config import AveragingConfig
from lora_whisper.lora.delta_weights import PlainAdapter, cut, mean, plain_of
from lora_whisper.run_folder import step_of
from lora_whisper.training.checkpoints import Checkpoints, load_parameters

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Average:
    """How a mean came about."""

    steps: tuple[int, ...]  # of the checkpoints, in their order
    rank: int  # the highest of its layers
    svd_error: float  # Frobenius norm of what the SVD lost over that of all; 0 without one


def to_average(checkpoints: Checkpoints, config: AveragingConfig) -> list[Path]:
    """The checkpoints that `config` asks for, or what there is of them, by their steps."""
    if config.of == "best":
        found = [path for _, path in checkpoints.bests()[: config.count]]
    else:
        found = checkpoints.lasts()[-config.count :]
    return sorted(found, key=step_of)


def average(
    paths: Sequence[Path],
    model: PeftModel,
    parameters: Mapping[str, nn.Parameter],
    initial: Mapping[str, Tensor] | None,
    rank: int | None,
) -> tuple[PlainAdapter, Average]:
    """Average the checkpoints at `paths`, loading one after the other into `model`.

    Args:
        parameters: of the adapter in `model`; they are left as the last checkpoint has them.
        initial: PiSSA's start, see `plain_of`.
        rank: to which the mean is cut; None for the exact one, whose rank is the sum of theirs.
    """
    adapters = []
    for path in paths:
        load_parameters(path, parameters)
        adapters.append(plain_of(model, initial))
    found, error = mean(adapters), 0.0
    if rank is not None:
        found, error = cut(found, rank)
    return found, Average(tuple(map(step_of, paths)), max(found.ranks.values()), error)
