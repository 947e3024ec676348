"""Files of every kind that a phone, a browser or a video site may give, made by PyAV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np


@dataclass(frozen=True)
class Kind:
    """How a file is made; `written_live`: into a pipe, so that nothing is filled in later."""

    codec: str
    container: str
    rate: int
    options: Mapping[str, str] = field(default_factory=dict)  # of the container
    codec_options: Mapping[str, str] = field(default_factory=dict)
    layout: str = "mono"
    bit_rate: int | None = None
    film: bool = False
    written_live: bool = False


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
VARIABLE = {"global_quality": "500", "flags": "+qscale"}
KINDS = {
    "opus": Kind("libopus", "opus", 48_000),
    "mp3": Kind("libmp3lame", "mp3", 44_100),
    "variable.mp3": Kind("libmp3lame", "mp3", 44_100, {}, VARIABLE),
    "untagged.mp3": Kind("libmp3lame", "mp3", 44_100, {"write_xing": "0"}, VARIABLE),
    "m4a": Kind("aac", "ipod", 44_100),
    "aac": Kind("aac", "adts", 48_000),
    "mp4": Kind("aac", "mp4", 48_000, layout="stereo", film=True),
    "fragments.mp4": Kind("aac", "mp4", 48_000, FRAGMENTS),
    "webm": Kind("libopus", "webm", 48_000),
    "live.webm": Kind("libopus", "webm", 48_000, written_live=True),
    "wma": Kind("wmav2", "asf", 44_100, bit_rate=64_000),
    "amr": Kind("libopencore_amrnb", "amr", 8_000, bit_rate=12_200),
    "caf": Kind("alac", "caf", 44_100),
    "flac": Kind("flac", "flac", 48_000),
    "live.flac": Kind("flac", "flac", 48_000, written_live=True),
    "wav": Kind("pcm_s16le", "wav", 48_000),
    "live.wav": Kind("pcm_s16le", "wav", 48_000, written_live=True),
}


def encode(path: Path, samples: np.ndarray, kind: Kind) -> Path:
    """Write (samples,) float32, at the kind's rate, as such a file."""
    if not kind.written_live:
        with av.open(str(path), "w", format=kind.container, options=dict(kind.options)) as file:
            _mux(file, samples, kind)
    else:
        with open(path, "wb") as pipe:
            only_written = type("Pipe", (), {"write": pipe.write, "name": str(path)})()
            with av.open(only_written, "w", format=kind.container) as file:
                _mux(file, samples, kind)
    return path


def _mux(file: Any, samples: np.ndarray, kind: Kind) -> None:
    picture = file.add_stream("mpeg4", rate=10, width=32, height=32) if kind.film else None
    sound = file.add_stream(
        kind.codec, rate=kind.rate, layout=kind.layout, options=dict(kind.codec_options)
    )
    if kind.bit_rate:
        sound.bit_rate = kind.bit_rate
    frames = _frames(samples, sound.codec_context, kind)
    if picture is not None:
        _mux_pictures(file, picture, len(samples) / kind.rate)
    for frame in frames:
        file.mux(sound.encode(frame))
    file.mux(sound.encode(None))


def _mux_pictures(file: Any, stream: Any, seconds: float) -> None:
    for tenth in range(round(10 * seconds)):
        image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        image.pts = tenth
        file.mux(stream.encode(image))
    file.mux(stream.encode(None))


def _frames(samples: np.ndarray, codec: Any, kind: Kind) -> list[Any]:
    """The samples in the format and the portions that the encoder wants."""
    codec.open()
    whole = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "fltp", "mono")
    whole.sample_rate, whole.pts = kind.rate, 0
    convert = av.AudioResampler(codec.format.name, kind.layout, kind.rate)
    queue = av.AudioFifo()
    for frame in convert.resample(whole) + convert.resample(None):
        queue.write(frame)
    portions = queue.read_many(codec.frame_size or 1024, partial=True)
    for index, frame in enumerate(portions):
        frame.pts = index * (codec.frame_size or 1024)
    return portions
