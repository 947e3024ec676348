"""`evaluation.html`: which model is better at what, and what each of them heard, on one page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lora_whisper.evaluation.results import (
    ErrorAnalysis,
    EvaluationResults,
    KeywordRecall,
    Rate,
    Rates,
    ScoredUtterance,
)
from lora_whisper.reports import evaluation_tables as said
from lora_whisper.reports.charts import MARKERS, SERIES, Chart, Scale, shorten
from lora_whisper.reports.html import render
from lora_whisper.reports.tables import Cell, Column, Table
from lora_whisper.reports.utterances import ShownUtterance, badness, shown
from lora_whisper.terminal import counted, percent

SHOWN_UTTERANCES = 500  # of a set, the worst ones
SHOWN_CHARACTERS = 1_000_000  # of a set's texts: recordings of an hour are shown in smaller numbers
PLAYERS = 50  # of a set, for the worst ones
SHOWN_MISTAKES = 15  # of each kind
SHOWN_KEYWORDS = 50  # the ones that are missed most
SHOWN_GROUPS = 20  # of a column, the worst ones
LINE_INCHES = 0.12  # of a chart's height, for one model
GAP_INCHES = 0.14  # between two labels
KEY_FIGURES = 4  # sets whose rates stand large at the top
NARROW_LETTERS = 62  # beside each other in a table that stands beside its plot
INTERVAL_LETTERS = 11  # of one of its columns
MISTAKES = "Mistakes"  # title of the section whose tables stand side by side
COLUMN_CHARACTERS = 40  # of what a column of the manifest says

Row = ScoredUtterance
Hypotheses = Mapping[str, Sequence[Row]]  # model → its rows, in the order of the set
Sound = Callable[[str, Row], bytes | None]  # set and row → an MP3 file


@dataclass(frozen=True)
class Part:
    """Of a section: a table, which may be empty, and its charts."""

    table: Table
    charts: Sequence[str] = ()  # SVG

    @property
    def is_narrow(self) -> bool:
        """Whether the table has room beside its chart."""
        rows = self.table.rows
        longest = max((len(row.cells[0].text) for row in rows), default=0)
        letters = longest + INTERVAL_LETTERS * (len(self.table.columns) - 1)
        return bool(rows) and len(self.charts) == 1 and letters <= NARROW_LETTERS


def page(results: EvaluationResults, hypotheses: Mapping[str, Hypotheses], sound: Sound) -> str:
    """The whole page. Whatever comes from data is escaped.

    Args:
        hypotheses: set → model → its rows; models that failed are missing.
        sound: gives the audio of the worst utterances, `None` where there is none.
    """
    mistakes = list(_mistakes(results))
    sections = {
        title: parts
        for title, parts in _sections(results).items()
        if parts or (title == MISTAKES and mistakes)
    }
    return render(
        "evaluation.html.j2",
        script="evaluation.js",
        results=results,
        about=_about(results),
        verdicts=_verdicts(results),
        key_figures=_key_figures(results),
        remarks=said.remarks(results),
        sections=sections,
        mistakes=mistakes,
        examples=list(_examples(results)),
        transcriptions=[
            _shown_set(results, name, of_set, sound)
            for name, of_set in hypotheses.items()
            if of_set
        ],
        facts=_facts(results),
        markdown=said.markdown(results),
        method=said.method(results),
    )


# ── the top ──────────────────────────────────────────────────────────────────────────────────


def _about(results: EvaluationResults) -> str:
    models, sets = len(results.models), len(results.sets)
    made_with = f"lora_whisper {results.versions['lora_whisper']}"
    return f"{counted(models, 'model')} on {counted(sets, 'test set')}, with {made_with}"


def _verdicts(results: EvaluationResults) -> list[dict[str, str]]:
    retained = said.sets_of(results, "retention")
    return [
        {
            "model": model,
            "set": name,
            "class": word.split()[0],
            "role": ", which must not get worse" if name in retained else "",
            "text": text,
            "points": said.points(results.comparisons[name][model]),
        }
        for model, name, word, text in said.verdicts(results)
    ]


def _key_figures(results: EvaluationResults) -> dict[str, str]:
    """The leading rate of the first sets, of the first model and of the last."""
    figures = {}
    for name in (said.sets_of(results, "test") + said.sets_of(results, "retention"))[:KEY_FIGURES]:
        found, rate = results.scored(name), said.leading(results, name)
        models = list(dict.fromkeys([*list(found)[:1], *list(found)[-1:]]))
        if models:
            shown = " → ".join(percent(found[model].rate(rate)) for model in models)
            figures[f"{rate.upper()} on {name}, {' → '.join(models)}"] = shown
    return figures


# ── sections ─────────────────────────────────────────────────────────────────────────────────


def _sections(results: EvaluationResults) -> dict[str, list[Part]]:
    """Those that something was asked for of; its mistakes stand in a section of another form."""
    sections = {
        "Scores": list(_scores(results)),
        "Conditions": [
            Part(said.condition_table(results, name), [_by_condition(results, name)])
            for name in results.conditions
        ],
        "Adapter scale": [
            Part(
                said.scale_table(results, model),
                [_along_the_scale(results, model), _trade_off(results, model)],
            )
            for model in results.scales
        ],
        "Groups": [
            Part(
                said.group_table(results, name, column, SHOWN_GROUPS),
                [_by_group(results, name, column)],
            )
            for name, column in said.group_columns(results)
        ],
        MISTAKES: [],
        "Word list": list(_keywords(results)),
        "Hallucination": list(_hallucination(results)),
        "Overfitting": list(_overfitting(results)),
    }
    return sections


def _scores(results: EvaluationResults) -> Iterator[Part]:
    if sum(len(results.scored(name)) for name in results.scores) > 1:
        yield Part(Table([]), [_models_and_sets(results)])
    for one in results.sets:
        yield Part(said.score_table(results, one))


def _keywords(results: EvaluationResults) -> Iterator[Part]:
    for name, found in results.keywords.items():
        yield Part(said.keyword_table(results, name))
        if any(one.words for one in found.values()):
            yield Part(_by_keyword(name, found))


def _by_keyword(name: str, found: Mapping[str, KeywordRecall]) -> Table:
    """The words that the last model misses most, first."""
    counts = {
        model: {word: f"{hit} of {times}" for word, times, hit in one.words}
        for model, one in found.items()
    }
    words = list(list(counts.values())[-1])
    hidden = len(words) - SHOWN_KEYWORDS
    below = f"… and {hidden:,} more, in evaluation.json" if hidden > 0 else ""
    table = Table([Column(is_text=True), *map(Column, counts)], f"{name}: by word", below)
    for word in words[:SHOWN_KEYWORDS]:
        table.add(word, *(counts[model].get(word, "") for model in counts))
    return table


def _hallucination(results: EvaluationResults) -> Iterator[Part]:
    kinds = {
        "looping": "repeats itself",
        "too_long": "longer than the audio allows",
        "compression": "compresses over 2.4",
        "on_silence": "text where nothing is said",
    }
    for name, found in results.hallucination.items():
        columns = [Column(is_text=True), *map(Column, ("share", *kinds.values()))]
        table = Table(columns, f"{name}: utterances with signs of it")
        for model, one in found.items():
            of_all = percent(one.any / max(one.utterances, 1))
            counts = (f"{getattr(one, kind):,}" for kind in kinds)
            table.add(model, Cell(of_all, f"{one.any:,} of {one.utterances:,}"), *counts)
        yield Part(table)
    if results.probes:
        yield Part(said.no_speech_table(results))


def _overfitting(results: EvaluationResults) -> Iterator[Part]:
    learnt = said.sets_of(results, "training")
    if not learnt:
        return
    names = learnt + said.sets_of(results, "test")
    title = "What was trained on beside what was not"
    table = Table([Column(is_text=True), *map(Column, names)], title)
    for model in results.models:
        if not model.failed:
            rates = {name: said.leading(results, name) for name in names}
            scores = (
                said.rated(results.scores[name].get(model.name), rate)
                for name, rate in rates.items()
            )
            table.add(model.name, *scores)
    yield Part(table)


@dataclass(frozen=True)
class Mistakes:
    """A model's most frequent ones on a set, as small tables."""

    set: str
    model: str
    tables: Sequence[Table]


