"""metrics.jsonl: what a run writes, cuts back and reads off it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.run_folder import DiskFull
from lora_whisper.training.curves import Curves, disagrees, guessing_loss, memory_peaks, overfits


def trained(step: int, loss: float | None, tokens: int = 10) -> dict[str, Any]:
    return {"step": step, "loss_per_token": loss, "target_tokens": tokens}


def validated(step: int, wer: float, gap: float | None = 0.0) -> dict[str, Any]:
    return {"step": step, "validation_wer": wer, "loss_gap_per_token": gap}


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_going_back_drops_later_lines_and_one_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    curves = Curves(path)
    lines = [trained(5, 2.0), validated(5, 0.5), trained(10, 1.0), trained(15, 0.5)]
    for line in lines:
        curves.add(line)
    with path.open("a") as handle:
        handle.write('{"step": 20, "loss_per')
    Curves(path).go_back_to(10, validated=10)
    assert written(path) == lines[:3]
    Curves(path).go_back_to(0, validated=0)
    assert written(path) == []
    Curves(tmp_path / "none.jsonl").go_back_to(0, validated=0)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_validation_that_a_signal_broke_off_once_its_line_was_written_stands_there_once(
    tmp_path: Path,
) -> None:
    curves = Curves(tmp_path / "metrics.jsonl")
    lines = [validated(5, 0.5), trained(10, 1.0), validated(10, 0.4)]
    for line in lines:
        curves.add(line)
    resumed = Curves(curves.path)
    resumed.go_back_to(10, validated=9)
    assert written(curves.path) == lines[:2]
    assert resumed.validations == lines[:1]
    assert resumed.training_loss() == 1.0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("2.0", "3.0"),
        lambda text: text[text.index("\n") + 1 :],
        lambda text: "",
        lambda text: "[1]\n" + text.replace("target_tokens", "target_tokenz"),
        lambda text: text.replace('"step": 5', '"step": "5"'),
        lambda text: text.replace("{", "\udc80", 1),
        lambda text: "[" * 100_000 + text,
    ],
)
def test_damage_is_seen_and_what_cannot_be_read_is_left_out(tmp_path: Path, damage: Any) -> None:
    curves = Curves(tmp_path / "metrics.jsonl")
    for line in (trained(5, 2.0), validated(5, 0.5), trained(10, 1.0)):
        curves.add(line)
    before = curves.sha256(validated=10)
    same = Curves(curves.path)
    same.go_back_to(10, validated=10)
    assert same.sha256(validated=10) == before
    text = damage(curves.path.read_text())
    curves.path.write_bytes(text.encode("utf-8", "surrogateescape"))
    damaged = Curves(curves.path)
    damaged.go_back_to(10, validated=10)
    assert damaged.sha256(validated=10) != before


def test_a_validation_that_comes_again_is_not_taken_for_damage(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "metrics.jsonl")
    for line in (trained(5, 2.0), validated(5, 0.5)):
        curves.add(line)
    before = curves.sha256(validated=4)
    resumed = Curves(curves.path)
    resumed.go_back_to(5, validated=4)
    assert resumed.sha256(validated=4) == before


def test_training_loss_is_weighed_by_tokens_and_begins_anew_with_each_validation(
    tmp_path: Path,
) -> None:
    curves = Curves(tmp_path / "metrics.jsonl")
    assert curves.training_loss() is None
    curves.add(trained(1, 9.0))
    curves.add(validated(1, 0.5))
    assert curves.training_loss() is None
    curves.add(trained(2, 1.0, tokens=30))
    curves.add(trained(3, None))  # all its steps were skipped
    curves.add(trained(4, 2.0, tokens=10))
    assert curves.training_loss() == pytest.approx(1.25)
    resumed = Curves(curves.path)
    resumed.go_back_to(4, validated=4)
    assert resumed.training_loss() == curves.training_loss()
    assert resumed.validations == curves.validations


@pytest.mark.parametrize(
    ("wers", "gaps", "expected"),
    [
        ([0.30, 0.31, 0.30, 0.32], [0.1, 0.2, 0.3, 0.4], True),
        ([0.30, 0.31, 0.29, 0.32], [0.1, 0.2, 0.3, 0.4], False),  # the WER fell meanwhile
        ([0.30, 0.31, 0.30, 0.32], [0.1, 0.2, 0.2, 0.4], False),  # once the gap did not grow
        ([0.30, 0.31, 0.30, 0.32], [0.1, None, 0.3, 0.4], False),
        ([0.31, 0.30, 0.32], [0.1, 0.2, 0.3], False),  # too few to tell
        ([0.20, 0.30, 0.31, 0.29, 0.28], [0.9, 0.1, 0.2, 0.3, 0.4], True),  # not as low as before
    ],
)
def test_overfitting_takes_a_growing_gap_and_a_wer_that_does_not_fall(
    wers: list[float], gaps: list[float | None], expected: bool
) -> None:
    pairs = enumerate(zip(wers, gaps, strict=True))
    assert overfits([validated(step, wer, gap) for step, (wer, gap) in pairs]) is expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes every opening and no byte."""
    with pytest.raises(DiskFull, match=r"/dev/full could not be written"):
        Curves(Path("/dev/full")).add(trained(1, 1.0))


def test_memory_peaks_are_those_of_all_lines(tmp_path: Path) -> None:
    """A part of the run was on a machine without a GPU."""
    curves = Curves(tmp_path / "metrics.jsonl")
    assert memory_peaks(curves.path) == {}
    figures = [{"resident_memory_bytes": 9}, {"gpu_memory_bytes": 5, "resident_memory_bytes": 4}]
    for step, memory in enumerate(figures, 1):
        curves.add(trained(step, 1.0) | memory)
    curves.add(validated(2, 0.5))
    assert memory_peaks(curves.path) == {"resident_memory_bytes": 9, "gpu_memory_bytes": 5}


@pytest.mark.parametrize(
    ("loss", "gap", "wer", "expected"),
    [
        (5.8, 5.7, 1.0, True),  # nano with the texts of other clips
        (1.8, 1.76, 0.72, False),  # nano on 8 clips, which it knows by heart
        (3.3, 3.2, 1.0, False),  # a hard language, learnt by heart: better than guessing
        (4.49, 4.18, 0.98, True),  # nano, at the second validation with such texts
        (5.8, 1.0, 1.0, False),  # nor does it learn its training speech
        (5.8, 5.7, 0.5, False),
        (5.8, None, 1.0, False),
    ],
)
def test_texts_of_other_sound_are_worse_than_guessing(
    loss: float, gap: float | None, wer: float, expected: bool
) -> None:
    lines = [validated(step, wer, gap) | {"validation_loss_per_token": loss} for step in (1, 2)]
    assert disagrees(lines, 4.5) is expected
    assert not disagrees(lines[:1], 4.5), "one validation is no evidence"


def test_guessing_by_frequency_has_the_entropy_of_the_tokens() -> None:
    assert guessing_loss(Counter({1: 100, 2: 100})) == pytest.approx(math.log(2))
    assert guessing_loss(Counter(range(500))) == pytest.approx(math.log(500))
    assert guessing_loss(Counter(range(50))) == math.inf, "too few to know"
