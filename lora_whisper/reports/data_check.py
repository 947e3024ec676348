"""What `check` found: as check.json, in the terminal, and as a page without any script."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lora_whisper.config import SPLITS, CheckConfig, DataConfig
from lora_whisper.data.quality import characters_per_second, settings, totals
from lora_whisper.data.quality_findings import (
    LEFT_OUT,
    MEANINGS,
    UNUSABLE,
    Finding,
    FindingRow,
    Repaired,
)
from lora_whisper.data.quality_measures import QUIETEST_DBFS, Measured
from lora_whisper.model.base import Base
from lora_whisper.paths import program, short
from lora_whisper.reports.charts import Chart, Scale
from lora_whisper.reports.html import render
from lora_whisper.reports.labels import MEANINGS as LABEL_MEANINGS
from lora_whisper.reports.labels import LabelSection
from lora_whisper.reports.labels import table as label_table
from lora_whisper.reports.tables import Cell, Column, Table
from lora_whisper.terminal import console, counted

REPORT_FORMAT = 1  # raised when a key of check.json changes its meaning
SHOWN_LETTERS = 180  # of the first example of a finding
SHOWN_NAMES = 3  # of languages and kinds of file, in the terminal

Facts = Mapping[str, Any]  # of a JSON object


@dataclass(frozen=True)
class Repairs:
    """What was written of each split, and what was left out of it, by reason."""

    folder: str
    kept: Mapping[str, int]
    pieces: Mapping[str, int]  # among the kept, cut from longer clips
    left_out: Mapping[str, Mapping[str, int]]
    mended: Mapping[str, int] = field(default_factory=dict)  # with the transcript of another row


@dataclass(frozen=True)
class CheckReport:
    """All of check.json but the findings' rows."""

    format: int
    name: str
    checkpoint: str
    revision: str | None
    utterances: int
    hours: float
    speakers: int
    problems: int  # kinds that were found
    splits: Mapping[str, Facts]  # `quality.totals`
    settings: Mapping[str, float]  # `quality.settings`
    data: DataConfig
    cleaning: Facts | None  # what data.clean changes, where it is asked for
    fix: Repairs | None  # what was written, where it is asked for
    labels: Facts | None = None  # what was found in transcripts, where they were listened to


def summary(
    config: CheckConfig,
    base: Base,
    measured: Mapping[str, Measured],
    findings: Sequence[Finding],
    cleaning: Facts | None,
    repaired: Repaired | None,
    labels: LabelSection | None = None,
) -> CheckReport:
    splits = {name: totals(one) for name, one in measured.items()}
    fix = None
    if repaired is not None:
        assert config.fix is not None
        left_out = {split: dict(counts) for split, counts in repaired.left_out.items()}
        counts = dict(repaired.kept), dict(repaired.pieces), left_out, dict(repaired.mended)
        fix = Repairs(config.fix, *counts)
    return CheckReport(
        format=REPORT_FORMAT,
        name=config.name,
        checkpoint=base.checkpoint.name,
        revision=base.checkpoint.revision,
        utterances=sum(split["utterances"] for split in splits.values()),
        hours=round(sum(split["hours"] for split in splits.values()), 4),
        speakers=len(next(iter(measured.values())).speakers.all),
        problems=sum(finding.count > 0 for finding in findings),
        splits=splits,
        settings=settings(base.window_seconds, base.special_tokens.max_tokens),
        data=config.data,
        cleaning=cleaning,
        fix=fix,
        labels=labels.to_json() if labels else None,
    )


def write(path: Path, report: CheckReport, findings: Iterable[Finding]) -> None:
    """Write check.json row by row: a finding may be about a million of them."""
    with open(path, "w", encoding="utf-8") as file:
        values = dataclasses.asdict(report)
        file.write(json.dumps(values, indent=2, ensure_ascii=False).removesuffix("\n}"))
        for finding in findings:
            head = {"count": finding.count, **finding.more}
            opened = json.dumps(head, ensure_ascii=False).removesuffix("}")
            file.write(f',\n  "{finding.key}": {opened}, "rows": [')
            for number, row in enumerate(finding.rows()):
                file.write(",\n    " if number else "\n    ")
                file.write(json.dumps(vars(row), ensure_ascii=False))
            file.write("]}")
        file.write("\n}\n")


