"""The plots of an evaluation's page: error rates with their intervals, each model in its colour.

They are drawn `with matplotlib.rc_context(STYLE)` and returned as SVG, empty without any rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lora_whisper.reports.evaluation_words import Results, Scores, leading, scored, sets_of
from lora_whisper.reports.html import LIGHT, SERIES, add_legend, new_axes, shorten, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_GROUPS = 20  # of a column, the worst ones
MARKERS = "osD^vP"  # told apart without colour, too
LINE_INCHES = 0.12  # of a plot's height, for one model
GAP_INCHES = 0.14  # between two labels

Rated = Mapping[str, Scores | None]  # model → its score, or what else has rates with intervals


def models_and_sets(results: Results) -> str:
    """Every model's leading rate on every set."""
    rows = {
        _with_rate(results, name): _rated(scored(results, name), leading(results, name))
        for name in results["scores"]
        if scored(results, name)
    }
    return svg(_dots(results, rows, _axis(results))) if rows else ""


def by_condition(results: Results, name: str) -> str:
    """A set as it is, and as it was made harder; the models side by side."""
    rate = leading(results, name)
    rows = {
        condition: _rated(found, rate) for condition, found in results["conditions"][name].items()
    }
    return svg(_dots(results, rows, rate.upper()))


def by_group(results: Results, name: str, column: str, labels: Sequence[str]) -> str:
    """The groups of a column, in the order of `labels`."""
    rate, found = leading(results, name), scored(results, name)
    rows = {
        label: _rated(
            {model: score["groups"].get(column, {}).get(label) for model, score in found.items()},
            rate,
        )
        for label in labels[:SHOWN_GROUPS]
    }
    return svg(_dots(results, rows, rate.upper()))


def along_the_scale(results: Results, model: str) -> str:
    """Every set's rate over the adapter's scale, with its interval as a band."""
    names = sets_of(results, "test", "retention")
    axes = new_axes(2.9)
    for number, name in enumerate(names):
        scales, rated = _along(results, model, name)
        colour = SERIES[number % len(SERIES)]
        label = shorten(_with_rate(results, name))
        axes.plot(scales, rated[:, 0], "-", color=colour, marker=_marker(number), label=label)
        axes.fill_between(scales, rated[:, 1], rated[:, 2], color=colour, alpha=0.15, lw=0)
    axes.set_xlabel("adapter scale")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_ylim(0, None)
    add_legend(axes)
    return svg(axes)


def trade_off(results: Results, model: str) -> str:
    """New speech against old: where each scale of the adapter stands; empty without both."""
    tested, retained = sets_of(results, "test"), sets_of(results, "retention")
    if not tested or not retained:
        return ""
    axes = new_axes(2.9)
    scales, across = _along(results, model, tested[0])
    for number, name in enumerate(retained, start=1):
        _, up = _along(results, model, name)
        _course(axes, scales, across, up, number, shorten(_with_rate(results, name)))
    axes.set_xlabel(f"{tested[0]}, {leading(results, tested[0]).upper()}")
    axes.set_ylabel(", ".join(retained))
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    if len(retained) > 1:
        add_legend(axes)
    return svg(axes)


def _course(
    axes: Axes, scales: np.ndarray, across: np.ndarray, up: np.ndarray, number: int, label: str
) -> None:
    """A line from scale to scale, with the scale beside each point."""
    colour = SERIES[number % len(SERIES)]
    axes.errorbar(
        across[:, 0],
        up[:, 0],
        xerr=_arms(across),
        yerr=_arms(up),
        color=colour,
        elinewidth=0.6,
        marker=_marker(number),
        label=label,
    )
    for scale, x, y in zip(scales, across[:, 0], up[:, 0], strict=True):
        axes.annotate(f"{scale:g}", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=10)


def _along(results: Results, model: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(scales,) and (scales, 3) percent: a set's rate and the two ends of its interval."""
    rate = leading(results, name)
    scales = [one for one in results["scales"][model] if name in one["scores"]]
    rated = [_percent(one["scores"][name], rate) for one in scales]
    return np.array([one["scale"] for one in scales]), np.array(rated).reshape(-1, 3)


# ── dots with intervals ──────────────────────────────────────────────────────────────────────


def _rated(found: Rated, rate: str) -> dict[str, tuple[float, float, float]]:
    return {model: _percent(score, rate) for model, score in found.items() if score}


def _percent(score: Scores, rate: str) -> tuple[float, float, float]:
    low, high = score[f"{rate}_ci95"]
    return 100 * score[rate], 100 * low, 100 * high


def _dots(
    results: Results, rows: Mapping[str, Mapping[str, tuple[float, float, float]]], label: str
) -> Axes:
    """A line a label; on it a dot with its interval for every model, in the models' order."""
    models = [one["name"] for one in results["models"]]
    shown = [model for model in models if any(model in rated for rated in rows.values())]
    line = LINE_INCHES / (pitch := LINE_INCHES * len(shown) + GAP_INCHES)
    axes = new_axes(1.0 + pitch * len(rows))
    for place, model in enumerate(shown):
        at = [number for number, rated in enumerate(rows.values()) if model in rated]
        values = np.array([rated[model] for rated in rows.values() if model in rated])
        offset = (place - (len(shown) - 1) / 2) * line
        number = models.index(model)
        axes.errorbar(
            values[:, 0],
            np.array(at) + offset,
            xerr=_arms(values),
            fmt=_marker(number),
            markersize=5,
            color=SERIES[number % len(SERIES)],
            label=shorten(model),
            clip_on=False,  # a rate of zero stands on the axis
        )
    _name_lines(axes, list(rows), label)
    if len(shown) > 1:
        add_legend(axes)
    return axes


def _arms(values: np.ndarray) -> np.ndarray:
    """(2, n): how far an interval reaches below and above its value, which it may not contain."""
    middle, low, high = values.T
    return np.maximum([middle - low, high - middle], 0)


def _name_lines(axes: Axes, labels: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(labels)), [shorten(name) for name in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for between in range(1, len(labels)):
        axes.axhline(between - 0.5, color=LIGHT["line"], linewidth=0.8)
    axes.set_xlim(0, None)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel(label)


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _with_rate(results: Results, name: str) -> str:
    """`test`, or where sets lead with different rates `test CER`."""
    mixed = len({leading(results, other) for other in results["scores"]}) > 1
    return f"{name} {leading(results, name).upper()}" if mixed else name


def _axis(results: Results) -> str:
    found = {leading(results, name).upper() for name in results["scores"]}
    return found.pop() if len(found) == 1 else "error rate"
