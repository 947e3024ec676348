"""Sound files for a person to compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from lora_whisper.composing import to_config
from lora_whisper.config import AugmentationConfig
from lora_whisper.data.augmentation import Augmenter
from lora_whisper.data.sound.listening import write_examples
from tests.composed import train_values
from tests.toy_speech import tone


def augmenter(*overrides: str) -> Augmenter:
    config = to_config(AugmentationConfig, train_values(*overrides)["augmentation"])
    return Augmenter(config, window_seconds=5.0, mel_bins=80)


def test_each_window_is_written_before_and_after(tmp_path: Path) -> None:
    windows = [("talks/a.jsonl:17", tone(1.0)), ("ümlaut 1/2\\?", tone(0.5))]
    augment = augmenter("augmentation=gain", "augmentation.gain.share=1")
    paths = write_examples(windows, augment, tmp_path / "listen", seed=1)
    assert [path.name for path in paths] == [
        "01_a.jsonl-17_1_before.wav",
        "01_a.jsonl-17_2_after_gain.wav",
        "02_2-_1_before.wav",
        "02_2-_2_after_gain.wav",
    ]
    assert sorted(paths) == sorted((tmp_path / "listen").iterdir())
    before, after = (soundfile.read(path, dtype="float32") for path in paths[:2])
    assert before[1] == after[1] == 16_000
    np.testing.assert_allclose(before[0], windows[0][1], atol=1e-4)
    np.testing.assert_allclose(after[0], augment(windows[0][1], (1, 1)).samples, atol=1e-4)


def test_what_its_draws_leave_alone_is_named_so(tmp_path: Path) -> None:
    augment = augmenter("augmentation=gain", "augmentation.gain.share=0")
    _, after = write_examples([("a", tone(0.5))], augment, tmp_path, seed=1)
    assert after.name == "01_a_2_after_nothing.wav"


def test_the_seed_decides(tmp_path: Path) -> None:
    augment = augmenter("augmentation=[gain,noise]")
    windows = [(str(number), tone(0.2)) for number in range(8)]
    written = {
        seed: [path.read_bytes() for path in write_examples(windows, augment, folder, seed)]
        for seed, folder in ((1, tmp_path / "a"), (2, tmp_path / "b"))
    }
    again = [path.read_bytes() for path in write_examples(windows, augment, tmp_path / "c", 1)]
    assert written[1] == again != written[2]
