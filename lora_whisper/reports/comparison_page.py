"""The page of a report: runs side by side, and how the best of them still fails."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from lora_whisper.reports import comparison as data
from lora_whisper.reports import comparison_plots as plots
from lora_whisper.reports import comparison_tables as tables
from lora_whisper.reports.comparison import Effect, Entry, Report
from lora_whisper.reports.evaluation_page import badness
from lora_whisper.reports.html import STYLE, render
from lora_whisper.reports.run_page import Sample, texts
from lora_whisper.run_folder import read_jsonl
from lora_whisper.terminal import megabytes, percent


def page(report: Report) -> str:
    """The whole page. Whatever comes from the runs is escaped."""
    import matplotlib

    lines = {one.label: read_jsonl(one.point.folder / "metrics.jsonl") for one in report.entries}
    with matplotlib.rc_context(STYLE):
        costs = _costs(report)
        curves = plots.curves(report, lines)
        effects = [_effect(report, one) for one in data.effects(report)]
    shown = tables.columns(report)
    keys, differences = data.config_differences(report)
    return render(
        TEMPLATE,
        report=report,
        about=data.about(report),
        key_figures=_key_figures(report),
        remarks=data.remarks(report),
        columns=shown,
        rows=[_row(report, entry, cells) for entry, cells in tables.rows(report, shown)],
        method=data.method(report) if report.best else "",
        best_name=report.best_name,
        costs=costs,
        curves=curves,
        hidden=max(len(report.scored) - plots.SHOWN_CURVES, 0),
        effects=effects,
        worst=_worst(report),
        failed=_told(report, "failed"),
        unfinished=_told(report, "unfinished"),
        keys=keys,
        differences=differences,
        markdown=tables.markdown(report),
        script=SCRIPT,
        script_hash=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    )


def _key_figures(report: Report) -> dict[str, str]:
    best = report.best
    if best is None:
        return {}
    rate, base = percent(best.point.rate or 0), data.base_rates(report)
    named = report.best_name
    figures = {
        f"{report.rate}, base → {named}" if base else f"{report.rate} of the {named}": (
            f"{base} → {rate}" if base else rate
        ),
        named: f"no. {best.mark}: {best.label}" if report.is_numbered else best.label,
        "its adapter": megabytes(best.point.adapter_bytes or 0),
    }
    small = data.smallest_as_good(report)
    if small and small.point is not best.point:
        size = megabytes(small.point.adapter_bytes or 0)
        figures["smallest not shown to be worse"] = f"{small.label}, {size}"
    return figures


def _row(report: Report, entry: Entry, cells: Sequence[tables.Cell]) -> dict[str, Any]:
    is_best = report.best is not None and entry.point is report.best.point
    return {"cells": cells, "class": "best" if is_best else entry.point.state}


def _costs(report: Report) -> list[tuple[str, str]]:
    base = data.base_rates(report)
    beside = f"; the base has {base}" if base else ""
    drawn = {
        f"{report.rate} against adapter size{beside}": plots.against_size(report),
        f"{report.rate} against training time": plots.against_time(report),
    }
    return [(caption, plot) for caption, plot in drawn.items() if plot]


def _effect(report: Report, one: Effect) -> dict[str, Any]:
    rows = []
    for value, some in one.entries.items() if one.has_means else ():
        rates = [entry.point.rate or 0 for entry in some]
        spread = f"{percent(min(rates))} – {percent(max(rates))}" if len(rates) > 1 else ""
        rows.append([value, percent(sum(rates) / len(rates)), spread, str(len(rates))])
    return {
        "key": one.key,
        "rows": rows,
        "is_crossed": one.is_crossed,
        "plot": plots.effect(report, one),
    }


def _worst(report: Report) -> list[dict[str, Any]]:
    """Utterances that the best run has most wrong, beside what the base made of them."""
    if report.best is None or not report.best.has_hypotheses:
        return []
    heard = {
        model: rows
        for model in ("base", "adapter")
        if (rows := data.hypotheses(report.best.point, model))
    }
    if "adapter" not in heard or len({len(rows) for rows in heard.values()}) > 1:
        return []
    samples = [
        Sample(dict(zip(heard, each, strict=True))) for each in zip(*heard.values(), strict=True)
    ]
    wrong = [sample for sample in samples if sample.errors]
    wrong.sort(key=lambda sample: -badness(sample.heard["adapter"]))
    return [_anonymous(texts(sample)) for sample in wrong[: data.SHOWN_WORST]]


def _anonymous(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What is not speech may name this machine's folders."""
    reason = sample["bad_audio"]
    return {**sample, "bad_audio": data.anonymous(reason) if reason else reason}


