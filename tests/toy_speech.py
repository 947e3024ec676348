"""Toy recordings and manifests: tones that stand for words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

WORDS = {"one": 220.0, "two": 330.0, "three": 440.0, "four": 660.0, "five": 880.0}  # Hz


def tone(seconds: float, rate: int = 16_000, frequency: float = 440.0) -> np.ndarray:
    """(samples,) float32 sine at half of full scale."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write_clip(path: Path, seconds: float, rate: int = 16_000, frequency: float = 440.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate, frequency), rate)
    return path


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def toy_speech(
    folder: Path, count: int = 6, seed: int = 0, name: str = "train", word_seconds: float = 0.3
) -> Path:
    """Write `count` clips of two to four "words" each, and the manifest `folder/NAME.jsonl`."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        words = generator.choice(list(WORDS), size=generator.integers(2, 5))
        clip = folder / name / f"{index}.wav"
        clip.parent.mkdir(parents=True, exist_ok=True)
        samples = np.concatenate([tone(word_seconds, frequency=WORDS[word]) for word in words])
        soundfile.write(clip, samples, 16_000)
        rows.append({"audio": f"{name}/{index}.wav", "text": " ".join(words), "language": "en"})
    return write_manifest(folder / f"{name}.jsonl", rows)
