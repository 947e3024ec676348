"""What a report says of runs side by side: which is best, which are as good, what made them so."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_whisper.environment import own_folders, own_names
from lora_whisper.errors import UserError, listing
from lora_whisper.evaluation.provenance import (
    differences,
    groups_that_compare,
    texts_hash,
)
from lora_whisper.evaluation.results import (
    Comparison,
    Rate,
    Score,
    ScoredUtterance,
    rate_name,
)
from lora_whisper.evaluation.run_summary import scored_utterances_of
from lora_whisper.evaluation.significance import compare
from lora_whisper.paths import file_name
from lora_whisper.reports.sweep import (
    Point,
    caution_of,
    last_part,
    none_beats_base,
    ordered,
    pareto_front,
    read_points,
    told_keys,
)
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import counted

SHOWN_WORST = 10  # utterances of the best run
SHOWN_LABELS = 4  # of runs, in a sentence
MARKED_KEYS = 2  # whose values name a dot
MOST_VALUES = 8  # numbers of a key that were each tried on purpose
PATH = re.compile(r"(?<![\w.~:/-])(?:/|[A-Z]:\\)(?:[^\s/\\'\":,;()]+[/\\])+([^\s/\\'\":,;()]*)")


@dataclass(frozen=True)
class Entry:
    """A run in the report."""

    point: Point
    label: str  # what tells it from the others: `rank 8, dropout 0.1`, or its folder's name
    mark: str  # the same beside a dot: `8 · 0.1`, or its number in the table
    shown: Mapping[str, str]  # told key → value
    is_on_front: bool = False  # of the leading rate against the adapter's size
    has_hypotheses: bool = False  # those of its score, without which there is no verdict
    beside_best: Comparison | None = None  # comparison with the best run; None: it is it


@dataclass(frozen=True)
class Report:
    """All that the page, the Markdown and the table of figures are made of."""

    name: str
    entries: Sequence[Entry]
    keys: Sequence[str]  # of the configuration, that tell the runs apart
    has_folder_names: bool  # whether runs go by their folders' names

    @property
    def is_numbered(self) -> bool:
        """Whether what tells runs apart is too much to stand beside a dot."""
        return not self.has_folder_names and len(self.keys) > MARKED_KEYS

    @cached_property
    def scored(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.point.rate is not None]

    @cached_property
    def best(self) -> Entry | None:
        """The lowest leading rate; of several, one with hypotheses and the smallest adapter."""
        return min(self.scored, key=_goodness, default=None)

    @property
    def score(self) -> Score | None:
        """Of the best run; None where nothing was scored."""
        return self.best.point.score if self.best else None

    @property
    def rate(self) -> str:
        """`WER`, or what leads in this script."""
        return rate_name(self.score, self.leading)

    @property
    def leading(self) -> Rate:
        return self.best.point.leading if self.best else "wer"

    @property
    def has_one_base(self) -> bool:
        """Whether the base has the same rate in all runs, as it has unless it differs itself."""
        return len({entry.point.base_rate for entry in self.scored}) <= 1

    @property
    def base_rate(self) -> float | None:
        """Of the one base, as a fraction; None where bases differ or none was scored."""
        return self.best.point.base_rate if self.best and self.has_one_base else None

    @property
    def none_beats_base(self) -> bool:
        return none_beats_base([entry.point for entry in self.entries])

    @property
    def best_name(self) -> str:
        return "lowest of the runs" if self.none_beats_base else "best run"

    @property
    def caution(self) -> str:
        """Where the words that are scored are not those that were spoken."""
        return caution_of([entry.point for entry in self.entries], self.best_name)


def read_report(name: str, folders: Sequence[Path], has_folder_names: bool) -> Report:
    """Gather what the runs' folders hold.

    Raises:
        UserError: none of them is complete, or they were scored on different test sets.
    """
    points = read_points(folders)
    if all(point.state != "complete" for point in points):
        states = [
            f"{p.folder.name}: {p.state}{f', {p.reason}' if p.reason else ''}" for p in points
        ]
        raise UserError(
            f"None of the runs is complete:\n{listing(states)}\n"
            "Type the command that began them again: a sweep and a search go on where they "
            "stopped, a single run does with resume=auto."
        )
    rows = {
        point.folder: scored_utterances_of(RunFolder(point.folder), "adapter", point.score)
        for point in points
        if point.score
    }
    keys = told_keys(points)
    shown = shown_values(points, keys)
    # Whether the values alone say which run is meant.
    told = [tuple(values.items()) for values in shown.values() if values]
    is_told = len(told) == len({*told}) == len([point for point in points if point.config])
    has_folder_names = has_folder_names or not is_told
    names = folder_names([point.folder for point in points])
    front = pareto_front([p.adapter_bytes for p in points], [p.rate for p in points])
    entries = []
    for number, (point, on_front) in enumerate(zip(points, front, strict=True), start=1):
        values = shown.get(point.folder, {})
        label = mark = names[point.folder]
        if values and not has_folder_names:
            short = short_keys(list(values))
            label = ", ".join(f"{short[key]} {value}" for key, value in values.items())
            mark = str(number) if len(values) > MARKED_KEYS else " · ".join(values.values())
        has_hypotheses = bool(rows.get(point.folder))
        entries.append(Entry(point, label, mark, values, on_front, has_hypotheses))
    report = Report(name, entries, keys, has_folder_names)
    _require_one_test_set(report, rows)
    return _compared(report, rows)


def _goodness(entry: Entry) -> tuple[float, bool, int]:
    """With the best one's hypotheses, the others are compared."""
    rate, size = entry.point.rate, entry.point.adapter_bytes
    return (math.inf if rate is None else rate), not entry.has_hypotheses, size or 0


