"""What a frozen encoder made of the windows of a source, read in place of their audio.

    encoded.json       what it is of, and the hash of windows.npz
    windows.npz        of each window how much sound it has, of each utterance where it is spoken
    activations.bin    (windows, paddings, positions, width) in 16 bits, as this processor has them

`training.encoder_cache` writes them. They are read and not mapped: pages of a mapped file count as
memory of the process, which would seem to grow for an epoch.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_whisper.config import Padding
from lora_whisper.errors import UserError
from lora_whisper.files import as_written

HEADER, INDEX, ACTIVATIONS = "encoded.json", "windows.npz", "activations.bin"
FORMAT = 1  # raised when what lies there is another thing, or means another


@dataclass(frozen=True, eq=False)
class EncodedWindows:
    """The windows of a source, behind the first layers of the encoder; can be pickled."""

    folder: Path
    layers: int  # behind so many; behind the last one, they are normed
    dtype: torch.dtype  # of 16 bits
    paddings: tuple[Padding, ...]  # each window was encoded with all of these
    shape: tuple[int, int]  # positions, width
    samples: np.ndarray  # (windows,) int64 of sound; 0: it is not in here
    spoken_seconds: np.ndarray  # (utterances, 2) float64, in its window: begin and end of each

    @property
    def window_bytes(self) -> int:
        """Of one window with one padding."""
        return 2 * self.shape[0] * self.shape[1]

    @property
    def total_bytes(self) -> int:
        return len(self.samples) * len(self.paddings) * self.window_bytes

    def place(self, window: int, padding: Padding) -> int:
        """Where it begins in the file of activations, in bytes."""
        number = window * len(self.paddings) + self.paddings.index(padding)
        return number * self.window_bytes

    def read(self, window: int, padding: Padding) -> Tensor:
        """(positions, width) of a window that is in here.

        Raises:
            UserError: what was there is gone or damaged since.
        """
        path, place, count = self.folder / ACTIVATIONS, self.place(window, padding), self.shape
        try:
            values = np.fromfile(path, np.int16, count[0] * count[1], offset=place)
            return torch.from_numpy(values).view(self.dtype).view(self.shape)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{path} cannot be read any more: {error}.\nThe run goes on with resume=auto, "
                "and encodes its windows again if that folder is not there."
            ) from error


def index_bytes(samples: np.ndarray, spoken_seconds: np.ndarray) -> bytes:
    """The content of windows.npz."""
    file = io.BytesIO()
    np.savez(file, samples=samples, spoken_seconds=spoken_seconds)
    return file.getvalue()


def header(of: dict[str, Any], index: bytes) -> dict[str, Any]:
    """The content of encoded.json.

    Args:
        of: all that decides on the activations.
    """
    return {"of": of, "windows_sha256": hashlib.sha256(index).hexdigest()}


def open_encoded(empty: EncodedWindows, of: dict[str, Any]) -> EncodedWindows | None:
    """What lies in its folder, with its windows; None: not there, not of that, or damaged."""
    try:
        written = as_written(empty.folder / HEADER, ("of", "windows_sha256"))
        index = (empty.folder / INDEX).read_bytes()
        size_bytes = (empty.folder / ACTIVATIONS).stat().st_size
    except OSError:
        return None
    if written != header(of, index) or size_bytes != empty.total_bytes:
        return None
    with np.load(io.BytesIO(index)) as arrays:
        known = {name: arrays[name] for name in ("samples", "spoken_seconds")}
    return replace(empty, **known)
