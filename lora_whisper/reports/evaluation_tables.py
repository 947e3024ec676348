"""The tables of an evaluation: on its page, in the terminal, and one for a model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as TerminalTable
from rich.text import Text

from lora_whisper.evaluation.results import (
    EvaluatedSet,
    EvaluationResults,
    Rates,
    WordRecall,
    both_rates,
    interval,
    leading,
    units_of,
)
from lora_whisper.paths import short
from lora_whisper.reports.capabilities import METHOD, card_table
from lora_whisper.reports.evaluation_text import (
    cautions_of,
    first_score,
    last_model,
    leading_on,
    losses,
    method,
    points,
    remarks,
    sets_of,
    share,
    size,
    speed,
    verdict,
)
from lora_whisper.reports.tables import Cell, Column, Table, rate_cell
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import console, percent

ROLES = {
    "test": "",
    "retention": "must not get worse",
    "training": "a sample of what was trained on",
}
SHOWN_GROUPS = 8  # of a column, the worst ones
SHOWN_MISTAKES = 5  # of each kind
SIGNS = {  # as evaluation.json calls them, and people
    "looping": "loops",
    "too_long": "too long",
    "compression": "repetitive",
    "on_silence": "on silence",
}
COLOURS = {"better": "green", "worse": "red"}
INTERVAL = "95 % interval"
PROMPTED = ", prompted"  # behind a model's name: with the word list as a prompt


# ── tables ───────────────────────────────────────────────────────────────────────────────────


def figure(title: str, **more: Any) -> Column:
    """A column of them, which is not so narrow in the terminal that they would break."""
    return Column(title, layout={"min_width": 7}, **more)


def score_table(results: EvaluationResults, one: EvaluatedSet) -> Table:
    """A row a model: the leading rate with its interval, the other rate, and the verdict."""
    name = one.name
    first, second = both_rates(leading_on(results, name))
    title = f"{name} ({ROLES[one.role]})" if ROLES[one.role] else name
    columns = [
        Column(is_text=True),
        figure(first.upper(), small_title=INTERVAL),
        figure(second.upper()),
    ]
    is_compared = bool(results.comparisons.get(name))
    if is_compared:
        columns.append(Column(f"against {results.against}", layout={"justify": "left"}))
    as_written = f"{first.upper()} · {second.upper()} as written"
    for heading in (as_written, "sub · ins · del", "in error", "RTFx"):
        columns.append(Column(heading, is_of_page=True))
    how = size(results, one)
    table = Table(columns, title, below=how, terminal_title=f"{title}: {how}")
    for model, score in results.scores[name].items():
        if score is None:
            empty = [Cell()] * (len(columns) - 2)
            table.add(model, Cell("failed", style="red"), *empty)
            continue
        edits = score.substitutions, score.insertions, score.deletions
        written = [getattr(score, f"{rate}_orthographic") for rate in (first, second)]
        table.add(
            model,
            rate_cell(score, first),
            rate_cell(score, second),
            *[_verdict(results, name, model)] * is_compared,
            " · ".join(map(percent, written)),
            " · ".join(f"{count:,}" for count in edits),
            percent(score.sentence_error_rate),
            speed(score),
        )
    return table


def _verdict(results: EvaluationResults, name: str, model: str) -> Cell:
    """Empty for the one that the others are compared with."""
    comparison = results.comparisons.get(name, {}).get(model)
    if comparison is None:
        return Cell()
    style = COLOURS.get(comparison.verdict, "")
    return Cell(verdict(comparison), points(comparison), style=style)


def condition_table(results: EvaluationResults, name: str) -> Table:
    """A set as it is, and as it was made harder."""
    rate, models = leading_on(results, name), list(results.scored(name))
    title = f"{name}: {rate.upper()} by condition"
    table = Table([Column(is_text=True), *map(figure, models)], title)
    for condition, scores in results.conditions[name].items():
        table.add(condition, *(rate_cell(scores.get(model), rate) for model in models))
    return table


def scale_table(results: EvaluationResults, model: str) -> Table:
    """Every set's rate with more and with less of the adapter."""
    names = sets_of(results, "test", "retention")
    headings = [f"{name} {leading_on(results, name).upper()}" for name in names]
    table = Table(
        [Column("scale", is_text=True), *map(figure, headings)],
        model,
        below="0 is the base, 1 the adapter as it was trained.",
        terminal_title=f"{model}: by scale",
    )
    for one in results.scales[model]:
        cells = (rate_cell(one.scores.get(name), leading_on(results, name)) for name in names)
        table.add(f"{one.scale:g}", *cells)
    return table