# ── names ────────────────────────────────────────────────────────────────────────────────────


def folder_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Each folder's name; with the folder above it, where two would be called the same."""
    names = {folder: folder.name for folder in folders}
    for level in (2, 3):
        twice = [name for name, count in Counter(names.values()).items() if count > 1]
        longer = {folder: "/".join(folder.absolute().parts[-level:]) for folder in folders}
        names = {
            folder: longer[folder] if name in twice else name for folder, name in names.items()
        }
    return names


def shown_values(points: Sequence[Point], keys: Sequence[str]) -> dict[Path, dict[str, str]]:
    """For people: numbers short, paths by their last part; what would look alike is numbered."""
    known = [point for point in points if point.config]
    shown: dict[Path, dict[str, str]] = {point.folder: {} for point in known}
    for key in keys:
        different: dict[str, list[str]] = {}  # text → values that are shown by it
        for value in (point.config.get(key) for point in known):
            alike = different.setdefault(value_text(value), [])
            if repr(value) not in alike:
                alike.append(repr(value))
        for point in known:
            value = point.config.get(key)
            text, alike = value_text(value), different[value_text(value)]
            number = f" ({alike.index(repr(value)) + 1})" if len(alike) > 1 else ""
            shown[point.folder][key] = f"{text}{number}"
    return shown


def value_text(value: Any) -> str:
    """A value of the configuration, without folders of this machine."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if isinstance(value, dict):
        known = {name: each for name, each in value.items() if each is not None}
        return "{" + ", ".join(f"{name}: {value_text(each)}" for name, each in known.items()) + "}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return file_name(str(value))


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """`learning_rate` for `optimizer.learning_rate`, where no other key ends so."""
    ends = {key: last_part(key) for key in keys}
    count = Counter(ends.values())
    return {key: end if count[end] == 1 else key for key, end in ends.items()}


def anonymous(text: str) -> str:
    """Without this machine's folders, and the names of its user and host."""
    for folder in own_folders(Path.cwd()):
        text = text.replace(f"{folder}/", "")
    text = PATH.sub(lambda hit: f"…/{hit[1]}", text)
    for name in own_names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", text)
    return text


# ── one test set, and the best on it ─────────────────────────────────────────────────────────


def _require_one_test_set(report: Report, rows: Mapping[Path, Sequence[ScoredUtterance]]) -> None:
    """See that the rates are of the same texts, which were normalized in the same way."""
    scores = {entry.label: entry.point.score for entry in report.scored if entry.point.score}
    groups = groups_that_compare([*scores.items()])
    mixed: list[tuple[str, list[str]]] = []
    if len(groups) > 1:
        first = scores[groups[0][0]]
        for labels in groups:
            score = scores[labels[0]]
            apart = "" if score is first else "; ".join(differences(first, score))
            mixed.append((test_set_of(score) + (f" ({apart})" if apart else ""), labels))
    else:  # the texts that were kept are all that older scores have of them
        texts: dict[str, list[str]] = {}
        for entry in report.scored:
            if kept := rows[entry.point.folder]:
                digest = texts_hash(row.reference_normalized for row in kept)
                texts.setdefault(f"texts {digest[:8]}", []).append(entry.label)
        mixed = [*texts.items()] if len(texts) > 1 else []
    if mixed:
        groups_named = [f"{what}: {some_of(labels)}" for what, labels in mixed]
        raise UserError(
            "The runs were scored on different test sets, so that their rates do not compare:\n"
            f"{listing(groups_named)}\n"
            "Give runs of one test set, lora-whisper report 'runs=[…]', or score them all on one:\n"
            "  lora-whisper evaluate 'models=[…]' data.test=…"
        )


