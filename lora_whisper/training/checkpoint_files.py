"""One checkpoint: how far a run is, its files, and whether they are what was written.

state.json has the SHA-256 of each file, and of itself.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_of
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from lora_whisper.errors import UserError
from lora_whisper.files import write_json, write_synced, written_whole
from lora_whisper.run_folder import step_of

ADAPTER, OPTIMIZER, STATE = "adapter.safetensors", "optimizer.pt", "state.json"
SHA256, CONFIG_HASH = "sha256", "config_hash"  # keys of state.json


class Damaged(UserError):
    """A checkpoint is not what was written; the message is what is wrong with which file."""


@dataclass(frozen=True)
class Best:
    """A validation: the lower WER is the better one, then the lower loss."""

    step: int
    wer: float
    loss: float

    @property
    def worth(self) -> tuple[float, float]:
        """The lower, the better; what is no number is worse than any."""
        wer, loss = (math.inf if math.isnan(each) else each for each in (self.wer, self.loss))
        return wer, loss

    def is_beaten_by(self, other: Best) -> bool:
        return other.worth < self.worth


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
    metrics_sha256: str = ""  # of metrics.jsonl up to here

    @property
    def validated(self) -> int:
        """The last step whose validation, if it was to have one, is done."""
        return self.step - 1 if self.validation_due else self.step


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def write_checkpoint(
    path: Path,
    state: TrainingState | Best,
    tensors: dict[str, Tensor],
    optimizer: dict[str, Any] | None,
    config_hash: str,
) -> None:
    """Write a folder with the adapter, how far it is, and the optimizer where there is one."""
    with written_whole(path) as aside:
        files = {ADAPTER: safetensors_bytes(tensors)}
        if optimizer is not None:
            buffer = io.BytesIO()  # writing a file itself, PyTorch does not say of a full disk
            torch.save(optimizer, buffer)
            files[OPTIMIZER] = buffer.getvalue()
        for name, data in files.items():
            write_synced(aside / name, data)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        values = dataclasses.asdict(state) | {CONFIG_HASH: config_hash}
        write_json(aside / STATE, values | {SHA256: hashes | {STATE: _hash_of(values, hashes)}})


def copied(value: Any) -> Any:
    """The same nested value with its tensors copied into the computer's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(part) for part in value)
    return value


def _hash_of(values: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """Of state.json, which names the hashes of the others."""
    text = json.dumps([values, {name: hashes[name] for name in hashes if name != STATE}])
    return hashlib.sha256(text.encode()).hexdigest()


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def require_sound(path: Path, is_best: bool) -> None:
    """See that all files of a checkpoint are what was written there.

    Raises:
        Damaged: one is not.
    """
    values = read_values(path)
    _read(path, ADAPTER, values.get(SHA256))
    if is_best:
        read_best(path)
    else:
        _read(path, OPTIMIZER, values.get(SHA256))
        training_state(path, values)


def read_values(path: Path) -> dict[str, Any]:
    """What state.json says; without hashes if an older version wrote it.

    Raises:
        Damaged: it is not what was written, or not in the folder that it was written into.
    """
    data = _read(path, STATE, None)
    try:
        values = json.loads(data)
        hashes = values.get(SHA256)
        own = {key: value for key, value in values.items() if key != SHA256}
        is_sound = hashes is None or hashes[STATE] == _hash_of(own, hashes)
        step = int(values["step"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise Damaged(f"{path.name}/{STATE} is not what was written")
    if step != step_of(path):
        raise Damaged(f"{path.name}/{STATE} is of step {step}, and was copied here")
    return values  # type: ignore[no-any-return]


def training_state(path: Path, values: Mapping[str, Any]) -> TrainingState:
    """Raises Damaged: something else is in there; only where no hash says that it was written."""
    given = {key: value for key, value in values.items() if key not in (CONFIG_HASH, SHA256)}
    best = given.pop("best", None)
    try:
        return TrainingState(**given, best=Best(**best) if best else None)
    except TypeError as error:
        raise Damaged(f"{path.name}/{STATE} is not what was written") from error


def read_best(path: Path) -> Best:
    values = read_values(path)
    try:
        return Best(values["step"], float(values["wer"]), float(values["loss"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path.name}/{STATE} is not what was written") from error


def load_parameters(path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Set the adapter's matrices to those of the checkpoint at `path`.

    Raises:
        Damaged: they are not what was written.
    """
    data = _read(path, ADAPTER, read_values(path).get(SHA256))
    try:
        saved = safetensors_of(data)
    except SafetensorError as error:  # of an older version, which wrote no hashes
        raise Damaged(f"{path.name}/{ADAPTER} cannot be read: {error}") from error
    shapes = {name: value.shape for name, value in saved.items()}
    if shapes != {name: value.shape for name, value in parameters.items()}:
        raise Damaged(f"{path.name}/{ADAPTER} is of another adapter")
    if not all(bool(value.isfinite().all()) for value in saved.values()):
        raise Damaged(f"{path.name}/{ADAPTER} has values that are not finite")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


def read_optimizer(path: Path) -> dict[str, Any]:
    """What the optimizer, and what else has a state, had at the checkpoint at `path`.

    Raises:
        Damaged: it is not what was written.
    """
    pickled = io.BytesIO(_read(path, OPTIMIZER, read_values(path).get(SHA256)))
    kept: dict[str, Any] = torch.load(pickled, weights_only=True, map_location="cpu")
    return kept


def _read(path: Path, name: str, hashes: Mapping[str, str] | None) -> bytes:
    """A file's content.

    Raises:
        Damaged: it is not there, or not what was written.
        UserError: it may not be read.
    """
    try:
        data = (path / name).read_bytes()
    except PermissionError as error:
        raise UserError(
            f"{path / name} may not be read: {error.strerror}.\n"
            "Give yourself the right to (chmod u+rX), and type the same command again."
        ) from error
    except OSError as error:
        is_missing = error.errno == errno.ENOENT
        why = "is missing" if is_missing else f"cannot be read: {error.strerror}"
        raise Damaged(f"{path.name}/{name} {why}") from error
    if hashes is not None and hashes.get(name) != hashlib.sha256(data).hexdigest():
        raise Damaged(f"{path.name}/{name} is not what was written")
    return data
