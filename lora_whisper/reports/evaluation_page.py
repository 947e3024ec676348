"""`evaluation.json`, and the page that says which model is better at what, and what each wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lora_whisper.data.audio import AudioError, encode_mp3, read_audio
from lora_whisper.evaluation.results import (
    EvaluationResults,
    Rate,
    Rates,
    ScoredUtterance,
    to_json,
)
from lora_whisper.evaluation.test_sets import LoadedSet
from lora_whisper.files import write_json, write_whole
from lora_whisper.reports import evaluation_tables as tables
from lora_whisper.reports.capabilities import card_table
from lora_whisper.reports.charts import Chart, Look, Scale, colour, in_percent, marker, shorten
from lora_whisper.reports.evaluation_text import (
    judgements,
    leading_on,
    method,
    points,
    remarks,
    sets_of,
)
from lora_whisper.reports.html import render
from lora_whisper.reports.tables import Cell, Column, Table, rate_cell
from lora_whisper.reports.utterances import (
    Hypotheses,
    Sound,
    shown_set,
)
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import counted, percent

SHOWN_MISTAKES = 15  # of each kind
SHOWN_WORDS = 50  # the ones that are missed most
SHOWN_GROUPS = 20  # of a column, the worst ones
LINE_INCHES = 0.12  # of a chart's height, for one model
GAP_INCHES = 0.14  # between two labels
KEY_FIGURES = 4  # sets whose rates stand large at the top
NARROW_LETTERS = 50  # that have room beside each other in a table that stands beside its plot
INTERVAL_LETTERS = 11  # of one of its columns
MISTAKES = "Mistakes"  # title of the section whose tables stand side by side


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


def write(
    folder: RunFolder,
    results: EvaluationResults,
    utterances: Mapping[str, Hypotheses],
    players: Sequence[LoadedSet],
) -> None:
    """Write evaluation.json, .html and .md.

    Args:
        utterances: set → model → what it made of each.
        players: sets whose sound the page plays.
    """
    write_json(folder.results, to_json(results))
    write_whole(folder.results.with_suffix(".md"), tables.markdown(results).encode())
    html = page(results, utterances, _sound(players))
    write_whole(folder.results.with_suffix(".html"), html.encode())


def _sound(sets: Sequence[LoadedSet]) -> Callable[[str, ScoredUtterance], bytes | None]:
    """The sound of a line of hypotheses.jsonl, as a page plays it."""
    utterances = {loaded.name: loaded.corpus.utterances for loaded in sets}

    @cache
    def places(name: str) -> dict[str, int]:
        rows = utterances[name]
        return {rows.row(index).place: index for index in range(len(rows))}

    def sound(name: str, row: ScoredUtterance) -> bytes | None:
        if name not in utterances:
            return None
        utterance = utterances[name][places(name)[row.row]]
        try:
            samples = read_audio(utterance.audio, utterance.start_seconds, utterance.end_seconds)
        except AudioError:
            return None
        return encode_mp3(samples)

    return sound


def page(results: EvaluationResults, hypotheses: Mapping[str, Hypotheses], sound: Sound) -> str:
    """The whole page. Whatever comes from data is escaped.

    Args:
        hypotheses: set → model → its rows; models that failed are missing.
        sound: gives the audio of the worst utterances, `None` where there is none.
    """
    mistakes = list(_mistakes(results))
    asked: dict[str, list[Part]] = {
        "Scores": list(_scores(results)),
        "Kept and lost": [Part(card_table(one, model)) for model, one in results.cards.items()],
        "Conditions": list(_conditions(results)),
        "Adapter scale": list(_scales(results)),
        "Groups": list(_groups(results)),
        MISTAKES: [],  # which stand in a section of another form
        "Word list": list(_words(results)),
        "Hallucination": list(_hallucination(results)),
        "Overfitting": list(_overfitting(results)),
    }
    models = counted(len(results.models), "model")
    sets = counted(len(results.sets), "test set")
    sections = {
        title: parts for title, parts in asked.items() if parts or (title == MISTAKES and mistakes)
    }
    return render(
        "evaluation.html.j2",
        script="evaluation.js",
        results=results,
        about=f"{models} on {sets}, with lora_whisper {results.versions['lora_whisper']}",
        judgements=judgements(results),
        points=points,
        key_figures=_key_figures(results),
        remarks=remarks(results),
        sections=sections,
        mistakes=mistakes,
        examples=list(_examples(results)),
        transcriptions=[
            shown_set(results, name, of_set, sound) for name, of_set in hypotheses.items() if of_set
        ],
        facts=_facts(results),
        markdown=tables.markdown(results),
        method=method(results),
    )


# ── the top ──────────────────────────────────────────────────────────────────────────────────


def _key_figures(results: EvaluationResults) -> dict[str, str]:
    """The leading rate of the first sets, of the first model and of the last."""
    figures = {}
    names = sets_of(results, "test") + sets_of(results, "retention")
    for name in names[:KEY_FIGURES]:
        scores, rate = results.scored(name), leading_on(results, name)
        models = list(dict.fromkeys([*list(scores)[:1], *list(scores)[-1:]]))
        if models:
            shown = " → ".join(percent(scores[model].rate(rate)) for model in models)
            figures[f"{rate.upper()} on {name}, {' → '.join(models)}"] = shown
    return figures


# ── sections ─────────────────────────────────────────────────────────────────────────────────


def _scores(results: EvaluationResults) -> Iterator[Part]:
    """Every model's leading rate on every set, and then a table a set."""
    scores = {name: found for name in results.scores if (found := results.scored(name))}
    if sum(map(len, scores.values())) > 1:
        rows = {
            _with_rate(results, name): _rated(found, leading_on(results, name))
            for name, found in scores.items()
        }
        names = {leading_on(results, name).upper() for name in results.scores}
        label = names.pop() if len(names) == 1 else "error rate"
        yield Part(Table([]), [_dots(results, rows, label)])
    for one in results.sets:
        yield Part(tables.score_table(results, one))