def split_table(report: CheckReport, title: str = "", heading: str = "", shown: int = 10) -> Table:
    """How much speech each split holds, of whom, in what languages and kinds of file.

    Args:
        shown: languages, formats and rates; the rest are counted.
    """
    figures = [Column(name) for name in ("hours", "utterances", "speakers")]
    texts = [Column(name, is_text=True) for name in ("languages", "files")]
    table = Table([Column(heading, is_text=True), *figures, *texts], title)
    for name, split in report.splits.items():
        rates = _listed((f"{rate / 1000:g}" for rate in split["rates"]), shown)
        table.add(
            name,
            f"{split['hours']:.2f}",
            f"{split['utterances']:,}" if split["utterances"] else "",
            f"{split['speakers']:,}" if split["speakers"] else "unknown",
            _listed(split["languages"], shown),
            _listed(split["formats"], shown) + (f"; {rates} kHz" if rates else ""),
        )
    return table


def _listed(names: Iterable[object], shown: int = 10) -> str:
    everything = [str(name) for name in names]
    rest = f" and {len(everything) - shown} more" if len(everything) > shown else ""
    return ", ".join(everything[:shown]) + rest


# ── the terminal ─────────────────────────────────────────────────────────────────────────────


def show(
    folder: Path,
    report: CheckReport,
    findings: Sequence[Finding],
    labels: LabelSection | None = None,
) -> None:
    """Print the splits, what was found in them, where the report is, and what to type next."""
    console.print()
    title = f"{report.name}: {report.hours:.2f} h, {counted(report.utterances, 'utterance')}"
    console.print(split_table(report, title, shown=SHOWN_NAMES).terminal())
    problems = [finding for finding in findings if finding.count]
    if problems:
        console.print()
        console.print(_finding_table(problems).terminal())
    else:
        console.print(f"\nNo problems found{' in files and texts' if labels else ''}.")
    if labels and labels.findings:
        console.print()
        console.print(label_table(labels).terminal())
    elif labels:
        console.print(f"\nNothing was found in {counted(labels.utterances, 'transcript')}.")
    if report.cleaning:
        changed = report.cleaning["changed"].items()
        counts = ", ".join(f"{step} {count}" for step, count in changed) or "none"
        texts = report.cleaning["texts"]
        console.print(f"\nclean       changes these texts of {texts}: {counts}", markup=False)
    if report.fix:
        for line in _fix_lines(report.fix, report.splits):
            console.print(line, markup=False)
    page, values = short(folder / "check.html"), short(folder / "check.json")
    lines = ["", f"report      {page}", f"            {values}"]
    if (folder / "listen").is_dir():
        lines.append(f"to hear     {short(folder / 'listen')}")
    following = _next_lines(report, problems)
    if labels and labels.findings and not report.fix:
        following += _deciding_lines(page, "transcripts" if following else "next")
    lines += following
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)  # commands are copied as they stand


def _finding_table(findings: Sequence[Finding]) -> Table:
    what = "what it is, and what to do"
    table = Table(
        [
            Column("count"),
            Column(what, is_text=True, is_small_below=True, layout={"ratio": 5}),
            Column("first example", is_text=True, layout={"ratio": 4}),
        ],
        "What was found",
    )
    for finding in findings:
        row = next(finding.rows())
        detail = " ".join(row.detail.split())
        if len(detail) > SHOWN_LETTERS:
            detail = detail[: SHOWN_LETTERS - 1] + "…"
        example = f"{row.split}, {_printable(row.row)}\n{_printable(detail)}"
        style = "bold yellow" if finding.key in UNUSABLE else "bold"
        meaning = Cell(finding.title, finding.advice, style=style)
        table.add(f"{finding.count:,}", meaning, example, starts_section=True)
    return table


def _printable(text: str) -> str:
    """Without what would colour or turn round the rest of the terminal's line."""
    return "".join(one if one.isprintable() else "�" for one in text)


def _fix_lines(fix: Repairs, splits: Iterable[str]) -> list[str]:
    lines = ["", f"fixed       {short(Path(fix.folder))}"]
    for split in (one for one in splits if one in SPLITS):  # of mixes, none is written
        kept, reasons = fix.kept.get(split, 0), fix.left_out.get(split, {})
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        pieces, mended = fix.pieces.get(split, 0), fix.mended.get(split, 0)
        cut = f", {pieces} of them pieces of longer clips" if pieces else ""
        cut += f", {mended} of them with the transcript of another" if mended else ""
        left_out = f"; left out {sum(reasons.values())}: {why}" if reasons else ""
        lines.append(f"{split:12}{counted(kept, 'utterance')}{cut}{left_out}")
    return lines


