"""Checkpoints: all that continuing needs, written aside and renamed, so that none is ever half.

    checkpoints/step-000100/   adapter.safetensors  optimizer.pt  state.json
    checkpoints/best-000075/   adapter.safetensors  state.json

The order of the data, augmentation and dropout are functions of seed and step (`data.order`,
`data.windows`, `loop`), and so is the learning rate (`schedule`). The step therefore says where all
of them stand, and no random state and no sampler's position has to be kept; the seed is part of
the configuration, whose hash each checkpoint carries.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from lora_whisper import processes
from lora_whisper.errors import UserError
from lora_whisper.run_folder import (
    read_json,
    remove_folder,
    step_folders,
    step_of,
    write_json,
    write_synced,
    written_whole,
)

ADAPTER, OPTIMIZER, STATE = "adapter.safetensors", "optimizer.pt", "state.json"
MOST_WAITING = 2  # copies in memory that are not on disk yet: of a step, and of its best adapter


class HasState(Protocol):
    """What a checkpoint keeps besides the optimizer: the schedule of AdaLoRA's ranks."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Best:
    """A validation: the lower WER is the better one, then the lower loss."""

    step: int
    wer: float
    loss: float

    def is_beaten_by(self, other: Best) -> bool:
        return (other.wer, other.loss) < (self.wer, self.loss)


@dataclass
class TrainingState:
    """How far a run is."""

    step: int = 0  # optimizer steps done
    audio_seconds: float = 0.0  # of speech that went through training, repeats counted
    train_seconds: float = 0.0  # of wall clock in the loop, validation included
    validation_seconds: float = 0.0  # the part of it that went into validation
    bad_audio: int = 0  # windows left out because their audio did not decode
    skipped_steps: int = 0  # whose loss or gradient was not finite
    skipped_in_a_row: int = 0  # of these, the last ones
    validations_without_gain: int = 0  # since the best one
    validation_due: bool = False  # of this step, which a signal broke off
    best: Best | None = None

    @property
    def validated(self) -> int:
        """The last step whose validation, if it was to have one, is done."""
        return self.step - 1 if self.validation_due else self.step


