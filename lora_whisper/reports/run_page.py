"""The page of a training run: its curves, and the samples with what was wrong in them marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_whisper.evaluation.alignment import align, separator
from lora_whisper.reports.html import SERIES, STYLE, add_legend, new_axes, render, svg
from lora_whisper.terminal import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_POINTS = 400  # of a curve; of a longer one, the means of neighbours
STEEP = 20  # a loss that falls to less than one such part is drawn on a logarithmic scale
TRAINING, VALIDATION = SERIES[:2]

Line = Mapping[str, Any]  # of metrics.jsonl
Row = Mapping[str, Any]  # of hypotheses.jsonl


@dataclass(frozen=True)
class Sample:
    """One utterance of the test set, and what each model heard."""

    heard: Mapping[str, Row]  # model → its line of hypotheses.jsonl

    @property
    def errors(self) -> int:
        """Words that the adapter has wrong."""
        return int(self.heard["adapter"]["errors"])

    @property
    def gain(self) -> int:
        """Errors that the adapter took away; below zero, that it brought."""
        return int(self.heard["base"]["errors"]) - self.errors


@dataclass(frozen=True)
class Report:
    """What stands on the page; texts as they are, to be escaped."""

    name: str
    about: str
    key_figures: dict[str, str]
    remarks: list[tuple[str, str]]  # "warning" or "note", and its text
    headings: list[str]  # of the columns of scores, but for the first
    scores: list[tuple[bool, list[str]]]  # whether it is of a group, and its cells
    scored: str  # how they came about
    lines: Sequence[Line]
    kept_step: int | None  # None: what was kept is a mean of several
    samples: list[tuple[str, list[Sample]]]  # by what they are chosen for
    facts: dict[str, dict[str, str]]
    changes: list[tuple[str, str, str]]  # key, value, what it is by default
    config: str  # YAML


def page(report: Report) -> str:
    """The whole page. Whatever comes from the run is escaped."""
    return render(
        "run.html.j2",
        report=report,
        samples=[(title, [texts(one) for one in some]) for title, some in report.samples],
        curves=curves(report.lines, report.kept_step),
    )


# ── samples ──────────────────────────────────────────────────────────────────────────────────


def texts(sample: Sample) -> dict[str, Any]:
    """A sample's lines: the reference as it was written, and what each model made of it."""
    row = sample.heard["adapter"]
    return {
        "row": row["row"],
        "language": row["language"] or "en",
        "space": separator(row["language"]),
        "bad_audio": row["bad_audio"],
        "reference": row["reference"],
        "heard": [
            {
                "model": model,
                "errors": heard["errors"],
                "stretches": align(heard["reference"], heard["hypothesis"], row["language"]),
            }
            for model, heard in sample.heard.items()
            if model != "merged" or heard["hypothesis"] != row["hypothesis"]
        ],
    }


# ── curves ───────────────────────────────────────────────────────────────────────────────────


def curves(lines: Sequence[Line], kept_step: int | None) -> list[tuple[str, str]]:
    """Each plot as its caption and its SVG; those without anything to show are left out."""
    import matplotlib

    training = [line for line in lines if "loss_per_token" in line]
    validation = [line for line in lines if "validation_wer" in line]
    kept = [line["validation_wer"] for line in validation if line["step"] == kept_step]
    rate = f", {percent(kept[0])} at the step that was kept" if kept else ""
    with matplotlib.rc_context(STYLE):
        plots = [
            ("Loss per token", _losses(training, validation)),
            (f"WER of the validation sample{rate}", _error_rate(validation, kept_step)),
            ("Learning rate", _course(training, "learning_rate")),
            ("Gradient norm before clipping", _course(training, "gradient_norm")),
        ]
        return [(caption, svg(axes)) for caption, axes in plots if axes]


def _losses(training: Sequence[Line], validation: Sequence[Line]) -> Axes | None:
    steps, losses = _points(training, "loss_per_token")
    if not len(losses):
        return None
    axes = _axes(2.7, training)
    axes.plot(steps, losses, _line(steps), color=TRAINING, label="training")
    if validation:
        points = _points(validation, "validation_loss_per_token")
        axes.plot(*points, "o-", markersize=4, color=VALIDATION, label="validation")
        add_legend(axes)
    if losses.max() > STEEP * losses.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        _begin_at_zero(axes)
    return axes


def _error_rate(validation: Sequence[Line], kept_step: int | None) -> Axes | None:
    """In percent; the step whose adapter was kept has a larger dot."""
    if not validation:
        return None
    axes = _axes(2.7, validation)
    steps, rates = _points(validation, "validation_wer")
    axes.plot(steps, 100 * rates, "o-", markersize=4, color=VALIDATION)
    kept = steps == kept_step
    axes.plot(steps[kept], 100 * rates[kept], "o", markersize=9, color=VALIDATION, clip_on=False)
    axes.yaxis.set_major_formatter("{x:g} %")
    _begin_at_zero(axes)
    return axes


def _course(training: Sequence[Line], key: str) -> Axes | None:
    steps, values = _points(training, key)
    if not len(values):
        return None
    axes = _axes(1.9, training)
    axes.plot(steps, values, _line(steps), color=TRAINING)
    _begin_at_zero(axes)
    return axes


def _line(steps: np.ndarray) -> str:
    """A line of one point would not be seen, and a run of a few steps has no more."""
    return "o-" if len(steps) == 1 else "-"


def _axes(height_inches: float, lines: Sequence[Line]) -> Axes:
    axes = new_axes(height_inches)
    axes.set_xlabel("steps")
    axes.set_xlim(0, 1.02 * lines[-1]["step"])
    axes.locator_params(axis="x", integer=True, nbins=7)
    return axes


def _begin_at_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.08 * axes.dataLim.y1 or 1)  # a dot at the top stays whole


def _points(lines: Sequence[Line], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) steps and values, at most `SHOWN_POINTS`; what was not finite is null and left out."""
    known = np.array([(line["step"], line[key]) for line in lines if line[key] is not None], float)
    parts = np.array_split(known.reshape(-1, 2), max(1, min(SHOWN_POINTS, len(known))))
    steps, values = np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2).T
    return steps, values
