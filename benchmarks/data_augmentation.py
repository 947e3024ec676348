"""What augmentation costs the loader: seconds of audio a second of one core's time.

    python -m benchmarks.data_augmentation

Each file of conf/augmentation is applied to every window (share 1), whatever its own share is, and
each codec of the telephone alone. Processor time is counted and not the clock's, so that other work
on the machine does not count; the best of several rounds stands for each.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import numpy as np

from benchmarks.results import write_result
from lora_whisper.config import AugmentationConfig
from lora_whisper.data.acoustics import CODECS, generated_noise
from lora_whisper.data.augmentation import Augmenter
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.options import composed
from lora_whisper.schema import from_values

OPTIONS = ("speed", "gain", "noise", "reverberation", "telephone", "noisy")
WINDOW_SECONDS = 30.0
CLIP_SECONDS = 10.0
WINDOWS, ROUNDS = 10, 3


def main() -> None:
    figures = {name: round(times_real_time(augment)) for name, augment in augmenters()}
    for name, speed in figures.items():
        print(f"{name:24} {speed:7} × real time")
    described = {"clip_seconds": CLIP_SECONDS, "times_real_time_per_core": figures}
    write_result("data_augmentation", "python -m benchmarks.data_augmentation", described)


def augmenters() -> Iterator[tuple[str, Augmenter]]:
    for option in OPTIONS:
        yield option, made(configured(option))
    for name, codec in tuple(CODECS.items()):
        with patch.dict(CODECS, {name: codec}, clear=True):
            yield f"telephone {name}", made(configured("telephone"))


def configured(option: str) -> AugmentationConfig:
    """`conf/augmentation/OPTION.yaml`, for every window."""
    config = from_values(AugmentationConfig, composed({"augmentation": option})["augmentation"])
    groups = {name: group for name, group in vars(config).items() if group is not None}
    always = {name: dataclasses.replace(group, share=1.0) for name, group in groups.items()}
    return dataclasses.replace(config, **always)


def made(config: AugmentationConfig) -> Augmenter:
    return Augmenter(config, WINDOW_SECONDS, mel_bins=80)


def times_real_time(augment: Augmenter) -> float:
    samples = round(CLIP_SECONDS * SAMPLING_RATE)
    clip = generated_noise("breathing", samples, np.random.default_rng(0))
    augment(clip, (0,))  # imports what it needs
    best = min(processor_seconds(lambda: _windows(augment, clip)) for _ in range(ROUNDS))
    return WINDOWS * CLIP_SECONDS / best


def _windows(augment: Augmenter, clip: np.ndarray) -> None:
    for number in range(WINDOWS):
        augment(clip, (1, number))


def processor_seconds(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    main()
