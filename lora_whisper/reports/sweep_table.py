"""The table that `train -m` shows: a row for each point of a sweep."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.box import SIMPLE_HEAD

from lora_whisper.evaluation.provenance import groups_that_compare
from lora_whisper.evaluation.results import (
    Score,
    both_rates,
    interval,
    leading,
    rate_name,
    with_interval,
)
from lora_whisper.evaluation.run_summary import RunSummary
from lora_whisper.paths import program, short
from lora_whisper.reports.summary import model_name
from lora_whisper.reports.sweep import (
    NO_GAIN,
    Point,
    caution_of,
    last_part,
    none_beats_base,
    pareto_front,
    read_points,
    told_keys,
)
from lora_whisper.reports.tables import Column, Table
from lora_whisper.terminal import clock, console, percent

FRONT = "*"
FRONT_NOTE = (
    f"{FRONT} on the Pareto front: no smaller adapter is as good, and no better one as small"
)


@dataclass(frozen=True)
class Figure:
    """One figure of every point; one that is the same for all is said once, below the table."""

    heading: str
    cells: tuple[str, ...]
    unit: str = ""  # where it stands alone
    is_needed: bool = False
    is_number: bool = True

    @property
    def common(self) -> str | None:
        """The only value that there is; None where points differ, or nothing is known."""
        values = {cell for cell in self.cells if cell}
        return values.pop() if len(values) == 1 and len(self.cells) > 1 else None


def show_sweep(folders: Sequence[Path]) -> None:
    """Print a row for each point of a sweep, and below it what became of the others."""
    points = sorted(read_points(folders), key=lambda point: not point.config)
    figures = _figures(points)
    console.print()
    for line in _bases(points):
        console.print(line, markup=False, soft_wrap=True)
    console.print(_table(short(folders[0].parent), figures).terminal())
    for line in _notes(points, figures):
        console.print(line, markup=False, soft_wrap=True)


def _table(title: str, figures: Sequence[Figure]) -> Table:
    """Sizes, times and rates; columns that do not tell points apart are left out."""
    shown = [
        figure
        for figure in figures
        if figure.is_needed or (figure.common is None and any(figure.cells))
    ]
    columns = [
        Column(figure.heading, is_text=not figure.is_number, layout={"no_wrap": figure.is_number})
        for figure in shown
    ]
    layout = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0)}
    table = Table(columns, title, layout=layout)
    for cells in zip(*(figure.cells for figure in shown), strict=True):
        table.add(*cells)
    return table


def _figures(points: Sequence[Point]) -> list[Figure]:
    heading, labels, keys = _labels(points)
    ranks = tuple((point.rank or "").replace(" ", "") for point in points)
    figures = [
        Figure(heading, labels, is_needed=True, is_number=False),
        Figure("rank", ranks, "rank {}"),
        Figure("targets", tuple(p.targets or "" for p in points), "{}", is_number=False),
        Figure("trained", _of_summaries(points, _parameters), "{} parameters trained"),
        Figure("MB", _of_summaries(points, _adapter_megabytes), "adapters of {} MB"),
        Figure("time", _of_summaries(points, _training_time), is_needed=True),
        *_rates(points),
    ]
    told = {"targets"} if {"adapter.targets", "adapter.layers"} & set(keys) else set()
    is_said = (rank in ("", label) for rank, label in zip(ranks, labels, strict=True))
    if keys == ["adapter.rank"] and all(is_said):
        told.add("rank")
        figures[0] = replace(figures[0], is_number=True)
    return [figure for figure in figures if figure.heading not in told or figure.is_needed]


def _rates(points: Sequence[Point]) -> Iterator[Figure]:
    """What each point gave; where it gave nothing, what became of it."""
    known = next((point.score for point in points if point.score), None)
    first, second = both_rates(leading(known))

    def of_scores(text: Callable[[Score], str]) -> tuple[str, ...]:
        return tuple(text(point.score) if point.score else "" for point in points)

    def bounds(score: Score) -> str:
        return interval(score.ci95(score.leading)).removesuffix(" %").replace(" ", "")

    rates = of_scores(lambda score: f"{100 * score.rate(score.leading):.1f}")
    states = ("" if point.state == "complete" else point.state for point in points)
    rated = tuple(state or rate for state, rate in zip(states, rates, strict=True))
    others = of_scores(lambda score: f"{100 * score.rate(second):.1f}")
    front = pareto_front([p.adapter_bytes for p in points], [p.rate for p in points])
    yield Figure(f"{rate_name(known, first)} %", rated, is_needed=True)
    yield Figure("interval", of_scores(bounds), is_needed=True)
    yield Figure(f"{rate_name(known, second)} %", others, is_needed=True)
    yield Figure("", tuple(FRONT if is_on else "" for is_on in front), is_needed=True)


def _of_summaries(points: Sequence[Point], text: Callable[[RunSummary], str]) -> tuple[str, ...]:
    return tuple(text(point.summary) if point.summary else "" for point in points)


def _labels(points: Sequence[Point]) -> tuple[str, tuple[str, ...], list[str]]:
    """What tells the points apart, below the names of its keys; else the points' own names."""
    keys = told_keys(points)
    # A folder's name without the groups of its keys.
    names = [re.sub(r"(^|_)(?:[a-z][a-z-]*\.)+", r"\1", point.name) for point in points]
    names = [name.replace("_", "\n") for name in names]
    labels = tuple(
        "\n".join(f"{point.config.get(key)}" for key in keys) if point.config else name
        for point, name in zip(points, names, strict=True)
    )
    if keys and len(set(labels)) == len(labels):
        return "\n".join(map(last_part, keys)), labels, keys
    return "point", tuple(names), []


