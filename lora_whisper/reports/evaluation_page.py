"""`evaluation.html`: which model is better at what, and what each of them heard, on one page."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_whisper.evaluation.metrics import align, separator
from lora_whisper.evaluation.results import (
    ErrorAnalysis,
    EvaluationResults,
    KeywordRecall,
    NoSpeechTest,
    Rate,
    Rates,
    Score,
    ScoredUtterance,
    interval,
    units_of,
)
from lora_whisper.reports import evaluation_plots as plots
from lora_whisper.reports.evaluation_table import markdown
from lora_whisper.reports.evaluation_words import (
    ROLES,
    against,
    first_score,
    last_model,
    leading,
    method,
    points,
    rates,
    remarks,
    sets_of,
    share,
    size,
    speed,
    verdicts,
)
from lora_whisper.reports.html import render
from lora_whisper.terminal import counted, percent

SHOWN_UTTERANCES = 500  # of a set, the worst ones
SHOWN_CHARACTERS = 1_000_000  # of a set's texts: recordings of an hour are shown in smaller numbers
PLAYERS = 50  # of a set, for the worst ones
SHOWN_MISTAKES = 15  # of each kind
SHOWN_KEYWORDS = 50  # the ones that are missed most
KEY_FIGURES = 4  # sets whose rates stand large at the top
NARROW_LETTERS = 62  # beside each other in a table that stands beside its plot
INTERVAL_LETTERS = 11  # of one of its columns
MISTAKES = "Mistakes"  # title of the section whose tables stand side by side
COLUMN_CHARACTERS = 40  # of what a column of the manifest says

Row = ScoredUtterance
Heard = Mapping[str, Sequence[Row]]  # model → its rows, in the order of the set
Sound = Callable[[str, Row], bytes | None]  # set and row → an MP3 file
Cell = str | tuple[str, str]  # a figure, and what stands below it in small


@dataclass(frozen=True)
class Grid:
    """A table: its first column is text, all others are figures, except those in `texts`."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: frozenset[int] = field(default=frozenset({0}))
    title: str = ""
    below: str = ""
    plots: Sequence[str] = ()  # SVG

    @property
    def is_narrow(self) -> bool:
        """Whether it has room beside its plot."""
        longest = max((len(str(row[0])) for row in self.rows), default=0)
        letters = longest + INTERVAL_LETTERS * (len(self.headings) - 1)
        return bool(self.rows) and len(self.plots) == 1 and letters <= NARROW_LETTERS


def page(results: EvaluationResults, hypotheses: Mapping[str, Heard], sound: Sound) -> str:
    """The whole page. Whatever comes from data is escaped.

    Args:
        hypotheses: set → model → its rows; models that failed are missing.
        sound: gives the audio of the worst utterances, `None` where there is none.
    """
    sections = {title: grids for title, grids in _sections(results).items() if grids}
    return render(
        "evaluation.html.j2",
        script="evaluation.js",
        results=results,
        about=_about(results),
        verdicts=_verdicts(results),
        key_figures=_key_figures(results),
        remarks=remarks(results),
        sections=sections,
        mistakes=MISTAKES,
        examples=list(_examples(results)),
        heard=[
            _utterances(results, name, heard, sound) for name, heard in hypotheses.items() if heard
        ],
        facts=_facts(results),
        markdown=markdown(results),
        method=method(results),
    )


# ── the top ──────────────────────────────────────────────────────────────────────────────────


def _about(results: EvaluationResults) -> str:
    models, sets = len(results.models), len(results.sets)
    made_with = f"lora_whisper {results.versions['lora_whisper']}"
    return f"{counted(models, 'model')} on {counted(sets, 'test set')}, with {made_with}"


def _verdicts(results: EvaluationResults) -> list[dict[str, str]]:
    retained = sets_of(results, "retention")
    return [
        {
            "model": model,
            "set": name,
            "class": word.split()[0],
            "role": ", which must not get worse" if name in retained else "",
            "text": text,
            "points": points(results.comparisons[name][model]),
        }
        for model, name, word, text in verdicts(results)
    ]


