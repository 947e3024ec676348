"""Audio as Whisper hears it: mono samples at 16 kHz, from any file that has sound.

Which decoder reads what is decided here, by measurement (a core, real speech): libsndfile reads WAV
and FLAC 6 and 1.1 times as fast as ffmpeg's libraries; those read Opus 2.2 times as fast, find the
length of an MP3 without a tag (libsndfile states 18 s for 10 s), notice holes in an Ogg, and read
everything else.

Plain WAV and FLAC are read in this process. Whatever else there is, is read in another one
(`isolation`): a decoder that crashes or hangs costs the file that it was given, which is named.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from lora_whisper.data import containers
from lora_whisper.data.containers import Damaged, Mixer, PathOrBytes, cached_by_file, reason
from lora_whisper.data.file_ends import (
    UNKNOWN_SIZE,
    Ends,
    end_early,
    missing_share,
    ogg_length,
    read_ends,
)
from lora_whisper.data.isolation import Allow, Answer, Crashed, Fields, Pool, TookTooLong
from lora_whisper.data.isolation import serve as serve_requests
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.stand_ins import stand_in

SHORTEST_SECONDS = 0.1  # nobody says anything in less; usually a wrong cut
END_TOLERANCE_SECONDS = 0.1  # rounding by which a slice may end after its file
GRID_SECONDS = 0.04  # whole samples of every usual rate (441 at 11 025 Hz); what the resampler
# hears of both sides of a slice, so that a slice equals a cut of the whole
SLOWEST_RATE, FASTEST_RATE = 2_000, 1_000_000  # beyond them a header is wrong: at 1 Hz, 200 kB of
# samples would be a day, and 6 GB at 16 kHz
LONGEST_HOURS = 24.0  # of one file
LONGEST_READ_HOURS = 6.0  # of what is decoded in one piece: 1.4 GB at 16 kHz
BLOCK_SAMPLES = 1 << 20  # of all channels, that libsndfile reads at a time
READABLE = "WAV, FLAC, Ogg, Opus, MP3, M4A, AAC, WebM and MP4 are read; ffmpeg converts the rest"
# TypeError: headerless .raw files; MemoryError: a header that speaks of years.
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError, MemoryError)
UNKNOWN_FRAMES = 2**62  # libsndfile's answer for streams that do not say how long they are

# What a decoder of foreign files may take: processor time, and memory beyond what it began with.
HEADER_SECONDS, LONGEST_HEADER_SECONDS = 10.0, 60.0
HEADER_BYTES_A_SECOND = 20e6  # where all packets must be read to know the length; usually 10 ×
LEAST_SPEED = 10.0  # times real time; 8 channels of AAC take 50 ×, Opus 300 ×
LEAST_BYTES = 1e9
COPIES = 5  # of the samples, in float32 at the file's rate: pieces, joined, cut, resampled


# libsndfile counts down from 160 kbit/s. This level is 24: 3 kB a second, in 9 ms on one core.
MP3_COMPRESSION_LEVEL = 0.9
LONGEST_MP3_SECONDS = 60.0

REMARKS = {
    "short": "up to 5 % shorter than the header states; read as far as there is sound",
    "unstated": "with no length in the header; read to the end of the file",
    "cancelling": "with channels that cancel each other; read from one of them",
    "beyond_scale": "with samples beyond full scale; turned down as a whole",
}


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """An encoded audio file that lies inside a data set, and not in the file system."""

    name: str  # for messages: "google/fleurs train:17"
    load: Callable[[], bytes]  # picklable, so that loader workers can call it


class AudioError(Exception):
    """Audio that is missing, unreadable or empty; the message says which file and why."""


class AudioCutOff(AudioError):
    """Audio whose end is missing."""


class AudioGivenUp(AudioError):
    """Audio whose decoder took too long, or died: another time it may not."""


class GivenUp(Damaged):
    """The decoder took too long, or died."""


class CutOff(Damaged):
    """The same, before the file has its name."""


@dataclass(frozen=True)
class Remark:
    """Something about a file that was read all the same, and that its owner should know."""

    kind: str  # in REMARKS
    detail: str


@dataclass(frozen=True)
class Header:
    """What a file says of itself, before anything is decoded."""

    rate: int  # samples a second in the file
    frames: int  # samples in one channel
    decoder: Literal["libsndfile", "ffmpeg"]  # what reads the samples
    are_floats: bool = False  # samples are stored as numbers that may go beyond full scale
    original_rate: int | None = None  # as Opus states it, of what was encoded; 0: it does not
    remarks: tuple[Remark, ...] = ()

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


@dataclass(frozen=True)
class DecodedAudio:
    """The sound of a file or a slice, and what there is to say of it."""

    samples: np.ndarray  # (samples,) float32 at 16 kHz
    remarks: tuple[Remark, ...] = ()


def read_header(audio: Path | EncodedAudio) -> Header:
    """Read rate and length without decoding.

    Raises:
        AudioError: no such file, no sound that can be read, or a file that ends too early.
    """
    with _named(audio):
        source = _source(audio)
        if header := _own_header(source):
            return header
        fields, _ = _asked({"what": "header"}, source)
        return Header(**fields | {"remarks": _remarks(fields)})


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
    with _named(audio):
        return _slice(header, start_seconds, end_seconds)


def read_audio(
    audio: Path | EncodedAudio,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> np.ndarray:
    """The samples of `read_sound`, (samples,) float32 at 16 kHz."""
    return read_sound(audio, start_seconds, end_seconds).samples


def read_sound(
    audio: Path | EncodedAudio,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> DecodedAudio:
    """Decode a file, or the slice of it.

    Channels are averaged, but for those that cancel each other: then it is one of them. Stored
    floats beyond full scale are turned down by what the whole file needs. A slice is found by
    seeking: hours of audio may stand in one file.

    Raises:
        AudioError: missing, unreadable, cut off, empty or not made of finite numbers.
    """
    with _named(audio):
        source = _source(audio)
        header = _own_header(source)
        if header is not None and header.decoder == "libsndfile":
            return _read(source, header, start_seconds, end_seconds)
        request = {"what": "sound", "start_seconds": start_seconds, "end_seconds": end_seconds}
        fields, samples = _asked(request, source)
        assert samples is not None
        return DecodedAudio(samples, _remarks(fields))


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
    except GivenUp as error:
        raise AudioGivenUp(f"{name}: {error}") from None
    except Damaged as error:
        raise AudioError(f"{name}: {error}") from None
    except UNREADABLE as error:
        raise AudioError(f"{name}: does not decode ({reason(error)})") from None


def _source(audio: Path | EncodedAudio) -> PathOrBytes:
    """The path of a file that exists, or the bytes of one inside a data set."""
    if isinstance(audio, EncodedAudio):
        return audio.load()
    if not audio.is_file():
        raise Damaged("not a file" if audio.exists() else "no such file")
    return str(audio)


# ── headers ──────────────────────────────────────────────────────────────────────────────────


def _own_header(source: PathOrBytes) -> Header | None:
    """The header of what needs no foreign decoder to read it: plain WAV, FLAC, Ogg."""
    ends = read_ends(source)
    if not ends.size_bytes:
        raise Damaged("does not decode (the file is empty)")
    if problem := stand_in(source if isinstance(source, str) else "*", ends.head):
        raise Damaged(problem)
    length = None if end_early(ends) else ogg_length(ends)
    if length is not None and length[0] > 0:
        original_rate = containers.opus_input_rate(ends.head[28:])
        return _checked(Header(*length, "ffmpeg", original_rate=original_rate), ends)
    if not ends.is_plain:
        return None
    header = _header_by_libsndfile(source)
    return None if header is None else _checked(header, ends)


def _foreign_header(source: PathOrBytes) -> Header:
    """The header of anything else, by libsndfile where that is right, and else by ffmpeg."""
    ends = read_ends(source)
    if ends.wave is not None and ends.wave.is_empty:
        raise Damaged("no samples")
    header = None if ends.wave is not None else _header_by_libsndfile(source)
    if header is None:
        try:
            rate, seconds, are_floats, original_rate = containers.read_length(source)
        except Damaged as error:
            raise Damaged(f"{error}; {READABLE}") from None
        header = Header(rate, round(seconds * rate), "ffmpeg", are_floats, original_rate)
    return _checked(header, ends)


def _header_by_libsndfile(source: PathOrBytes) -> Header | None:
    """None for what it does not read, or not as it should."""
    try:
        with soundfile.SoundFile(_for_libsndfile(source)) as file:
            is_reliable = file.format not in ("OGG", "MP3") and file.seekable()
            if not is_reliable or file.frames >= UNKNOWN_FRAMES:
                return None
            are_floats = file.subtype in ("FLOAT", "DOUBLE")
            return Header(file.samplerate, file.frames, "libsndfile", are_floats)
    except UNREADABLE:
        return None


def _checked(header: Header, ends: Ends) -> Header:
    """The same with remarks, if it can be true."""
    if not SLOWEST_RATE <= header.rate <= FASTEST_RATE:
        raise Damaged(
            f"states a rate of {header.rate:,} Hz; "
            f"from {SLOWEST_RATE:,} to {FASTEST_RATE:,} Hz are read"
        )
    share = missing_share(ends)
    if end_early(ends):
        raise CutOff(f"cut off at {header.seconds:.2f} s; its end is missing")
    if header.frames <= 0:
        raise Damaged("no samples")
    if header.seconds > LONGEST_HOURS * 3600:
        hours = header.seconds / 3600
        raise Damaged(f"states {hours:,.1f} hours; up to {LONGEST_HOURS:g} are read. Cut it up")
    remarks = []
    if share:
        remarks.append(Remark("short", f"{100 * share:.1f} % of what its header states is missing"))
    if ends.wave is not None and not 0 < ends.wave.stated_bytes < UNKNOWN_SIZE:
        remarks.append(Remark("unstated", f"lasts {header.seconds:.2f} s"))
    return replace(header, remarks=tuple(remarks))


# ── samples ──────────────────────────────────────────────────────────────────────────────────


def _slice(
    header: Header, start_seconds: float | None, end_seconds: float | None
) -> tuple[float, float]:
    start = start_seconds or 0.0
    end = header.seconds if end_seconds is None else min(end_seconds, header.seconds)
    if end_seconds is not None and end_seconds > header.seconds + END_TOLERANCE_SECONDS:
        raise Damaged(f"ends at {header.seconds:.2f} s, before {end_seconds:.2f} s")
    if end - start < SHORTEST_SECONDS:
        raise Damaged(
            f"{max(end - start, 0.0):.2f} s from {start:.2f} s on, "
            f"shorter than {SHORTEST_SECONDS} s"
        )
    return start, end


def _read(
    source: PathOrBytes, header: Header, start_seconds: float | None, end_seconds: float | None
) -> DecodedAudio:
    """Decode in this process."""
    start, end = _slice(header, start_seconds, end_seconds)
    if end - start > LONGEST_READ_HOURS * 3600:
        raise Damaged(
            f"{(end - start) / 3600:.1f} hours in one piece; "
            f"up to {LONGEST_READ_HOURS:g} are decoded. Give its parts start and end"
        )
    first = max(math.floor(start / GRID_SECONDS) - 1, 0) * GRID_SECONDS
    last = min(end + GRID_SECONDS, header.seconds)
    mono, rate, remarks = _mixed(source, header, first, last)
    if not np.isfinite(mono).all():
        raise Damaged("holds samples that are not finite numbers")
    if header.are_floats:
        peak = _peak(mono) if (first, last) == (0.0, header.seconds) else _peak_of(source, header)
        if peak > 1.0:
            mono = mono / np.float32(peak)
            remarks += (Remark("beyond_scale", f"its peak is {peak:,.2f}"),)
    offset = round((start - first) * SAMPLING_RATE)
    # Rounding to the file's frames and back must not make a slice longer than it was said to be.
    samples = resample(mono, rate)[offset : offset + round((end - start) * SAMPLING_RATE)]
    return DecodedAudio(samples, header.remarks + remarks)


def _mixed(
    source: PathOrBytes, header: Header, first_seconds: float, last_seconds: float
) -> tuple[np.ndarray, int, tuple[Remark, ...]]:
    """One channel as (samples,) at the file's rate; the rate; and how it came about."""
    by = _by_libsndfile if header.decoder == "libsndfile" else _by_ffmpeg
    decode = partial(by, source, header, first_seconds, last_seconds)
    mix = Mixer()
    mono, rate = decode(mix)
    if not mix.cancels:
        return mono, rate, ()
    channel = mix.stand_in()
    mono, rate = decode(Mixer(channel))
    return mono, rate, (Remark("cancelling", f"channel {channel + 1} is taken"),)


