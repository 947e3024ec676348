"""The figures of a report as rows: for the page, for Markdown, and for programs as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lora_whisper.evaluation.results import Rate, Score, both_rates, interval, rate_name
from lora_whisper.paths import file_name
from lora_whisper.reports import comparison as data
from lora_whisper.reports.comparison import Entry, Report
from lora_whisper.reports.evaluation_words import p_value, points
from lora_whisper.reports.sweep import NO_GAIN, Point, differing_keys, ordered
from lora_whisper.terminal import clock, megabytes, percent

TOLD_KEYS = 3  # beside the name of a run
FRONT = "●"  # on the Pareto front


@dataclass(frozen=True)
class Cell:
    """A figure, what stands below it in small, and what its column is sorted by (None: last)."""

    text: str
    small: str = ""
    order: float | None = None


@dataclass(frozen=True)
class Column:
    """A heading and how to read an entry below it."""

    heading: str
    cell: Callable[[Entry], Cell]
    is_text: bool = False


# ── for people ───────────────────────────────────────────────────────────────────────────────


def columns(report: Report) -> list[Column]:
    """What tells the runs apart, what they cost, and what they gave."""
    first, second = both_rates(report.leading)
    names = {rate: rate_name(report.score, rate) for rate in (first, second)}
    keys = data.short_keys(report.keys)
    if report.has_folder_names and len(keys) > TOLD_KEYS:  # the page has them in a table of theirs
        keys = {}
    return [
        *([_of_number(report)] if report.is_numbered else []),
        *([_of_name(report)] if report.has_folder_names or _has_nameless(report) else []),
        *(_of_key(report, key, short) for key, short in keys.items()),
        Column(names[first], lambda entry: _rate(entry, first)),
        Column(names[second], lambda entry: _rate(entry, second)),
        *([] if report.has_one_base else [_of_base(report)]),
        Column("Pareto", _front),
        *_of_adapter(report),
        Column("points above the best", lambda entry: _against(report, entry), is_text=True),
    ]


def _has_nameless(report: Report) -> bool:
    """Whether there are runs that never began, and have nothing but their folders' names."""
    return not report.keys or any(not entry.shown for entry in report.entries)


def _of_number(report: Report) -> Column:
    """What the plots call a run."""
    numbers = {entry.label: number for number, entry in enumerate(report.entries, start=1)}
    return Column("no.", lambda entry: Cell(str(numbers[entry.label]), order=numbers[entry.label]))


def _of_name(report: Report) -> Column:
    def cell(entry: Entry) -> Cell:
        return Cell(entry.label if report.has_folder_names or not entry.shown else "")

    return Column("run", cell, is_text=True)


def _of_key(report: Report, key: str, heading: str) -> Column:
    known = [entry.point.config.get(key) for entry in report.entries]
    values = sorted({repr(value): value for value in known}.values(), key=ordered)  # no sets: lists
    place = {repr(value): float(number) for number, value in enumerate(values)}
    numeric = all(isinstance(value, int | float | None) for value in values)

    def cell(entry: Entry) -> Cell:
        order = place[repr(entry.point.config.get(key))] if entry.shown else None
        return Cell(entry.shown.get(key, "–"), order=order)

    return Column(heading, cell, is_text=not numeric)


def _of_adapter(report: Report) -> list[Column]:
    """What each adapter is and cost; what a key says already is left out."""

    def known(value: Any, text: str, order: float | None = None) -> Cell:
        return Cell("–") if value is None else Cell(text, order=order)

    def rank(entry: Entry) -> Cell:
        ranks = entry.point.summary.adapter_ranks if entry.point.summary else None
        return known(entry.point.rank, str(entry.point.rank), ranks[1] if ranks else None)

    def parameters(entry: Entry) -> Cell:
        count = entry.point.trainable_parameters or 0
        text = f"{count:,}" if count < 100_000 else f"{count / 1e6:.2f} M"
        return known(entry.point.trainable_parameters, text, count)

    def size(entry: Entry) -> Cell:
        size = entry.point.adapter_bytes
        return known(size, megabytes(size or 0), size)

    def time(entry: Entry) -> Cell:
        seconds = entry.point.train_seconds
        return known(seconds, clock(seconds or 0), seconds)

    told = {key.removeprefix("adapter.") for key in report.keys}
    return [
        *([] if "rank" in told or _is_one(report, "rank") else [Column("rank", rank)]),
        *(
            []
            if told & {"targets", "stack"} or _is_one(report, "targets")
            else [Column("targets", _targets, is_text=True)]
        ),
        Column("adapter", size),
        Column("trained for", time),
        Column("parameters", parameters),
    ]


def _is_one(report: Report, name: str) -> bool:
    """Whether all runs have the same, which is said once above the table."""
    return len(data.known(report, name)) == 1


def _targets(entry: Entry) -> Cell:
    return Cell(entry.point.targets or "–")


def _of_base(report: Report) -> Column:
    def cell(entry: Entry) -> Cell:
        base = entry.point.base
        rate = base.rate(report.leading) if base else None
        return Cell("–") if rate is None else Cell(percent(rate), order=rate)

    return Column("base", cell)


def _rate(entry: Entry, rate: Rate) -> Cell:
    score = entry.point.score
    if score is None:
        return Cell("–" if entry.point.state == "complete" else entry.point.state)
    return Cell(percent(score.rate(rate)), interval(score.ci95(rate)), score.rate(rate))


