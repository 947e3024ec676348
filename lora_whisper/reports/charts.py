"""Charts as SVG in the colours of their page: lines, dots with intervals, histograms, bars.

A `Chart` takes any of the four, and what stands beside them; `svg` draws it, half a page wide.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_whisper.evaluation.results import Rate, Rates
from lora_whisper.reports.html import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIGHT = {name: light for name, (light, _) in PALETTE.items()}
SERIES = [LIGHT[name] for name in ("blue", "amber", "violet", "green", "bad", "grey")]
MARKERS = "osD^vP"  # told apart without colour, too
LEGEND_LETTERS = 60  # that stand beside each other above a chart
BINS = 40
STEEP = 20  # what falls this far is drawn on a logarithmic scale
STYLE: Any = {  # of matplotlib, whose type for it names 300 keys
    "svg.fonttype": "none",  # letters stay letters: small, and to be searched for
    "svg.hashsalt": "lora_whisper",  # the same page for the same figures
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,  # a speaker may be called $x$
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": LIGHT["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT["soft"],
    "axes.labelcolor": LIGHT["soft"],
    "xtick.color": LIGHT["soft"],
    "ytick.color": LIGHT["soft"],
}

Look = dict[str, Any]  # of a line or of dots, as Matplotlib calls it
Values = Any  # (n,); or (n, 3): each value with the low and the high end of its interval


@dataclass(frozen=True)
class Scale:
    """An axis: what it is of, what stands at its ticks, how far it reaches."""

    label: str = ""
    unit: str = ""  # behind each figure
    names: Sequence[str] = ()  # of the places 0, 1, 2, …, in place of figures
    ticks: Mapping[float, str] | None = None  # all that there are
    most_ticks: int | None = None
    is_whole: bool = False  # no fractions at the ticks
    is_log: bool = False
    from_zero: bool = False  # up to what is drawn, with room for a dot at the top
    limits: tuple[float, float] | None = None

    def apply(self, axes: Axes, which: str) -> None:
        """To the `x` or the `y` of axes on which everything is drawn."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        set_limits = axes.set_xlim if which == "x" else axes.set_ylim
        if self.is_log:
            self._make_log(axes, which)
        elif self.most_ticks or self.is_whole:
            given = {"nbins": self.most_ticks} if self.most_ticks else {}
            locator: Any = axis.get_major_locator()
            locator.set_params(integer=self.is_whole, **given)
        if self.unit or self.is_log:
            axis.set_major_formatter(f"{{x:g}}{self.unit}")
        if self.names:
            axis.set_ticks(range(len(self.names)), [shorten(name) for name in self.names])
            last = len(self.names) - 0.5
            set_limits(*((-0.5, last) if which == "x" else (last, -0.5)))  # the first one on top
            if which == "y":
                axis.set_tick_params(length=0)
        if self.ticks is not None:
            axis.set_ticks(list(self.ticks), list(self.ticks.values()))
        if self.from_zero:
            set_limits(0, 1.08 * getattr(axes.dataLim, f"{which}1") or 1)
        if self.limits is not None:
            set_limits(*self.limits)
        axis.set_label_text(self.label)

    def _make_log(self, axes: Axes, which: str) -> None:
        """With plain numbers at the ticks; of the x, room at both ends."""
        from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

        if which == "y":
            axes.set_yscale("log")
            return
        low, high = axes.dataLim.minposx, axes.dataLim.x1
        axes.set_xscale("log")
        axes.set_xlim(low / 1.4, high * 1.6)  # names stand to the right
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1, 3)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())


