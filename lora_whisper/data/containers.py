"""Sound out of every container that ffmpeg's libraries read, through PyAV.

What is read is placed by its timestamps, counted from the beginning of the file. A slice is found
by seeking to a moment before it, since a decoder needs some sound to settle; where the container's
index leads too far, a second attempt goes back further, and a third reads from the beginning.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import av
import numpy as np
from av import AudioFrame, AudioStream
from av.audio.plane import AudioPlane
from av.container import InputContainer
from av.stream import Discard

from lora_whisper.data.file_ends import OPUS_RATE

PathOrBytes = str | bytes  # a path, or the file itself
P = ParamSpec("P")
T = TypeVar("T")
OfSource = Callable[Concatenate[PathOrBytes, P], T]

SETTLING_SECONDS = 0.2  # Opus asks for 0.08 s (RFC 7845), MP3's bit reservoir for up to 0.13 s
SEEK_BACK_SECONDS = (1.0, 10.0)  # WebM's clusters are 5 s long and more
JUMP_TOLERANCE_SECONDS = 0.1  # of timestamps; beyond it, something is missing
LATEST_BEGINNING_SECONDS = 10.0  # of the sound in a film: what precedes it becomes silence

# Those of one recording. Not among them are playlists, which name other files and addresses.
DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,loas,matroska,mov,mp3,"
    "mpeg,mpegts,ogg,tta,w64,wav,wv"
)
# Of others the length is a guess from the first packets' bit rate (an AMR of 10.0 s: 10.3 s).
STATE_THEIR_LENGTH = {"asf", "avi", "caf", "flac", "flv", "matroska", "mov", "mpegts", "ogg", "wav"}

SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}

# What reading raises; IndexError is PyAV's for a stream that appears midway.
READING_ERRORS = (av.FFmpegError, IndexError)


# Of the power that the mean of unlike channels has. Below it, two equally loud channels correlate
# by less than -0.8: what they have in common, which is the speech, is lost in their mean.
CANCELLING_SHARE = 0.2
AUDIBLE_SHARE = 0.5  # of the loudest channel's power; the first one that has so much stands in


def cached_by_file(most: int) -> Callable[[OfSource[P, T]], OfSource[P, T]]:
    """Keep `most` answers of a function of a source, each as long as its file stays the same.

    Of files inside a data set nothing is kept.
    """

    def decorated(function: OfSource[P, T]) -> OfSource[P, T]:
        @lru_cache(maxsize=most)
        def of_file(state: tuple[int, int], path: str, *more: P.args, **named: P.kwargs) -> T:
            return function(path, *more, **named)

        @wraps(function)
        def of_source(source: PathOrBytes, *more: P.args, **named: P.kwargs) -> T:
            if isinstance(source, bytes):
                return function(source, *more, **named)
            stat = os.stat(source)
            state = stat.st_mtime_ns, stat.st_size
            return of_file(state, source, *more, **named)  # type: ignore[arg-type]

        return of_source

    return decorated


class Damaged(Exception):
    """The sound of a file is missing, unreadable or incomplete; says what was found."""


@dataclass(frozen=True)
class OpenSound:
    """The sound of an open file; positions are seconds from the beginning of the file."""

    container: InputContainer
    stream: AudioStream
    tick_seconds: float  # the unit of the stream's timestamps
    origin_seconds: float  # not 0 in what was cut out of a broadcast, or with an encoder's delay

    def seconds(self, timestamp: int) -> float:
        """Where a timestamp of the stream lies."""
        return timestamp * self.tick_seconds - self.origin_seconds

    def seek(self, seconds: float) -> None:
        timestamp = int((seconds + self.origin_seconds) / self.tick_seconds)
        self.container.seek(timestamp, stream=self.stream)


@contextmanager
def opened(source: PathOrBytes) -> Iterator[OpenSound]:
    """Open the sound that a player would choose; the other streams are skipped.

    Raises:
        Damaged: what ffmpeg does not read, or what has no sound.
    """
    options = {"format_whitelist": DEMUXERS}
    try:
        with (
            _file(source) as file,
            av.open(file, "r", options=options, metadata_errors="replace") as container,
        ):
            stream = container.streams.best("audio")
            if not isinstance(stream, AudioStream) or stream.time_base is None:
                raise Damaged("holds no sound")
            if stream.codec_context is None:
                raise Damaged("holds sound in a codec that is not known")
            for other in container.streams:
                if other is not stream:
                    other.discard = Discard.all
            origin_seconds = (container.start_time or 0) / av.time_base
            if container.format.name == "ogg" and origin_seconds > JUMP_TOLERANCE_SECONDS:
                raise Damaged(f"begins at {origin_seconds:.2f} s; what was before is missing")
            yield OpenSound(container, stream, float(stream.time_base), origin_seconds)
    except (*READING_ERRORS, UnicodeError) as error:
        raise Damaged(f"does not decode ({reason(error)})") from None


def _file(source: PathOrBytes) -> AbstractContextManager[Any]:
    """What PyAV opens: an address that can only be a file's, or the file where it cannot write it.

    (Its paths are UTF-8; those of a disk that was written elsewhere need not be.)
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    is_utf8 = not any("\ud800" <= letter <= "\udfff" for letter in source)
    return nullcontext(f"file:{source}") if is_utf8 else open(os.open(source, os.O_RDONLY), "rb")