def _peak(samples: np.ndarray) -> float:
    """The largest finite one; 0 where there is none."""
    sizes = np.abs(samples)
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


@cached_by_file(65_536)
def _peak_of(source: PathOrBytes, header: Header) -> float:
    """The same of a whole file, so that all slices of it are turned down alike."""
    step = 600.0  # seconds, of which the samples are held at once
    starts = np.arange(0.0, header.seconds, step)
    return max(
        _peak(_mixed(source, header, start, min(start + step, header.seconds))[0])
        for start in starts.tolist()
    )


def _by_libsndfile(
    source: PathOrBytes, header: Header, start_seconds: float, end_seconds: float, mix: Mixer
) -> tuple[np.ndarray, int]:
    """A slice as (samples,) at the file's rate; and the rate."""
    first_frame = round(start_seconds * header.rate)
    frames = min(round((end_seconds - start_seconds) * header.rate), header.frames - first_frame)
    pieces, missing = [np.zeros(0, np.float32)], frames
    with soundfile.SoundFile(_for_libsndfile(source)) as file:
        file.seek(first_frame)
        block_frames = max(BLOCK_SAMPLES // file.channels, 1)
        while missing:
            channels = file.read(min(missing, block_frames), dtype="float32", always_2d=True)
            if not len(channels):
                reached_seconds = (first_frame + frames - missing) / header.rate
                raise CutOff(f"cut off at {reached_seconds:.2f} s of {header.seconds:.2f} s")
            pieces.append(mix.mono(channels.T))
            missing -= len(channels)
    return np.concatenate(pieces), header.rate


def _by_ffmpeg(
    source: PathOrBytes, header: Header, start_seconds: float, end_seconds: float, mix: Mixer
) -> tuple[np.ndarray, int]:
    """The same. What reaches to the end is decoded to the end, which may not be as stated."""
    whole = end_seconds >= header.seconds
    mono, rate = containers.decode(source, start_seconds, None if whole else end_seconds, mix)
    reached_seconds = start_seconds + len(mono) / rate
    if reached_seconds < end_seconds - END_TOLERANCE_SECONDS:
        raise CutOff(f"cut off at {reached_seconds:.2f} s of {header.seconds:.2f} s")
    if reached_seconds > end_seconds + END_TOLERANCE_SECONDS:
        raise Damaged(
            f"goes on to {reached_seconds:.2f} s, where its header says {header.seconds:.2f} s"
        )
    return mono, rate


def _for_libsndfile(source: PathOrBytes) -> bytes | io.BytesIO:
    """What soundfile opens; a name as the disk has it, which need not be UTF-8."""
    return io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source)


