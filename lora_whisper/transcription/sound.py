"""Sound as it is transcribed: files of any length, decoded in pieces, and samples in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lora_whisper.config import Padding
from lora_whisper.data.audio import (
    REMARKS,
    SHORTEST_SECONDS,
    AudioError,
    Header,
    read_header,
    read_sound,
    resample,
)
from lora_whisper.errors import UserError
from lora_whisper.files import room_for
from lora_whisper.model.features import SMALLEST_LOG_POWER, LogMel, content_frames, in_range
from lora_whisper.model.published import HOP_SAMPLES, SAMPLING_RATE

PIECE_SECONDS = 300.0  # decoded at a time: 19 MB, and six times that on the way
HELD_BYTES = 1 << 24  # of a log-mel, in memory: 9 minutes of 80 mel bins. Beyond, on the disk


class Sound(Protocol):
    """A recording."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def seconds(self) -> float:
        """As its header says, or as it is. Raises AudioError."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """What its owner should know; complete when all of it was read."""
        ...

    def slice(self, start_seconds: float, end_seconds: float | None) -> np.ndarray:
        """(samples,) float32 at 16 kHz; None: to its end. Raises AudioError."""
        ...

    def pieces(self) -> Iterator[np.ndarray]:
        """All of it, (samples,) each. Raises AudioError."""
        ...


class FileSound:
    """What stands in a file that libsndfile or ffmpeg reads."""

    def __init__(self, path: Path, name: str | None = None):
        """`name`: where the path is not what it was given as."""
        self.path, self.name = path, name or str(path)
        self._remarks: dict[str, str] = {}

    @cached_property
    def header(self) -> Header:
        try:
            header = read_header(self.path)
        except AudioError as error:
            raise self._named(error) from None
        self._note(header.remarks)
        return header

    @property
    def seconds(self) -> float:
        return self.header.seconds

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(self._remarks.values())

    def slice(self, start_seconds: float, end_seconds: float | None) -> np.ndarray:
        try:
            sound = read_sound(self.path, start_seconds, end_seconds)
        except AudioError as error:
            raise self._named(error) from None
        self._note(sound.remarks)
        return sound.samples

    def pieces(self) -> Iterator[np.ndarray]:
        start = 0.0
        while self.seconds - start > PIECE_SECONDS + SHORTEST_SECONDS:
            yield self.slice(start, start + PIECE_SECONDS)
            start += PIECE_SECONDS
        yield self.slice(start, None)

    def _note(self, remarks: Any) -> None:
        for one in remarks:
            self._remarks[one.kind] = f"{REMARKS[one.kind]} ({one.detail})"

    def _named(self, error: AudioError) -> AudioError:
        return type(error)(str(error).replace(str(self.path), self.name, 1))


@dataclass(frozen=True)
class HeldSound:
    """Samples in memory."""

    samples: np.ndarray  # (samples,) float32 at 16 kHz
    name: str = "the samples"
    remarks: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLING_RATE

    def slice(self, start_seconds: float, end_seconds: float | None) -> np.ndarray:
        end = len(self.samples) if end_seconds is None else round(end_seconds * SAMPLING_RATE)
        return self.samples[round(start_seconds * SAMPLING_RATE) : end]

    def pieces(self) -> Iterator[np.ndarray]:
        yield self.samples


def held_sound(samples: np.ndarray, rate: int = SAMPLING_RATE) -> HeldSound:
    """Samples as a microphone or a library gives them.

    Args:
        samples: (samples,) or (samples, channels), floats in -1 … 1 or whole numbers of full scale.
        rate: samples a second.

    Raises:
        UserError: too few samples, or not of these shapes, or no numbers.
    """
    given = np.asarray(samples)
    if given.ndim not in (1, 2) or given.dtype.kind not in "fiu":
        raise UserError(
            "expected samples as numbers of shape (samples,) or (samples, channels), found "
            f"{given.dtype} of shape {given.shape}."
        )
    mono = given if given.ndim == 1 else given.mean(axis=1, dtype=np.float64)
    if given.dtype.kind != "f":
        limits = np.iinfo(given.dtype)
        middle = 0 if limits.min else (limits.max + 1) / 2
        mono = (mono - middle) / ((limits.max + 1) / (1 if limits.min else 2))
    if not np.isfinite(mono).all():
        raise UserError("the samples are not finite numbers.")
    seconds = len(mono) / rate
    if seconds < SHORTEST_SECONDS:
        raise UserError(f"{seconds:.2f} s of sound, shorter than {SHORTEST_SECONDS} s.")
    return HeldSound(resample(np.ascontiguousarray(mono, dtype=np.float32), rate))


class KeptWindows:
    """The log-mel of a long recording, of which a window is in memory at a time.

    As `LogMel.recording` has it, to the bit: the range of all windows hangs on the loudest spot of
    the recording. So all of it is gone through once, and what is found is kept: in a file without a
    name, where it is long (32 kB a second).
    """

    def __init__(self, features: LogMel, sound: Sound, padding: Padding):
        """Raises AudioError: it does not decode; DiskFull: there is no room."""
        self.features, self.padding = features, padding
        self.window_frames = features.window_samples // HOP_SAMPLES
        self.loudest = torch.tensor(SMALLEST_LOG_POWER)
        self.samples = 0
        self._held: tuple[int, Tensor] | None = None
        # Without a name: it goes with this process, however that ends.
        self._file = tempfile.SpooledTemporaryFile(max_size=HELD_BYTES)  # noqa: SIM115
        with room_for(Path(tempfile.gettempdir())):
            for part in features.log_powers(self._counted(sound)):
                self.loudest = torch.maximum(self.loudest, part.amax().cpu())
                self._file.write(part.T.contiguous().cpu().numpy().tobytes())
        self.frames = content_frames(self.samples)

    def _counted(self, sound: Sound) -> Iterator[Tensor]:
        for piece in sound.pieces():
            self.samples += len(piece)
            yield torch.from_numpy(piece).to(self.features.hann.device)

    def window(self, first_frame: int) -> Tensor:
        """(mel bins, frames of a window); the same object as long as the same one is asked for."""
        if self._held is None or self._held[0] != first_frame:
            self._held = first_frame, self._read(first_frame)
        return self._held[1]

    def _read(self, first_frame: int) -> Tensor:
        bins = len(self.features.filters)
        frame_bytes = 4 * bins
        self._file.seek(first_frame * frame_bytes)
        data = self._file.read(self.window_frames * frame_bytes)
        powers = torch.full((self.window_frames, bins), SMALLEST_LOG_POWER)
        found = torch.from_numpy(np.frombuffer(data, np.float32).reshape(-1, bins).copy())
        powers[: len(found)] = found
        mel = in_range(powers.T.contiguous(), self.loudest)
        if self.padding == "log-mel":
            mel[:, max(self.frames - first_frame, 0) :] = 0.0
        return mel.to(self.features.hann.device)

    def close(self) -> None:
        self._file.close()
