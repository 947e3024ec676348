"""The charts of a report: rates against cost, the course of training, the effect of each key.

Each is SVG, and empty without anything to show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lora_whisper.evaluation.results import rate_name
from lora_whisper.reports.charts import LIGHT, SERIES, Chart, Scale, course, is_steep, shorten
from lora_whisper.reports.comparison import Effect, Entry, Report
from lora_whisper.reports.sweep import pareto_front

SHOWN_CURVES = 6  # in colours of their own; the others are grey
SHOWN_POINTS = 200  # of a curve; of a longer one, the means of neighbours
NAMED_DOTS = 12  # up to here each dot is named, beyond it those of the front
WIDE = 6  # numbers that reach this many times as far are drawn on a logarithmic scale
STYLES = ("-", "--", ":")
HOLLOW: Any = {"markerfacecolor": "none"}

Line = Mapping[str, Any]  # of metrics.jsonl


# ── rates against cost ───────────────────────────────────────────────────────────────────────


def against_size(report: Report) -> str:
    """The leading rate over the adapter's megabytes."""
    return _against(report, lambda entry: (entry.point.adapter_bytes or 0) / 1e6, "adapter, MB")


def against_time(report: Report) -> str:
    """The leading rate over the time of training, in the unit that suits."""
    longest = max((entry.point.train_seconds or 0 for entry in report.scored), default=0)
    unit, seconds = next(
        (unit, seconds)
        for unit, seconds in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if longest >= 2 * seconds or seconds == 1
    )
    return _against(
        report, lambda entry: (entry.point.train_seconds or 0) / seconds, f"training, {unit}"
    )


def _against(report: Report, cost: Callable[[Entry], float], label: str) -> str:
    """Each run's rate with its interval; filled and joined: the Pareto front of this plot."""
    entries = sorted(report.scored, key=lambda entry: (cost(entry), entry.point.rate or 0))
    if len(entries) < 2:
        return ""
    costs = np.array([cost(entry) for entry in entries])
    rated = np.array([_rated(entry) for entry in entries])
    front = np.array(pareto_front(list(costs), list(rated[:, 0])))
    named = front | (len(entries) <= NAMED_DOTS)
    chart = Chart(3.2, _costs(costs, label), _rates(report, rated))
    if not front.all():
        look: Any = {"colour": LIGHT["grey"], "elinewidth": 1} | HOLLOW
        chart.dots(costs[~front], rated[~front], "other runs", **look)
    chart.dots(costs[front], rated[front], "Pareto front", elinewidth=1)
    steps: Any = {"drawstyle": "steps-post", "linewidth": 0.8, "marker": ""}
    chart.line(costs[front], rated[front, 0], **steps)
    if report.base_rate is not None:
        chart.level(100 * report.base_rate, "base")
    marks = [entry.mark for entry, is_named in zip(entries, named, strict=True) if is_named]
    chart.names(costs[named], rated[named, 0], marks)
    return chart.svg()


def _rated(entry: Entry) -> tuple[float, float, float]:
    """In percent: the leading rate and the ends of its interval."""
    assert entry.point.rate is not None
    assert entry.point.interval is not None
    low, high = entry.point.interval
    return 100 * entry.point.rate, 100 * low, 100 * high


def _rates(report: Report, rated: np.ndarray) -> Scale:
    """From zero, unless all there is to see would be squeezed into the upper half."""
    return Scale(report.rate, unit=" %", from_zero=rated[:, 1].min() < 0.5 * rated[:, 2].max())


def _costs(values: np.ndarray, label: str) -> Scale:
    """With room on the right, where names stand."""
    if values.min() > 0 and values.max() >= WIDE * values.min():
        return Scale(label, is_log=True)
    room = 0.08 * (values.max() - values.min() or values.max() or 1)
    limits = (max(values.min() - room, 0), values.max() + 2 * room)
    return Scale(label, most_ticks=6, limits=limits)


# ── learning curves ──────────────────────────────────────────────────────────────────────────


