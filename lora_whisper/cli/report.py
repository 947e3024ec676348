"""`lora-whisper report`: the runs of a sweep, or any runs, side by side on one page.

    lora-whisper report outputs/sweeps/ranks
    lora-whisper report 'runs=[outputs/a,outputs/b]' name=both

`report.html`, `report.md` and `report.csv` are written into the sweep's folder, or into
outputs/NAME. Nothing is trained and nothing decoded: what the runs' folders hold is read.
"""

from __future__ import annotations

import csv
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_whisper.cli.command import Command
from lora_whisper.config import ReportConfig
from lora_whisper.errors import UserError, listing
from lora_whisper.files import contents, write_whole
from lora_whisper.paths import local_path
from lora_whisper.reports.sweep import folders_of, is_or_was_run, point_folders
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import console, counted

log = logging.getLogger("lora_whisper")

PAGE, TABLE = "report.html", "report.csv"
FILES = (PAGE, "report.md", TABLE)


@dataclass(frozen=True)
class ReportPlan:
    """Which runs are laid side by side, and where."""

    folder: Path
    runs: list[Path]
    is_sweep: bool


def prepare(config: ReportConfig, path: Path) -> ReportPlan:
    """See that there are runs, and that nothing else is replaced."""
    runs, folder = runs_of(config), report_folder(config, path)
    _refuse_replacing(config, folder, runs)
    return ReportPlan(folder, runs, config.sweep is not None)


def run(plan: ReportPlan) -> None:
    """Read, write, and say what was found."""
    from lora_whisper.paths import short
    from lora_whisper.reports.comparison import read_report
    from lora_whisper.reports.comparison_page import csv_text, markdown, page
    from lora_whisper.reports.comparison_text import (
        conclusion,
        failed,
        never_begun,
        without_adapter,
    )

    folder = plan.folder
    report = read_report(folder.absolute().name, plan.runs, not plan.is_sweep)
    for name, text in zip(FILES, (page(report), markdown(report), csv_text(report)), strict=True):
        write_whole(folder / name, text.encode())
    if report.best is not None:
        console.print(conclusion(report), markup=False)
    for told in filter(None, (failed(report), never_begun(report), without_adapter(report))):
        console.print(f"{'warning':11} {told}", markup=False)
    for title, name in zip(("report", "Markdown", "CSV"), FILES, strict=True):
        console.print(f"{title:11} {short(folder / name)}", markup=False)


def _refuse_replacing(config: ReportConfig, path: Path, runs: Sequence[Path]) -> None:
    """A report of the same runs is made again, one of others only when that is asked for."""
    table = path / TABLE
    if config.sweep is not None or config.overwrite or not table.is_file():
        return
    with table.open(encoding="utf-8", newline="") as file:
        before = sorted(row.get("run", "") for row in csv.DictReader(file))
    now = sorted(folder.name for folder in runs)
    if before != now:
        raise UserError(
            f"The report {path} is of other runs: {', '.join(before[:10])}.\n"
            "Type overwrite=true to replace it, or another name=…"
        )


def report_folder(config: ReportConfig, path: Path) -> Path:
    """The sweep's folder, or the report's own.

    Raises:
        UserError: something else lies there.
    """
    if config.sweep is not None:
        return local_path(config.sweep)
    is_free = not path.exists() or (path.is_dir() and not contents(path))
    if RunFolder(path).is_run() or not (is_free or (path / PAGE).is_file()):
        what = "is a run" if RunFolder(path).is_run() else f"holds no {PAGE}"
        raise UserError(f"{path} exists and {what}. It is left alone. Type another name=…")
    return path


def runs_of(config: ReportConfig) -> list[Path]:
    """Folders of the runs that are meant.

    Raises:
        UserError: there are none, or what was given is no run.
    """
    if config.sweep is not None:
        return _points_of(config.sweep)
    folders = list({path.absolute(): path for path in map(local_path, config.runs)}.values())
    problems = [
        f"{given}: {_what_it_is(local_path(given))}"
        for given in config.runs
        if not RunFolder(local_path(given)).is_run()
    ]
    if problems:
        raise UserError(
            f"These are not runs:\n{listing(problems)}\n"
            "A run is a folder that lora-whisper train wrote, such as outputs/quickstart."
        )
    if len(folders) < len(config.runs):
        log.warning("runs        are named twice, of which each counts once")
    return folders


def _what_it_is(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    if points := point_folders(folder):
        return f"this folder holds {len(points)} runs; type lora-whisper report {folder}"
    return "it holds no config.yaml of ours"


def _points_of(given: str) -> list[Path]:
    folder = local_path(given)
    if not folder.is_dir():
        usual = "\nType lora-whisper report FOLDER with that of a sweep, or 'runs=[A,B]' of runs."
        raise UserError(f"{given}: there is no such folder.{_sweeps_beside(folder) or usual}")
    if RunFolder(folder).is_run():
        raise UserError(
            f"{given}: this is one run; how it went is in {given}/report.html.\n"
            "Type the folder of a sweep, or lora-whisper report 'runs=[A,B]' for runs side by side."
        )
    if is_or_was_run(RunFolder(folder)):
        raise UserError(
            f"{given}: this was one run, and its config.yaml is not what was written there.\n"
            "Bring it back from a copy."
        )
    planned = folders_of(folder)
    if planned and not point_folders(folder):
        raise UserError(
            f"{given}: of the sweep's {counted(len(planned), 'point')}, none has begun.\n"
            "Type the command of the sweep again."
        )
    if not planned:
        raise UserError(
            f"{given}: no run is in this folder.{_sweeps_beside(folder)}\n"
            "To make a sweep, type lora-whisper train -m experiment=quickstart "
            "adapter.rank=2,4,8 name=ranks"
        )
    return planned


def _sweeps_beside(folder: Path) -> str:
    """Folders with runs in them, next to one that has none."""
    from lora_whisper.reports.summary import short

    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    known = sorted(path.name for path in beside if path.is_dir() and point_folders(path))
    if not known:
        return ""
    found = f"\nWith runs, there are in {short(folder.parent)}: {', '.join(known[:10])}."
    return f"{found} Type lora-whisper report {shlex.quote(short(folder.parent / known[0]))}"


def with_sweep(arguments: Sequence[str]) -> list[str]:
    """The folder that is typed first, as the key that it is."""
    first, *rest = arguments or [""]
    is_folder = first and not first.startswith("-") and ("=" not in first or Path(first).is_dir())
    return [f"sweep={first}", *rest] if is_folder else list(arguments)


COMMAND = Command("report", ReportConfig, prepare, run, as_keys=with_sweep)