def _next_lines(report: CheckReport, problems: Sequence[Finding]) -> list[str]:
    """What to type: the repair, or the training on what was repaired."""
    data, fix = report.data, report.fix
    if fix is None and any(finding.key in UNUSABLE for finding in problems):
        return [
            "next        the same command, with overwrite=true fix=FOLDER: manifests without",
            "            the rows that cannot be used, and a list of them",
        ]
    if any(finding.key == "unknown_language" for finding in problems):
        return ["next        a language that the checkpoint knows: train refuses the others"]
    if fix is None and report.labels and report.labels["findings"]:
        return []  # to decide about them is next
    if fix is None:
        return [f"next        {program()} train with the same model=… and data.…"]
    if not fix.kept.get("train"):
        left_out = short(Path(fix.folder) / LEFT_OUT)
        return [f"next        nothing is left to train on; {left_out} says why"]
    keys = [f"name={report.name}-fixed", f"model.checkpoint={report.checkpoint}"]
    if report.revision:
        keys.append(f"model.revision={report.revision}")
    if data.language_token:  # all else that concerns the language is in the rows
        keys += [f"data.language={data.language}", f"data.language_token={data.language_token}"]
    if data.clean:
        keys.append(f"data.clean=[{','.join(data.clean)}]")
    keys += [f"data.{split}={short(Path(fix.folder))}/{split}.jsonl" for split in fix.kept]
    first, *others = map(shlex.quote, keys)
    mixed = ["  and the same data.mix=…"] if data.mix else []
    return [" \\\n  ".join([f"next        {program()} train {first}", *others]), *mixed]


def _deciding_lines(page: str, label: str) -> list[str]:
    return [
        f"{label:12}open {page}, accept or reject each finding, save the decisions; then",
        "            the same command, with overwrite=true fix=FOLDER decisions=FILE: mended; or",
        f"            {program()} train with the same model=…, data.… and data.exclude=FILE:",
        "            without what was accepted",
    ]


# ── the page ─────────────────────────────────────────────────────────────────────────────────

SHOWN_ROWS = 200  # of a finding; the rest are counted, and stand in check.json
SHOWN_BARS = 20  # speakers and languages with the most speech


@dataclass(frozen=True)
class Section:
    """A finding on the page."""

    finding: Finding
    is_unusable: bool
    rows: Sequence[FindingRow]
    hidden: int
    characters: str
    pairs: str


def page(
    report: CheckReport,
    measured: Mapping[str, Measured],
    findings: Sequence[Finding],
    labels: LabelSection | None = None,
) -> str:
    """The whole page. Whatever comes from the data is escaped."""
    problems = [finding for finding in findings if finding.count]
    return render(
        "data_check.html.j2",
        script="labels.js" if labels else "",
        report=report,
        figures=figures(measured, report.settings["window_seconds"]),
        limits=limits(report.settings),
        sections=[
            Section(
                finding,
                finding.key in UNUSABLE,
                list(islice(finding.rows(), SHOWN_ROWS)),
                max(0, finding.row_count - SHOWN_ROWS),
                characters=_tally(finding.more.get("characters", {}), SHOWN_ROWS),
                pairs=_tally(finding.more.get("pairs", {})),
            )
            for finding in problems
        ],
        count=lambda number: f"{number:,}" if number else "",
        kinds=len(problems) + (len(labels.counts) if labels else 0),
        splits=split_table(report, heading="split"),
        tally=_tally,
        labels=labels,
        labels_key=report.name,
        label_titles={kind: meaning.title for kind, meaning in LABEL_MEANINGS.items()},
        label_advice={kind: meaning.advice for kind, meaning in LABEL_MEANINGS.items()},
        absent=[MEANINGS[finding.key].title for finding in findings if not finding.count],
    )