def curves(report: Report, lines: Mapping[str, Sequence[Line]]) -> list[tuple[str, str]]:
    """Loss of training, WER and loss of validation: each plot as its caption and its SVG.

    Args:
        lines: label → metrics.jsonl.
    """
    shown = {
        "Training: loss per token": "loss_per_token",
        f"Validation: {rate_name(report.score, 'wer')}": "validation_wer",
        "Validation: loss per token": "validation_loss_per_token",
    }
    drawn = ((caption, _courses(report, lines, key)) for caption, key in shown.items())
    return [(caption, plot) for caption, plot in drawn if plot]


def _courses(report: Report, lines: Mapping[str, Sequence[Line]], key: str) -> str:
    courses = {label: course(some, key, SHOWN_POINTS) for label, some in lines.items()}
    known = {label: points for label, points in courses.items() if len(points[0])}
    if not known:
        return ""
    is_rate = key.endswith("wer")
    is_log = not is_rate and is_steep(np.concatenate([values for _, values in known.values()]))
    chart = Chart(
        3.0 + 0.18 * ((min(len(known), SHOWN_CURVES + 1) - 1) // 3),
        Scale("steps", most_ticks=6, is_whole=True, from_zero=True),
        Scale(unit=" %" if is_rate else "", is_log=is_log, from_zero=not is_log),
    )
    coloured = _coloured(report)
    marker: Any = {"marker": "o", "markersize": 3} if "validation" in key else {}
    for label, (steps, values) in sorted(known.items(), key=lambda one: one[0] in coloured):
        look = coloured.get(label, {"colour": LIGHT["grey"], "linewidth": 0.6, "alpha": 0.6})
        if len(known) == 1:
            look = look | {"label": ""}
        chart.line(steps, (100 if is_rate else 1) * values, **look, **marker)
    return chart.svg()


def _coloured(report: Report) -> dict[str, dict[str, Any]]:
    """The best runs by label, each with its colour and its name, in the order of the table."""
    best = sorted(report.scored, key=lambda entry: entry.point.rate or 0)[:SHOWN_CURVES]
    chosen = best or report.entries[:SHOWN_CURVES]
    labels = {entry.label for entry in chosen}
    entries = [entry for entry in report.entries if entry.label in labels]
    return {
        entry.label: {
            "colour": SERIES[number % len(SERIES)],
            "linestyle": STYLES[number % len(STYLES)],
            "label": shorten(entry.mark),
        }
        for number, entry in enumerate(entries)
    }


# ── the effect of a key ──────────────────────────────────────────────────────────────────────


def effect(report: Report, one: Effect) -> str:
    """Every run's rate over the key's value, and a line through the means of values tried."""
    numbers = one.numbers
    xs = np.array(range(len(one.entries)) if numbers is None else numbers, float)
    rates = [np.array([_rated(entry) for entry in some]) for some in one.entries.values()]
    every = np.concatenate(rates)
    chart = Chart(2.6, _values(xs, one), _rates(report, every))
    across = np.repeat(xs, [len(some) for some in rates])
    chart.dots(across, every, colour=LIGHT["grey"], elinewidth=0.8, alpha=0.6)
    if not one.is_scattered:
        means = [some[:, 0].mean() for some in rates]
        look: Any = {"linestyle": "none" if numbers is None else "-"}
        look |= {"marker": "_" if one.has_means else "", "markersize": 14, "markeredgewidth": 2}
        chart.line(xs, means, **look)
    if report.base_rate is not None:
        chart.level(100 * report.base_rate, "base")
    return chart.svg()


def _values(xs: np.ndarray, one: Effect) -> Scale:
    """Ticks at the values that were tried; a learning rate is always on a logarithmic scale."""
    if one.numbers is None:
        return Scale(one.key, names=list(one.entries))
    is_learning_rate = one.key.endswith("learning_rate")
    is_log = xs.min() > 0 and (is_learning_rate or xs.max() >= WIDE * xs.min())
    ticks = None if one.is_scattered else dict(zip(xs, one.entries, strict=True))
    return Scale(one.key, is_log=bool(is_log), ticks=ticks)
