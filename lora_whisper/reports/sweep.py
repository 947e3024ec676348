"""Runs side by side, such as the points of a sweep: what each was told, what it gave, what failed.

Read from the runs' folders alone, without torch. `train -m` shows them as a table, `report` as a
page.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.box import SIMPLE_HEAD

from lora_whisper.errors import UserError
from lora_whisper.evaluation.provenance import groups_that_compare
from lora_whisper.evaluation.results import (
    Rate,
    Score,
    both_rates,
    interval,
    leading,
    rate_name,
    with_interval,
)
from lora_whisper.evaluation.run_summary import RunSummary, read_summary
from lora_whisper.evaluation.scored_words import cautions
from lora_whisper.files import as_written, read_json, write_json
from lora_whisper.layers import ALL
from lora_whisper.paths import program, short
from lora_whisper.reports.summary import model_name, shipped_rank
from lora_whisper.reports.tables import Column, Table
from lora_whisper.run_config import FREE_TO_CHANGE, default_values, written_values
from lora_whisper.run_folder import PLAN_FILE, SEARCH_FILE, SUMMARY_KEYS, RunFolder
from lora_whisper.terminal import clock, console, percent

FAILURE_FILE = (
    "failure.json"  # {"reason": …}: in a point's folder since it failed, until it is done
)
LOG_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ([A-Z]+) (.*)$", re.MULTILINE)
NO_GAIN = "no run is better than its base on this test set"
STOPPED = ("KeyboardInterrupt", "Stopped")  # by somebody, who may go on: no failure

State = Literal["complete", "failed", "pruned", "unfinished", "never begun"]


@dataclass(frozen=True)
class Point:
    """One run among others. What is not known of it is None: all of a run that did not finish."""

    folder: Path
    state: State
    reason: str = ""  # why it failed, as it was said
    config: Mapping[str, Any] = field(default_factory=dict)  # flat keys; empty: it never began
    summary: RunSummary | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def score(self) -> Score | None:
        """Of the adapter on the run's own test set."""
        return self.summary.adapter if self.summary else None

    @property
    def base(self) -> Score | None:
        """The base's score on the same set."""
        return self.summary.base if self.summary else None

    @property
    def leading(self) -> Rate:
        """`wer`, or `cer` where the script has no spaces."""
        return leading(self.score)

    @property
    def rate(self) -> float | None:
        """The leading rate, as a fraction."""
        return self.score.rate(self.leading) if self.score else None

    @property
    def base_rate(self) -> float | None:
        """The same of its base, where that was scored."""
        return self.base.rate(self.leading) if self.base else None

    @property
    def rank(self) -> str | None:
        """Of what ships: `16`, or `4 – 32` where layers differ."""
        return shipped_rank(self.summary) if self.summary else None

    @property
    def targets(self) -> str | None:
        """`all-linear`, or `attention of the decoder`"""
        if "adapter.targets" not in self.config:
            return None
        layers = self.config["adapter.layers"]
        return self.config["adapter.targets"] + ("" if layers == ALL else f" of the {layers}")

    @property
    def adapter_bytes(self) -> int | None:
        return self.summary.adapter_bytes if self.summary else None

    @property
    def train_seconds(self) -> float | None:
        """Validation included."""
        return self.summary.train_seconds if self.summary else None


def is_in_search(point: Point) -> bool:
    """Whether it is a trial, which has no scores unless it is the best."""
    return (point.folder.parent / SEARCH_FILE).is_file()


def point_folders(sweep: Path) -> list[Path]:
    """Folders of runs, damaged ones too, and of points that failed before they were one.

    They lie directly below `sweep`.
    """
    return sorted(
        path
        for path in sweep.iterdir()
        if not path.name.startswith(".")
        and (is_or_was_run(RunFolder(path)) or (path / FAILURE_FILE).is_file())
    )


def is_or_was_run(run: RunFolder) -> bool:
    """Whether it is a run, or one whose config.yaml was emptied or edited since."""
    left = (run.metrics, run.rows, run.summary, run.pruned, run.checkpoints)
    return run.is_run() or (run.config.is_file() and any(path.exists() for path in left))


def write_plan(sweep: Path, names: Sequence[str]) -> None:
    """Keep which points a sweep has, so that those that are never begun are missed."""
    write_json(sweep / PLAN_FILE, {"points": list(names)})


def folders_of(sweep: Path) -> list[Path]:
    """Of the points that were begun, and of those that were planned and never begun."""
    begun = point_folders(sweep)
    try:
        planned = [sweep / name for name in read_json(sweep / PLAN_FILE)["points"]]
    except (OSError, ValueError, TypeError, KeyError):  # older sweeps have no plan
        planned = []
    return sorted({*begun, *planned})


