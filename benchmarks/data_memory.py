"""Whether loading training windows takes more memory from epoch to epoch.

    python -m benchmarks.data_memory

Five epochs of 1,200 rows (the package's own recordings, joined to clips of ten seconds and encoded
as Ogg Opus), by two loader workers: packed windows, timestamps, previous texts, and every
augmentation but the telephone. After each epoch the memory of this process and of its workers is
read (proportional set size, so that shared pages count once); the first epoch also pays for
libraries that are imported on demand. Results go to benchmarks/results/data_memory.json.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.data_loader import WINDOW_SECONDS, clips, encoded, loaded
from benchmarks.results import write_result
from lora_whisper.config import (
    AugmentationConfig,
    GainConfig,
    ModelConfig,
    NoiseConfig,
    ReverberationConfig,
    SpecAugmentConfig,
    SpeedConfig,
)
from lora_whisper.data.augmentation import Augmenter
from lora_whisper.data.batches import StepDataset, step_loader
from lora_whisper.model.base import read_base

EPOCHS, REPEATS, WORKERS = 5, 20, 2
EVERYTHING = AugmentationConfig(
    speed=SpeedConfig(0.5, (0.9, 1.1)),
    gain=GainConfig(0.5, (-20.0, 6.0)),
    reverberation=ReverberationConfig(0.3, None, (0.1, 1.0)),
    noise=NoiseConfig(0.5, None, (5.0, 30.0)),
    telephone=None,
    spec_augment=SpecAugmentConfig(1.0, 2),
)


def main() -> None:
    base = read_base(ModelConfig("embedded:nano", None, "auto", "auto", False), with_weights=False)
    with tempfile.TemporaryDirectory() as folder:
        manifest = encoded(clips(None), 16_000, Path(folder) / "speech")
        manifest.write_text(manifest.read_text(encoding="utf-8") * REPEATS, encoding="utf-8")
        dataset = loaded(manifest, "packed", base)
        augmenter = Augmenter(EVERYTHING, WINDOW_SECONDS, base.mel_bins)
        dataset = replace(dataset, maker=replace(dataset.maker, augmenter=augmenter))
        megabytes = list(after_each_epoch(dataset))
    figures = {
        "windows_per_epoch": dataset.windows_per_epoch,
        "workers": WORKERS,
        "megabytes_after_each_epoch": megabytes,
        "grown_from_epoch_1_to_5_megabytes": round(megabytes[-1] - megabytes[0], 1),
    }
    print(json.dumps(figures, indent=2))
    path = write_result("data_memory", "python -m benchmarks.data_memory", figures)
    print(f"written to {path}")


def after_each_epoch(dataset: StepDataset) -> Iterator[float]:
    """Load all epochs as training does; megabytes at the end of each."""
    steps = dataset.steps_per_epoch
    loader = step_loader(dataset, 0, EPOCHS * steps, WORKERS)
    for step, batches in enumerate(loader, start=1):
        assert not any(batch.bad for batch in batches)
        if step % steps == 0:
            yield proportional_megabytes()


def proportional_megabytes() -> float:
    """Of this process and its children."""
    this = psutil.Process()
    processes = [this, *this.children(recursive=True)]
    return round(sum(one.memory_full_info().pss for one in processes) / 1e6, 1)


if __name__ == "__main__":
    main()