def read_length(source: PathOrBytes) -> tuple[int, float, bool, int | None]:
    """Sampling rate, seconds, whether samples are stored as floats, and `opus_input_rate`.

    Nothing is decoded.

    Raises:
        Damaged: not read, without sound, or of a length that cannot be found.
    """
    with opened(source) as sound:
        rate, codec = sound.stream.rate, sound.stream.codec_context
        sample_format = codec.format.name if codec.format else ""
        are_floats = codec.name.startswith("pcm_f") or (
            codec.name == "wavpack" and sample_format.startswith("flt")
        )
        seconds, original_rate = _stated_seconds(sound), opus_input_rate(codec.extradata or b"")
    if seconds is None:
        seconds = _counted_seconds(source)
    return rate, seconds, are_floats, original_rate


def opus_input_rate(head: bytes) -> int | None:
    """The rate of what was encoded, 0 where nobody stated it; None of what is no head of Opus.

    Opus is decoded at 48 kHz, whatever went in (RFC 7845, 5.1).
    """
    return int.from_bytes(head[12:16], "little") if head.startswith(b"OpusHead") else None


def _stated_seconds(sound: OpenSound) -> float | None:
    """The length that the container states, where its format can be believed."""
    names = set(sound.container.format.name.split(","))
    stream, container = sound.stream, sound.container
    in_fragments = "mov" in names and not stream.frames  # its header knows only of the first
    # Only an encoder's tag states how much silence it put before the sound, and the length.
    tagged = "mp3" in names and (stream.start_time or 0) > 0
    if in_fragments or not (tagged or names & STATE_THEIR_LENGTH):
        return None
    head, delay_seconds = stream.codec_context.extradata or b"", 0.0
    if head.startswith(b"OpusHead"):  # what its decoder leaves out, and ffmpeg counts
        delay_seconds = int.from_bytes(head[10:12], "little") / OPUS_RATE  # RFC 7845, 5.1
    if stream.duration is not None:
        return sound.seconds((stream.start_time or 0) + stream.duration) - delay_seconds
    others = len(container.streams) > 1  # a film's length need not be that of its sound
    if others or container.duration is None:
        return None
    return container.duration / av.time_base - delay_seconds


@cached_by_file(256)  # a thousand subtitles ask for the length of one film
def _counted_seconds(source: PathOrBytes) -> float:
    """The end of the last packet: all are read, and none is decoded."""
    with opened(source) as sound:
        ends = (
            sound.seconds(packet.pts + (packet.duration or 0))
            for packet in sound.container.demux(sound.stream)
            if packet.pts is not None
        )
        seconds = max(ends, default=0.0)
    if seconds <= 0:
        raise Damaged("no samples")
    return seconds


def decode(
    source: PathOrBytes, start_seconds: float, end_seconds: float | None, mix: Mixer | None = None
) -> tuple[np.ndarray, int]:
    """Decode a slice to (samples,) float32, mixed to one channel, at the file's own rate.

    It ends with the file where that is shorter; None stands for the end of the file.

    Raises:
        Damaged: the slice does not decode, or has holes.
    """
    mix = mix or Mixer()
    attempts = [back for back in SEEK_BACK_SECONDS if back < start_seconds]
    for back in (*attempts, math.inf):
        with opened(source) as sound:
            frames = _frames(sound, max(start_seconds - back, 0.0))
            first = next(frames, None)
            settles = (
                first is not None
                and first.pts is not None
                and sound.seconds(first.pts) + SETTLING_SECONDS <= start_seconds
            )
            if settles or back == math.inf:
                begun = [] if first is None else [first]
                pieces = itertools.chain(begun, frames)
                return _cut(sound, pieces, start_seconds, end_seconds, mix)
    raise AssertionError("the last attempt reads from the beginning")


def _frames(sound: OpenSound, from_seconds: float) -> Iterator[AudioFrame]:
    """What is decoded from a moment on; the errors of the decoder say where they stand."""
    reached = from_seconds
    try:
        if from_seconds > 0:
            sound.seek(from_seconds)
        for frame in sound.container.decode(sound.stream):
            if frame.pts is not None:
                reached = sound.seconds(frame.pts) + frame.samples / frame.sample_rate
            yield frame
    except READING_ERRORS as error:
        raise Damaged(f"cut off or damaged at {reached:.2f} s ({reason(error)})") from None