# ── in a process of its own ──────────────────────────────────────────────────────────────────

_POOL = Pool(f"{__name__}:serve")


def _remarks(fields: Fields) -> tuple[Remark, ...]:
    return tuple(Remark(**remark) for remark in fields["remarks"])


def _asked(request: Fields, source: PathOrBytes) -> Answer:
    """What the other process found; its errors are raised here."""
    content = source if isinstance(source, bytes) else b""
    path = None if isinstance(source, bytes) else os.path.abspath(source)
    try:
        fields, samples = _POOL.ask(request | {"path": path}, content)
    except TookTooLong as error:
        raise GivenUp(f"took its decoder longer than {error}, and was given up") from None
    except Crashed as error:
        raise GivenUp(f"its decoder crashed on it ({error})") from None
    if "damaged" in fields:
        raise (CutOff if fields["is_cut_off"] else Damaged)(fields["damaged"])
    return fields, samples


def serve() -> None:
    """What the other process does."""
    serve_requests(_answer)


def _answer(request: Fields, content: bytes, allow: Allow) -> Answer:
    try:
        return _result(request, content, allow)
    except Damaged as error:
        return {"damaged": str(error), "is_cut_off": isinstance(error, CutOff)}, None
    except MemoryError:
        return {"damaged": "takes more memory than its length explains", "is_cut_off": False}, None
    except Exception as error:  # of libraries that met what they did not expect
        return {"damaged": f"does not decode ({reason(error)})", "is_cut_off": False}, None


