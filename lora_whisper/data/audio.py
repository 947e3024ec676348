"""Audio as Whisper hears it: mono samples at 16 kHz, from any file that libsndfile reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLING_RATE = 16_000  # samples a second, of every Whisper checkpoint
SHORTEST_SECONDS = 0.1  # nobody says anything in less; usually a wrong cut
END_TOLERANCE_SECONDS = 0.1  # rounding by which a slice may end after its file
READABLE = "WAV, FLAC, Ogg, Opus and MP3 are read; ffmpeg converts the rest"
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError)  # the last: headerless .raw files
UNKNOWN_FRAMES = 2**62  # libsndfile's answer for streams that do not say how long they are


class AudioError(Exception):
    """Audio that is missing, unreadable or empty; the message says which file and why."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself, before anything is decoded."""

    rate: int  # samples a second in the file
    frames: int  # samples in one channel

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def read_header(path: Path) -> Header:
    """Read rate and length without decoding.

    Raises:
        AudioError: no such file, no audio that libsndfile reads, or an unknown length.
    """
    try:
        if not path.is_file():
            raise AudioError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        info = soundfile.info(str(path))
    except UNREADABLE as error:
        raise AudioError(f"{path}: does not decode ({_reason(error)}); {READABLE}") from None
    if not 0 < info.frames < UNKNOWN_FRAMES:
        raise AudioError(f"{path}: {'no samples' if info.frames <= 0 else 'of unknown length'}")
    return Header(info.samplerate, info.frames)


def slice_seconds(
    path: Path, header: Header, start_seconds: float | None, end_seconds: float | None
) -> tuple[float, float]:
    """Start and end of what is read; None stands for the beginning and the end of the file.

    Raises:
        AudioError: the slice lies outside the file, or is shorter than a word could be.
    """
    start = start_seconds or 0.0
    end = header.seconds if end_seconds is None else min(end_seconds, header.seconds)
    if end_seconds is not None and end_seconds > header.seconds + END_TOLERANCE_SECONDS:
        raise AudioError(f"{path}: ends at {header.seconds:.2f} s, before {end_seconds:.2f} s")
    if end - start < SHORTEST_SECONDS:
        raise AudioError(
            f"{path}: {max(end - start, 0.0):.2f} s from {start:.2f} s on, "
            f"shorter than {SHORTEST_SECONDS} s"
        )
    return start, end


def read_audio(
    path: Path, start_seconds: float | None = None, end_seconds: float | None = None
) -> np.ndarray:
    """Decode a file, or the slice of it, to (samples,) float32 at 16 kHz.

    Channels are averaged. A slice is found by seeking: hours of audio may stand in one file.

    Raises:
        AudioError: missing, unreadable, cut off, empty or not made of finite numbers.
    """
    header = read_header(path)
    start, end = slice_seconds(path, header, start_seconds, end_seconds)
    first_frame = round(start * header.rate)
    frames = min(round((end - start) * header.rate), header.frames - first_frame)
    try:
        with soundfile.SoundFile(str(path)) as file:
            file.seek(first_frame)
            channels = file.read(frames, dtype="float32", always_2d=True)
    except UNREADABLE as error:
        raise AudioError(f"{path}: does not decode ({_reason(error)})") from None
    if len(channels) < frames:
        found = (first_frame + len(channels)) / header.rate
        raise AudioError(f"{path}: cut off at {found:.2f} s of {header.seconds:.2f} s")
    mono = channels.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds samples that are not finite numbers")
    # Rounding to the file's frames and back must not make a slice longer than it was said to be.
    return resample(mono, header.rate)[: round((end - start) * SAMPLING_RATE)]


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Bring (samples,) float32 from `rate` to 16 kHz, by soxr at high quality."""
    if rate == SAMPLING_RATE:
        return samples
    return np.asarray(soxr.resample(samples, rate, SAMPLING_RATE, quality="HQ"))


def _reason(error: Exception) -> str:
    """The system's or libsndfile's own words, without the path that both put beside them."""
    words = error.strerror if isinstance(error, OSError) else str(error).rpartition(": ")[2]
    return (words or "unknown reason").rstrip(". ")
