"""The table after a sweep, from folders of made-up runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from lora_whisper.evaluation.run_summary import write_summary
from lora_whisper.files import write_json
from lora_whisper.reports.sweep_table import show_sweep
from tests.cli.toy_run import Heard, toy_run

GOOD = (Heard("moja mbili tatu", "x y z", "moja mbili tatu"),)
FAIR = (Heard("moja mbili tatu", "x y z", "moja mbili x"),)
BAD = (Heard("moja mbili tatu", "x y z", "x y tatu"),)


def point(folder: Path, heard: Sequence[Heard], *overrides: str, **changes: object) -> Path:
    run, summary = toy_run(folder, *overrides, heard=heard, **changes)
    write_summary(run, summary)
    return folder


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Console:
    console = Console(width=80, record=True, highlight=False)
    monkeypatch.setattr("lora_whisper.reports.sweep_table.console", console)
    monkeypatch.chdir(tmp_path)
    return console


def test_the_front_the_base_and_the_failed_stand_where_they_belong(show: Console) -> None:
    sweep = Path("outputs/sweeps/ranks")
    folders = [
        point(
            sweep / f"adapter.rank-{rank}",
            heard,
            f"adapter.rank={rank}",
            ranks=(rank, rank),
            adapter_bytes=rank * 100_000,
            trainable_parameters=rank * 1000,
        )
        for rank, heard in ((2, BAD), (4, FAIR), (8, FAIR), (16, GOOD))
    ]
    failed = sweep / "adapter.rank-32"
    write_json(failed / "failure.json", {"reason": "RuntimeError: out of luck"})
    show_sweep([*folders, failed])
    lines = [line.rstrip() for line in show.export_text().splitlines()]
    rows = {line.split()[0]: line for line in lines if re.match(r" *\d", line)}
    assert [name for name, row in rows.items() if row.endswith("*")] == ["2", "4", "16"]
    assert rows["4"].split()[1:6] == ["4.00", "k", "0.4", "1:05", "33.3"]
    assert "failed" in rows["32"]
    assert len([line for line in lines if line.startswith("base: WER 100.0 %")]) == 1
    assert "all points: all-linear" in lines
    assert "failed: adapter.rank-32: RuntimeError: out of luck" in lines


def test_it_fits_into_80_columns_where_everything_differs(show: Console) -> None:
    sweep = Path("outputs/sweeps/all")
    folders = [
        point(
            sweep / f"adapter.targets-{targets}_optimizer.learning-rate-{rate}",
            GOOD if rate == 0.001 else BAD,
            f"adapter.targets={targets}",
            f"optimizer.learning_rate={rate}",
            ranks=(4, rank),
            adapter_bytes=rank * 10_000_000,
            trainable_parameters=rank * 1_000_000,
            train_seconds=rank * 3000.0,
            quantization=quantization,
        )
        for rank, targets, rate, quantization in (
            (4, "attention-qv", 0.001, "none"),
            (128, "all-linear", 0.0025, "nf4"),
        )
    ]
    show_sweep(folders)
    shown = show.export_text()
    table = shown.split("on the Pareto front")[0].splitlines()
    assert max(len(line.rstrip()) for line in table) <= 80
    assert "…" not in shown, "nothing is cut short"
    assert "base: WER" in shown
    assert "base (nf4): WER" in shown
    assert "106.7 h" in shown


def test_points_of_other_test_sets_are_not_compared_unsaid(show: Console) -> None:
    sweep = Path("outputs/sweeps/sets")
    folders = [
        point(sweep / f"data.test-{number}", heard)
        for number, heard in enumerate((GOOD, GOOD + BAD))
    ]
    show_sweep(folders)
    shown = show.export_text()
    assert "different test sets" in shown
    for number in range(2):
        assert f"base, of data.test-{number}: WER 100.0 %" in shown