def read_points(folders: Sequence[Path]) -> list[Point]:
    """Read the runs in these folders; in the order of what differs between them.

    What is not known of comes last.
    """
    points = [_read(RunFolder(folder)) for folder in folders]
    points = [point if point.config else _by_its_name(point, points) for point in points]
    keys = differing_keys(points)

    def place(point: Point) -> tuple[Any, ...]:
        is_unknown = not (keys and point.config)
        return is_unknown, [ordered(point.config.get(key)) for key in keys], point.name

    return sorted(points, key=place)


def _by_its_name(point: Point, others: Sequence[Point]) -> Point:
    """A point that failed before it was a run, with the configuration that its folder's name tells.

    Everything else is as in a point beside it; where the name does not tell all, nothing is known.
    """
    keys = told_keys(others)
    parts = point.name.split("_")
    begins = {key: key.replace("_", "-") + "-" for key in keys}  # as the sweep wrote it
    values = {
        key: yaml.safe_load(part.removeprefix(begin))
        for part in parts
        for key, begin in begins.items()
        if part.startswith(begin)
    }
    beside = next((other.config for other in others if other.config), {})
    is_told = len(values) == len(keys) == len(parts)
    return replace(point, config={**beside, **values}) if is_told else point


def differing_keys(points: Sequence[Point]) -> list[str]:
    """Flat keys of the configuration that are not the same in all runs, in its order."""
    known = [point.config for point in points if point.config]
    keys = dict.fromkeys(key for config in known for key in config)
    return [
        key
        for key in keys
        if key not in ("name", "overwrite", "resume")
        and any(config.get(key) != known[0].get(key) for config in known)
    ]


def told_keys(points: Sequence[Point]) -> list[str]:
    """Of the keys that differ, those that tell the runs apart and may change their scores.

    Left out are settings without effect on the adapter, and those that come with a choice of their
    own group: `adapter.kind` brings `adapter.adalora.…`, and `quantization.kind` its details.
    """
    keys = [key for key in differing_keys(points) if key not in FREE_TO_CHANGE]
    known = [point.config for point in points if point.config]

    def implies(choice: str, key: str) -> bool:
        """Whether each value of `choice`, which is a word, has one value of `key`."""
        if choice == key or not choice.endswith((".kind", ".checkpoint")):
            return False
        if choice.split(".")[0] != key.split(".")[0]:
            return False
        pairs = {(str(config.get(choice)), repr(config.get(key))) for config in known}
        return len(pairs) == len({value for value, _ in pairs})

    return [key for key in keys if not any(implies(other, key) for other in keys)]


def last_part(key: str) -> str:
    """`rank` of adapter.rank, but `adapter` of adapter.kind, as it is typed."""
    return key.removesuffix(".kind").split(".")[-1]


def ordered(value: Any) -> tuple[int, float, str]:
    """A key to sort by: numbers by size, then words; null first."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)


def none_beats_base(points: Sequence[Point]) -> bool:
    """Whether there are scores beside those of a base, and not one is lower: `NO_GAIN` is said."""
    rates = [(p.rate, p.base_rate) for p in points if p.rate is not None]
    return bool(rates) and all(base is not None and rate >= base for rate, base in rates)


def caution_of(points: Sequence[Point], best_name: str = "best") -> str:
    """What to say where the words that are scored are not those that were spoken, else ""."""
    scored = [point for point in points if point.rate is not None]
    best = min(scored, key=lambda point: point.rate or 0, default=None)
    return cautions({"base": best.base, best_name: best.score}) if best else ""


def pareto_front(sizes: Sequence[float | None], rates: Sequence[float | None]) -> list[bool]:
    """Whether each is on the Pareto front: no other is as small and as good, and better in one.

    Two that are alike in both are on it together; what has no size or no rate is not.
    """
    known = [
        (size, rate)
        for size, rate in zip(sizes, rates, strict=True)
        if size is not None and rate is not None
    ]
    return [
        size is not None
        and rate is not None
        and not any(
            other_size <= size and other_rate <= rate and (other_size, other_rate) != (size, rate)
            for other_size, other_rate in known
        )
        for size, rate in zip(sizes, rates, strict=True)
    ]


# ── reading ──────────────────────────────────────────────────────────────────────────────────


def _read(run: RunFolder) -> Point:
    """With today's defaults for keys that an older version had not."""
    config: Mapping[str, Any] = {}
    try:
        if run.is_run():
            config = default_values() | written_values(run.config_text())
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        return Point(run.path, "failed", "config.yaml cannot be read as YAML")
    if run.config.is_file() and not run.is_run():
        return Point(run.path, "failed", "config.yaml is not what was written there")
    failure = _failure(run)
    if run.is_complete() and not run.failure.is_file():  # else it is an older result
        try:
            return Point(run.path, "complete", config=config, summary=read_summary(run))
        except (UserError, ValueError) as error:
            failure = (
                "summary.json cannot be read: bring it back from a copy, or take it away and type "
                "the command that began the run with resume=auto"
            )
            if as_written(run.summary, SUMMARY_KEYS):  # but something that belongs to it is broken
                failure = str(error)
    if failure is None and config and run.pruned.is_file():
        pruned = as_written(run.pruned, ("step", "wer"))
        when = f" after step {pruned['step']}" if pruned else ""
        return Point(run.path, "pruned", f"the search ended it early{when}", config)
    if failure is None:
        state: State = "unfinished" if run.is_run() else "never begun"
        return Point(run.path, state, config=config)
    return Point(run.path, "failed", failure, config)


