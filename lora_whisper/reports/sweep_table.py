"""The table after a sweep: a row for each point, the base above it, and why points failed below."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from lora_whisper.evaluation.provenance import groups_that_compare
from lora_whisper.evaluation.rates import both_rates, interval, leading, rate_name
from lora_whisper.program import program, short
from lora_whisper.reports.points import (
    NO_GAIN,
    Point,
    caution_of,
    none_beats_base,
    pareto_front,
    read_points,
    told_keys,
)
from lora_whisper.reports.summary import model_name
from lora_whisper.terminal import clock, console, percent

FRONT = "*"
FRONT_NOTE = (
    f"{FRONT} on the Pareto front: no smaller adapter is as good, and no better one as small"
)


@dataclass(frozen=True)
class Column:
    """One figure of every point; one that is the same for all is said once, below the table."""

    heading: str
    cells: tuple[str, ...]
    unit: str = ""  # where it stands alone
    is_needed: bool = False
    is_figure: bool = True

    @property
    def said(self) -> str | None:
        """The only value that there is; None where points differ, or nothing is known."""
        values = {cell for cell in self.cells if cell}
        return values.pop() if len(values) == 1 and len(self.cells) > 1 else None


def show_sweep(folders: Sequence[Path]) -> None:
    """Print a row for each point of a sweep, and below it what became of the others."""
    points = sorted(read_points(folders), key=lambda point: not point.config)
    console.print()
    for line in _bases(points):
        console.print(line, markup=False, soft_wrap=True)
    console.print(sweep_table(short(folders[0].parent), points))
    for line in _notes(points):
        console.print(line, markup=False, soft_wrap=True)


def sweep_table(title: str, points: Sequence[Point]) -> Table:
    """Sizes, times and rates; columns that do not tell points apart are left out."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    shown = [
        column
        for column in _columns(points)
        if column.is_needed or (column.said is None and any(column.cells))
    ]
    for column in shown:
        table.add_column(
            column.heading,
            justify="right" if column.is_figure else "left",
            overflow="fold",  # cut short, points would look alike
            no_wrap=column.is_figure,
        )
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*row)
    return table


def _columns(points: Sequence[Point]) -> list[Column]:
    rates = [point.score or {} for point in points]
    first, second = both_rates(leading(next(filter(None, rates), {})))
    named = {rate: rate_name(next(filter(None, rates), {}), rate) for rate in (first, second)}
    front = pareto_front([p.adapter_bytes for p in points], [p.rate for p in points])
    heading, labels, keys = _labels(points)
    ranks = tuple((point.rank or "").replace(" ", "") for point in points)
    targets = tuple(point.targets or "" for point in points)
    columns = [
        Column(heading, labels, is_needed=True, is_figure=False),
        Column("rank", ranks, "rank {}"),
        Column("targets", targets, "{}", is_figure=False),
        Column("trained", tuple(map(_parameters, points)), "{} parameters trained"),
        Column("MB", tuple(map(_megabytes, points)), "adapters of {} MB"),
        Column("time", tuple(map(_time, points)), is_needed=True),
        Column(f"{named[first]} %", tuple(map(_rate, points)), is_needed=True),
        Column("interval", tuple(map(_interval, points)), is_needed=True),
        Column(f"{named[second]} %", tuple(_share(s.get(second)) for s in rates), is_needed=True),
        Column("", tuple(FRONT if is_on else "" for is_on in front), is_needed=True),
    ]
    told = {"targets"} if {"adapter.targets", "adapter.stack"} & set(keys) else set()
    is_said = (rank in ("", label) for rank, label in zip(ranks, labels, strict=True))
    if keys == ["adapter.rank"] and all(is_said):
        told.add("rank")
        columns[0] = replace(columns[0], is_figure=True)
    return [column for column in columns if column.heading not in told or column.is_needed]