def _cut(
    sound: OpenSound,
    frames: Iterator[AudioFrame],
    start_seconds: float,
    end_seconds: float | None,
    mix: Mixer,
) -> tuple[np.ndarray, int]:
    """The samples between two moments out of frames that begin before them; and their rate."""
    pieces: list[np.ndarray] = []
    rate, begin, end = sound.stream.rate, 0, 0  # of what is in `pieces`, in samples
    for frame in frames:
        if not pieces:
            rate = frame.sample_rate  # AAC's header may state half of it
            begin = end = _position(sound, frame, 0)
        # Frames follow each other. Timestamps in milliseconds, and Vorbis's, are off by a little.
        if frame.sample_rate != rate:
            found = f"changes from {rate} to {frame.sample_rate} Hz"
            raise Damaged(f"{found} at {end / rate:.2f} s")
        if frame.is_corrupt:
            raise Damaged(f"damaged at {end / rate:.2f} s")
        jump_seconds = (_position(sound, frame, end) - end) / rate
        if abs(jump_seconds) > JUMP_TOLERANCE_SECONDS:
            raise Damaged(f"jumps by {jump_seconds:+.2f} s at {end / rate:.2f} s")
        pieces.append(mix.mono(_channels(frame)))
        end += frame.samples
        if end_seconds is not None and end >= round(end_seconds * rate):
            break
    start = round(start_seconds * rate)
    first = min(begin, start)  # sample of the file with which `samples` begins
    if begin - start > LATEST_BEGINNING_SECONDS * rate:
        raise Damaged(f"has no sound before {begin / rate:.2f} s")
    silence = np.zeros(max(begin - start, 0), dtype=np.float32)  # before the sound of a film
    samples = np.concatenate([silence, *pieces])
    last = end if end_seconds is None else round(end_seconds * rate)
    return samples[start - first : max(last - first, 0)], rate


def _position(sound: OpenSound, frame: AudioFrame, otherwise: int) -> int:
    """The sample of the file with which a frame begins."""
    if frame.pts is None:
        return otherwise
    return round(sound.seconds(frame.pts) * frame.sample_rate)


def _channels(frame: AudioFrame) -> np.ndarray:
    """(channels, samples) float32 in -1 … 1 of a frame.

    Not by PyAV's `to_ndarray` nor its `planes`, which count the planes up to a null pointer. FFmpeg
    puts none behind them: with 8 channels PyAV 18 goes on into the fields that follow, with more
    past the end of the list, and the process dies (SIGSEGV).
    """
    name, count = frame.format.name, frame.layout.nb_channels
    try:
        dtype = np.dtype(SAMPLE_TYPES[name.removesuffix("p")])
    except KeyError:
        raise Damaged(f"has samples of a kind that is not read ({name})") from None
    if not count:
        raise Damaged("has no channels")
    if frame.format.is_planar:
        values = np.stack([_plane(frame, one, dtype, frame.samples) for one in range(count)])
    else:
        values = _plane(frame, 0, dtype, count * frame.samples).reshape(-1, count).T
    if dtype.kind == "f":
        return values.astype(np.float32)
    full_scale = 2.0 ** (8 * dtype.itemsize - 1)
    middle = full_scale if dtype.kind == "u" else 0.0  # silence, in unsigned integers
    return ((values - middle) / full_scale).astype(np.float32)


def _plane(frame: AudioFrame, index: int, dtype: np.dtype, count: int) -> np.ndarray:
    plane: Any = AudioPlane(frame, index)
    return np.frombuffer(plane, dtype, count)


def reason(error: Exception) -> str:
    """The library's own words, without the path that they put beside them."""
    words = getattr(error, "strerror", None) or str(error).rpartition(": ")[2]
    return (words or "unknown reason").rstrip(". ")


# ── channels ─────────────────────────────────────────────────────────────────────────────────────


class Mixer:
    """Makes one channel of many, a piece at a time; or takes out the one that is given."""

    def __init__(self, channel: int | None = None):
        self.channel = channel
        self._powers = np.zeros(0)  # of each channel, summed over the samples
        self._of_mean = self._of_unlike = 0.0  # the same of the mean, as it is and as expected

    def mono(self, channels: np.ndarray) -> np.ndarray:
        """(channels, samples) float32 → (samples,)."""
        count = len(channels)
        if count == 1:
            return np.asarray(channels[0])
        if self.channel is not None:
            return np.ascontiguousarray(channels[min(self.channel, count - 1)])
        mean: np.ndarray = channels.mean(axis=0, dtype=np.float32)
        powers = np.einsum("cs,cs->c", channels, channels).astype(np.float64)
        if count > len(self._powers):
            self._powers = np.pad(self._powers, (0, count - len(self._powers)))
        self._powers[:count] += powers
        self._of_mean += float(np.dot(mean, mean))
        self._of_unlike += float(powers.sum()) / count**2
        return mean

    @property
    def cancels(self) -> bool:
        """Whether most of what was mixed was lost by it."""
        return self._of_mean < CANCELLING_SHARE * self._of_unlike

    def stand_in(self) -> int:
        """The channel to take instead. Not simply the loudest: that may be another in a slice."""
        return int(np.argmax(self._powers >= AUDIBLE_SHARE * self._powers.max()))
