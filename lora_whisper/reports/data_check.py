"""What `check` found: as check.json, and in the terminal."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lora_whisper.config import SPLITS, CheckConfig
from lora_whisper.data.quality import settings, totals
from lora_whisper.data.quality_findings import LEFT_OUT, UNUSABLE, Finding, Repaired
from lora_whisper.data.quality_measures import Measured
from lora_whisper.model.base import Base
from lora_whisper.program import program, short
from lora_whisper.terminal import console, counted

REPORT_FORMAT = 1  # raised when a key of check.json changes its meaning
SHOWN_LETTERS = 180  # of the first example of a finding

Report = dict[str, Any]


def summary(
    config: CheckConfig, base: Base, measured: Mapping[str, Measured], findings: Sequence[Finding]
) -> Report:
    """All of check.json but the findings' rows."""
    splits = {name: totals(one) for name, one in measured.items()}
    return {
        "format": REPORT_FORMAT,
        "name": config.name,
        "checkpoint": base.checkpoint.name,
        "revision": base.checkpoint.revision,
        "utterances": sum(split["utterances"] for split in splits.values()),
        "hours": round(sum(split["hours"] for split in splits.values()), 4),
        "speakers": _speakers(measured),
        "problems": sum(finding.count > 0 for finding in findings),
        "splits": splits,
        "settings": settings(base.window_seconds, base.vocabulary.max_tokens),
        "data": dataclasses.asdict(config.data),
        "cleaning": None,  # what data.clean changes, where it is asked for
        "fix": None,  # what was written, where it is asked for
    }


def _speakers(measured: Mapping[str, Measured]) -> int:
    return len(next(iter(measured.values())).speakers.all)


def repair_counts(folder: str, repaired: Repaired) -> Report:
    return {
        "folder": folder,
        "kept": dict(repaired.kept),
        "pieces": dict(repaired.pieces),
        "left_out": {split: dict(counts) for split, counts in repaired.left_out.items()},
    }


def write(path: Path, report: Report, findings: Iterable[Finding]) -> None:
    """Write check.json row by row: a finding may be about a million of them."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(report, indent=2, ensure_ascii=False).removesuffix("\n}"))
        for finding in findings:
            head = {"count": finding.count, **finding.more}
            opened = json.dumps(head, ensure_ascii=False).removesuffix("}")
            file.write(f',\n  "{finding.key}": {opened}, "rows": [')
            for number, row in enumerate(finding.rows()):
                file.write(",\n    " if number else "\n    ")
                file.write(json.dumps(row, ensure_ascii=False))
            file.write("]}")
        file.write("\n}\n")


# ── the terminal ─────────────────────────────────────────────────────────────────────────────


def show(folder: Path, report: Report, findings: Sequence[Finding]) -> None:
    """Print the splits, what was found in them, where the report is, and what to type next."""
    console.print()
    console.print(_split_table(report))
    found = [finding for finding in findings if finding.count]
    if found:
        console.print()
        console.print(_finding_table(found))
    else:
        console.print("\nNo problems found.")
    for line in [
        *_cleaning_lines(report),
        *_fix_lines(report),
        *_last_lines(folder, report, found),
    ]:
        console.print(line, markup=False)


def _split_table(report: Report) -> Table:
    title = f"{report['name']}: {report['hours']:.2f} h, {report['utterances']:,} utterances"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column("", overflow="fold")
    for heading in ("hours", "utterances", "speakers"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("languages", overflow="fold")
    table.add_column("files", overflow="fold")
    for name, split in report["splits"].items():
        rates = [f"{rate / 1000:g} kHz" for rate in split["rates"]]
        table.add_row(
            name,
            f"{split['hours']:.2f}",
            f"{split['utterances']:,}",
            str(split["speakers"] or "unknown"),
            Text(_few(list(split["languages"]))),
            Text(", ".join(filter(None, [_few(list(split["formats"]), 2), _few(rates, 2)]))),
        )
    return table


def _few(names: Sequence[str], shown: int = 3) -> str:
    rest = f" +{len(names) - shown}" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _finding_table(found: Sequence[Finding]) -> Table:
    table = Table(title="What was found", title_justify="left", title_style="bold")
    table.add_column("count", justify="right")
    table.add_column("what it is, and what to do", ratio=5, overflow="fold")
    table.add_column("first example", ratio=4, overflow="fold")
    for finding in found:
        table.add_section()
        style = "bold yellow" if finding.key in UNUSABLE else "bold"
        what = Text.assemble((finding.title, style), "\n", finding.advice)
        table.add_row(f"{finding.count:,}", what, Text(_example(finding)))
    return table


def _example(finding: Finding) -> str:
    row = next(finding.rows())
    detail = " ".join(row["detail"].split())
    if len(detail) > SHOWN_LETTERS:
        detail = detail[: SHOWN_LETTERS - 1] + "…"
    return f"{row['split']}, {_printable(row['row'])}\n{_printable(detail)}"


def _printable(text: str) -> str:
    """Without what would colour or turn round the rest of the terminal's line."""
    return "".join(one if one.isprintable() else "�" for one in text)


