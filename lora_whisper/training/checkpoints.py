"""Checkpoints: all that continuing needs, written aside and renamed, so that none is ever half.

    checkpoints/step-000100/   adapter.safetensors  optimizer.pt  state.json
    checkpoints/best/          adapter.safetensors  state.json

The order of the data and the dropout are functions of seed and step (`data.batches`, `loop`), so
the step says where both stand and no random state has to be kept.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from lora_whisper.run_folder import read_json, write_json

ADAPTER, OPTIMIZER, STATE = "adapter.safetensors", "optimizer.pt", "state.json"


@dataclass(frozen=True)
class Best:
    """The best validation so far: lower WER first, then lower loss."""

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
    bad_audio: int = 0  # windows left out because their audio did not decode
    best: Best | None = None


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    parameters: Mapping[str, nn.Parameter],
    optimizer: Optimizer,
    keep: int,
    scaler: GradScaler | None = None,
) -> Path:
    """Write `folder`/step-NNNNNN and remove all but the last `keep` of them."""
    path = folder / f"step-{state.step:06d}"
    aside = _begin(path)
    _save_tensors(aside / ADAPTER, parameters)
    scaler_state = scaler.state_dict() if scaler is not None else None
    torch.save({"optimizer": optimizer.state_dict(), "scaler": scaler_state}, aside / OPTIMIZER)
    counters = dataclasses.asdict(state)
    del counters["best"]  # its home is best/, which may be of a later step
    _finish(aside, path, counters)
    for old in _complete_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def save_best(folder: Path, best: Best, parameters: Mapping[str, nn.Parameter]) -> None:
    """Write `folder`/best, replacing an earlier one."""
    path = folder / "best"
    aside = _begin(path)
    _save_tensors(aside / ADAPTER, parameters)
    _finish(aside, path, dataclasses.asdict(best))


def latest_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint in `folder`, or None."""
    return next(iter(reversed(_complete_checkpoints(folder))), None)


def load_checkpoint(
    path: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: Optimizer,
    scaler: GradScaler | None = None,
) -> TrainingState:
    """Set adapter, optimizer and loss scaler to what they were; return how far the run was."""
    load_parameters(path, parameters)
    states = torch.load(path / OPTIMIZER, weights_only=True, map_location="cpu")
    optimizer.load_state_dict(states["optimizer"])
    if scaler is not None and states["scaler"] is not None:
        scaler.load_state_dict(states["scaler"])
    return TrainingState(**read_json(path / STATE), best=saved_best(path.parent))


def saved_best(folder: Path) -> Best | None:
    """What `folder`/best holds, if anything was validated yet."""
    path = folder / "best" / STATE
    return Best(**read_json(path)) if path.is_file() else None


def load_parameters(path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Set the adapter's matrices to those of the checkpoint at `path`."""
    saved = load_file(path / ADAPTER)
    assert saved.keys() == parameters.keys(), "the checkpoint is of another adapter"
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


def _complete_checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-??????"))


def _begin(path: Path) -> Path:
    aside = path.with_name(f".{path.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def _save_tensors(path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    save_file({name: value.detach().cpu() for name, value in parameters.items()}, path)


def _finish(aside: Path, path: Path, state: dict[str, object]) -> None:
    """Sync every file, then give the folder its name: the rename is what makes it a checkpoint."""
    write_json(aside / STATE, state)
    for file in aside.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    if path.exists():
        shutil.rmtree(path)  # a folder cannot be renamed onto a full one
    os.rename(aside, path)