def some_of(labels: Sequence[str]) -> str:
    more = len(labels) - SHOWN_LABELS
    first = "; ".join(labels[:SHOWN_LABELS])
    return f"{first}; and {counted(more, 'other')}" if more > 0 else first


def test_set_of(score: Score) -> str:
    count = counted(score.utterances, "utterance")
    words = f"{score.reference_words:,} {score.units}"
    return f"{count}, {words}, normalizer {score.normalizer}, padded {score.padding}"


def _compared(report: Report, rows: Mapping[Path, Sequence[ScoredUtterance]]) -> Report:
    """Say of each run whether it is worse than the best one, or only less lucky."""
    if report.best is None:
        return report
    best = report.best.point
    assert best.summary is not None
    seed = best.summary.seed

    def beside_best(point: Point) -> Comparison | None:
        ours, theirs = rows[best.folder], rows.get(point.folder)
        if point is best or not ours or not theirs or len(ours) != len(theirs):
            return None
        if [row.row for row in ours] != [row.row for row in theirs]:
            return None
        return compare(ours, theirs, seed)

    entries = [
        dataclasses.replace(entry, beside_best=beside_best(entry.point)) for entry in report.entries
    ]
    return dataclasses.replace(report, entries=entries)


def why_unjudged(report: Report, entry: Entry) -> str:
    """Why a run that was scored has no verdict; empty where it has one, or is the best."""
    best = report.best
    if best is None or entry.point.score is None or entry.point is best.point or entry.beside_best:
        return ""
    if not entry.has_hypotheses:
        return "no hypotheses"
    return "other rows" if best.has_hypotheses else "the best has no hypotheses"


def smallest_as_good(report: Report) -> Entry | None:
    """The smallest adapter that is not shown to be worse than the best one."""
    as_good = [
        entry
        for entry in report.scored
        if entry.point is (report.best and report.best.point)
        or (entry.beside_best and entry.beside_best.verdict not in ("better", "worse"))
    ]
    return min(
        as_good, key=lambda one: (one.point.adapter_bytes or 0, _goodness(one)), default=None
    )


# ── the effect of each key ───────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Effect:
    """What the leading rate was by the value of one key."""

    key: str
    entries: Mapping[str, Sequence[Entry]]  # value → the runs with it, values in order
    is_crossed: bool  # whether each value met the same values of all other keys

    @property
    def numbers(self) -> list[float] | None:
        """The values as numbers, one for each key of `entries`; None: some are none."""
        values = [some[0].point.config.get(self.key) for some in self.entries.values()]
        numbers = [
            float(value)
            for value in values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        return numbers if len(numbers) == len(values) else None

    @property
    def has_means(self) -> bool:
        """Whether some value was tried more than once."""
        return not self.is_scattered and any(len(some) > 1 for some in self.entries.values())

    @property
    def is_scattered(self) -> bool:
        """Whether there are so many numbers, as a search draws, that means of each say nothing."""
        return self.numbers is not None and len(self.entries) > MOST_VALUES


def effects(report: Report) -> list[Effect]:
    """Of each key that tells scored runs apart.

    Where several keys have a value of its own in each run, nobody can say which of them it was.
    """
    effects_of_keys = []
    for key in report.keys:
        by_value: dict[str, list[Entry]] = {}
        for entry in sorted(report.scored, key=lambda entry: ordered(entry.point.config.get(key))):
            by_value.setdefault(entry.shown[key], []).append(entry)
        others = [
            sorted(
                tuple(value for other, value in entry.shown.items() if other != key)
                for entry in entries
            )
            for entries in by_value.values()
        ]
        effect = Effect(key, by_value, all(each == others[0] for each in others))
        is_alone = len(report.keys) == 1 or len(by_value) < len(report.scored)
        if len(by_value) > 1 and (is_alone or effect.is_scattered):
            effects_of_keys.append(effect)
    return effects_of_keys
