"""What an evaluation prints, 80 columns wide or more, and its table for a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lora_whisper.evaluation.results import (
    ErrorAnalysis,
    EvaluatedSet,
    EvaluationResults,
    Rate,
    Rates,
    Score,
    both_rates,
    interval,
)
from lora_whisper.reports.evaluation_words import (
    ROLES,
    against,
    cautions_of,
    last_model,
    leading,
    losses,
    method,
    rates,
    remarks,
    sets_of,
    share,
    size,
    speed,
)
from lora_whisper.terminal import console, percent

SHOWN_GROUPS = 8  # of a column, the worst ones
SHOWN_MISTAKES = 5  # of each kind
SIGNS = {  # as evaluation.json calls them, and people
    "looping": "loops",
    "too_long": "too long",
    "compression": "repetitive",
    "on_silence": "on silence",
}
COLOURS = {"better": "green", "worse": "red"}


def show_evaluation(results: EvaluationResults) -> None:
    """Print everything that was asked for, and nothing else."""
    for part in parts(results):
        console.print()
        console.print(part)


def parts(results: EvaluationResults) -> Iterator[RenderableType]:
    """Tables and lines; what matters most comes last, where a terminal stops."""
    yield from _conditions(results)
    yield from _scales(results)
    yield from _groups(results)
    yield from _keywords(results)
    yield from _hallucination(results)
    yield from _probes(results)
    yield from _mistakes(results)
    for one in results.sets:
        yield _scores(results, one)
    said = losses(results) + remarks(results)
    if said:
        yield _lines(said)


# ── scores ───────────────────────────────────────────────────────────────────────────────────


def _scores(results: EvaluationResults, one: EvaluatedSet) -> RenderableType:
    """A row a model: the leading rate with its interval, the other rate, and the verdict."""
    name = one.name
    first, second = rates(results, name)
    role = f" ({ROLES[one.role]})" if ROLES[one.role] else ""
    headings = [first.upper(), "95 % interval", second.upper()]
    table = _table(f"{name}{role}: {size(results, one)}", headings)
    compared = bool(results.comparisons.get(name))
    if compared:
        table.add_column(Text(f"against {results.against}"), overflow="fold")
    for model, score in results.scores[name].items():
        if score is None:
            _add(table, model, Text("failed", "red"))
            continue
        cells = [
            percent(score.rate(first)),
            interval(score.ci95(first)),
            percent(score.rate(second)),
        ]
        _add(table, model, *cells, *[_verdict(results, name, model)] * compared)
    speeds = ((model, speed(score)) for model, score in results.scored(name).items())
    known = ", ".join(f"{model} {figure}" for model, figure in speeds if figure)
    return Group(table, Text(f"RTFx: {known}")) if known else table


def _verdict(results: EvaluationResults, name: str, model: str) -> Text:
    said = against(results, name, model)
    return Text(said, style=COLOURS.get(said.split(" (")[0], ""))


# ── what may be asked for beside them ────────────────────────────────────────────────────────


def _conditions(results: EvaluationResults) -> Iterator[Table]:
    for name, conditions in results.conditions.items():
        rate, models = leading(results, name), list(results.scored(name))
        table = _table(f"{name}: {rate.upper()} by condition", models)
        for condition, found in conditions.items():
            _add(table, condition, *(_rate(found.get(model), rate) for model in models))
        yield table


def _scales(results: EvaluationResults) -> Iterator[Table]:
    names = sets_of(results, "test", "retention")
    for model, scales in results.scales.items():
        table = _table(f"{model}: by scale", _headings(results, names))
        for one in scales:
            cells = (_rate(one.scores.get(name), leading(results, name)) for name in names)
            _add(table, f"{one.scale:g}", *cells)
        yield table


def _headings(results: EvaluationResults, names: Sequence[str]) -> list[str]:
    return [f"{name} {leading(results, name).upper()}" for name in names]


def _groups(results: EvaluationResults) -> Iterator[Table]:
    for one in results.sets:
        name, found = one.name, results.scored(one.name)
        last = last_model(results, name)
        for column in found[last].groups if last else ():
            yield _by_column(results, name, found, column)


def _by_column(
    results: EvaluationResults, name: str, found: Mapping[str, Score], column: str
) -> Table:
    """The last model's worst groups first; the rest are counted."""
    rate = leading(results, name)
    groups = {model: score.groups.get(column, {}) for model, score in found.items()}
    labels = list(list(groups.values())[-1])
    hidden = len(labels) - SHOWN_GROUPS
    rest = f", the worst {SHOWN_GROUPS} of {len(labels)}" if hidden > 0 else ", worst first"
    table = _table(f"{name}: {rate.upper()} by {column}{rest}", [*groups, "utterances"])
    for label in labels[:SHOWN_GROUPS]:
        cells = (_rate(groups[model].get(label), rate) for model in groups)
        utterances = list(groups.values())[-1][label].utterances
        _add(table, label, *cells, f"{utterances:,}")
    return table


