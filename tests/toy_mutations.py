"""Sound files of every format that can be made here, and what a bad disk or an attacker makes of
them; each mutation is a pure function of its seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from tests.toy_containers import KINDS, Kind, encode

RATE = 16_000
SECONDS = 0.7
# Numbers that lengths, rates and counts of channels are replaced by, of 1, 2, 4 and 8 bytes.
EXTREMES = (0, 1, 2, 8, 9, 64, 255, 256, 1024, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000)
HEADER_BYTES = 600  # where most headers and all of their fields lie

BY_LIBSNDFILE = {
    "wav16": ("WAV", "PCM_16", 1),
    "wav24": ("WAV", "PCM_24", 2),
    "wavfloat": ("WAV", "FLOAT", 1),
    "wavgsm": ("WAV", "GSM610", 1),
    "wavadpcm": ("WAV", "MS_ADPCM", 1),
    "rf64": ("RF64", "PCM_16", 2),
    "flac": ("FLAC", "PCM_16", 2),
    "aiff": ("AIFF", "PCM_16", 1),
    "au": ("AU", "ULAW", 1),
    "vorbis": ("OGG", "VORBIS", 2),
    "opus9": ("OGG", "OPUS", 9),
}
BY_FFMPEG = {
    "opus": KINDS["opus"],
    "mp3": KINDS["mp3"],
    "m4a": KINDS["m4a"],
    "aac": KINDS["aac"],
    "mp4": dataclasses.replace(KINDS["mp4"], film=False, layout="7.1"),
    "webm": KINDS["webm"],
    "mka": Kind("aac", "matroska", 48_000, layout="5.1"),
    "wv": Kind("wavpack", "wv", 16_000, layout="stereo"),
    "caf": KINDS["caf"],
    "amr": KINDS["amr"],
    "wma": KINDS["wma"],
    "ac3": Kind("ac3", "ac3", 48_000),
    "tta": Kind("tta", "tta", 16_000),
}
FORMATS = (*BY_LIBSNDFILE, *BY_FFMPEG)


def written(name: str, folder: Path) -> bytes:
    """A short whole file of that format."""
    path = folder / f"whole.{name}"
    rng = np.random.default_rng(0)
    if name in BY_FFMPEG:
        kind = BY_FFMPEG[name]
        encode(path, _speech(kind.rate, rng), kind)
    else:
        container, subtype, channels = BY_LIBSNDFILE[name]
        rate = 48_000 if subtype == "OPUS" else RATE
        sound = np.repeat(_speech(rate, rng)[:, None], channels, axis=1)
        soundfile.write(path, sound, rate, format=container, subtype=subtype)
    return path.read_bytes()


def _speech(rate: int, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(round(SECONDS * rate)) / rate
    hum = 0.3 * np.sin(2 * np.pi * 220 * time) * np.sin(3 * time)
    return (hum + 0.05 * rng.normal(size=len(time))).astype(np.float32)


def mutated(content: bytes, seed: tuple[int, ...]) -> bytes:
    """One to three changes, most of them where headers are."""
    rng = np.random.default_rng(seed)
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if len(changed) > 16:
            MUTATORS[rng.integers(len(MUTATORS))](changed, rng)
    return bytes(changed)


def _place(content: bytearray, rng: np.random.Generator) -> int:
    reach = len(content) if rng.random() < 0.3 else min(HEADER_BYTES, len(content))
    return int(rng.integers(reach))


def _flip_bits(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 9)):
        content[_place(content, rng)] ^= 1 << int(rng.integers(8))


def _random_bytes(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 17)):
        content[_place(content, rng)] = int(rng.integers(256))


def _extreme_number(content: bytearray, rng: np.random.Generator) -> None:
    at, size = _place(content, rng), int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice(EXTREMES)) % 256**size
    order = "little" if rng.random() < 0.5 else "big"
    content[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]


def _cut_off(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(1, len(content))) :]


def _taken_out(content: bytearray, rng: np.random.Generator) -> None:
    at = _place(content, rng)
    del content[at : at + int(rng.integers(1, 1 + len(content) // 4))]


def _put_in(content: bytearray, rng: np.random.Generator) -> None:
    at = _place(content, rng)
    content[at:at] = rng.bytes(int(rng.integers(1, 1 + len(content) // 4)))


def _repeated(content: bytearray, rng: np.random.Generator) -> None:
    at = _place(content, rng)
    content[at:at] = content[at : at + int(rng.integers(1, 1 + len(content) // 4))]


def _overwritten(content: bytearray, rng: np.random.Generator) -> None:
    at = _place(content, rng)
    size = len(content[at : at + int(rng.integers(1, 1 + len(content) // 8))])
    content[at : at + size] = rng.bytes(size)


MUTATORS: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    _flip_bits,
    _random_bytes,
    _extreme_number,
    _extreme_number,
    _cut_off,
    _taken_out,
    _put_in,
    _repeated,
    _overwritten,
)
