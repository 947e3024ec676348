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
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, Literal, ParamSpec, TypeVar

import av
import numpy as np
from av import AudioFrame, AudioStream
from av.audio.plane import AudioPlane
from av.container import InputContainer
from av.stream import Discard

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

LONGEST_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # header, segment table, segments (RFC 3533)
UNKNOWN_SIZE = 0x7FFF0000  # what writes into a pipe states nearly 2 or 4 GiB, or nothing
FORGIVEN_BYTES = 64  # a RIFF's padding or header that its writer counted and did not write
FORGIVEN_SHARE = 0.05  # of the stated length; apps that record state some per cent too much
MOST_CHUNKS = 100  # of a WAV, before its sound
PLAIN_TAGS = {1, 3, 6, 7}  # of WAV: integers, floats, A-law and mu-law, read by seeking alone
EXTENSIBLE_TAG = 0xFFFE
OPUS_RATE = 48_000  # of its time stamps, whatever was encoded (RFC 7845)

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


# ── both ends of a file ──────────────────────────────────────────────────────────────────────────

# libsndfile and ffmpeg take a WAV or Ogg file that was cut off for a shorter one; and to open an
# Ogg file costs either ten times as much as to read its first and its last page here. What reads
# a file is decided by what is found here, too.


@dataclass(frozen=True)
class Wave:
    """What a WAV says of its sound (also RF64 and BW64, for more than 4 GB)."""

    tag: int  # how samples are written
    begin_bytes: int  # where they begin
    stated_bytes: int  # how long they are, by the header
    is_empty: bool  # without samples, and not only without their length


@dataclass(frozen=True)
class Ends:
    """Both ends of a file; only an Ogg's last bytes are read, and the chunks of a WAV."""

    head: bytes
    tail: bytes
    size_bytes: int
    wave: Wave | None = None

    @property
    def is_plain(self) -> bool:
        """WAV or FLAC of the kinds that libsndfile reads safely, by seeking, to the sample."""
        if self.head[:4] == b"fLaC":
            return True
        return self.wave is not None and self.wave.tag in PLAIN_TAGS and self.wave.stated_bytes > 0


def read_ends(source: str | bytes) -> Ends:
    if isinstance(source, bytes):
        tail, size_bytes = source[-LONGEST_OGG_PAGE_BYTES:], len(source)
        return Ends(source[:64], tail, size_bytes, _wave(io.BytesIO(source), size_bytes))
    size_bytes = Path(source).stat().st_size
    with open(source, "rb") as file:
        head = file.read(64)
        if not head.startswith(b"OggS"):
            return Ends(head, b"", size_bytes, _wave(file, size_bytes))
        file.seek(max(size_bytes - LONGEST_OGG_PAGE_BYTES, 0))
        return Ends(head, file.read(), size_bytes)


def missing_share(ends: Ends) -> float:
    """How much of a WAV, AIFF or Ogg file its own length says to be missing; 0 for others.

    The end of an Ogg is there or not: how much is missing nobody knows, and counts as all.
    """
    head = ends.head
    if head[:4] == b"OggS":
        return 0.0 if _is_whole(_last_page(ends)) else 1.0
    if head[:4] not in (b"RIFF", b"FORM"):
        stated_sizes = []
    else:
        order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
        stated_sizes = [int.from_bytes(head[4:8], order) + 8]
    if ends.wave is not None:
        stated_sizes.append(ends.wave.begin_bytes + ends.wave.stated_bytes)
    believed = [stated for stated in stated_sizes if stated < UNKNOWN_SIZE]
    stated = max(believed, default=0)
    missing = stated - ends.size_bytes
    return missing / stated if missing > FORGIVEN_BYTES else 0.0


def end_early(ends: Ends) -> bool:
    """Whether a WAV, AIFF or Ogg file lacks its end; False for others."""
    return missing_share(ends) > FORGIVEN_SHARE


def _wave(file: BinaryIO, size_bytes: int) -> Wave | None:
    """The chunks of a WAV up to its sound; None for what is none, or has none."""
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return None
    order: Literal["little", "big"] = "big" if head[:4] == b"RIFX" else "little"
    tag, large = -1, 0
    for _ in range(MOST_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            return None
        stated, begin = int.from_bytes(chunk[4:], order), file.tell()
        if chunk[:4] == b"data":
            is_large = head[:4] in (b"RF64", b"BW64") and stated == 0xFFFFFFFF
            is_empty = stated == 0 and _is_last(file.read(8), order, size_bytes - begin)
            return Wave(tag, begin, large if is_large else stated, is_empty)
        start = file.read(min(stated, 40))
        if chunk[:4] == b"fmt ":
            tag = int.from_bytes(start[:2], order)
            if tag == EXTENSIBLE_TAG:  # the first bytes of its GUID are the tag it stands for
                tag = int.from_bytes(start[24:26], order)
        elif chunk[:4] == b"ds64":
            large = int.from_bytes(start[8:16], "little")
        file.seek(begin + stated + stated % 2)
    return None


def _is_last(chunk: bytes, order: Literal["little", "big"], left_bytes: int) -> bool:
    """Whether nothing is left of a file but the chunk that begins so, or not even that."""
    if left_bytes < 8:
        return True
    stated = 8 + int.from_bytes(chunk[4:], order)
    return chunk[:4].isalnum() and left_bytes - 1 <= stated <= left_bytes


def ogg_length(ends: Ends) -> tuple[int, int] | None:
    """Rate and samples that the last page of an Ogg Opus or Vorbis file states; None for others."""
    page, head = _last_page(ends), ends.head
    packet = head[28:]
    granule = int.from_bytes(page[6:14], "little", signed=True)
    if page[14:18] != head[14:18] or granule < 0:  # of another stream, or in the midst of a packet
        return None
    if packet.startswith(b"OpusHead"):
        return OPUS_RATE, granule - int.from_bytes(packet[10:12], "little")
    if packet.startswith(b"\x01vorbis"):
        return int.from_bytes(packet[12:16], "little"), granule
    return None


def _last_page(ends: Ends) -> bytes:
    """The last page that begins in an Ogg file, and what follows it."""
    begin = ends.tail.rfind(b"OggS\0")
    return ends.tail[begin:] if begin >= 0 else b""


def _is_whole(page: bytes) -> bool:
    """As long as its table of segments says. Only after the very last page, marked as such, may
    something else follow. (Not all that is sent live has a page so marked.)"""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    is_last = bool(page[5] & 4)
    return len(page) == length or (is_last and len(page) > length)


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