def _key_figures(results: EvaluationResults) -> dict[str, str]:
    """The leading rate of the first sets, of the first model and of the last."""
    figures = {}
    for name in (sets_of(results, "test") + sets_of(results, "retention"))[:KEY_FIGURES]:
        found, rate = results.scored(name), leading(results, name)
        models = list(dict.fromkeys([*list(found)[:1], *list(found)[-1:]]))
        if models:
            shown = " → ".join(percent(found[model].rate(rate)) for model in models)
            figures[f"{rate.upper()} on {name}, {' → '.join(models)}"] = shown
    return figures


# ── sections ─────────────────────────────────────────────────────────────────────────────────


def _sections(results: EvaluationResults) -> dict[str, list[Any]]:
    return {
        "Scores": list(_score_grids(results)),
        "Conditions": list(_condition_grids(results)),
        "Adapter scale": list(_scale_grids(results)),
        "Groups": list(_group_grids(results)),
        MISTAKES: list(_mistakes(results)),
        "Word list": list(_keyword_grids(results)),
        "Hallucination": list(_hallucination_grids(results)),
        "Overfitting": list(_overfitting_grids(results)),
    }


def _score_grids(results: EvaluationResults) -> Iterator[Grid]:
    if sum(len(results.scored(name)) for name in results.scores) > 1:
        yield Grid((), (), plots=[plots.models_and_sets(results)])
    for one in results.sets:
        name = one.name
        first, second = rates(results, name)
        role = f" ({ROLES[one.role]})" if ROLES[one.role] else ""
        headings = ["", first.upper(), second.upper()]
        if results.comparisons.get(name):
            headings.append(f"against {results.against}")
        headings.append(f"{first.upper()} · {second.upper()} as written")
        headings += ["sub · ins · del", "in error", "RTFx"]
        yield Grid(
            headings,
            [
                [
                    model,
                    _with_interval(score, first),
                    _with_interval(score, second),
                    *_against(results, name, model),
                    *_more_cells(score, first, second),
                ]
                if score
                else [model, "failed", *[""] * (len(headings) - 2)]
                for model, score in results.scores[name].items()
            ],
            title=f"{name}{role}",
            below=size(results, one),
        )


def _more_cells(score: Score, first: Rate, second: Rate) -> list[Cell]:
    edits = score.substitutions, score.insertions, score.deletions
    return [
        " · ".join(percent(getattr(score, f"{rate}_orthographic")) for rate in (first, second)),
        " · ".join(f"{count:,}" for count in edits),
        percent(score.sentence_error_rate),
        speed(score),
    ]


def _with_interval(score: Rates | None, rate: Rate) -> Cell:
    return (percent(score.rate(rate)), interval(score.ci95(rate))) if score else ""


def _against(results: EvaluationResults, name: str, model: str) -> list[Cell]:
    found = results.comparisons.get(name, {}).get(model)
    if found:
        return [(against(results, name, model), points(found))]
    return [""] if results.comparisons.get(name) else []


def _condition_grids(results: EvaluationResults) -> Iterator[Grid]:
    for name, conditions in results.conditions.items():
        rate, models = leading(results, name), list(results.scored(name))
        yield Grid(
            ["", *models],
            [
                [condition, *(_with_interval(found.get(model), rate) for model in models)]
                for condition, found in conditions.items()
            ],
            title=f"{name}: {rate.upper()} by condition",
            plots=[plots.by_condition(results, name)],
        )


def _scale_grids(results: EvaluationResults) -> Iterator[Grid]:
    names = sets_of(results, "test", "retention")
    for model, scales in results.scales.items():
        yield Grid(
            ["scale", *(f"{name} {leading(results, name).upper()}" for name in names)],
            [
                [
                    f"{one.scale:g}",
                    *(
                        _with_interval(one.scores.get(name), leading(results, name))
                        for name in names
                    ),
                ]
                for one in scales
            ],
            title=model,
            below="0 is the base, 1 the adapter as it was trained.",
            plots=[plots.along_the_scale(results, model), plots.trade_off(results, model)],
        )


def _group_grids(results: EvaluationResults) -> Iterator[Grid]:
    """The last model's worst groups first."""
    for name in results.scores:
        found, last = results.scored(name), last_model(results, name)
        for column, groups in found[last].groups.items() if last else ():
            yield _by_column(results, name, column, list(groups))