def _told(report: Report, state: str) -> list[tuple[str, str]]:
    """Each run in this state, and why it failed or how far it is."""
    return [
        (
            entry.label,
            data.anonymous(entry.point.reason) or data.progress(entry.point),
        )
        for entry in report.entries
        if entry.point.state == state
    ]


# ── the page ─────────────────────────────────────────────────────────────────────────────────

# What it adds to a page that is whole without it: a click on a heading sorts the table.
SCRIPT = """
for (const head of document.querySelectorAll(".sortable th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.ariaSort !== "ascending", place = head.cellIndex;
    for (const other of head.parentNode.cells) other.ariaSort = null;
    head.ariaSort = up ? "ascending" : "descending";
    const body = head.closest("table").tBodies[0];
    const value = row => row.cells[place].dataset.order ?? row.cells[place].textContent.trim();
    const isNothing = text => text === "" || text === "–";
    const compare = (a, b) => {
      const [one, two] = [value(a), value(b)];
      if (isNothing(one) || isNothing(two)) return isNothing(one) - isNothing(two);
      if (isNaN(one) || isNaN(two)) {
        const words = isNaN(one) - isNaN(two) || one.localeCompare(two);
        return isNaN(one) === isNaN(two) && !up ? -words : words;
      }
      return up ? one - two : two - one;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
"""

