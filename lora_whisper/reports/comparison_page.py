"""The files of a report: its page with charts, its table as Markdown, and all figures as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lora_whisper.evaluation.results import both_rates, rate_name
from lora_whisper.files import read_jsonl
from lora_whisper.paths import file_name
from lora_whisper.reports import comparison, comparison_text
from lora_whisper.reports.charts import (
    LIGHT,
    Chart,
    Look,
    Scale,
    colour,
    course,
    courses,
    in_percent,
    shorten,
)
from lora_whisper.reports.comparison import Effect, Entry, Report
from lora_whisper.reports.comparison_text import capitalized, conclusion
from lora_whisper.reports.evaluation_text import p_value, points
from lora_whisper.reports.html import render
from lora_whisper.reports.sweep import differing_keys, ordered, pareto_front
from lora_whisper.reports.tables import Cell, Column, Table, escaped, rate_cell
from lora_whisper.reports.utterances import ShownUtterance, badness, samples_of
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import clock, megabytes, percent

TOLD_KEYS = 3  # beside the name of a run
FRONT = "●"  # on the Pareto front
SHOWN_CURVES = 6  # in colours of their own; the others are grey
SHOWN_POINTS = 200  # of a curve; of a longer one, the means of neighbours
NAMED_DOTS = 12  # up to here each dot is named, beyond it those of the front
WIDE = 6  # numbers that reach this many times as far are drawn on a logarithmic scale
STYLES = ("-", "--", ":")

Line = Mapping[str, Any]  # of metrics.jsonl


def page(report: Report) -> str:
    """The whole page. Whatever comes from the runs is escaped."""
    lines = {one.label: read_jsonl(one.point.folder / "metrics.jsonl") for one in report.entries}
    return render(
        "comparison.html.j2",
        script="comparison.js",
        report=report,
        about=comparison_text.about(report),
        key_figures=_key_figures(report),
        remarks=comparison_text.remarks(report),
        runs=run_table(report),
        method=comparison_text.method(report) if report.best else "",
        best_name=report.best_name,
        costs=costs(report),
        curves=curves(report, lines),
        hidden=max(len(report.scored) - SHOWN_CURVES, 0),
        effects=[drawn(report, effect) for effect in comparison.effects(report)],
        worst=_worst(report),
        failed=_reasons(report, "failed"),
        unfinished=_reasons(report, "unfinished"),
        pruned=_reasons(report, "pruned"),
        differences=_differences(report),
        markdown=markdown(report),
    )


def _key_figures(report: Report) -> dict[str, str]:
    best = report.best
    if best is None:
        return {}
    rate, base = percent(best.point.rate or 0), comparison_text.base_rates(report)
    named = report.best_name
    figures = {
        f"{report.rate}, base → {named}" if base else f"{report.rate} of the {named}": (
            f"{base} → {rate}" if base else rate
        ),
        named: f"no. {best.mark}: {best.label}" if report.is_numbered else best.label,
        "its adapter": megabytes(best.point.adapter_bytes or 0),
    }
    small = comparison.smallest_as_good(report)
    if small and small.point is not best.point:
        size = megabytes(small.point.adapter_bytes or 0)
        figures["smallest not shown to be worse"] = f"{small.label}, {size}"
    return figures


def _worst(report: Report) -> list[ShownUtterance]:
    """Utterances that the best run has most wrong, beside what the base made of them.

    What is not speech may name this machine's folders.
    """
    best = report.best
    if best is None or not best.has_hypotheses:
        return []
    scores = {"base": best.point.base, "adapter": best.point.score}
    samples = samples_of(RunFolder(best.point.folder), scores, needed=("adapter",))
    wrong = [sample for sample in samples if sample.errors]
    wrong.sort(key=lambda sample: -badness(sample.rows["adapter"]))
    worst = [sample.shown() for sample in wrong[: comparison.SHOWN_WORST]]
    return [replace(one, bad_audio=comparison.anonymous(one.bad_audio or "")) for one in worst]


def _reasons(report: Report, state: str) -> list[tuple[str, str]]:
    """Each run in this state, and why it failed or how far it is."""
    chosen = [entry for entry in report.entries if entry.point.state == state]
    return [
        (one.label, comparison.anonymous(one.point.reason) or comparison_text.progress(one.point))
        for one in chosen
    ]


def _differences(report: Report) -> Table:
    """All keys that differ, and each run's values of them; no rows where none do."""
    points = [entry.point for entry in report.entries]
    keys = differing_keys(points)
    values = comparison.shown_values(points, keys)
    names = comparison.folder_names([point.folder for point in points])
    table = Table([Column("run", is_text=True), *(Column(key, True, is_code=True) for key in keys)])
    for point in points if keys else ():
        if point.folder in values:
            table.add(names[point.folder], *values[point.folder].values())
    return table


