"""What the trackers of a run are told beside the lines of metrics.jsonl."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper import processes
from lora_whisper.commands._inputs import flat
from lora_whisper.commands._settings import below_home, mapped
from lora_whisper.config import TrainConfig
from lora_whisper.run_folder import RunFolder, step_of

if TYPE_CHECKING:
    from lora_whisper.training.tracking import Trackers


def tracked_run(config: TrainConfig, folder: RunFolder) -> AbstractContextManager[Trackers]:
    """The trackers of the main process, for as long as the run takes.

    They get the whole configuration, with the home folder as "~": a project may be public.
    """
    from lora_whisper.training.tracking import TrackedRun, hyperparameters, tracked

    last, point = folder.last_checkpoint(), folder.path.name
    is_alone = point == Path(config.name).name  # and no point of a sweep
    run = TrackedRun(
        project=config.tracking.project,
        name=config.name if is_alone else f"{config.name}/{point}",
        folder=folder.tracking,
        values=hyperparameters(mapped(flat(dataclasses.asdict(config)), below_home)),
        done_steps=step_of(last) if last else 0,
    )
    return tracked(config.tracking.trackers if processes.is_main() else (), run)


def track_scores(
    trackers: Trackers, step: int, scores: Mapping[str, Mapping[str, Any] | None]
) -> None:
    """The WER of each model on the test set, where there is one."""
    found = {f"test_wer_{name}": score["wer"] for name, score in scores.items() if score}
    if found:
        trackers.log({"step": step, **found})
