"""The table after a sweep: a row for each point, the base above it, and why points failed below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from lora_whisper.commands._points import Point, pareto_front, read_points
from lora_whisper.commands._summary import (
    both_rates,
    interval,
    leading,
    model_name,
    program,
    rate_name,
    short,
)
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
    points = read_points(folders)
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
    shown = [column for column in _columns(points) if column.is_needed or column.said is None]
    for column in shown:
        justify, overflow = ("right", "ellipsis") if column.is_figure else ("left", "fold")
        table.add_column(column.heading, justify=justify, overflow=overflow)  # type: ignore[arg-type]
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*row)
    return table


def _columns(points: Sequence[Point]) -> list[Column]:
    rates = [point.score or {} for point in points]
    scores = [score for score in rates if score]
    first, second = both_rates(leading(scores[0] if scores else {}))
    named = {rate: rate_name(scores[0] if scores else {}, rate) for rate in (first, second)}
    front = pareto_front([p.adapter_bytes for p in points], [p.rate for p in points])
    return [
        Column("point", _labels(points), is_needed=True, is_figure=False),
        Column("rank", tuple(point.rank or "" for point in points), "rank {}"),
        Column("targets", tuple(point.targets or "" for point in points), "{}", is_figure=False),
        Column("trained", tuple(map(_parameters, points)), "{} parameters trained"),
        Column("MB", tuple(map(_megabytes, points)), "adapters of {} MB"),
        Column("time", tuple(map(_time, points)), is_needed=True),
        Column(named[first], tuple(map(_rate, points)), is_needed=True),
        Column("95 % interval", tuple(map(_interval, points)), is_needed=True),
        Column(named[second], tuple(_other(s, second) for s in rates), is_needed=True),
        Column("", tuple(FRONT if is_on else "" for is_on in front), is_needed=True),
    ]


def _labels(points: Sequence[Point]) -> tuple[str, ...]:
    """Names of folders without the groups of their keys, where they are told apart without them."""
    whole = [point.name.split("_") for point in points]
    brief = tuple(
        " ".join(re.sub(r"^(?:[a-z][a-z-]*\.)+", "", part) for part in parts) for parts in whole
    )
    return brief if len(set(brief)) == len(brief) else tuple(point.name for point in points)


def _parameters(point: Point) -> str:
    count = point.trainable_parameters
    if count is None:
        return ""
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count / 1e3:.1f} k"


def _megabytes(point: Point) -> str:
    return "" if point.adapter_bytes is None else f"{point.adapter_bytes / 1e6:.1f}"


def _time(point: Point) -> str:
    return "" if point.train_seconds is None else clock(point.train_seconds)


def _rate(point: Point) -> str:
    """The leading rate, or why there is none."""
    if point.state != "complete":
        return point.state
    return "" if point.rate is None else percent(point.rate)


def _interval(point: Point) -> str:
    return "" if point.interval is None else interval(point.interval).removesuffix(" %")


def _other(score: Mapping[str, Any], rate: str) -> str:
    return percent(score[rate]) if score else ""


def _bases(points: Sequence[Point]) -> list[str]:
    """The score of every base, once: points differ in theirs by checkpoint or quantization."""
    found = {}
    for point in points:
        if point.summary is None or point.base is None:
            continue
        base, summary = point.base, point.summary
        first, second = both_rates(leading(base))
        key = (summary["checkpoint"], summary["quantization"])
        rates = [f"{rate_name(base, rate)} {percent(base[rate])}" for rate in (first, second)]
        found[key] = f"{rates[0]} ({interval(base[f'{first}_ci95'])}), {rates[1]}"
    several = len({checkpoint for checkpoint, _ in found}) > 1
    return [
        f"{model_name('base', quantization)}{f' {checkpoint}' * several}: {scores}"
        for (checkpoint, quantization), scores in found.items()
    ]


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
    sizes = {
        (score["utterances"], score["reference_words"])
        for score in (p.score for p in points)
        if score
    }
    if len(sizes) > 1:
        yield "note: the points were scored on different test sets, so that rates do not compare"
    for point in points:
        if point.state == "failed":
            yield f"failed: {point.name}: {point.reason}"
    if any(point.state != "complete" for point in points):
        yield "The same command again skips what is complete, and goes on with the others."
    else:
        path = short(points[0].folder.parent)
        yield f"next        {program()} report {path}"
