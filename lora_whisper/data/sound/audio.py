"""Audio as Whisper hears it: mono samples at 16 kHz, from any file that has sound.

Which decoder reads what is decided here, by measurement (a core, real speech): libsndfile reads WAV
and FLAC 6 and 1.1 times as fast as ffmpeg's libraries; those read Opus 2.2 times as fast, find the
length of an MP3 without a tag (libsndfile states 18 s for 10 s), notice holes in an Ogg, and read
everything else.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from lora_whisper.data.sound import containers
from lora_whisper.data.sound.containers import Damaged, Source, reason
from lora_whisper.data.sound.endings import Ends, end_early, ogg_length, read_ends
from lora_whisper.data.utterance import EncodedAudio

SAMPLING_RATE = 16_000  # samples a second, of every Whisper checkpoint
SHORTEST_SECONDS = 0.1  # nobody says anything in less; usually a wrong cut
END_TOLERANCE_SECONDS = 0.1  # rounding by which a slice may end after its file
GRID_SECONDS = 0.04  # whole samples of every usual rate (441 at 11 025 Hz); what the resampler
# hears of both sides of a slice, so that a slice equals a cut of the whole
READABLE = "WAV, FLAC, Ogg, Opus, MP3, M4A, AAC, WebM and MP4 are read; ffmpeg converts the rest"
# TypeError: headerless .raw files; MemoryError: a header that speaks of years.
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError, MemoryError)
UNKNOWN_FRAMES = 2**62  # libsndfile's answer for streams that do not say how long they are


class AudioError(Exception):
    """Audio that is missing, unreadable or empty; the message says which file and why."""


class AudioCutOff(AudioError):
    """Audio whose end is missing."""


class CutOff(Damaged):
    """The same, before the file has its name."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself, before anything is decoded."""

    rate: int  # samples a second in the file
    frames: int  # samples in one channel
    decoder: Literal["libsndfile", "ffmpeg"]  # what reads the samples

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def read_header(audio: Path | EncodedAudio) -> Header:
    """Read rate and length without decoding.

    Raises:
        AudioError: no such file, no sound that can be read, or a file that ends too early.
    """
    with _named(audio):
        return _header(_source(audio))


def slice_seconds(
    audio: Path | EncodedAudio,
    header: Header,
    start_seconds: float | None,
    end_seconds: float | None,
) -> tuple[float, float]:
    """Start and end of what is read; None stands for the beginning and the end of the file.

    Raises:
        AudioError: the slice lies outside the file, or is shorter than a word could be.
    """
    start = start_seconds or 0.0
    end = header.seconds if end_seconds is None else min(end_seconds, header.seconds)
    with _named(audio):
        if end_seconds is not None and end_seconds > header.seconds + END_TOLERANCE_SECONDS:
            raise Damaged(f"ends at {header.seconds:.2f} s, before {end_seconds:.2f} s")
        if end - start < SHORTEST_SECONDS:
            raise Damaged(
                f"{max(end - start, 0.0):.2f} s from {start:.2f} s on, "
                f"shorter than {SHORTEST_SECONDS} s"
            )
    return start, end