def _middle_and_arms(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(n,), and (2, n): how far an interval reaches below and above a value it may not contain."""
    if values.ndim == 1:
        return values, None
    middle, low, high = values.T
    return middle, np.maximum([middle - low, high - middle], 0)


class Chart:
    """What is to be drawn, in the order in which it is drawn; what has a label is in the legend."""

    def __init__(self, height_inches: float, x: Scale, y: Scale) -> None:
        self.height_inches, self.x, self.y = height_inches, x, y
        self._marks: list[Callable[[Axes], object]] = []

    def line(
        self, xs: Values, ys: Values, label: str = "", colour: str = SERIES[0], **look: Any
    ) -> None:
        """Through the points; an interval is a band around it. A line of one point is a dot."""
        values = np.asarray(ys)
        middle = values[:, 0] if values.ndim == 2 else values
        look = {"marker": "o" if len(middle) == 1 else "", "label": label or None} | look

        def draw(axes: Axes) -> None:
            axes.plot(xs, middle, color=colour, **look)
            if values.ndim == 2:
                axes.fill_between(xs, values[:, 1], values[:, 2], color=colour, alpha=0.15, lw=0)

        self._marks.append(draw)

    def dots(
        self, xs: Values, ys: Values, label: str = "", colour: str = SERIES[0], **look: Any
    ) -> None:
        """Each with its intervals, where it has any."""
        (across, wide), (up, high) = (_middle_and_arms(np.asarray(each)) for each in (xs, ys))
        given: Any = {"fmt": "o", "markersize": 6, "label": label or None} | look
        self._marks.append(
            lambda axes: axes.errorbar(across, up, xerr=wide, yerr=high, color=colour, **given)
        )

    def names(self, xs: Values, ys: Values, names: Sequence[str]) -> None:
        """To the right of each point its name, above and below in turn."""

        def draw(axes: Axes) -> None:
            for number, (x, y, name) in enumerate(zip(xs, ys, names, strict=True)):
                offset = (6, 4 if number % 2 == 0 else -12)
                axes.annotate(
                    shorten(name), (x, y), xytext=offset, textcoords="offset points", fontsize=10
                )

        self._marks.append(draw)

    def level(self, y: float, label: str) -> None:
        """A line across, which others stand above or below."""
        look: Any = {"color": LIGHT["bad"], "linestyle": "--", "linewidth": 1.2, "zorder": 1}
        self._marks.append(lambda axes: axes.axhline(y, label=label, **look))

    def limit(self, x: float, label: str) -> None:
        """A line from bottom to top, with its name beside it."""

        def draw(axes: Axes) -> None:
            axes.axvline(x, color=LIGHT["bad"], linestyle="--", linewidth=1.5)
            axes.annotate(
                label,
                (x, 1.0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(5, 0),
                textcoords="offset points",
                color=LIGHT["bad"],
                va="top",
                rotation=90,
            )

        self._marks.append(draw)

    def histogram(self, values: Mapping[str, np.ndarray], low: float, high: float) -> None:
        """Stacked; what lies outside stands in the first and the last bar."""
        inside = [np.clip(each, low, high) for each in values.values()]
        colours = [colour(number) for number in range(len(inside))]
        look: Any = {"label": list(values)} if len(values) > 1 else {}
        self._marks.append(
            lambda axes: axes.hist(
                inside, bins=BINS, range=(low, high), stacked=True, color=colours, **look
            )
        )

    def bars(self, values: np.ndarray) -> None:
        """One below the other, at the places that `y` has names of."""
        self._marks.append(lambda axes: axes.barh(range(len(values)), values, color=SERIES[0]))

    def separators(self) -> None:
        """Between the places that `y` has names of."""

        def draw(axes: Axes) -> None:
            for place in range(1, len(self.y.names)):
                axes.axhline(place - 0.5, color=LIGHT["line"], linewidth=0.8)

        self._marks.append(draw)

    def svg(self) -> str:
        """The figure alone, without a file's head and the names that two figures would share."""
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        buffer = io.StringIO()
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # the browser has the fonts
            figure = Figure(figsize=(4.8, self.height_inches), layout="constrained")
            axes = figure.add_subplot()
            for draw in self._marks:
                draw(axes)
            self.x.apply(axes, "x")
            self.y.apply(axes, "y")
            handles, labels = axes.get_legend_handles_labels()
            if labels:  # above the chart, where it covers nothing
                columns = LEGEND_LETTERS // (max(map(len, labels)) + 5)  # 5: the sign and the gap
                figure.legend(
                    handles,
                    labels,
                    loc="outside upper right",
                    ncols=min(max(columns, 1), 4),
                    frameon=False,
                    fontsize=10,
                    handlelength=1,
                )
            # `savefig` would draw the whole figure once more, for nothing.
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
        drawn = buffer.getvalue()
        drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.S)
        names = {light: name for name, light in LIGHT.items()}
        drawn = re.sub("|".join(names), lambda match: f"var(--{names[match[0]]})", drawn)
        return re.sub(r' id="[\w.]+_\d+"', "", drawn)


def in_percent(score: Rates, rate: Rate) -> tuple[float, float, float]:
    """A rate and the ends of its interval, as `Chart` draws them."""
    low, high = score.ci95(rate)
    return 100 * score.rate(rate), 100 * low, 100 * high


def colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def shorten(name: str) -> str:
    """As much of a name as has room beside a chart: names often differ in their ends alone."""
    return name if len(name) <= 16 else f"{name[:7]}…{name[-8:]}"


def course(
    lines: Sequence[Mapping[str, Any]], key: str, most_points: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) steps and values of lines of metrics.jsonl; of a longer course, means of neighbours.

    What was not finite is null there, and left out.
    """
    known = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    values = np.array(known, float).reshape(-1, 2)
    parts = np.array_split(values, max(1, min(most_points, len(values))))
    steps, means = np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2).T
    return steps, means


def courses(
    lines: Sequence[tuple[np.ndarray, np.ndarray, Look]],
    height_inches: float = 2.7,
    unit: str = "",
    is_loss: bool = False,
) -> Chart | None:
    """Values over the steps of training, each as `course` gives them; None where there are none.

    A loss that would lie on the ground, but for its beginning, is drawn on a logarithmic scale.
    """
    lines = [line for line in lines if len(line[0])]
    if not lines:
        return None
    values = np.concatenate([values for _, values, _ in lines])
    is_log = is_loss and bool(values.max() > STEEP * values.min() > 0)
    chart = Chart(
        height_inches,
        Scale("steps", most_ticks=6, is_whole=True, from_zero=True),
        Scale(unit=unit, is_log=is_log, from_zero=not is_log),
    )
    for steps, values, look in lines:
        chart.line(steps, values, **look)
    return chart