def _mistakes(results: EvaluationResults) -> Iterator[Mistakes]:
    for name, models in results.mistakes.items():
        for model, found in reversed([*models.items()]):
            tables = [table for table in _mistake_tables(found) if table.rows]
            if tables:
                yield Mistakes(name, model, tables)


def _mistake_tables(found: ErrorAnalysis) -> list[Table]:
    word, times = Column("said", is_text=True), Column("times")
    confused = Table([word, Column("heard", is_text=True), times])
    for reference, hypothesis, count in found.confusions[:SHOWN_MISTAKES]:
        confused.add(reference, hypothesis, str(count))
    lost = Table([Column("lost", is_text=True), times, Column("said")])
    for text, gone, spoken in found.lost[:SHOWN_MISTAKES]:
        lost.add(text, str(gone), str(spoken))
    inserted = Table([Column("inserted", is_text=True), times])
    for text, count in found.inserted[:SHOWN_MISTAKES]:
        inserted.add(text, str(count))
    return [confused, lost, inserted]


def _examples(results: EvaluationResults) -> Iterator[dict[str, str]]:
    for name, models in results.hallucination.items():
        for model, found in models.items():
            for example in found.examples:
                where = f"{model}, {name}, {example.row}"
                yield {"where": where, "why": example.why, "text": example.hypothesis}
    for model, tests in results.probes.items():
        for kind, test in tests.items():
            for text in dict.fromkeys(test.texts):
                yield {"where": model, "why": f"nobody speaks: {kind}", "text": text}