# ── the runs as a table ──────────────────────────────────────────────────────────────────────


def run_table(report: Report) -> Table:
    """What tells the runs apart, what they cost, and what they gave; a row a run."""
    columns = [*_names(report), *_rates(report), *_adapters(report)]
    verdicts = [_verdict(report, entry) for entry in report.entries]
    columns.append((Column("points above the best", is_text=True), verdicts))
    table = Table([column for column, _ in columns])
    best = report.best.point if report.best else None
    for number, entry in enumerate(report.entries):
        kind = "best" if entry.point is best else entry.point.state
        table.add(*(cells[number] for _, cells in columns), kind=kind)
    return table


Columns = Iterator[tuple[Column, Sequence[Cell]]]  # each with a cell for every run


def _names(report: Report) -> Columns:
    """What tells the runs apart: a number, the folder, or the values that differ."""
    entries = report.entries
    if report.is_numbered:  # what the plots call a run
        yield Column("no."), [Cell(str(one), order=one) for one in range(1, len(entries) + 1)]
    # Runs that never began have nothing but their folders' names.
    if report.has_folder_names or not report.keys or any(not entry.shown for entry in entries):
        labels = (
            entry.label if report.has_folder_names or not entry.shown else "" for entry in entries
        )
        yield Column("run", is_text=True), [Cell(label) for label in labels]
    if report.has_folder_names and len(report.keys) > TOLD_KEYS:
        return  # the page has them in a table of theirs
    for key, heading in comparison.short_keys(report.keys).items():
        values = [entry.point.config.get(key) for entry in entries]
        ranked = sorted({repr(value): value for value in values}.values(), key=ordered)
        place = {repr(value): float(number) for number, value in enumerate(ranked)}
        is_text = not all(isinstance(value, int | float | None) for value in values)
        yield (
            Column(heading, is_text=is_text),
            [
                Cell(entry.shown.get(key, "–"), order=place[repr(value)] if entry.shown else None)
                for entry, value in zip(entries, values, strict=True)
            ],
        )


def _rates(report: Report) -> Columns:
    points = [entry.point for entry in report.entries]
    for rate in both_rates(report.leading):
        yield (
            Column(rate_name(report.score, rate)),
            [
                rate_cell(point.score, rate)
                if point.score
                else Cell("–" if point.state == "complete" else point.state)
                for point in points
            ],
        )
    if not report.has_one_base:
        yield Column("base"), [_known(point.base_rate, percent) for point in points]
    front = [Cell(FRONT, order=0.0) if entry.is_on_front else Cell() for entry in report.entries]
    yield Column("Pareto"), front