def _by_column(results: EvaluationResults, name: str, column: str, labels: list[str]) -> Grid:
    rate, found = leading(results, name), results.scored(name)
    groups = {model: score.groups.get(column, {}) for model, score in found.items()}
    last, noun = list(groups.values())[-1], units_of(first_score(results, name))
    hidden = len(labels) - plots.SHOWN_GROUPS
    return Grid(
        ["", *groups, "utterances"],
        [
            [
                label,
                *(_with_interval(groups[model].get(label), rate) for model in groups),
                (f"{last[label].utterances:,}", f"{last[label].reference_words:,} {noun}"),
            ]
            for label in labels[: plots.SHOWN_GROUPS]
        ],
        title=f"{name}: {rate.upper()} by {column}",
        below=f"… and {hidden:,} better ones, in evaluation.json" if hidden > 0 else "",
        plots=[plots.by_group(results, name, column, labels)],
    )


def _keyword_grids(results: EvaluationResults) -> Iterator[Grid]:
    for name, found in results.keywords.items():
        yield Grid(
            ["", "recall", "found", "said", "precision"],
            [
                [
                    model,
                    (share(one.recall), interval(one.ci95) if one.ci95 else ""),
                    f"{one.found:,}",
                    f"{one.said:,}",
                    share(one.precision),
                ]
                for model, one in found.items()
            ],
            title=f"{name}: all words of the list",
            below="Precision: how many of those that the model wrote were said.",
        )
        if any(one.words for one in found.values()):
            yield _by_keyword(name, found)


def _by_keyword(name: str, found: Mapping[str, KeywordRecall]) -> Grid:
    """The words that the last model misses most, first."""
    counts = {
        model: {word: f"{hit} of {said}" for word, said, hit in one.words}
        for model, one in found.items()
    }
    words = list(list(counts.values())[-1])
    hidden = len(words) - SHOWN_KEYWORDS
    return Grid(
        ["", *counts],
        [[word, *(counts[model].get(word, "") for model in counts)] for word in words][
            :SHOWN_KEYWORDS
        ],
        title=f"{name}: by word",
        below=f"… and {hidden:,} more, in evaluation.json" if hidden > 0 else "",
    )


def _hallucination_grids(results: EvaluationResults) -> Iterator[Grid]:
    for name, found in results.hallucination.items():
        kinds = {
            "looping": "repeats itself",
            "too_long": "longer than the audio allows",
            "compression": "compresses over 2.4",
            "on_silence": "text where nothing is said",
        }
        yield Grid(
            ["", "share", *kinds.values()],
            [
                [
                    model,
                    (
                        percent(one.any / max(one.utterances, 1)),
                        f"{one.any:,} of {one.utterances:,}",
                    ),
                    *(f"{getattr(one, kind):,}" for kind in kinds),
                ]
                for model, one in found.items()
            ],
            title=f"{name}: utterances with signs of it",
        )
    if results.probes:
        yield _probe_grid(results.probes)


def _probe_grid(probes: Mapping[str, Mapping[str, NoSpeechTest]]) -> Grid:
    kinds = list(dict.fromkeys(kind for found in probes.values() for kind in found))
    rows: list[list[Cell]] = [
        [
            model,
            *(f"{found[kind].with_text} of {found[kind].clips}" for kind in kinds),
        ]
        for model, found in probes.items()
    ]
    return Grid(["", *kinds], rows, title="Clips without speech that were given a text")


def _overfitting_grids(results: EvaluationResults) -> Iterator[Grid]:
    names = sets_of(results, "training") + sets_of(results, "test")
    if not sets_of(results, "training"):
        return
    yield Grid(
        ["", *names],
        [
            [
                model.name,
                *(
                    _with_interval(results.scores[name].get(model.name), rate)
                    for name, rate in ((name, leading(results, name)) for name in names)
                ),
            ]
            for model in results.models
            if not model.failed
        ],
        title="What was trained on beside what was not",
    )


def _mistakes(results: EvaluationResults) -> Iterator[dict[str, Any]]:
    """A set's and model's most frequent ones, as three small tables."""
    for name, models in results.mistakes.items():
        for model, found in reversed([*models.items()]):
            grids = [grid for grid in _mistake_grids(found) if grid.rows]
            if grids:
                yield {"set": name, "model": model, "grids": grids}