def _parameters(summary: RunSummary) -> str:
    """`3.46 k`, `1.20 M`, `128 M`"""
    count = summary.trainable_parameters
    number, unit = (count / 1e6, "M") if count >= 1e5 else (count / 1e3, "k")
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"


def _adapter_megabytes(summary: RunSummary) -> str:
    """`3.5`, `128`"""
    size = summary.adapter_bytes
    return f"{size / 1e6:.{1 if size < 1e8 else 0}f}"


def _training_time(summary: RunSummary) -> str:
    """`1:05:03`, and from ten hours on `12.5 h`"""
    seconds = summary.train_seconds
    return clock(seconds) if seconds < 36_000 else f"{seconds / 3600:.1f} h"


def _bases(points: Sequence[Point]) -> list[str]:
    """Every score of a base, once: by checkpoint, quantization, and what it was scored on."""
    scored_bases: dict[tuple[str, str], dict[tuple[float, ...], Point]] = {}
    for point in points:
        if point.summary is None or point.base is None:
            continue
        score, model = point.base, (point.summary.checkpoint, point.summary.quantization)
        scored = (score.wer, score.cer, score.utterances, score.reference_words)
        scored_bases.setdefault(model, {}).setdefault(scored, point)
    several = len({checkpoint for checkpoint, _ in scored_bases}) > 1
    lines = []
    for (checkpoint, quantization), scores in scored_bases.items():
        name = f"{model_name('base', quantization)}{f' {checkpoint}' * several}"
        for point in scores.values():
            base = point.base
            if base is not None:
                first, second = both_rates(base.leading)
                rates = (
                    f"{rate_name(base, first)} {with_interval(base, first)}, "
                    f"{rate_name(base, second)} {percent(base.rate(second))}"
                )
                lines.append(f"{name}{f', of {point.name}' * (len(scores) > 1)}: {rates}")
    return lines


def _notes(points: Sequence[Point], figures: Sequence[Figure]) -> Iterator[str]:
    same = [
        figure.unit.format(figure.common) for figure in figures if figure.unit and figure.common
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