def _adapters(report: Report) -> Columns:
    """What each is and cost; what a key or the line above the table says is left out."""
    told = {key.removeprefix("adapter.") for key in report.keys}
    points = [entry.point for entry in report.entries]
    summaries = [point.summary for point in points]
    if "rank" not in told and len(comparison_text.known(report, "rank")) != 1:
        ranks = [one.adapter_ranks if one else None for one in summaries]
        yield (
            Column("rank"),
            [
                Cell(point.rank or "–", order=rank[1] if rank else None)
                for point, rank in zip(points, ranks, strict=True)
            ],
        )
    if not told & {"targets", "layers"} and len(comparison_text.known(report, "targets")) != 1:
        yield Column("targets", is_text=True), [Cell(point.targets or "–") for point in points]
    yield Column("adapter"), [_known(point.adapter_bytes, megabytes) for point in points]
    yield Column("trained for"), [_known(point.train_seconds, clock) for point in points]
    counts = (one.trainable_parameters if one else None for one in summaries)
    yield (
        Column("parameters"),
        [_known(count, lambda n: f"{n:,}" if n < 1e5 else f"{n / 1e6:.2f} M") for count in counts],
    )


def _known(value: Any, text: Callable[[Any], str]) -> Cell:
    return Cell("–") if value is None else Cell(text(value), order=value)


def _verdict(report: Report, entry: Entry) -> Cell:
    if report.best is not None and entry.point is report.best.point:
        return Cell("the best" if len(report.scored) > 1 else "", order=-1.0)
    beside = entry.beside_best
    if beside is None:
        return Cell(comparison.why_unjudged(report, entry))
    small = f"{points(beside).replace(' points', '')}, {p_value(beside.p_value)}"
    return Cell(beside.verdict, small, beside.difference)


# ── Markdown and CSV ─────────────────────────────────────────────────────────────────────────


def markdown(report: Report) -> str:
    """A heading, what was found, the table, and what failed."""
    failed = [
        f"- {escaped(entry.label)}: {escaped(comparison.anonymous(entry.point.reason))}"
        for entry in report.entries
        if entry.point.state == "failed"
    ]
    absent, lost = comparison_text.never_begun(report), comparison_text.without_adapter(report)
    parts = [
        f"# {escaped(report.name)}",
        f"{escaped(comparison_text.about(report))}.",
        *([escaped(conclusion(report))] if report.best else []),
        run_table(report).markdown(),
        *([escaped(comparison_text.method(report))] if report.best else []),
        *(["Failed:", "\n".join(failed)] if failed else []),
        *(escaped(f"{capitalized(text)}.") for text in (absent, lost) if text),
    ]
    return "\n\n".join(parts) + "\n"


def csv_text(report: Report) -> str:
    """A row a run, with the units in the headings; what is not known is empty."""
    keys = differing_keys([entry.point for entry in report.entries])
    rows = [_figures(entry, keys) for entry in report.entries]
    table = Table([Column(title) for title in rows[0]])
    for row in rows:
        table.add(*("" if value is None else str(value) for value in row.values()))
    return table.csv()


