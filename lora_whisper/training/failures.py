"""What ends a run against its will: what to type, and where it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lora_whisper.config import TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.run_folder import RunFolder, is_disk_full, no_room


@contextmanager
def failures_explained(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """All that is explained below, of one run."""
    with (
        full_disk_explained(folder),
        damage_explained(),
        dead_loader_explained(folder),
        out_of_memory_explained(config),
    ):
        yield


@contextmanager
def full_disk_explained(folder: RunFolder) -> Iterator[None]:
    """Say where the run goes on once there is room again."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        refusal, path = no_room(error), folder.last_checkpoint()
        last = f"The last good checkpoint is {path}." if path else "There is no checkpoint yet."
        raise UserError(
            f"{refusal}\n{last} {refusal.advice}, and type the same command with resume=auto."
        ) from error


@contextmanager
def damage_explained() -> Iterator[None]:
    """Say what to type when a checkpoint is damaged after the run has begun to need it."""
    from lora_whisper.training.checkpoints import Damaged

    try:
        yield
    except Damaged as error:
        raise UserError(
            f"A checkpoint was damaged after it was written: {error}.\n"
            "Type the same command with resume=auto: it goes on from one that is sound."
        ) from error


@contextmanager
def dead_loader_explained(folder: RunFolder) -> Iterator[None]:
    """Say where the run goes on after a process that loads speech was killed."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "DataLoader worker" not in text or not ("killed" in text or "exited" in text):
            raise
        path = folder.last_checkpoint()
        last = f"The last checkpoint is {path}." if path else "There is no checkpoint yet."
        raise UserError(
            f"A process that loads speech ended: {text.splitlines()[0]}\n"
            "Often the system ends one when the computer's memory runs out.\n"
            f"{last} Type the same command with resume=auto, and training.loader_workers=1 or 0 "
            "if memory is short."
        ) from error


@contextmanager
def out_of_memory_explained(config: TrainConfig) -> Iterator[None]:
    """Say what to type when the memory does not suffice, not for a single window either."""
    from lora_whisper.training.memory import is_out_of_memory

    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        scoring = max(1, (config.evaluation.batch_size or 4) // 2)
        raise UserError(
            f"The memory does not suffice: {str(error).splitlines()[0]}\n"
            "Type the same command with resume=auto and, if it happened\n"
            "  in training: training.gradient_checkpointing=true\n"
            f"  in scoring: evaluation.batch_size={scoring}\n"
            "Or begin anew with overwrite=true quantization=nf4."
        ) from error