class Checkpoints:
    """The checkpoints of one run; written by a thread of its own, one after another.

    A context manager: leaving it waits until all is on disk, and raises what the thread met.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        keep_last: int,
        keep_best: int,
        config_hash: str,
        is_writer: bool = True,
    ):
        """
        Args:
            every_steps: between two regular checkpoints; one that a signal asked for is none, so
                that the last `keep_last` are those of an uninterrupted run.
            config_hash: of what a resumed run must have in common with the one before.
            is_writer: False in all processes but one, which then write and remove nothing.
        """
        self.folder, self.every_steps = folder, every_steps
        self.keep_last, self.keep_best = keep_last, keep_best
        self.config_hash, self.is_writer = config_hash, is_writer
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        self.finish()

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def save(
        self,
        state: TrainingState,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        scaler: GradScaler | None = None,
        rank_schedule: HasState | None = None,
    ) -> None:
        """Write step-NNNNNN, then remove what is not kept any more.

        All is copied to memory before this returns, so that the next step may change it.
        """
        if not self.is_writer:
            return
        states = {"optimizer": optimizer, "scaler": scaler, "rank_schedule": rank_schedule}
        kept = {name: one.state_dict() for name, one in states.items() if one is not None}
        self._write(f"step-{state.step:06d}", state, parameters, _copied(kept))

    def save_best(self, best: Best, parameters: Mapping[str, nn.Parameter]) -> None:
        """Write best-NNNNNN if it is one of the best `keep_best`; what it replaces goes after it.

        Between the two, and whenever a process ends, there is a best one on disk.
        """
        if self.is_writer:
            self._write(f"best-{best.step:06d}", best, parameters)

    def finish(self) -> None:
        """Wait for the thread.

        Raises:
            UserError: the disk is full.
        """
        while self._writing:
            self._writing.popleft().result()

    def raise_failure(self) -> None:
        """Raise what the thread met, if it met something; does not wait for it."""
        while self._writing and self._writing[0].done():
            self._writing.popleft().result()

    def _write(
        self,
        name: str,
        state: TrainingState | Best,
        parameters: Mapping[str, nn.Parameter],
        optimizer: dict[str, Any] | None = None,
    ) -> None:
        while len(self._writing) >= MOST_WAITING:
            self._writing.popleft().result()
        tensors = _copied(dict(parameters))
        snapshot = dataclasses.replace(state)  # the loop counts on in the other one
        path = self.folder / name
        writing = self._thread.submit(self._write_now, path, snapshot, tensors, optimizer)
        self._writing.append(writing)

    def _write_now(
        self,
        path: Path,
        state: TrainingState | Best,
        tensors: dict[str, Tensor],
        optimizer: dict[str, Any] | None,
    ) -> None:
        if isinstance(state, Best) and self._is_surpassed(state):
            return
        with written_whole(path) as aside:
            write_synced(aside / ADAPTER, safetensors_bytes(tensors))
            if optimizer is not None:
                write_synced(aside / OPTIMIZER, _pickled(optimizer))
            values = dataclasses.asdict(state) | {"config_hash": self.config_hash}
            write_json(aside / STATE, values)
        self._remove_old()

    def _is_surpassed(self, best: Best) -> bool:
        better = [one for one, _ in self.bests() if not one.is_beaten_by(best)]
        return len(better) >= self.keep_best

    def _remove_old(self) -> None:
        """Keep the last ones, and the best of all as well as of those before the last checkpoint.

        The latter are what a run knows that goes on from there: should a validation after it turn
        out otherwise the second time, as it may on a GPU, its best one is still on disk.
        """
        latest, bests = self.latest(), self.bests()
        validated = self._read_state(latest).validated if latest else 0
        known = [(best, path) for best, path in bests if best.step <= validated]
        kept = {path for _, path in [*bests[: self.keep_best], *known[: self.keep_best]]}
        kept |= {*self.lasts(), *([latest] if latest else [])}
        for path in {*step_folders(self.folder), *(path for _, path in bests)} - kept:
            remove_folder(path)

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def latest(self) -> Path | None:
        """The last checkpoint, or None."""
        return next(iter(reversed(step_folders(self.folder))), None)

    def lasts(self) -> list[Path]:
        """The last `keep_last` regular checkpoints, oldest first; the last of all counts as one."""
        steps = step_folders(self.folder)
        regular = [path for path in steps[:-1] if step_of(path) % self.every_steps == 0]
        return [*regular, *steps[-1:]][-self.keep_last :]

    def bests(self) -> list[tuple[Best, Path]]:
        """What was validated and kept, the best first; of equals, the earlier."""
        found = [(_best(path), path) for path in self.folder.glob("best-*")]
        return sorted(found, key=lambda one: (one[0].wer, one[0].loss, one[0].step))

    def resume(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        scaler: GradScaler | None = None,
        rank_schedule: HasState | None = None,
    ) -> TrainingState:
        """Go back to the last checkpoint, if there is one, and forget what came after it.

        Raises:
            UserError: it is of another configuration.
        """
        path, state = processes.from_main(self.latest), TrainingState()
        if path is not None:
            state = self.load(path, parameters, optimizer, scaler, rank_schedule)
        if self.is_writer:
            self._forget_after(state)
        return state

    def load(
        self,
        path: Path,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        scaler: GradScaler | None = None,
        rank_schedule: HasState | None = None,
    ) -> TrainingState:
        """Set adapter, optimizer, loss scaler and ranks to what they were at `path`.

        Raises:
            UserError: it is of another configuration.
        """
        state = self._read_state(path)
        load_parameters(path, parameters)
        kept = torch.load(path / OPTIMIZER, weights_only=True, map_location="cpu")
        optimizer.load_state_dict(kept["optimizer"])
        if scaler is not None and "scaler" in kept:
            scaler.load_state_dict(kept["scaler"])
        if rank_schedule is not None:
            rank_schedule.load_state_dict(kept["rank_schedule"])
        return state

    def _read_state(self, path: Path) -> TrainingState:
        values = read_json(path / STATE)
        if values.pop("config_hash") != self.config_hash:
            raise UserError(
                f"{path} is of another configuration than this run: it was copied here, or "
                "config.yaml was edited.\n"
                "Take it away, and resume=auto goes on from the checkpoint before it, or begin "
                "anew with overwrite=true."
            )
        best = values.pop("best")
        return TrainingState(**values, best=Best(**best) if best else None)

    def _forget_after(self, state: TrainingState) -> None:
        """Remove what a process left half, and the validations that are to come again."""
        for path in self.folder.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)
        for best, path in self.bests():
            if best.step > state.validated:
                remove_folder(path)


def load_parameters(path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Set the adapter's matrices to those of the checkpoint at `path`."""
    saved = load_file(path / ADAPTER)
    assert saved.keys() == parameters.keys(), "the checkpoint is of another adapter"
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


def _best(path: Path) -> Best:
    values = read_json(path / STATE)
    return Best(values["step"], values["wer"], values["loss"])


def _copied(value: Any) -> Any:
    """The same nested value with its tensors copied into the computer's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(one) for one in value)
    return value


def _pickled(value: dict[str, Any]) -> bytes:
    """In memory: PyTorch writing a file itself does not say that a disk is full."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
