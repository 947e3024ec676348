"""HTML pages that need nothing but themselves, no network above all: their frame and plots."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).with_name("templates")
# Each colour on light and on dark ground. Plots are drawn in the light ones, and `svg` gives them
# the names, so that they follow the page.
PALETTE = {
    "page": ("#ffffff", "#14191e"),
    "ink": ("#1d2630", "#e4e9ee"),
    "soft": ("#5c6975", "#9ba8b4"),
    "line": ("#dde3e8", "#323b44"),
    "edge": ("#b4bdc5", "#000000"),
    "tint": ("#f5f7f9", "#1c2329"),
    "bad": ("#b5524f", "#e58f8a"),
    "blue": ("#2b6a99", "#6db0e2"),
    "amber": ("#e09f3e", "#e8b15c"),
    "violet": ("#8f5fa8", "#bd93d4"),
    "green": ("#5b8e55", "#8dc086"),
    "grey": ("#777777", "#a0a0a0"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
SERIES = [LIGHT[name] for name in ("blue", "amber", "violet", "green", "bad", "grey")]
LONGEST_PIECE = 24  # letters of a name that may fill a phone's table; a longer one is broken
LEGEND_LETTERS = 60  # that stand beside each other above a plot
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


def render(template: str, script: str = "", **values: Any) -> str:
    """A file of `templates/` with these values. Whatever comes from the data is escaped in HTML.

    `page.html.j2` is the frame of all pages; `marks.html.j2` shows where a hypothesis leaves its
    reference; `parts.html.j2` has what several pages have. The filter `name` is for what a row of
    a table is called.

    Args:
        script: the file with the only script that the page lets run.
    """
    written = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(written.encode()).digest()).decode()
    page = environment().get_template(template)
    return page.render(palette=PALETTE, script=written, script_hash=digest, **values)


@functools.cache  # a sweep writes the same page for each of its runs
def environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters["name"] = unbroken
    return made


def unbroken(name: str) -> Markup:
    """A name whose lines end at spaces and after `_`, `/` and the like, never in a word of it."""
    from markupsafe import Markup

    pieces = re.findall(r"[^\s_/,;=]*[\s_/,;=]*", name)
    kept = '<span class="piece">{}</span>'
    return Markup(
        "<wbr>".join(
            (kept if len(piece) <= LONGEST_PIECE else "{}").format(html.escape(piece))
            for piece in pieces
            if piece
        )
    )


# ── plots, which are drawn `with matplotlib.rc_context(STYLE)` ───────────────────────────────


def new_axes(height_inches: float) -> Axes:
    """Axes in a figure of their own, as wide as half a page."""
    from matplotlib.figure import Figure

    return Figure(figsize=(4.8, height_inches), layout="constrained").add_subplot()


def figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def add_legend(axes: Axes) -> None:
    """Above the plot, where it covers nothing."""
    _, labels = axes.get_legend_handles_labels()
    columns = LEGEND_LETTERS // (max(map(len, labels)) + 5)  # 5: the sign and the gap
    figure_of(axes).legend(
        loc="outside upper right",
        ncols=min(max(columns, 1), 4),
        frameon=False,
        fontsize=10,
        handlelength=1,
    )


def shorten(name: str) -> str:
    """As much of a name as has room beside a plot: names often differ in their ends alone."""
    return name if len(name) <= 16 else f"{name[:7]}…{name[-8:]}"


def svg(axes: Axes) -> str:
    """The figure alone, without the head of a file and the names that two figures would share."""
    import warnings

    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the fonts
        # `savefig` would draw the whole figure once more, for nothing.
        FigureCanvasSVG(figure_of(axes)).print_svg(buffer, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    names = {light: name for name, light in LIGHT.items()}
    drawn = re.sub("|".join(names), lambda found: f"var(--{names[found[0]]})", drawn)
    return re.sub(r' id="[a-z]+[0-9.]*_\d+"', "", drawn)
