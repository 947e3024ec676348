"""Points of a sweep, from what their folders say."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from lora_whisper.reports.sweep import (
    differing_keys,
    pareto_front,
    point_folders,
    read_points,
    told_keys,
)
from tests.reports.toy_sweep import SWEEP, point

# ── the Pareto front ─────────────────────────────────────────────────────────────────────────


def test_nothing_beats_what_is_on_the_front_and_something_beats_all_else() -> None:
    generator = random.Random(1)
    for _ in range(200):
        sizes = [float(generator.randrange(6)) for _ in range(8)]
        rates = [float(generator.randrange(6)) for _ in range(8)]
        front = pareto_front(sizes, rates)
        runs = list(zip(sizes, rates, strict=True))
        for one, is_on_front in zip(runs, front, strict=True):
            beaten = any(
                other[0] <= one[0] and other[1] <= one[1] and other != one for other in runs
            )
            assert is_on_front is not beaten
    assert pareto_front([1, 1, None, 1], [0.5, 0.5, 0.1, None]) == [True, True, False, False]


# ── what the folders say ─────────────────────────────────────────────────────────────────────


def test_points_come_in_the_order_of_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for rank, rate in itertools.product((16, 4), ("1e-3", "1e-4")):
        point(f"{rank}_{rate}", f"adapter.rank={rank}", f"optimizer.learning_rate={rate}")
    (SWEEP / "no run").mkdir()
    points = read_points(point_folders(SWEEP))
    keys = ["adapter.rank", "optimizer.learning_rate"]
    assert differing_keys(points) == keys
    assert [tuple(one.config[key] for key in keys) for one in points] == [
        (4, 0.0001),
        (4, 0.001),
        (16, 0.0001),
        (16, 0.001),
    ]
    assert {one.state for one in points} == {"complete"}
    one = points[0]
    assert (one.leading, one.rate, one.adapter_bytes) == ("wer", 0.1, 1_300_000)
    assert (one.rank, one.targets, one.train_seconds) == ("4", "all-linear", 65.0)


def test_what_comes_with_a_choice_does_not_tell_runs_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("lora", "adalora", "dora"):
        point(kind, f"adapter={kind}", f"training.loader_workers={len(kind)}")
    assert told_keys(read_points(point_folders(SWEEP))) == ["adapter.kind"]


@pytest.mark.parametrize(
    ("log", "state", "reason"),
    [
        ("ERROR ended by UserError('The disk is full.\\\\nFree some.')", "failed", "The disk"),
        ("ERROR ended by RuntimeError('shapes differ')", "failed", "RuntimeError: shapes"),
        ("ERROR ended by Stopped('the same command goes on')", "unfinished", ""),
        ("ERROR ended by KeyboardInterrupt()", "unfinished", ""),
        ("INFO step 25: validation WER 40.0 %", "unfinished", ""),
    ],
)
def test_how_a_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, state: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = point("a")
    run.summary.unlink()
    stamp = "2026-01-31 12:00:00,123"
    run.log.write_text(f"{stamp} INFO begun\n{stamp} {log}\nTraceback (most recent call last):\n")
    (found,) = read_points([run.path])
    assert found.state == state
    assert found.reason.startswith(reason)


def test_broken_files_are_failures_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    point("a")
    point("b").summary.write_text("{")
    c = point("c")
    c.config.write_text(c.config.read_text().splitlines()[0] + "\nname: [")
    points = {one.name: one for one in read_points(point_folders(SWEEP))}
    assert {name: one.state for name, one in points.items()} == {
        "a": "complete",
        "b": "failed",
        "c": "failed",
    }
    assert "summary.json" in points["b"].reason
    assert "config.yaml" in points["c"].reason
