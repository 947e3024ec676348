"""HTML pages that need nothing but themselves, no network above all: their frame and plots."""

from __future__ import annotations

import functools
import html
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def render(template: str, **values: Any) -> str:
    """A page from a template that extends `page.html`. Whatever comes from the data is escaped.

    `marks.html` has the macro `marked`, which shows where a hypothesis leaves its reference, and
    around it `article`, an utterance as `_train_page.texts` gives it, and `legend`; `parts.html`
    has `key`, `remarked` and `plots`.
    The filter `name` is for what a row of a table is called.
    """
    return _compiled(template).render(css=_colours() + CSS, **values)


@functools.cache  # a sweep writes the same page for each of its runs
def _compiled(template: str) -> Template:
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(
        loader=DictLoader({"page.html": FRAME, "parts.html": PARTS, "marks.html": MARKS}),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["name"] = unbroken
    return environment.from_string(template)


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


def _colours() -> str:
    light, dark = (
        "".join(f" --{name}: {colours[ground]};" for name, colours in PALETTE.items())
        for ground in (0, 1)
    )
    # Of the screen only: ink on paper is dark.
    return (
        f":root {{ color-scheme: light dark;{light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{{dark} }} }}"
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


# ── the frame ────────────────────────────────────────────────────────────────────────────────

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{% block title %}{% endblock %}</title>
{% block head %}{% endblock %}
<style>{{ css|safe }}{% block style %}{% endblock %}</style>
</head>
<body>
{% block body %}{% endblock %}
</body>
</html>
"""

# What several pages have: figures at a glance, remarks below them, and plots under their captions.
PARTS = """{% macro key(figures) %}
<dl class="key">
{% for title, figure in figures.items() %}
<div><dt>{{ title }}</dt>
<dd{% if figure|length > 16 %} class="long"{% endif %}>{{ figure }}</dd></div>
{% endfor %}
</dl>
{% endmacro %}
{% macro remarked(remarks) %}
{% for kind, text in remarks %}
<p class="remark {{ kind }}">{{ text[0]|upper }}{{ text[1:] }}.</p>
{% endfor %}
{% endmacro %}
{% macro plots(drawn) %}
<div class="plots">
{% for caption, plot in drawn %}
<figure><figcaption>{{ caption }}</figcaption>{{ plot|safe }}</figure>
{% endfor %}
</div>
{% endmacro %}
"""

# A hypothesis as `evaluation.alignment.align` cuts it; a wrong word's title is what was said.
MARKS = """{% set tags = {"substitute": "mark", "insert": "ins", "delete": "del"} %}
{% macro marked(stretches, space) %}
{% for stretch in stretches %}
{% set tag = tags.get(stretch.edit) %}
{% set text = stretch.hypothesis or stretch.reference %}
{% set said = ' title="%s"'|safe|format(stretch.reference) if tag == "mark" else "" %}
{{ "" if loop.first else space }}{% if tag %}<{{ tag }}{{ said }}>{{ text }}</{{ tag }}>
{%- else %}{{ text }}
{%- endif %}
{% endfor %}
{% endmacro %}
{% macro article(sample) %}
<article class="sample">
<dl class="texts">
<dt class="file">{{ sample.row }}</dt>
<dd lang="{{ sample.language }}" dir="auto">{{ sample.reference }}</dd>
{% if sample.bad_audio %}
<dt>not heard</dt><dd>{{ sample.bad_audio }}</dd>
{% endif %}
{% for line in sample.heard %}
<dt>{{ line.model }}, {{ line.errors }} wrong</dt>
<dd lang="{{ sample.language }}" dir="auto">{{ marked(line.stretches, sample.space) }}</dd>
{% endfor %}
</dl>
</article>
{% endmacro %}
{% macro legend() %}
<p class="soft">The reference as it is written; what the models heard, as it is scored.
<mark>another word</mark> <ins>a word too many</ins> <del>a word missed</del></p>
{% endmacro %}
"""

CSS = """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 68rem; color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; background: var(--page); }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: 1.25rem 0; padding: 0; }
.key div { display: flex; flex-direction: column-reverse; }
.key dd { margin: 0; font-size: 1.9rem; line-height: 1.2; font-weight: 600; }
.key dd { overflow-wrap: anywhere; }
.key .long { font-size: 1.15rem; line-height: 1.4; padding-top: .6rem; }
.key dt { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto;  /* a shadow where more of the table is to be had */
  background: linear-gradient(to right, var(--page) 1.5rem, transparent 3rem) 0 0 / 3rem 100%,
    linear-gradient(to left, var(--page) 1.5rem, transparent 3rem) 100% 0 / 3rem 100%,
    linear-gradient(to right, var(--edge), transparent) 0 0 / .8rem 100%,
    linear-gradient(to left, var(--edge), transparent) 100% 0 / .8rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
.piece { white-space: nowrap; }
table { border-collapse: collapse; min-width: 60%; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.5rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: .9rem; }
.number { text-align: right; }
.plots { display: grid; gap: 1.5rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; }
figcaption { font-weight: 600; margin-bottom: .25rem; }
svg { display: block; width: 100%; height: auto; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; }
summary { display: flex; gap: .9rem; align-items: baseline; padding: .6rem .9rem; cursor: pointer; }
summary::-webkit-details-marker { display: none; }
summary::after { content: "▸"; margin-left: auto; color: var(--soft); }
details[open] > summary::after { content: "▾"; }
summary b { min-width: 3.2rem; text-align: right; font-variant-numeric: tabular-nums; }
.unusable summary b { color: var(--bad); }
summary span { display: block; }
.rows { margin: 0; padding: 0; list-style: none; font-size: .92rem; }
.rows li { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 2fr); gap: .1rem 1.5rem;
  padding: .5rem .9rem; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.rows li:nth-child(odd) { background: var(--tint); }
.file { font: .8rem/1.5 ui-monospace, monospace; color: var(--soft); }
.note { padding: .5rem .9rem; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.remark { padding: .5rem .9rem; margin: .6rem 0; background: var(--tint); border-radius: .5rem; }
.warning { color: var(--bad); font-weight: 600; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1rem; }
.sample { padding: .6rem .9rem; overflow-wrap: anywhere; break-inside: avoid; }
.sample:nth-of-type(odd) { background: var(--tint); }
.facts, .texts { display: grid; gap: .1rem 1.5rem; margin: 0;
  grid-template-columns: minmax(0, max-content) minmax(0, 1fr); }
.texts { grid-template-columns: 9.5rem minmax(0, 1fr); }
.facts dd, .texts dd { margin: 0; overflow-wrap: anywhere; }
.facts dt, .texts dt { color: var(--soft); }
.facts { max-width: 48rem; }
mark, ins, del { unicode-bidi: isolate; border-radius: .2rem; padding: 0 .1rem; }
mark { color: inherit; background: color-mix(in srgb, var(--amber) 40%, transparent);
  text-decoration: underline wavy var(--amber) 1px; text-underline-offset: .2em; }
ins { background: color-mix(in srgb, var(--blue) 25%, transparent); }
del { color: var(--bad); background: color-mix(in srgb, var(--bad) 12%, transparent); }
pre { margin: 0; padding: .9rem; overflow-x: auto; border-top: 1px solid var(--line);
  font: .85rem/1.45 ui-monospace, monospace; }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
td code { overflow-wrap: break-word; }
.none { padding: 1rem; background: var(--tint); border-radius: .5rem; font-weight: 600; }
@media (max-width: 40rem) {
  .rows li { grid-template-columns: minmax(0, 1fr); }
  .key { gap: .75rem 1.75rem; }
  table { font-size: .85rem; }
  th, td { padding-right: .8rem; }
  .key dd { font-size: 1.5rem; }
  .facts, .texts { grid-template-columns: minmax(0, 1fr); }
  .facts dd, .texts dd { margin-bottom: .4rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  details { border-color: var(--grey); }
  pre { white-space: pre-wrap; }
  mark, ins, del { print-color-adjust: exact; }
  details::details-content { content-visibility: visible; display: block; }
  summary::after { content: ""; }
  figure, .rows li, summary { break-inside: avoid; }
  h2, h3, summary { break-after: avoid; }
  .plots { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
"""