def read_audio(
    audio: Path | EncodedAudio,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> np.ndarray:
    """Decode a file, or the slice of it, to (samples,) float32 at 16 kHz.

    Channels are averaged. A slice is found by seeking: hours of audio may stand in one file.

    Raises:
        AudioError: missing, unreadable, cut off, empty or not made of finite numbers.
    """
    with _named(audio):
        source = _source(audio)
        header = _header(source)
        start, end = slice_seconds(audio, header, start_seconds, end_seconds)
        first = max(math.floor(start / GRID_SECONDS) - 1, 0) * GRID_SECONDS
        last = min(end + GRID_SECONDS, header.seconds)
        decode = _by_libsndfile if header.decoder == "libsndfile" else _by_ffmpeg
        mono, rate = decode(source, header, first, last)
        if not np.isfinite(mono).all():
            raise Damaged("holds samples that are not finite numbers")
    offset = round((start - first) * SAMPLING_RATE)
    # Rounding to the file's frames and back must not make a slice longer than it was said to be.
    return resample(mono, rate)[offset : offset + round((end - start) * SAMPLING_RATE)]


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Bring (samples,) float32 from `rate` to 16 kHz, by soxr at high quality."""
    if rate == SAMPLING_RATE:
        return samples
    return np.asarray(soxr.resample(samples, rate, SAMPLING_RATE, quality="HQ"))


@contextmanager
def _named(audio: Path | EncodedAudio) -> Iterator[None]:
    """Say which file it is that has a fault."""
    name = audio.name if isinstance(audio, EncodedAudio) else audio
    try:
        yield
    except CutOff as error:
        raise AudioCutOff(f"{name}: {error}") from None
    except Damaged as error:
        raise AudioError(f"{name}: {error}") from None
    except UNREADABLE as error:
        raise AudioError(f"{name}: does not decode ({reason(error)})") from None


def _source(audio: Path | EncodedAudio) -> Source:
    """The path of a file that exists, or the bytes of one inside a data set."""
    if isinstance(audio, EncodedAudio):
        return audio.load()
    if not audio.is_file():
        raise Damaged("not a file" if audio.exists() else "no such file")
    return str(audio)


def _header(source: Source) -> Header:
    ends = read_ends(source)
    header = _stated_header(source, ends)
    if end_early(ends):
        raise CutOff(f"cut off at {header.seconds:.2f} s; its end is missing")
    if header.frames <= 0:
        raise Damaged("no samples")
    return header


def _stated_header(source: Source, ends: Ends) -> Header:
    """What a whole Ogg file says itself; else by libsndfile where that is right, else by ffmpeg."""
    length = None if end_early(ends) else ogg_length(ends)
    if length is not None and length[0] > 0:
        return Header(*length, "ffmpeg")
    try:
        info = soundfile.info(_for_libsndfile(source))
    except UNREADABLE:
        return _header_by_ffmpeg(source)
    if info.format in ("OGG", "MP3") or info.frames >= UNKNOWN_FRAMES:
        return _header_by_ffmpeg(source)
    return Header(info.samplerate, info.frames, "libsndfile")


def _header_by_ffmpeg(source: Source) -> Header:
    try:
        rate, seconds = containers.read_length(source)
    except Damaged as error:
        raise Damaged(f"{error}; {READABLE}") from None
    return Header(rate, round(seconds * rate), "ffmpeg")


def _by_libsndfile(
    source: Source, header: Header, start_seconds: float, end_seconds: float
) -> tuple[np.ndarray, int]:
    """A slice as (samples,) at the file's rate; and the rate."""
    first_frame = round(start_seconds * header.rate)
    frames = min(round((end_seconds - start_seconds) * header.rate), header.frames - first_frame)
    with soundfile.SoundFile(_for_libsndfile(source)) as file:
        file.seek(first_frame)
        channels = file.read(frames, dtype="float32", always_2d=True)
    if len(channels) < frames:
        found = (first_frame + len(channels)) / header.rate
        raise CutOff(f"cut off at {found:.2f} s of {header.seconds:.2f} s")
    return channels.mean(axis=1), header.rate


def _by_ffmpeg(
    source: Source, header: Header, start_seconds: float, end_seconds: float
) -> tuple[np.ndarray, int]:
    """The same. What reaches to the end is decoded to the end, which may not be as stated."""
    whole = end_seconds >= header.seconds
    mono, rate = containers.decode(source, start_seconds, None if whole else end_seconds)
    found = start_seconds + len(mono) / rate
    if found < end_seconds - END_TOLERANCE_SECONDS:
        raise CutOff(f"cut off at {found:.2f} s of {header.seconds:.2f} s")
    if found > end_seconds + END_TOLERANCE_SECONDS:
        raise Damaged(f"goes on to {found:.2f} s, where its header says {header.seconds:.2f} s")
    return mono, rate


def _for_libsndfile(source: Source) -> str | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source