# ── charts ───────────────────────────────────────────────────────────────────────────────────

Rated = Mapping[str, Rates | None]  # model → its score, or what else has rates with intervals


def _models_and_sets(results: EvaluationResults) -> str:
    """Every model's leading rate on every set."""
    rows = {
        _with_rate(results, name): _rated(results.scored(name), said.leading(results, name))
        for name in results.scores
        if results.scored(name)
    }
    return _dots(results, rows, _axis(results)) if rows else ""


def _by_condition(results: EvaluationResults, name: str) -> str:
    """A set as it is, and as it was made harder; the models side by side."""
    rate = said.leading(results, name)
    rows = {condition: _rated(found, rate) for condition, found in results.conditions[name].items()}
    return _dots(results, rows, rate.upper())


def _by_group(results: EvaluationResults, name: str, column: str) -> str:
    """The groups of a column, in the order of the last model's."""
    rate, found = said.leading(results, name), results.scored(name)
    labels = list(list(found.values())[-1].groups[column])
    rows = {
        label: _rated(
            {model: score.groups.get(column, {}).get(label) for model, score in found.items()},
            rate,
        )
        for label in labels[:SHOWN_GROUPS]
    }
    return _dots(results, rows, rate.upper())


def _along_the_scale(results: EvaluationResults, model: str) -> str:
    """Every set's rate over the adapter's scale, with its interval as a band."""
    chart = Chart(2.9, Scale("adapter scale"), Scale(unit=" %", from_zero=True))
    for number, name in enumerate(said.sets_of(results, "test", "retention")):
        scales, rated = _along(results, model, name)
        look: Any = {"colour": _colour(number), "marker": _marker(number)}
        chart.line(scales, rated, shorten(_with_rate(results, name)), **look)
    return chart.svg()