def _rate(score: Rates | None, rate: Rate) -> str:
    return percent(score.rate(rate)) if score else ""


def _keywords(results: EvaluationResults) -> Iterator[Table]:
    for name, found in results.keywords.items():
        headings = ["recall", "95 % interval", "found", "said", "precision"]
        table = _table(f"{name}: words of the list", headings)
        for model, one in found.items():
            rate = share(one.recall), interval(one.ci95) if one.ci95 else ""
            counts = f"{one.found:,}", f"{one.said:,}", share(one.precision)
            _add(table, model, *rate, *counts)
        yield table


def _hallucination(results: EvaluationResults) -> Iterator[Table]:
    """Counts of utterances; one may be of several kinds."""
    if not results.hallucination:
        return
    of_sets = [one for found in results.hallucination.values() for one in found.values()]
    kinds = [
        kind for kind in SIGNS if kind != "on_silence" or any(one.on_silence for one in of_sets)
    ]
    headings = [*(SIGNS[kind] for kind in kinds), "any", "share"]
    table = _table("Signs of hallucination, in utterances", headings)
    for name, found in results.hallucination.items():
        table.add_section()
        for model, one in found.items():
            counts = (getattr(one, kind) for kind in (*kinds, "any"))
            of_all = percent(one.any / max(one.utterances, 1))
            _add(table, f"{model}, {name}", *map(str, counts), of_all)
    yield table


def _probes(results: EvaluationResults) -> Iterator[Table]:
    """How many clips without speech were given a text."""
    if not results.probes:
        return
    kinds = list(dict.fromkeys(kind for one in results.probes.values() for kind in one))
    table = _table("Text where nobody speaks, in clips", kinds)
    for model, one in results.probes.items():
        cells = (f"{one[kind].with_text} of {one[kind].clips}" for kind in kinds)
        _add(table, model, *cells)
    yield table


def _mistakes(results: EvaluationResults) -> Iterator[RenderableType]:
    """The last model's most frequent ones on each test set."""
    for name in sets_of(results, "test"):
        model = last_model(results, name)
        found = results.mistakes.get(name, {}).get(model or "")
        lines = [
            (kind, ", ".join(texts[:SHOWN_MISTAKES]))
            for kind, texts in (mistakes(found) if found else {}).items()
            if texts
        ]
        if lines:
            yield Group(Text(f"{name}: what {model} has wrong most often", "bold"), _lines(lines))


def mistakes(found: ErrorAnalysis) -> dict[str, list[str]]:
    """Each kind's own, as they are shown."""
    return {
        "confused": [f"{said} → {heard} {count}×" for said, heard, count in found.confusions],
        "lost": [f"{word} {lost} of {said}" for word, lost, said in found.lost],
        "inserted": [f"{word} {count}×" for word, count in found.inserted],
    }


# ── the look ─────────────────────────────────────────────────────────────────────────────────


def _table(title: str, headings: Sequence[str]) -> Table:
    """Names on the left, figures on the right; what comes from data is never taken for markup."""
    table = Table(title=Text(title, "bold"), title_justify="left")
    table.add_column("", overflow="fold")
    for heading in headings:
        table.add_column(Text(heading), justify="right", overflow="fold", min_width=7)
    return table


def _add(table: Table, *cells: str | Text) -> None:
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _lines(lines: Sequence[tuple[str, str]]) -> Table:
    """`warning   3 texts of …`, broken where the text goes on below itself."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(overflow="fold")
    for kind, text in lines:
        grid.add_row(Text(kind, "yellow" if kind == "warning" else ""), Text(text))
    return grid


# ── for a model card ─────────────────────────────────────────────────────────────────────────


def markdown(results: EvaluationResults) -> str:
    """A table to paste into a model card, and a line on how its figures were made."""
    lines = [
        "| model | set | WER (95 %) | CER (95 %) | utterances | against "
        f"{_escaped(results.against)} |",
        "|---|---|---:|---:|---:|---|",
    ]
    for name, models in results.scores.items():
        lines += [_line(results, name, model, score) for model, score in models.items()]
    said = [f"\n**Warning:** {text}." for text in cautions_of(results)]
    return "\n".join([*lines, "", method(results), *said, ""])


def _line(results: EvaluationResults, name: str, model: str, score: Score | None) -> str:
    figures = ["", "", "", "failed"]
    if score is not None:
        rated = [f"{percent(score.rate(r))} ({interval(score.ci95(r))})" for r in both_rates("wer")]
        figures = [*rated, f"{score.utterances:,}", against(results, name, model)]
    return f"| {' | '.join([_escaped(model), _escaped(name), *figures])} |"


def _escaped(name: str) -> str:
    """A name as Markdown shows it: no cell of its own, no tag, no emphasis."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(name.split()))