def _cleaning_lines(report: Report) -> list[str]:
    cleaning = report["cleaning"]
    if not cleaning:
        return []
    counts = ", ".join(f"{step} {count}" for step, count in cleaning["changed"].items())
    return ["", f"clean       changes these texts of {cleaning['texts']}: {counts or 'none'}"]


def _fix_lines(report: Report) -> list[str]:
    fix = report["fix"]
    if not fix:
        return []
    lines = ["", f"fixed       {short(Path(fix['folder']))}"]
    for split in (one for one in report["splits"] if one in SPLITS):  # of mixes, none is written
        kept, reasons = fix["kept"].get(split, 0), fix["left_out"].get(split, {})
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        pieces = fix["pieces"].get(split, 0)
        cut = f", {pieces} of them pieces of longer clips" if pieces else ""
        left_out = f"; left out {sum(reasons.values())}: {why}" if reasons else ""
        lines.append(f"{split:12}{counted(kept, 'utterance')}{cut}{left_out}")
    return lines


def _last_lines(folder: Path, report: Report, found: Sequence[Finding]) -> list[str]:
    page, values = short(folder / "check.html"), short(folder / "check.json")
    lines = ["", f"report      {page}", f"            {values}"]
    if (folder / "listen").is_dir():
        lines.append(f"to hear     {short(folder / 'listen')}")
    return [*lines, *_next_lines(report, found)]


def _next_lines(report: Report, found: Sequence[Finding]) -> list[str]:
    """What to type: the repair, or the training."""
    fix = report["fix"]
    if fix is None and any(finding.key in UNUSABLE for finding in found):
        return [
            "next        the same command, with overwrite=true fix=FOLDER: manifests without",
            "            the rows that cannot be used, and a list of them",
        ]
    if fix is None:
        return [f"next        {program()} train with the same model=… and data.…"]
    if not fix["kept"].get("train"):
        left_out = short(Path(fix["folder"]) / LEFT_OUT)
        return [f"next        nothing is left to train on; {left_out} says why"]
    first, *others = map(shlex.quote, _training_keys(report))
    mixed = ["  and the same data.mix=…"] if report["data"]["mix"] else []
    return [" \\\n  ".join([f"next        {program()} train {first}", *others]), *mixed]


def _training_keys(report: Report) -> list[str]:
    """Training on what was repaired. Its rows hold all but what is done with their language."""
    data, fix = report["data"], report["fix"]
    keys = [f"name={report['name']}-fixed", f"model.checkpoint={report['checkpoint']}"]
    if report["revision"]:
        keys.append(f"model.revision={report['revision']}")
    if data["language_token"]:
        keys += [f"data.{key}={data[key]}" for key in ("language", "language_token")]
    if data["clean"]:
        keys.append(f"data.clean=[{','.join(data['clean'])}]")
    home = short(Path(fix["folder"]))
    return keys + [f"data.{split}={home}/{split}.jsonl" for split in fix["kept"]]