TEMPLATE = """{% extends "page.html" %}
{% from "parts.html" import key, plots, remarked %}
{% from "marks.html" import article, legend %}
{% macro named(what) %}
{% if report.is_numbered %}
{{ what }} are named by the numbers in the table.
{% elif report.keys and not report.has_folder_names %}
{{ what }} are named by {{ report.keys|join(" · ") }}.
{% endif %}
{% endmacro %}
{% block title %}{{ report.name }}: report{% endblock %}
{% block head %}
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 style-src 'unsafe-inline'; script-src 'sha256-{{ script_hash }}'">
{% endblock %}
{% block style %}
nav { margin: 1.25rem 0 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
a { color: var(--blue); }
td small { display: block; color: var(--soft); font-size: .8rem; }
.runs { border-collapse: separate; border-spacing: 0; }
.runs th { vertical-align: bottom; }
.runs th, .runs td { padding-right: 1.1rem; }
.runs td:first-child { position: sticky; left: 0; background: var(--page);
  background-clip: padding-box; }
.runs td:first-child, .differences td { white-space: normal; overflow-wrap: break-word; }
.runs td.words:first-child { min-width: 8rem; }
.runs .best td { font-weight: 600; background: var(--tint); }
.runs .best small { font-weight: 400; }
.runs .failed td, .runs .unfinished td, .runs .begun td { color: var(--soft); }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  cursor: pointer; text-align: inherit; white-space: nowrap; }
th button::after { content: "↕"; opacity: .35; padding-left: .25rem; }
th[aria-sort=ascending] button::after { content: "↑"; opacity: 1; }
th[aria-sort=descending] button::after { content: "↓"; opacity: 1; }
.effect table { min-width: 0; width: 100%; margin-top: .5rem; }
.effect td:first-child { white-space: normal; overflow-wrap: break-word; }
.effect th:last-child, .effect td:last-child { padding-right: 0; }
@media print {
  nav, details { display: none; }
  h2 + p { break-after: avoid; }
  th button::after { content: none; }
  .wide { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td small { font-size: 7.5pt; }
  .runs th, .runs td { padding-right: .6rem; }
  .runs th, th button { white-space: normal; }
  .runs td:first-child { position: static; }
  tr, .effect { break-inside: avoid; }
}
{% endblock %}
{% block body %}
<h1>{{ report.name }}</h1>
<p class="soft">{{ about }}</p>

{{ key(key_figures) }}
{{ remarked(remarks) }}

<nav>
<a href="#runs">Runs</a>
{% if costs %}
<a href="#cost">Rates against cost</a>
{% endif %}
{% if curves %}
<a href="#curves">Learning curves</a>
{% endif %}
{% if effects %}
<a href="#effects">Effects</a>
{% endif %}
{% if worst %}
<a href="#worst">Worst utterances</a>
{% endif %}
{% if failed or unfinished %}
<a href="#failed">What failed</a>
{% endif %}
{% if keys %}
<a href="#differences">Differences</a>
{% endif %}
</nav>

<h2 id="runs">Runs</h2>
<div class="wide"><table class="runs sortable">
<thead><tr>
{%- for column in columns %}
<th{% if not column.is_text %} class="number"{% endif %}><bdi>{{ column.heading }}</bdi></th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr class="{{ row.class }}">
{%- for cell in row.cells %}
{% set is_text = columns[loop.index0].is_text %}
{% set text = cell.text|name if is_text and loop.first else cell.text %}
<td class="{{ "words" if is_text else "number" }}"
{%- if cell.order is not none %} data-order="{{ cell.order }}"{% endif %}><bdi>{{ text }}</bdi>
{%- if cell.small %}<small>{{ cell.small }}</small>{% endif %}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="soft">{{ method }} Pareto front: no other run's adapter is as small and as good, and
better in one of them.</p>

{% if costs %}
<h2 id="cost">Rates against cost</h2>
<p class="soft">Bars are 95 % intervals.
{{ named("Dots") }}</p>
{{ plots(costs) }}
{% endif %}

{% if curves %}
<h2 id="curves">Learning curves</h2>
<p class="soft">{{ named("Lines") }}
{% if hidden %}
The best {{ report.scored|length - hidden }} in colour, all others in grey.
{% endif %}</p>
{{ plots(curves) }}
{% endif %}

{% if effects %}
<h2 id="effects">The effect of each setting</h2>
<p class="soft">Each run is a dot with its 95 % interval; where several have a value, a bar is
their mean.</p>
<div class="plots">
{% for one in effects %}
<div class="effect">
<figure><figcaption>{{ one.key }}</figcaption>{{ one.plot|safe }}</figure>
{% if one.rows %}
<div class="wide"><table>
<thead><tr><th>value</th><th class="number">mean {{ report.rate }}</th>
<th class="number">lowest – highest</th><th class="number">runs</th></tr></thead>
<tbody>
{% for row in one.rows %}
<tr><td>{{ row[0]|name }}</td>
{% for cell in row[1:] %}
<td class="number">{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if not one.is_crossed %}
<p class="soft">Not each value met the same other settings: part of what is seen here may be
theirs.</p>
{% endif %}
</div>
{% endfor %}
</div>
{% endif %}

{% if worst %}
<h2 id="worst">Worst utterances of the {{ best_name }}</h2>
{{ legend() }}
{% for sample in worst %}
{{ article(sample) }}
{% endfor %}
{% endif %}

{% if failed or unfinished %}
<h2 id="failed">What failed</h2>
<dl class="facts">
{% for name, reason in failed %}
<dt>{{ name }}</dt><dd class="reason">{{ reason }}</dd>
{% endfor %}
{% for name, reason in unfinished %}
<dt>{{ name }}</dt><dd>unfinished: {{ reason }}</dd>
{% endfor %}
</dl>
{% endif %}

{% if keys %}
<h2 id="differences">Where the configurations differ</h2>
<div class="wide"><table class="differences">
<thead><tr><th>run</th>
{% for key in keys %}
<th>{{ key }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for name, values in differences %}
<tr><td>{{ name|name }}</td>
{% for value in values %}
<td><code>{{ value|name }}</code></td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% endif %}

<details><summary>The table as Markdown</summary><pre>{{ markdown }}</pre></details>
<script>{{ script|safe }}</script>
{% endblock %}
"""
