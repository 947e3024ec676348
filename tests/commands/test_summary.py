"""What a run says of itself when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from lora_whisper.commands._summary import _effort

SUMMARY = {
    "train_seconds": 110.0,
    "validation_seconds": 10.0,
    "train_audio_seconds_seen": 2000.0,
    "resident_memory_bytes": 900_000_000,
}


@pytest.mark.parametrize(
    ("more", "memory"),
    [
        ({}, "0.9 GB at most"),
        ({"gpu_memory_bytes": 10_300_000_000}, "10.3 GB at most of the GPU"),
    ],
)
def test_speed_is_of_training_and_memory_of_what_runs_out(
    more: dict[str, Any], memory: str
) -> None:
    lines = _effort(SUMMARY | more)
    assert lines == [
        ("speed", "20.0 audio s/s in training; validation took 0:10 of the time"),
        ("memory", memory),
    ]
    assert max(map(len, lines)) <= 80


def test_summaries_of_older_runs_say_less() -> None:
    assert _effort({"train_seconds": 110.0}) == []