def _mistake_grids(found: ErrorAnalysis) -> list[Grid]:
    confusions, lost = found.confusions[:SHOWN_MISTAKES], found.lost[:SHOWN_MISTAKES]
    inserted = found.inserted[:SHOWN_MISTAKES]
    return [
        Grid(
            ["said", "heard", "times"],
            [[said, heard, str(count)] for said, heard, count in confusions],
            frozenset({0, 1}),
        ),
        Grid(
            ["lost", "times", "said"], [[word, str(gone), str(said)] for word, gone, said in lost]
        ),
        Grid(["inserted", "times"], [[word, str(count)] for word, count in inserted]),
    ]


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


# ── utterances ───────────────────────────────────────────────────────────────────────────────


def badness(row: Row) -> float:
    """Errors over the square root of the words.

    By errors alone the longest utterances would come first, by WER those of a single word; where
    errors fall at random, this is as large for both.
    """
    return float(row.errors) / math.sqrt(max(row.reference_words, 1))


def _utterances(
    results: EvaluationResults, name: str, heard: Heard, sound: Sound
) -> dict[str, Any]:
    """The worst of a set, each with what all models made of it."""
    rows = [dict(zip(heard, each, strict=True)) for each in zip(*heard.values(), strict=True)]
    last = list(heard)[-1]
    order = sorted(range(len(rows)), key=lambda number: -badness(rows[number][last]))
    shown = order[: _room([rows[number] for number in order])]
    return {
        "name": name,
        "models": list(heard),
        "last": last,
        "against": results.against if results.against in list(heard)[:-1] else "",
        "count": len(rows),
        "players": min(PLAYERS, len(shown)),
        "shown": [
            _utterance(rows[number], number, last, results.against)
            | {"sound": _player(sound(name, rows[number][last])) if place < PLAYERS else ""}
            for place, number in enumerate(shown)
        ],
    }


def _room(rows: Sequence[Mapping[str, Row]]) -> int:
    """How many of the rows the page has room for."""
    characters = 0
    for number, row in enumerate(rows[:SHOWN_UTTERANCES]):
        characters += sum(len(one.reference) + len(one.hypothesis) for one in row.values())
        if characters > SHOWN_CHARACTERS:
            return max(number, 1)
    return min(len(rows), SHOWN_UTTERANCES)


def _utterance(row: Mapping[str, Row], number: int, last: str, other: str) -> dict[str, Any]:
    one = row[last]
    brought = one.errors - row[other].errors if other in row else 0
    return {
        "row": one.row,
        "language": one.language or "en",
        "space": separator(one.language),
        "bad_audio": one.bad_audio,
        "reference": one.reference,
        "about": _about_row(one),
        "heard": list(_lines(row)),
        "orders": {
            **{
                f"model{place}": round(badness(heard), 4)
                for place, heard in enumerate(row.values())
            },
            "brought": brought,
            "taken": -brought,
            "place": -number,
        },
    }


def _lines(row: Mapping[str, Row]) -> Iterator[dict[str, Any]]:
    """What was heard, with the models that heard it."""
    texts: dict[str, list[str]] = {}
    for model, one in row.items():
        texts.setdefault(one.hypothesis, []).append(model)
    for text, models in texts.items():
        one = row[models[0]]
        yield {
            "models": ", ".join(models),
            "errors": one.errors,
            "stretches": align(one.reference, text, one.language),
        }


def _about_row(row: Row) -> str:
    """Its length and its columns."""
    said = [f"{row.seconds:.1f} s"] if row.seconds else []
    columns = {name: value for name, value in row.columns.items() if name != "duration"}
    known = [(name, value) for name, value in columns.items() if value not in (None, "")]
    return " · ".join(said + [f"{name} {_cut(str(value))}" for name, value in known])


def _cut(text: str) -> str:
    return text if len(text) <= COLUMN_CHARACTERS else f"{text[: COLUMN_CHARACTERS - 1]}…"


def _player(audio: bytes | None) -> str:
    return f"data:audio/mpeg;base64,{base64.b64encode(audio).decode()}" if audio else ""


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