def _against(report: Report, entry: Entry) -> Cell:
    if report.best is not None and entry.point is report.best.point:
        return Cell("the best" if len(report.scored) > 1 else "", order=-1.0)
    found = entry.beside_best
    if found is None:
        return Cell(data.why_unjudged(report, entry))
    small = f"{points(found).replace(' points', '')}, {p_value(found.p_value)}"
    return Cell(found.verdict, small, found.difference)


def _front(entry: Entry) -> Cell:
    return Cell(FRONT, order=0.0) if entry.is_on_front else Cell("")


def rows(report: Report, shown: Sequence[Column]) -> list[tuple[Entry, list[Cell]]]:
    return [(entry, [column.cell(entry) for column in shown]) for entry in report.entries]


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────


def markdown(report: Report) -> str:
    """A heading, what was found, the table, and what failed."""
    shown = columns(report)
    marks = ["---" if column.is_text else "---:" for column in shown]
    table = [
        _line([column.heading for column in shown]),
        f"|{'|'.join(marks)}|",
        *(_line(cell_texts(cells)) for _, cells in rows(report, shown)),
    ]
    failed = [
        f"- {escaped(entry.label)}: {escaped(data.anonymous(entry.point.reason))}"
        for entry in report.entries
        if entry.point.state == "failed"
    ]
    absent, lost = data.never_begun(report), data.without_adapter(report)
    parts = [
        f"# {escaped(report.name)}",
        f"{escaped(data.about(report))}.",
        *([escaped(found(report))] if report.best else []),
        "\n".join(table),
        *([escaped(data.method(report))] if report.best else []),
        *(["Failed:", "\n".join(failed)] if failed else []),
        *(escaped(f"{capitalized(told)}.") for told in (absent, lost) if told),
    ]
    return "\n\n".join(parts) + "\n"


def found(report: Report) -> str:
    """Which run is the best, and which smaller one is as good as far as can be shown."""
    best, small = report.best, data.smallest_as_good(report)
    assert best is not None
    assert best.point.interval is not None
    assert best.point.rate is not None
    base = data.base_rates(report)
    said = (
        (f"{capitalized(NO_GAIN)}. The lowest: " if report.none_beats_base else "Best: ")
        + f"{best.label}, {report.rate} {percent(best.point.rate)} "
        f"({interval(best.point.interval)})"
        + (f"; the base has {base}" if base else "")
        + f". Its adapter has {megabytes(best.point.adapter_bytes or 0)}."
        + (f" {report.caution}." if report.caution else "")
    )
    if small is None or small.point is best.point:
        return said
    return (
        f"{said} Not shown to be worse, and the smallest: {small.label}, "
        f"{percent(small.point.rate or 0)} with "
        f"{megabytes(small.point.adapter_bytes or 0)}."
    )


def cell_texts(cells: Sequence[Cell]) -> list[str]:
    return [f"{cell.text} ({cell.small})" if cell.small else cell.text for cell in cells]


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"


def escaped(text: str) -> str:
    """Text as Markdown shows it: no cell of its own, no tag, no emphasis."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


# ── CSV ──────────────────────────────────────────────────────────────────────────────────────


def csv_text(report: Report) -> str:
    """A row a run, with the units in the headings; what is not known is empty."""
    keys = differing_keys([entry.point for entry in report.entries])
    buffer = io.StringIO()
    lines = [_csv_row(entry, keys) for entry in report.entries]
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _csv_row(entry: Entry, keys: Sequence[str]) -> dict[str, object]:
    point, beside = entry.point, entry.beside_best
    summary, score, base = point.summary, point.score, point.base
    lowest, highest = (summary and summary.adapter_ranks) or (None, None)
    return {
        "run": point.name,
        "state": point.state,
        "reason": " ".join(data.anonymous(point.reason).split()),
        **{key: _csv_value(point, key) for key in keys},
        "base": file_name(summary.checkpoint) if summary else "",
        "quantization": summary.quantization if summary else None,
        "targets": point.targets,
        "lowest_rank": lowest,
        "highest_rank": highest,
        "trainable_parameters": point.trainable_parameters,
        "adapter_bytes": point.adapter_bytes,
        "train_seconds": point.train_seconds,
        "steps": summary.steps if summary else None,
        "test_utterances": score.utterances if score else None,
        "leading_rate": score.leading if score else None,
        "base_wer_percent": _percent(base.wer if base else None),
        "base_cer_percent": _percent(base.cer if base else None),
        **_csv_rates(score),
        "on_pareto_front": int(entry.is_on_front),
        "wer_above_best_points": _percent(beside.difference if beside else None),
        "p_value_against_best": beside.p_value if beside else None,
    }


def _csv_rates(score: Score | None) -> dict[str, float | None]:
    found = {}
    rates: tuple[Rate, ...] = ("wer", "cer")
    for rate in rates:
        low, high = score.ci95(rate) if score else (None, None)
        found[f"{rate}_percent"] = _percent(score.rate(rate) if score else None)
        found[f"{rate}_ci95_low_percent"] = _percent(low)
        found[f"{rate}_ci95_high_percent"] = _percent(high)
    return found


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def _csv_value(point: Point, key: str) -> str:
    value = point.config.get(key)
    if not point.config or value is None:
        return ""
    return repr(value) if isinstance(value, float) else data.value_text(value)