def _trade_off(results: EvaluationResults, model: str) -> str:
    """New speech against old: where each scale of the adapter stands; empty without both."""
    tested, retained = said.sets_of(results, "test"), said.sets_of(results, "retention")
    if not tested or not retained:
        return ""
    across_label = f"{tested[0]}, {said.leading(results, tested[0]).upper()}"
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
    rate = said.leading(results, name)
    scales = [one for one in results.scales[model] if name in one.scores]
    rated = [_percent(one.scores[name], rate) for one in scales]
    return np.array([one.scale for one in scales]), np.array(rated).reshape(-1, 3)


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
    mixed = len({said.leading(results, other) for other in results.scores}) > 1
    return f"{name} {said.leading(results, name).upper()}" if mixed else name


def _axis(results: EvaluationResults) -> str:
    found = {said.leading(results, name).upper() for name in results.scores}
    return found.pop() if len(found) == 1 else "error rate"


# ── utterances ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ShownSet:
    """The worst utterances of a set, each with what all models made of it."""

    name: str
    models: Sequence[str]  # the worst of the last one come first
    against: str  # the model that the last one is compared with; empty where there is none
    count: int  # of all its utterances
    utterances: Sequence[ShownUtterance]


def _shown_set(
    results: EvaluationResults, name: str, hypotheses: Hypotheses, sound: Sound
) -> ShownSet:
    models = list(hypotheses)
    rows = [dict(zip(models, each, strict=True)) for each in zip(*hypotheses.values(), strict=True)]
    order = sorted(range(len(rows)), key=lambda number: -badness(rows[number][models[-1]]))
    utterances = []
    for place, number in enumerate(order[: _room([rows[number] for number in order])]):
        row = rows[number]
        last = row[models[-1]]
        brought = last.errors - row[results.against].errors if results.against in row else 0
        worst_of = {f"model{each}": round(badness(one), 4) for each, one in enumerate(row.values())}
        audio = sound(name, last) if place < PLAYERS else None
        utterances.append(
            replace(
                shown(last, _by_text(row)),
                about=_about_row(last),
                sound=f"data:audio/mpeg;base64,{base64.b64encode(audio).decode()}" if audio else "",
                orders=worst_of | {"brought": brought, "taken": -brought, "place": -number},
            )
        )
    against = results.against if results.against in models[:-1] else ""
    return ShownSet(name, models, against, len(rows), utterances)


def _room(rows: Sequence[Mapping[str, Row]]) -> int:
    """How many of the rows the page has room for."""
    characters = 0
    for number, row in enumerate(rows[:SHOWN_UTTERANCES]):
        characters += sum(len(one.reference) + len(one.hypothesis) for one in row.values())
        if characters > SHOWN_CHARACTERS:
            return max(number, 1)
    return min(len(rows), SHOWN_UTTERANCES)


def _by_text(row: Mapping[str, Row]) -> dict[str, Row]:
    """What was transcribed, by the names of the models that agree on it."""
    models: dict[str, list[str]] = {}
    for model, one in row.items():
        models.setdefault(one.hypothesis, []).append(model)
    return {", ".join(same): row[same[0]] for same in models.values()}


def _about_row(row: Row) -> str:
    """Its length and its columns."""
    facts = [f"{row.seconds:.1f} s"] if row.seconds else []
    for name, value in row.columns.items():
        if name != "duration" and value not in (None, ""):
            text = str(value)
            is_long = len(text) > COLUMN_CHARACTERS
            facts.append(
                f"{name} {text[: COLUMN_CHARACTERS - 1]}…" if is_long else f"{name} {text}"
            )
    return " · ".join(facts)


# ── the end ──────────────────────────────────────────────────────────────────────────────────


def _facts(results: EvaluationResults) -> dict[str, dict[str, str]]:
    models = {
        one.name: ", ".join(
            [one.what, one.kind, one.dtype]
            + [one.quantization] * (one.quantization != "none")
            + [one.fingerprint]
        )
        for one in results.models
    }
    parts = {"Settings": results.settings, "Environment": results.environment}
    named = {
        title: {key.replace("_", " "): _fact(value) for key, value in facts.items()}
        for title, facts in (parts | {"Versions": results.versions}).items()
    }
    return {"Models": models} | named


def _fact(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