def _result(request: Fields, content: bytes, allow: Allow) -> Answer:
    source: PathOrBytes = content if request["path"] is None else request["path"]
    size_bytes = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    seconds = HEADER_SECONDS + size_bytes / HEADER_BYTES_A_SECOND
    allow(min(seconds, LONGEST_HEADER_SECONDS), LEAST_BYTES + 2 * len(content))
    header = _own_header(source) or _foreign_header(source)
    if request["what"] == "header":
        return asdict(header), None
    start, end = _slice(header, request["start_seconds"], request["end_seconds"])
    samples = (end - start) * header.rate
    allow(
        HEADER_SECONDS + end / LEAST_SPEED,
        LEAST_BYTES + 2 * len(content) + 4 * COPIES * samples,
    )
    sound = _read(source, header, request["start_seconds"], request["end_seconds"])
    fields: Fields = {"remarks": [asdict(remark) for remark in sound.remarks]}
    return fields, np.ascontiguousarray(sound.samples)


# ── to be played ─────────────────────────────────────────────────────────────────────────────────


def encode_mp3(samples: np.ndarray) -> bytes:
    """(samples,) float32 at 16 kHz as an MP3 file; of long recordings, the first minute."""
    file = io.BytesIO()
    soundfile.write(
        file,
        samples[: round(LONGEST_MP3_SECONDS * SAMPLING_RATE)],
        SAMPLING_RATE,
        format="MP3",
        bitrate_mode="CONSTANT",
        compression_level=MP3_COMPRESSION_LEVEL,
    )
    return file.getvalue()
