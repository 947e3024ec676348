"""The plots of a report: rates against cost, the course of training, the effect of each key.

Drawn `with matplotlib.rc_context(STYLE)` and returned as SVG, empty without anything to show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_whisper.evaluation.results import rate_name
from lora_whisper.reports.comparison import Effect, Entry, Report
from lora_whisper.reports.html import LIGHT, SERIES, add_legend, new_axes, shorten, svg
from lora_whisper.reports.sweep import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_CURVES = 6  # in colours of their own; the others are grey
SHOWN_POINTS = 200  # of a curve; of a longer one, the means of neighbours
NAMED_DOTS = 12  # up to here each dot is named, beyond it those of the front
WIDE = 6  # numbers that reach this many times as far are drawn on a logarithmic scale
STEEP = 20  # and a loss that falls this far
STYLES = ("-", "--", ":")

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
    axes = new_axes(3.2)
    for chosen, colour, filled in ((~front, LIGHT["grey"], False), (front, SERIES[0], True)):
        if not chosen.any():
            continue
        axes.errorbar(
            costs[chosen],
            rated[chosen, 0],
            yerr=_arms(rated[chosen]),
            fmt="o",
            markersize=6,
            color=colour,
            markerfacecolor=colour if filled else "none",
            elinewidth=1,
            label="Pareto front" if filled else "other runs",
        )
    axes.step(costs[front], rated[front, 0], where="post", color=SERIES[0], linewidth=0.8)
    _draw_base(axes, report)
    _name_dots(axes, entries, costs, rated[:, 0], front)
    _scale_x(axes, costs, label)
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_ylabel(report.rate)
    _begin_low(axes, rated)
    add_legend(axes)
    return svg(axes)


def _draw_base(axes: Axes, report: Report) -> None:
    """The rate that a run has to come under, as a line of its own name."""
    if report.base_rate is not None:
        axes.axhline(
            100 * report.base_rate,
            label="base",
            color=LIGHT["bad"],
            linestyle="--",
            linewidth=1.2,
            zorder=1,
        )


def _rated(entry: Entry) -> tuple[float, float, float]:
    """In percent: the leading rate and the ends of its interval."""
    assert entry.point.rate is not None
    assert entry.point.interval is not None
    low, high = entry.point.interval
    return 100 * entry.point.rate, 100 * low, 100 * high


def _arms(rated: np.ndarray) -> np.ndarray:
    """(2, n): how far an interval reaches below and above its value, which it may not contain."""
    middle, low, high = rated.T
    return np.maximum([middle - low, high - middle], 0)


def _name_dots(
    axes: Axes, entries: Sequence[Entry], xs: np.ndarray, ys: np.ndarray, front: np.ndarray
) -> None:
    """To the right of each, above and below in turn where two are beside each other."""
    offsets, was_above = {True: (6, 4), False: (6, -12)}, False
    for entry, x, y, is_on_front in zip(entries, xs, ys, front, strict=True):
        if is_on_front or len(entries) <= NAMED_DOTS:
            was_above = not was_above
            axes.annotate(
                shorten(entry.mark),
                (x, y),
                xytext=offsets[was_above],
                textcoords="offset points",
                fontsize=10,
            )


def _scale_x(axes: Axes, values: np.ndarray, label: str) -> None:
    """Logarithmic where the values reach far apart, with plain numbers at the ticks."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if values.min() > 0 and values.max() >= WIDE * values.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(values.min() / 1.3, values.max() * 1.6)  # names stand to the right
    else:
        room = 0.08 * (values.max() - values.min() or values.max() or 1)
        axes.set_xlim(max(values.min() - room, 0), values.max() + 2 * room)
        axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(label)