def group_columns(results: EvaluationResults) -> Iterator[tuple[str, str]]:
    """Each set, and a column that it is broken down by."""
    for one in results.sets:
        last = last_model(results, one.name)
        for column in results.scored(one.name)[last].groups if last else ():
            yield one.name, column


def group_table(results: EvaluationResults, name: str, column: str, shown: int) -> Table:
    """The last model's worst groups first; the rest are counted."""
    rate, noun = leading_on(results, name), units_of(first_score(results, name))
    groups = {model: score.groups.get(column, {}) for model, score in results.scored(name).items()}
    last = list(groups.values())[-1]
    hidden = len(last) - shown
    title = f"{name}: {rate.upper()} by {column}"
    rest = f", the worst {shown} of {len(last)}" if hidden > 0 else ", worst first"
    table = Table(
        [Column(is_text=True), *map(figure, groups), figure("utterances")],
        title,
        below=f"… and {hidden:,} better ones, in evaluation.json" if hidden > 0 else "",
        terminal_title=f"{title}{rest}",
    )
    for label in list(last)[:shown]:
        size_cell = Cell(f"{last[label].utterances:,}", f"{last[label].reference_words:,} {noun}")
        table.add(
            label,
            *(rate_cell(by_label.get(label), rate) for by_label in groups.values()),
            size_cell,
        )
    return table


def word_table(results: EvaluationResults, name: str) -> Table:
    """How many of the listed words were recognized, and with the list as a prompt."""
    models, prompted = results.keywords[name], results.prompted.get(name, {})
    below = "False alarms: written and not said, in percent of all words that were said."
    if any(one.parts for one in models.values()):
        below += " Seen words are said in the training of a run among the models, unseen ones not."
    table = Table(
        [
            Column(is_text=True, layout={"min_width": 17}),  # `adapter, prompted`
            figure("recall", small_title=INTERVAL),
            figure("found"),
            Column("false alarms", layout={"min_width": 7, "max_width": 7}),
            figure(leading_on(results, name).upper()),
        ],
        f"{name}: all words of the list",
        below=below,
        terminal_title=f"{name}: words of the list",
    )
    for model, one in models.items():
        _add_words(table, model, one, results.scores[name][model])
        if (other := prompted.get(model)) is not None:
            _add_words(table, f"{model}{PROMPTED}", other.recall, other.score)
    return table


def _add_words(table: Table, label: str, whole: WordRecall, score: Rates | None) -> None:
    """Of all words, and of those that training had and had not."""
    for part, one in {"": whole, **whole.parts}.items():
        alarms = Cell(f"{one.false_alarms:,}")  # all that older versions told
        if one.false_alarm_rate is not None and one.false_alarm_ci95 is not None:
            rate = one.false_alarm_rate
            alarms = Cell(percent(rate), interval(one.false_alarm_ci95), rate)
        table.add(
            f"· {part}" if part else label,
            Cell(share(one.recall), interval(one.ci95) if one.ci95 else "", one.recall),
            f"{one.found:,} of {one.said:,}",
            alarms,
            Cell() if part else rate_cell(score, leading(score)),
            starts_section=not (part or label.endswith(PROMPTED)),
        )


def no_speech_table(results: EvaluationResults) -> Table:
    """How many clips without speech were given a text."""
    kinds = list(dict.fromkeys(kind for tests in results.probes.values() for kind in tests))
    table = Table(
        [Column(is_text=True), *map(figure, kinds)],
        "Clips without speech that were given a text",
        terminal_title="Text where nobody speaks, in clips",
    )
    for model, tests in results.probes.items():
        table.add(model, *(f"{tests[kind].with_text} of {tests[kind].clips}" for kind in kinds))
    return table


# ── the terminal ─────────────────────────────────────────────────────────────────────────────


def show(folder: RunFolder, results: EvaluationResults) -> None:
    """Print the tables, and where everything lies."""
    show_evaluation(results)
    console.print()
    page, card = (folder.results.with_suffix(end) for end in (".html", ".md"))
    places = {"page": page, "for a card": card, "hypotheses": folder.evaluation}
    for name, path in places.items():
        console.print(f"{name:11} {short(path)}", markup=False)


def show_evaluation(results: EvaluationResults) -> None:
    """Print everything that was asked for, and nothing else."""
    for part in _parts(results):
        console.print()
        console.print(part.terminal() if isinstance(part, Table) else part)