def _labels(points: Sequence[Point]) -> tuple[str, tuple[str, ...], list[str]]:
    """What tells the points apart, below the names of its keys; else the points' own names."""
    keys = told_keys(points)
    labels = tuple(
        "\n".join(f"{point.config.get(key)}" for key in keys)
        if point.config
        else _brief(point.name)
        for point in points
    )
    if keys and len(set(labels)) == len(labels):
        return "\n".join(_last(key) for key in keys), labels, keys
    return "point", tuple(_brief(point.name) for point in points), []


def _last(key: str) -> str:
    """`rank` of adapter.rank, but `adapter` of adapter.kind."""
    return key.removesuffix(".kind").split(".")[-1]


def _brief(name: str) -> str:
    """A folder's name without the groups of its keys."""
    return "\n".join(re.sub(r"^(?:[a-z][a-z-]*\.)+", "", part) for part in name.split("_"))


def _parameters(point: Point) -> str:
    """`3.46 k`, `1.20 M`, `128 M`"""
    count = point.trainable_parameters
    if count is None:
        return ""
    number, unit = (count / 1e6, "M") if count >= 1e5 else (count / 1e3, "k")
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"


def _megabytes(point: Point) -> str:
    size_bytes = point.adapter_bytes
    return "" if size_bytes is None else f"{size_bytes / 1e6:.{1 if size_bytes < 1e8 else 0}f}"


def _time(point: Point) -> str:
    seconds = point.train_seconds
    if seconds is None:
        return ""
    return clock(seconds) if seconds < 36_000 else f"{seconds / 3600:.1f} h"


def _rate(point: Point) -> str:
    """The leading rate, or why there is none."""
    return _share(point.rate) if point.state == "complete" else point.state


def _interval(point: Point) -> str:
    if point.interval is None:
        return ""
    return interval(point.interval).removesuffix(" %").replace(" ", "")


def _share(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.1f}"


def _bases(points: Sequence[Point]) -> list[str]:
    """Every score of a base, once: by checkpoint, quantization, and what it was scored on."""
    found: dict[tuple[str, str], dict[tuple[float, ...], Point]] = {}
    for point in points:
        if point.summary is None or point.base is None:
            continue
        base, model = point.base, (point.summary["checkpoint"], point.summary["quantization"])
        scored = (base["wer"], base["cer"], base["utterances"], base["reference_words"])
        found.setdefault(model, {}).setdefault(scored, point)
    several = len({checkpoint for checkpoint, _ in found}) > 1
    lines = []
    for (checkpoint, quantization), scores in found.items():
        name = f"{model_name('base', quantization)}{f' {checkpoint}' * several}"
        lines += [
            f"{name}{f', of {point.name}' * (len(scores) > 1)}: {_rates(point.base)}"
            for point in scores.values()
            if point.base is not None
        ]
    return lines


def _rates(base: Mapping[str, Any]) -> str:
    first, second = both_rates(leading(base))
    rates = [f"{rate_name(base, rate)} {percent(base[rate])}" for rate in (first, second)]
    return f"{rates[0]} ({interval(base[f'{first}_ci95'])}), {rates[1]}"


def _notes(points: Sequence[Point]) -> Iterator[str]:
    same = [
        column.unit.format(column.said)
        for column in _columns(points)
        if column.unit and column.said
    ]
    if same:
        yield f"all points: {', '.join(same)}"
    if any(point.rate is not None for point in points):
        yield FRONT_NOTE
    if none_beats_base(points):
        yield f"warning: {NO_GAIN}"
    if caution := caution_of(points):
        yield f"warning: {caution}"
    scores = [(point.name, point.score) for point in points if point.score]
    if len(groups_that_compare(scores)) > 1:
        yield "note: the points were scored on different test sets, so that rates do not compare"
    for point in points:
        if point.state == "failed":
            yield f"failed: {point.name}: {point.reason}"
    if any(point.state != "complete" for point in points):
        yield "The same command again skips what is complete, and goes on with the others."
    else:
        path = shlex.quote(short(points[0].folder.parent))
        yield f"next        {program()} report {path}"
