"""The page of a report: runs side by side, and how the best of them still fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_whisper.reports import comparison as data
from lora_whisper.reports import comparison_plots as plots
from lora_whisper.reports import comparison_tables as tables
from lora_whisper.reports.comparison import Effect, Entry, Report
from lora_whisper.reports.evaluation_page import badness
from lora_whisper.reports.html import render
from lora_whisper.reports.run import Sample, texts
from lora_whisper.run_folder import read_jsonl
from lora_whisper.terminal import megabytes, percent


def page(report: Report) -> str:
    """The whole page. Whatever comes from the runs is escaped."""
    lines = {one.label: read_jsonl(one.point.folder / "metrics.jsonl") for one in report.entries}
    shown = tables.columns(report)
    keys, differences = data.config_differences(report)
    return render(
        "comparison.html.j2",
        script="comparison.js",
        report=report,
        about=data.about(report),
        key_figures=_key_figures(report),
        remarks=data.remarks(report),
        columns=shown,
        rows=[_row(report, entry, cells) for entry, cells in tables.rows(report, shown)],
        method=data.method(report) if report.best else "",
        best_name=report.best_name,
        costs=_costs(report),
        curves=plots.curves(report, lines),
        hidden=max(len(report.scored) - plots.SHOWN_CURVES, 0),
        effects=[_effect(report, one) for one in data.effects(report)],
        worst=_worst(report),
        failed=_told(report, "failed"),
        unfinished=_told(report, "unfinished"),
        keys=keys,
        differences=differences,
        markdown=tables.markdown(report),
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
