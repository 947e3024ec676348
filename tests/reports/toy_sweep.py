"""A sweep of made-up runs, each of which is made once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_whisper.evaluation.run_summary import write_summary
from lora_whisper.run_folder import RunFolder
from tests.cli.toy_run import Heard, toy_run

SWEEP = Path("outputs/sweeps/ranks")
WORDS = [f"neno{chr(97 + number)}" for number in range(20)]
LINES = [
    {"step": step, "loss_per_token": 4.0 / step, "learning_rate": 1e-3, "gradient_norm": 1.0}
    for step in (25, 50, 75)
] + [{"step": 50, "validation_wer": 0.4, "validation_loss_per_token": 1.5}]


def texts(wrong: int, base_wrong: int = 16) -> list[Heard]:
    """Twenty utterances of two words; in the first `wrong` of them the adapter has one wrong."""
    return [
        Heard(
            f"habari {word}",
            f"habari {'x' if number < base_wrong else word}",
            f"habari {'y' if number < wrong else word}",
        )
        for number, word in enumerate(WORDS)
    ]


MADE: list[Path] = []  # the folder in which runs are made once, to be copied


def point(name: str, *overrides: str, wrong: int = 4, **settings: Any) -> RunFolder:
    """A complete run in the sweep."""
    given: dict[str, Any] = {"heard": texts(wrong), "lines": LINES} | settings
    digest = hashlib.sha256(repr((overrides, given)).encode()).hexdigest()
    original = MADE[0] / digest
    if not original.exists():
        run, summary = toy_run(original, *overrides, **given)
        write_summary(run, summary)
    return RunFolder(shutil.copytree(original, SWEEP / name))


def ranks(sizes: Sequence[int] = (2, 4, 16), wrong: Sequence[int] = (12, 4, 3)) -> None:
    for rank, errors in zip(sizes, wrong, strict=True):
        point(
            f"adapter.rank-{rank}",
            f"adapter.rank={rank}",
            wrong=errors,
            ranks=(rank, rank),
            adapter_bytes=rank * 100_000,
        )