def _parts(results: EvaluationResults) -> Iterator[Table | RenderableType]:
    """Tables and lines; what matters most comes last, where a terminal stops."""
    for name in results.conditions:
        yield condition_table(results, name)
    for model in results.scales:
        yield scale_table(results, model)
    for name, column in group_columns(results):
        yield group_table(results, name, column, SHOWN_GROUPS)
    for name in results.keywords:
        yield word_table(results, name)
    if results.hallucination:
        yield _hallucination(results)
    if results.probes:
        yield no_speech_table(results)
    yield from _mistakes(results)
    for one in results.sets:
        table = score_table(results, one).terminal()
        speeds = ((model, speed(score)) for model, score in results.scored(one.name).items())
        known = ", ".join(f"{model} {speed_of}" for model, speed_of in speeds if speed_of)
        yield Group(table, Text(f"RTFx: {known}")) if known else table
    for model, card in results.cards.items():
        yield card_table(card, model)
    if lines := losses(results) + remarks(results):
        yield _lines(lines)


def _hallucination(results: EvaluationResults) -> Table:
    """Counts of utterances; one may be of several kinds."""
    of_sets = [one for models in results.hallucination.values() for one in models.values()]
    kinds = [
        kind for kind in SIGNS if kind != "on_silence" or any(one.on_silence for one in of_sets)
    ]
    headings = [*(SIGNS[kind] for kind in kinds), "any", "share"]
    columns = [Column(is_text=True), *map(figure, headings)]
    table = Table(columns, "Signs of hallucination, in utterances")
    for name, models in results.hallucination.items():
        for number, (model, one) in enumerate(models.items()):
            counts = (getattr(one, kind) for kind in (*kinds, "any"))
            of_all = percent(one.any / max(one.utterances, 1))
            cells = [f"{model}, {name}", *map(str, counts), of_all]
            table.add(*cells, starts_section=number == 0)
    return table


def _mistakes(results: EvaluationResults) -> Iterator[RenderableType]:
    """The last model's most frequent ones on each test set."""
    for name in sets_of(results, "test"):
        model = last_model(results, name)
        analysis = results.mistakes.get(name, {}).get(model or "")
        if analysis is None:
            continue
        kinds = {
            "confused": [
                f"{word} → {other} {count}×" for word, other, count in analysis.confusions
            ],
            "lost": [f"{word} {lost} of {times}" for word, lost, times in analysis.lost],
            "inserted": [f"{word} {count}×" for word, count in analysis.inserted],
        }
        lines = [
            (kind, ", ".join(texts[:SHOWN_MISTAKES])) for kind, texts in kinds.items() if texts
        ]
        if lines:
            yield Group(Text(f"{name}: what {model} has wrong most often", "bold"), _lines(lines))


def _lines(lines: Sequence[tuple[str, str]]) -> TerminalTable:
    """`warning   3 texts of …`, broken where the text goes on below itself."""
    grid = TerminalTable.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(overflow="fold")
    for kind, text in lines:
        grid.add_row(Text(kind, "yellow" if kind == "warning" else ""), Text(_brief(text)))
    return grid


def _brief(text: str) -> str:
    """What is wrong, in one line or with its list; what to type stands above, where it was met."""
    first, *more = text.split("\n")
    return "\n".join([first, *(line for line in more if line.startswith("  - "))])


# ── for a model card ─────────────────────────────────────────────────────────────────────────


def markdown(results: EvaluationResults) -> str:
    """A table to paste into a model card, and a line on how its figures were made."""
    figures = map(Column, ("WER (95 %)", "CER (95 %)", "utterances"))
    names = [Column(title, is_text=True) for title in ("model", "set")]
    table = Table([*names, *figures, Column(f"against {results.against}", is_text=True)])
    for name, models in results.scores.items():
        for model, score in models.items():
            if score is None:
                table.add(model, name, "", "", "", "failed")
                continue
            both = (rate_cell(score, rate) for rate in both_rates("wer"))
            judged = _verdict(results, name, model).text
            table.add(model, name, *both, f"{score.utterances:,}", judged)
    words = []
    for name in results.keywords:
        recalls = word_table(results, name)
        words += ["", f"Words of the list on {name}. {recalls.below}", "", recalls.markdown()]
    warnings = [f"\n**Warning:** {text}." for text in cautions_of(results)]
    cards = [
        f"\n{card_table(card, model).markdown()}\n\n{METHOD}"
        for model, card in results.cards.items()
    ]
    return "\n".join([table.markdown(), *words, "", method(results), *warnings, *cards, ""])
