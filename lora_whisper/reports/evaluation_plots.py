"""The charts of an evaluation's page: error rates with their intervals, each model in its colour.

Each is SVG, and empty without any rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_whisper.evaluation.results import EvaluationResults, Rate, Rates
from lora_whisper.reports.charts import MARKERS, SERIES, Chart, Scale, shorten
from lora_whisper.reports.evaluation_words import leading, sets_of

SHOWN_GROUPS = 20  # of a column, the worst ones
LINE_INCHES = 0.12  # of a chart's height, for one model
GAP_INCHES = 0.14  # between two labels

Rated = Mapping[str, Rates | None]  # model → its score, or what else has rates with intervals


def models_and_sets(results: EvaluationResults) -> str:
    """Every model's leading rate on every set."""
    rows = {
        _with_rate(results, name): _rated(results.scored(name), leading(results, name))
        for name in results.scores
        if results.scored(name)
    }
    return _dots(results, rows, _axis(results)) if rows else ""


def by_condition(results: EvaluationResults, name: str) -> str:
    """A set as it is, and as it was made harder; the models side by side."""
    rate = leading(results, name)
    rows = {condition: _rated(found, rate) for condition, found in results.conditions[name].items()}
    return _dots(results, rows, rate.upper())


def by_group(results: EvaluationResults, name: str, column: str, labels: Sequence[str]) -> str:
    """The groups of a column, in the order of `labels`."""
    rate, found = leading(results, name), results.scored(name)
    rows = {
        label: _rated(
            {model: score.groups.get(column, {}).get(label) for model, score in found.items()},
            rate,
        )
        for label in labels[:SHOWN_GROUPS]
    }
    return _dots(results, rows, rate.upper())


def along_the_scale(results: EvaluationResults, model: str) -> str:
    """Every set's rate over the adapter's scale, with its interval as a band."""
    chart = Chart(2.9, Scale("adapter scale"), Scale(unit=" %", from_zero=True))
    for number, name in enumerate(sets_of(results, "test", "retention")):
        scales, rated = _along(results, model, name)
        look: Any = {"colour": _colour(number), "marker": _marker(number)}
        chart.line(scales, rated, shorten(_with_rate(results, name)), **look)
    return chart.svg()


def trade_off(results: EvaluationResults, model: str) -> str:
    """New speech against old: where each scale of the adapter stands; empty without both."""
    tested, retained = sets_of(results, "test"), sets_of(results, "retention")
    if not tested or not retained:
        return ""
    across_label = f"{tested[0]}, {leading(results, tested[0]).upper()}"
    across_scale = Scale(across_label, unit=" %", from_zero=True)
    chart = Chart(2.9, across_scale, Scale(", ".join(retained), unit=" %", from_zero=True))
    scales, across = _along(results, model, tested[0])
    for number, name in enumerate(retained, start=1):
        _, up = _along(results, model, name)
        label = shorten(_with_rate(results, name)) if len(retained) > 1 else ""
        look: Any = {"colour": _colour(number), "elinewidth": 0.6, "fmt": f"{_marker(number)}-"}
        chart.dots(across, up, label, **look)
        chart.names(across[:, 0], up[:, 0], [f"{scale:g}" for scale in scales])
    return chart.svg()


def _along(results: EvaluationResults, model: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(scales,) and (scales, 3) percent: a set's rate and the two ends of its interval."""
    rate = leading(results, name)
    scales = [one for one in results.scales[model] if name in one.scores]
    rated = [_percent(one.scores[name], rate) for one in scales]
    return np.array([one.scale for one in scales]), np.array(rated).reshape(-1, 3)


# ── dots with intervals ──────────────────────────────────────────────────────────────────────


def _rated(found: Rated, rate: Rate) -> dict[str, tuple[float, float, float]]:
    return {model: _percent(score, rate) for model, score in found.items() if score}


def _percent(score: Rates, rate: Rate) -> tuple[float, float, float]:
    low, high = score.ci95(rate)
    return 100 * score.rate(rate), 100 * low, 100 * high


def _dots(
    results: EvaluationResults,
    rows: Mapping[str, Mapping[str, tuple[float, float, float]]],
    label: str,
) -> str:
    """A line a label; on it a dot with its interval for every model, in the models' order."""
    models = [one.name for one in results.models]
    shown = [model for model in models if any(model in rated for rated in rows.values())]
    if not shown:
        return ""
    pitch = LINE_INCHES * len(shown) + GAP_INCHES
    across = Scale(label, unit=" %", most_ticks=5, from_zero=True)
    chart = Chart(1.0 + pitch * len(rows), across, Scale(names=list(rows)))
    for place, model in enumerate(shown):
        at = [number for number, rated in enumerate(rows.values()) if model in rated]
        values = np.array([rated[model] for rated in rows.values() if model in rated])
        offset = (place - (len(shown) - 1) / 2) * LINE_INCHES / pitch
        number = models.index(model)
        chart.dots(
            values,
            np.array(at) + offset,
            shorten(model) if len(shown) > 1 else "",
            _colour(number),
            fmt=_marker(number),
            markersize=5,
            clip_on=False,  # a rate of zero stands on the axis
        )
    chart.separators()
    return chart.svg()


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _with_rate(results: EvaluationResults, name: str) -> str:
    """`test`, or where sets lead with different rates `test CER`."""
    mixed = len({leading(results, other) for other in results.scores}) > 1
    return f"{name} {leading(results, name).upper()}" if mixed else name


def _axis(results: EvaluationResults) -> str:
    found = {leading(results, name).upper() for name in results.scores}
    return found.pop() if len(found) == 1 else "error rate"