def _conditions(results: EvaluationResults) -> Iterator[Part]:
    """A set as it is, and as it was made harder; the models side by side."""
    for name, conditions in results.conditions.items():
        rate = leading_on(results, name)
        rows = {condition: _rated(found, rate) for condition, found in conditions.items()}
        table = tables.condition_table(results, name)
        yield Part(table, [_dots(results, rows, rate.upper())])


def _groups(results: EvaluationResults) -> Iterator[Part]:
    """The groups of a column, in the order of the last model's."""
    for name, column in tables.group_columns(results):
        rate, scores = leading_on(results, name), results.scored(name)
        groups = {model: score.groups.get(column, {}) for model, score in scores.items()}
        labels = list(list(groups.values())[-1])[:SHOWN_GROUPS]
        rows = {
            label: _rated({model: found.get(label) for model, found in groups.items()}, rate)
            for label in labels
        }
        table = tables.group_table(results, name, column, SHOWN_GROUPS)
        yield Part(table, [_dots(results, rows, rate.upper())])


def _scales(results: EvaluationResults) -> Iterator[Part]:
    """Every set's rate with more and with less of an adapter."""
    for model in results.scales:
        chart = Chart(2.9, Scale("adapter scale"), Scale(unit=" %", from_zero=True))
        for number, name in enumerate(sets_of(results, "test", "retention")):
            scales, rates = _along(results, model, name)
            look: Look = {"colour": colour(number), "marker": marker(number)}
            chart.line(scales, rates, shorten(_with_rate(results, name)), **look)
        table = tables.scale_table(results, model)
        yield Part(table, [chart.svg(), _trade_off(results, model)])


def _words(results: EvaluationResults) -> Iterator[Part]:
    """All words of a list, and then each word: those first that the last model misses most."""
    for name, models in results.keywords.items():
        yield Part(tables.word_table(results, name))
        recalls = {}
        for model, one in models.items():
            recalls[model] = one
            if (prompted := results.prompted.get(name, {}).get(model)) is not None:
                recalls[f"{model}, prompted"] = prompted.recall
        counts = {
            model: {word: f"{hit} of {times}" for word, times, hit in one.words}
            for model, one in recalls.items()
        }
        words = list(list(counts.values())[-1])
        hidden = len(words) - SHOWN_WORDS
        below = f"… and {hidden:,} more, in evaluation.json" if hidden > 0 else ""
        table = Table([Column(is_text=True), *map(Column, counts)], f"{name}: by word", below)
        for word in words[:SHOWN_WORDS]:
            table.add(word, *(counts[model].get(word, "") for model in counts))
        if any(counts.values()):
            yield Part(table)


def _hallucination(results: EvaluationResults) -> Iterator[Part]:
    kinds = {
        "looping": "repeats itself",
        "too_long": "longer than the audio allows",
        "compression": "compresses over 2.4",
        "on_silence": "text where nothing is said",
    }
    for name, models in results.hallucination.items():
        columns = [Column(is_text=True), *map(Column, ("share", *kinds.values()))]
        table = Table(columns, f"{name}: utterances with signs of it")
        for model, one in models.items():
            of_all = percent(one.any / max(one.utterances, 1))
            counts = (f"{getattr(one, kind):,}" for kind in kinds)
            table.add(model, Cell(of_all, f"{one.any:,} of {one.utterances:,}"), *counts)
        yield Part(table)
    if results.probes:
        yield Part(tables.no_speech_table(results))