def _begin_low(axes: Axes, rated: np.ndarray) -> None:
    """At zero, unless all there is to see would be squeezed into the upper half."""
    if rated[:, 1].min() < 0.5 * rated[:, 2].max():
        axes.set_ylim(0, None)


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
    known = {label: _course(some, key) for label, some in lines.items()}
    known = {label: course for label, course in known.items() if len(course)}
    if not known:
        return ""
    factor = 100 if key.endswith("wer") else 1
    coloured = _coloured(report)
    axes = new_axes(3.0 + 0.18 * ((min(len(known), SHOWN_CURVES + 1) - 1) // 3))
    marker = "o" if "validation" in key else ""
    for label, course in sorted(known.items(), key=lambda one: one[0] in coloured):
        steps, values = course.T
        look = coloured.get(label, {"color": LIGHT["grey"], "linewidth": 0.6, "alpha": 0.6})
        axes.plot(steps, factor * values, **look, marker=marker, markersize=3)
    _scale_y(axes, np.concatenate([course[:, 1] for course in known.values()]), factor)
    axes.set_xlabel("steps")
    axes.set_xlim(0, None)
    axes.locator_params(axis="x", integer=True, nbins=6)
    if len(known) > 1 and coloured.keys() & known.keys():
        add_legend(axes)
    return svg(axes)


def _coloured(report: Report) -> dict[str, dict[str, Any]]:
    """The best runs by label, each with its colour and its name, in the order of the table."""
    best = sorted(report.scored, key=lambda entry: entry.point.rate or 0)[:SHOWN_CURVES]
    chosen = best or report.entries[:SHOWN_CURVES]
    labels = {entry.label for entry in chosen}
    entries = [entry for entry in report.entries if entry.label in labels]
    return {
        entry.label: {
            "color": SERIES[number % len(SERIES)],
            "linestyle": STYLES[number % len(STYLES)],
            "label": shorten(entry.mark),
        }
        for number, entry in enumerate(entries)
    }


def _course(lines: Sequence[Line], key: str) -> np.ndarray:
    """(n, 2) steps and values, at most `SHOWN_POINTS`; what was not finite is left out."""
    known = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    values = np.array(known, float).reshape(-1, 2)
    parts = np.array_split(values, max(1, min(SHOWN_POINTS, len(values))))
    return np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2)


def _scale_y(axes: Axes, values: np.ndarray, factor: int) -> None:
    if factor == 100:
        axes.yaxis.set_major_formatter("{x:g} %")
    elif values.max() > STEEP * values.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        return
    axes.set_ylim(0, 1.08 * factor * values.max() or 1)


# ── the effect of a key ──────────────────────────────────────────────────────────────────────


def effect(report: Report, one: Effect) -> str:
    """Every run's rate over the key's value, and a line through the means of values tried."""
    numbers = one.numbers
    xs = np.array(range(len(one.entries)) if numbers is None else numbers, float)
    rates = [np.array([_rated(entry) for entry in some]) for some in one.entries.values()]
    axes = new_axes(2.6)
    for x, some in zip(xs, rates, strict=True):
        axes.errorbar(
            [x] * len(some),
            some[:, 0],
            yerr=_arms(some),
            fmt="o",
            markersize=6,
            elinewidth=0.8,
            color=LIGHT["grey"],
            alpha=0.6,
        )
    if not one.is_scattered:
        axes.plot(
            xs,
            [some[:, 0].mean() for some in rates],
            linestyle="none" if numbers is None else "-",
            marker="_" if one.has_means else "",
            markersize=14,
            markeredgewidth=2,
            color=SERIES[0],
        )
    if numbers is None:
        axes.set_xticks(xs, [shorten(value) for value in one.entries])
        axes.set_xlim(-0.5, len(xs) - 0.5)
        axes.set_xlabel(one.key)
    else:
        _scale_numbers(axes, xs, one)
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_ylabel(report.rate)
    axes.margins(y=0.15)
    _draw_base(axes, report)
    if report.base_rate is not None:
        add_legend(axes)
    _begin_low(axes, np.concatenate(rates))
    return svg(axes)


def _scale_numbers(axes: Axes, xs: np.ndarray, one: Effect) -> None:
    """Ticks at the values that were tried; a learning rate is always on a logarithmic scale."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    is_learning_rate = one.key.endswith("learning_rate")
    if xs.min() > 0 and (is_learning_rate or xs.max() >= WIDE * xs.min()):
        axes.set_xscale("log")
        axes.set_xlim(xs.min() / 1.4, xs.max() * 1.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if one.is_scattered:
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xticks(xs, list(one.entries))
    axes.set_xlabel(one.key)