def _figures(entry: Entry, keys: Sequence[str]) -> dict[str, object]:
    point, beside = entry.point, entry.beside_best
    summary, score, base = point.summary, point.score, point.base
    lowest, highest = (summary and summary.adapter_ranks) or (None, None)
    values = {key: point.config.get(key) for key in keys}
    rates = {}
    for rate in both_rates("wer"):
        low, high = score.ci95(rate) if score else (None, None)
        rates[f"{rate}_percent"] = _percent(score.rate(rate) if score else None)
        rates[f"{rate}_ci95_low_percent"] = _percent(low)
        rates[f"{rate}_ci95_high_percent"] = _percent(high)
    return {
        "run": point.name,
        "state": point.state,
        "reason": " ".join(comparison.anonymous(point.reason).split()),
        **{
            key: value
            if value is None or isinstance(value, float)
            else comparison.value_text(value)
            for key, value in values.items()
        },
        "base": file_name(summary.checkpoint) if summary else "",
        "quantization": summary.quantization if summary else None,
        "targets": point.targets,
        "lowest_rank": lowest,
        "highest_rank": highest,
        "trainable_parameters": summary.trainable_parameters if summary else None,
        "adapter_bytes": point.adapter_bytes,
        "train_seconds": point.train_seconds,
        "steps": summary.steps if summary else None,
        "test_utterances": score.utterances if score else None,
        "leading_rate": score.leading if score else None,
        "base_wer_percent": _percent(base.wer if base else None),
        "base_cer_percent": _percent(base.cer if base else None),
        **rates,
        "on_pareto_front": int(entry.is_on_front),
        "wer_above_best_points": _percent(beside.difference if beside else None),
        "p_value_against_best": beside.p_value if beside else None,
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


# ── rates against cost ───────────────────────────────────────────────────────────────────────


def costs(report: Report) -> list[tuple[str, str]]:
    """The leading rate over what an adapter costs: each plot as its caption and its SVG."""
    base = comparison_text.base_rates(report)
    beside = f"; the base has {base}" if base else ""
    sizes = [(entry.point.adapter_bytes or 0) / 1e6 for entry in report.scored]
    seconds = [entry.point.train_seconds or 0.0 for entry in report.scored]
    units = (("hours", 3600), ("minutes", 60), ("seconds", 1))
    longest = max(seconds, default=0.0)
    unit, unit_seconds = next(one for one in units if longest >= 2 * one[1] or one[1] == 1)
    times = [each / unit_seconds for each in seconds]
    plots = {
        f"{report.rate} against adapter size{beside}": _over_cost(report, sizes, "adapter, MB"),
        f"{report.rate} against training time": _over_cost(report, times, f"training, {unit}"),
    }
    return [(caption, plot) for caption, plot in plots.items() if plot]


def _over_cost(report: Report, costs: Sequence[float], label: str) -> str:
    """Each run's rate with its interval; filled and joined: the Pareto front of this plot."""
    pairs = sorted(
        zip(costs, report.scored, strict=True), key=lambda one: (one[0], one[1].point.rate or 0)
    )
    if len(pairs) < 2:
        return ""
    entries = [entry for _, entry in pairs]
    across, rated = np.array([cost for cost, _ in pairs]), _rated(entries)
    front = np.array(pareto_front(list(across), list(rated[:, 0])))
    named = front | (len(entries) <= NAMED_DOTS)
    chart = Chart(3.2, _cost_scale(across, label), _rate_scale(report, rated))
    if not front.all():
        look: Any = {"colour": LIGHT["grey"], "elinewidth": 1, "markerfacecolor": "none"}
        chart.dots(across[~front], rated[~front], "other runs", **look)
    chart.dots(across[front], rated[front], "Pareto front", elinewidth=1)
    steps: Any = {"drawstyle": "steps-post", "linewidth": 0.8, "marker": ""}
    chart.line(across[front], rated[front, 0], **steps)
    if report.base_rate is not None:
        chart.level(100 * report.base_rate, "base")
    marks = [entry.mark for entry, is_named in zip(entries, named, strict=True) if is_named]
    chart.names(across[named], rated[named, 0], marks)
    return chart.svg()


def _rated(entries: Iterable[Entry]) -> np.ndarray:
    """(entries, 3) percent: the leading rate and the ends of its interval."""
    scores = [entry.point.score for entry in entries]
    return np.array([in_percent(score, score.leading) for score in scores if score])


def _rate_scale(report: Report, rated: np.ndarray) -> Scale:
    """From zero, unless all there is to see would be squeezed into the upper half."""
    return Scale(report.rate, unit=" %", from_zero=rated[:, 1].min() < 0.5 * rated[:, 2].max())


def _cost_scale(values: np.ndarray, label: str) -> Scale:
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
    best = sorted(report.scored, key=lambda entry: entry.point.rate or 0)[:SHOWN_CURVES]
    labels = {entry.label for entry in best or report.entries[:SHOWN_CURVES]}
    looks: dict[str, Look] = {}  # of the best runs, in the order of the table
    for entry in report.entries:
        if entry.label in labels:
            style = STYLES[len(looks) % len(STYLES)]
            name = shorten(entry.mark)
            looks[entry.label] = {"colour": colour(len(looks)), "linestyle": style, "label": name}
    captions = {
        "Training: loss per token": "loss_per_token",
        f"Validation: {rate_name(report.score, 'wer')}": "validation_wer",
        "Validation: loss per token": "validation_loss_per_token",
    }
    charts = ((caption, _courses(lines, key, looks)) for caption, key in captions.items())
    return [(caption, chart.svg()) for caption, chart in charts if chart]


def _courses(
    lines: Mapping[str, Sequence[Line]], key: str, looks: Mapping[str, Look]
) -> Chart | None:
    """Of each run one, those with a look of their own above the others, which are grey."""
    grey: Look = {"colour": LIGHT["grey"], "linewidth": 0.6, "alpha": 0.6}
    marker: Look = {"marker": "o", "markersize": 3} if "validation" in key else {}
    is_rate = key.endswith("wer")
    known = []
    for label, run_lines in sorted(lines.items(), key=lambda one: one[0] in looks):
        steps, values = course(run_lines, key, SHOWN_POINTS)
        if len(steps):
            look = looks.get(label, grey) | marker
            known.append((steps, 100 * values if is_rate else values, look))
    if len(known) == 1:
        known[0][2].pop("label", None)
    height = 3.0 + 0.18 * ((min(len(known), SHOWN_CURVES + 1) - 1) // 3)
    return courses(known, height, " %" if is_rate else "", is_loss=not is_rate)


# ── the effect of a key ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class DrawnEffect:
    """A key with its chart, and the means of values that were tried more than once."""

    key: str
    chart: str
    means: Table
    is_crossed: bool


def drawn(report: Report, effect: Effect) -> DrawnEffect:
    """Every run's rate over the key's value, and a line through the means of values tried."""
    numbers = effect.numbers
    xs = np.array(range(len(effect.entries)) if numbers is None else numbers, float)
    rates = {value: _rated(entries) for value, entries in effect.entries.items()}
    every = np.concatenate([*rates.values()])
    chart = Chart(2.6, _value_scale(xs, effect), _rate_scale(report, every))
    across = np.repeat(xs, [len(each) for each in rates.values()])
    chart.dots(across, every, colour=LIGHT["grey"], elinewidth=0.8, alpha=0.6)
    if not effect.is_scattered:
        look: Look = {"linestyle": "none" if numbers is None else "-"}
        look |= {"marker": "_" if effect.has_means else "", "markersize": 14, "markeredgewidth": 2}
        chart.line(xs, [each[:, 0].mean() for each in rates.values()], **look)
    if report.base_rate is not None:
        chart.level(100 * report.base_rate, "base")
    headings = [f"mean {report.rate}", "lowest – highest", "runs"]
    means = Table([Column("value", is_text=True), *map(Column, headings)])
    for value, each in rates.items() if effect.has_means else ():
        shares = each[:, 0] / 100
        spread = f"{percent(shares.min())} – {percent(shares.max())}" if len(each) > 1 else ""
        means.add(value, percent(shares.mean()), spread, str(len(each)))
    return DrawnEffect(effect.key, chart.svg(), means, effect.is_crossed)


def _value_scale(xs: np.ndarray, effect: Effect) -> Scale:
    """Ticks at the values that were tried; a learning rate is always on a logarithmic scale."""
    if effect.numbers is None:
        return Scale(effect.key, names=list(effect.entries))
    is_learning_rate = effect.key.endswith("learning_rate")
    is_log = xs.min() > 0 and (is_learning_rate or xs.max() >= WIDE * xs.min())
    ticks = None if effect.is_scattered else dict(zip(xs, effect.entries, strict=True))
    return Scale(effect.key, is_log=bool(is_log), ticks=ticks)
