"""The training windows that EVA's start is computed from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from lora_whisper.config import TrainConfig
from lora_whisper.data.loader import TrainingWindows
from lora_whisper.lora.limits import require_eva
from lora_whisper.model.base import Base

if TYPE_CHECKING:
    from lora_whisper.data.batches import Batch
    from lora_whisper.lora.eva import WatchedWindow


def watched_windows(
    config: TrainConfig, base: Base, windows: TrainingWindows
) -> Iterator[WatchedWindow]:
    """The first windows of the run, as it will be trained on them; in each process the same.

    Raises:
        UserError: it is not said how many.
    """
    wanted = require_eva(config.adapter)
    steps = math.ceil(wanted / config.training.global_batch)
    singles = (batch for step in windows.load_whole(0, steps, 1) for batch in step if batch.rows)
    for batch in islice(singles, wanted):
        yield _watched(batch, base)


def _watched(batch: Batch, base: Base) -> WatchedWindow:
    """A batch of one window, which is as long as its sound."""
    from lora_whisper.lora.eva import WatchedWindow
    from lora_whisper.model.checkpoint import FRAMES_PER_POSITION
    from lora_whisper.model.features import frames_with_sound

    (features,) = batch.input_features(base.features).cpu()
    frames = min(frames_with_sound(batch.waveforms.shape[1]), features.shape[1])
    return WatchedWindow(features, batch.decoder_input[0], math.ceil(frames / FRAMES_PER_POSITION))