def _overfitting(results: EvaluationResults) -> Iterator[Part]:
    training = sets_of(results, "training")
    if not training:
        return
    names = training + sets_of(results, "test")
    title = "What was trained on beside what was not"
    table = Table([Column(is_text=True), *map(Column, names)], title)
    for model in results.models:
        if not model.failed:
            rates = {name: leading_on(results, name) for name in names}
            scores = (
                rate_cell(results.scores[name].get(model.name), rate)
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
    word, times = Column("said", is_text=True), Column("times")
    for name, models in results.mistakes.items():
        for model, analysis in reversed([*models.items()]):
            confused = Table([word, Column("written", is_text=True), times])
            for reference, hypothesis, count in analysis.confusions[:SHOWN_MISTAKES]:
                confused.add(reference, hypothesis, str(count))
            lost = Table([Column("lost", is_text=True), times, Column("said")])
            for text, missing, spoken in analysis.lost[:SHOWN_MISTAKES]:
                lost.add(text, str(missing), str(spoken))
            inserted = Table([Column("inserted", is_text=True), times])
            for text, count in analysis.inserted[:SHOWN_MISTAKES]:
                inserted.add(text, str(count))
            if shown_tables := [table for table in (confused, lost, inserted) if table.rows]:
                yield Mistakes(name, model, shown_tables)


def _examples(results: EvaluationResults) -> Iterator[dict[str, str]]:
    for name, models in results.hallucination.items():
        for model, hallucination in models.items():
            for example in hallucination.examples:
                where = f"{model}, {name}, {example.row}"
                yield {"where": where, "why": example.why, "text": example.hypothesis}
    for model, tests in results.probes.items():
        for kind, test in tests.items():
            for text in dict.fromkeys(test.texts):
                yield {"where": model, "why": f"nobody speaks: {kind}", "text": text}


# ── charts ───────────────────────────────────────────────────────────────────────────────────

Rated = Mapping[str, Rates | None]  # model → its score, or what else has rates with intervals


def _trade_off(results: EvaluationResults, model: str) -> str:
    """New speech against old: where each scale of the adapter stands; empty without both."""
    tested, retained = sets_of(results, "test"), sets_of(results, "retention")
    if not tested or not retained:
        return ""
    across_label = f"{tested[0]}, {leading_on(results, tested[0]).upper()}"
    across_scale = Scale(across_label, unit=" %", from_zero=True)
    chart = Chart(2.9, across_scale, Scale(", ".join(retained), unit=" %", from_zero=True))
    scales, across = _along(results, model, tested[0])
    for number, name in enumerate(retained, start=1):
        _, up = _along(results, model, name)
        label = shorten(_with_rate(results, name)) if len(retained) > 1 else ""
        look: Look = {"colour": colour(number), "elinewidth": 0.6, "fmt": f"{marker(number)}-"}
        chart.dots(across, up, label, **look)
        chart.names(across[:, 0], up[:, 0], [f"{scale:g}" for scale in scales])
    return chart.svg()


def _along(results: EvaluationResults, model: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(scales,) and (scales, 3) percent: a set's rate and the two ends of its interval."""
    rate = leading_on(results, name)
    scales = [one for one in results.scales[model] if name in one.scores]
    rated = [in_percent(one.scores[name], rate) for one in scales]
    return np.array([one.scale for one in scales]), np.array(rated).reshape(-1, 3)


def _rated(rates: Rated, rate: Rate) -> dict[str, tuple[float, float, float]]:
    return {model: in_percent(score, rate) for model, score in rates.items() if score}


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
            colour(number),
            fmt=marker(number),
            markersize=5,
            clip_on=False,  # a rate of zero stands on the axis
        )
    chart.separators()
    return chart.svg()


def _with_rate(results: EvaluationResults, name: str) -> str:
    """`test`, or where sets lead with different rates `test CER`."""
    mixed = len({leading_on(results, other) for other in results.scores}) > 1
    return f"{name} {leading_on(results, name).upper()}" if mixed else name


# ── the end ──────────────────────────────────────────────────────────────────────────────────


def _facts(results: EvaluationResults) -> dict[str, dict[str, str]]:
    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(map(str, value)) or "none"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return "none" if value is None else str(value)

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
        title: {key.replace("_", " "): text(value) for key, value in facts.items()}
        for title, facts in (parts | {"Versions": results.versions}).items()
    }
    return {"Models": models} | named