def _failure(run: RunFolder) -> str | None:
    """Why the run failed, as the sweep noted it, or else as its log ends; None: it did not."""
    try:
        return str(read_json(run.path / FAILURE_FILE)["reason"])
    except (OSError, ValueError, TypeError, KeyError):
        if not run.log.is_file():
            return None
    records = LOG_RECORD.findall(run.log.read_text(encoding="utf-8", errors="replace"))
    level, message = records[-1] if records else ("", "")
    ended = re.fullmatch(r"ended by (\w+)\((.*?),?\)", message)
    if level != "ERROR" or ended is None or ended[1] in STOPPED:
        return None
    reason = ended[2].strip("'\"").replace("\\n", "\n")
    return reason if ended[1] == "UserError" else f"{ended[1]}: {reason}"


# ── the table of a sweep ─────────────────────────────────────────────────────────────────────

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
    known = next((point.score for point in points if point.score), None)
    first, second = both_rates(leading(known))
    front = pareto_front([p.adapter_bytes for p in points], [p.rate for p in points])
    heading, labels, keys = _labels(points)
    ranks = tuple((point.rank or "").replace(" ", "") for point in points)

    def of_summaries(text: Callable[[RunSummary], str]) -> tuple[str, ...]:
        return tuple(text(point.summary) if point.summary else "" for point in points)

    def of_scores(text: Callable[[Score], str]) -> tuple[str, ...]:
        return tuple(text(point.score) if point.score else "" for point in points)

    def bounds(score: Score) -> str:
        return interval(score.ci95(score.leading)).removesuffix(" %").replace(" ", "")

    sizes = of_summaries(
        lambda one: f"{one.adapter_bytes / 1e6:.{1 if one.adapter_bytes < 1e8 else 0}f}"
    )
    times = of_summaries(
        lambda one: (
            clock(one.train_seconds)
            if one.train_seconds < 36_000
            else f"{one.train_seconds / 3600:.1f} h"
        )
    )
    rates = of_scores(lambda score: f"{100 * score.rate(score.leading):.1f}")
    states = ("" if point.state == "complete" else point.state for point in points)
    rated = tuple(state or rate for state, rate in zip(states, rates, strict=True))
    figures = [
        Figure(heading, labels, is_needed=True, is_number=False),
        Figure("rank", ranks, "rank {}"),
        Figure("targets", tuple(p.targets or "" for p in points), "{}", is_number=False),
        Figure("trained", of_summaries(_parameters), "{} parameters trained"),
        Figure("MB", sizes, "adapters of {} MB"),
        Figure("time", times, is_needed=True),
        Figure(f"{rate_name(known, first)} %", rated, is_needed=True),
        Figure("interval", of_scores(bounds), is_needed=True),
        Figure(
            f"{rate_name(known, second)} %",
            of_scores(lambda score: f"{100 * score.rate(second):.1f}"),
            is_needed=True,
        ),
        Figure("", tuple(FRONT if is_on else "" for is_on in front), is_needed=True),
    ]
    told = {"targets"} if {"adapter.targets", "adapter.layers"} & set(keys) else set()
    is_said = (rank in ("", label) for rank, label in zip(ranks, labels, strict=True))
    if keys == ["adapter.rank"] and all(is_said):
        told.add("rank")
        figures[0] = replace(figures[0], is_number=True)
    return [figure for figure in figures if figure.heading not in told or figure.is_needed]


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
