"""Windows as sound files before and after augmentation, for a person to compare."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from lora_whisper.data.augmentation import Augmenter
from lora_whisper.model.rates import SAMPLING_RATE


def write_examples(
    samples_by_name: Iterable[tuple[str, np.ndarray]],
    augmenter: Augmenter,
    folder: Path,
    seed: int,
) -> list[Path]:
    """Write `01_NAME_1_before.wav` and `01_NAME_2_after_STEPS.wav` for each window.

    Each goes through what it would in training: where its draws leave it alone, STEPS is
    "nothing". Masks of the log-mel cannot be heard and are not written.

    Args:
        samples_by_name: windows as (samples,) float32, and what to call each, often its row.
        folder: made where it is missing.

    Returns:
        Paths of the files, in the order of the windows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for number, (name, samples) in enumerate(samples_by_name, start=1):
        augmented = augmenter(samples, (seed, number))
        stem = f"{number:02d}_{_as_file_name(name)}"
        steps = "_".join(augmented.steps) or "nothing"
        pair = {
            folder / f"{stem}_1_before.wav": samples,
            folder / f"{stem}_2_after_{steps}.wav": augmented.samples,
        }
        for path, sound in pair.items():
            soundfile.write(path, sound, SAMPLING_RATE)
        written += pair
    return written


def _as_file_name(name: str) -> str:
    """`talks/a.jsonl:17` is `a.jsonl-17`; at most 80 letters, which every file system takes."""
    return re.sub(r"[^\w.-]+", "-", Path(name).name)[-80:]