def limits(settings: Mapping[str, float]) -> dict[str, str]:
    """From where on something is found, in words: each of `inspection.settings` is in them."""
    phrases = {
        "too long": "above {window_seconds:g} s, the window; a text above {max_tokens:g} tokens",
        "too short": "below {shortest_seconds:g} s",
        "clipped": "more than {clipped_share:.1%} of the samples at {full_scale:.0%} of full scale "
        "or more",
        "silent": "nothing louder than {silent_dbfs:g} dB of full scale",
        "mostly pause": "more than {quiet_share:.0%} of the clip at least {quiet_db:g} dB below "
        "its loudest moment",
        "too much or too little text": "below {lowest_characters_per_second:g} or above "
        "{highest_characters_per_second:g} characters a second; or {rate_deviations:g} standard "
        "deviations (robust, of the logarithm) from the median of the language, if that is a "
        "factor of at least {rate_ratio:g}",
    }
    written = {name: phrase.format_map(settings) for name, phrase in phrases.items()}
    return {
        name: text.replace("%", " %").replace("-", "\N{MINUS SIGN}")
        for name, text in written.items()
    }


def _tally(counts: Mapping[str, int], shown: int = 10) -> str:
    """`12 over_window, 3 shared_texts`"""
    return _listed([f"{count} {name}" for name, count in counts.items() if count], shown)


# ── charts ────────────────────────────────────────────────────────────────────────────────────


def figures(measured: Mapping[str, Measured], window_seconds: float) -> list[tuple[str, str]]:
    """Each chart as its caption and its SVG; those without anything to show are left out."""
    seconds = {name: _known(one.records["seconds"]) for name, one in measured.items()}
    longest = max(values.max(initial=0.0) for values in seconds.values())
    # A recording of hours would leave all others in one bar; it stands in the last one.
    high = min(max(longest, 1.15 * window_seconds), 2 * window_seconds)
    durations = _histogram(seconds, 0.0, high, "seconds")
    if durations:
        durations.limit(window_seconds, f"window, {window_seconds:g} s")
    charts = {
        "Durations": durations,
        "Characters a second": _rates(measured),
        "Level": _levels(measured),
        "Languages": _amounts(measured, "language"),
        "Speakers": _amounts(measured, "speaker"),
    }
    return [(caption, chart.svg()) for caption, chart in charts.items() if chart]


def _rates(measured: Mapping[str, Measured]) -> Chart | None:
    rates = {name: _known(characters_per_second(one.records)) for name, one in measured.items()}
    known = np.concatenate([*rates.values()])
    high = 3 * float(np.median(known)) if len(known) else 1.0
    return _histogram(rates, 0.0, high, "characters a second")


def _levels(measured: Mapping[str, Measured]) -> Chart | None:
    levels = {name: _known(one.records["rms_dbfs"]) for name, one in measured.items()}
    known = np.concatenate([*levels.values()])
    lowest = max(QUIETEST_DBFS, min(-40.0, float(known.min(initial=-40.0)) - 1))
    return _histogram(levels, lowest, 0.0, "mean level, dB below full scale")


def _known(values: np.ndarray) -> np.ndarray:
    known: np.ndarray = values[~np.isnan(values)]
    return known


def _histogram(
    values: Mapping[str, np.ndarray], low: float, high: float, label: str
) -> Chart | None:
    """Utterances over a value, the splits stacked."""
    if not any(map(len, values.values())):
        return None
    chart = Chart(2.7, Scale(label, limits=(low, high)), Scale("utterances", is_whole=True))
    chart.histogram(values, low, high)
    return chart


def _amounts(measured: Mapping[str, Measured], field: str) -> Chart | None:
    """Hours or minutes by language or speaker, the most first."""
    records = np.concatenate([one.records for one in measured.values()])
    one = next(iter(measured.values()))
    names = one.languages.all if field == "language" else one.speakers.all
    if not names:
        return None
    known = records[records[field] >= 0]
    seconds = np.bincount(known[field], np.nan_to_num(known["seconds"]), len(names))
    most = np.argsort(-seconds, kind="stable")[:SHOWN_BARS]
    unit, unit_seconds = ("hours", 3600) if seconds.max() >= 1800 else ("minutes", 60)
    rest = len(names) - len(most)
    label = unit + (f" (and {rest:,} more {field}s)" if rest else "")
    chart = Chart(
        0.9 + 0.26 * len(most),
        Scale(label, most_ticks=5),  # more run into each other where hours are few
        Scale(names=[names[number] for number in most]),
    )
    chart.bars(seconds[most] / unit_seconds)
    return chart
