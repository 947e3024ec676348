"""The yardstick's own arithmetic; what it measures is not looked at."""

import json
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.throughput import write_clips
from benchmarks.time_to_wer import reached, timed_validations


def test_clips_of_a_length_are_cut_and_joined_with_their_share_of_the_words(tmp_path: Path) -> None:
    recordings = [
        (np.full(round(seconds * 16_000), 0.1, np.float32), " ".join(map(str, range(words))))
        for seconds, words in [(3.0, 6), (1.0, 2)]
    ]
    manifest = write_clips(recordings, "2", tmp_path / "cut")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["text"] for row in rows] == ["0 1 2 3", "4 5 0 1"]
    assert [soundfile.info(row["audio"]).duration for row in rows] == [2.0, 2.0]


def test_validations_do_not_count_as_training() -> None:
    lines = [
        {"step": 5, "train_seconds": 10.0},
        {"step": 5, "validation_wer": 0.9, "validation_seconds": 4.0},
        {"step": 10, "train_seconds": 24.0},
        {"step": 10, "validation_wer": 0.5, "validation_seconds": 4.0},
    ]
    found = timed_validations(lines)
    assert [(one["step"], one["train_seconds"]) for one in found] == [(5, 10.0), (10, 20.0)]
    recipe = {"train_seconds": 40.0, "wer": 0.6}
    assert reached(recipe, found) == {"as_good_at": found[1], "share_of_the_recipes_time": 0.5}
    assert reached(recipe | {"wer": 0.1}, found)["as_good_at"] is None
