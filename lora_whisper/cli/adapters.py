"""`lora-whisper adapters`: what adapters there are, of which base, and what each was worth.

    lora-whisper adapters outputs/

Runs, points of sweeps, copied and downloaded folders and exports are found alike: whatever holds an
`adapter_config.json`. An adapter says most of itself by the record beside it (`lora.provenance`);
of one that was trained elsewhere, PEFT's own file is read. No weights are loaded, and no torch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from safetensors import safe_open

from lora_whisper.errors import UserError
from lora_whisper.lora.provenance import is_trained_adapter, read_metadata
from lora_whisper.lora.saved import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    SavedAdapter,
    UnsoundAdapter,
    read_saved,
)
from lora_whisper.model.checkpoint import sha256
from lora_whisper.paths import EMBEDDED, local_path, program
from lora_whisper.reports.tables import PLAIN, Column, Table
from lora_whisper.run_folder import RunFolder, read_whole_summary
from lora_whisper.terminal import (
    console,
    guarded,
    log_to_console,
    megabytes,
    percent,
    print_error,
    print_result,
    require_delivered,
)

UNKNOWN = "–"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Listed:
    """One adapter; None stands for what its folder does not say."""

    path: str  # below the folder that was looked through
    has_record: bool
    is_unfinished: bool  # its run has not been scored yet, or goes on
    is_changed: bool  # its run or its record is of other weights than those that are there now
    is_damaged: bool  # its run's summary.json cannot be read
    name: str
    base: str | None
    rank: int | None  # the highest of a layer
    lowest_rank: int | None
    bytes: int
    dtype: str  # of its numbers: float32, float16 or bfloat16; "mixed": of several
    hours: float | None  # of speech that it was trained on
    languages: tuple[str, ...]
    metric: str | None  # wer or cer, of the next two
    before: float | None
    after: float | None
    date: str  # in UTC


# ── finding ──────────────────────────────────────────────────────────────────────────────────


def find_adapters(root: Path) -> tuple[list[Listed], dict[str, str]]:
    """All adapters below `root`, by path; and why what looks like one is none, by path."""
    found, broken = [], {}
    for folder in sorted(adapter_folders(root)):
        path = _path_below(root, folder)
        try:
            found.append(_listed(folder, path))
        except UnsoundAdapter as error:
            broken[path] = error.reason
        except (UserError, OSError) as error:
            broken[path] = str(error)
    return found, broken


def _path_below(root: Path, folder: Path) -> str:
    """Of a run's adapter it is the run's, which is what other commands are given."""
    run = RunFolder(folder.parent)
    shown = run.path if folder == run.adapter and run.is_run() and folder != root else folder
    return root.absolute().name if shown == root else shown.relative_to(root).as_posix()


def adapter_folders(root: Path) -> Iterator[Path]:
    """Folders with an adapter in them, but for a run's checkpoints; links are not followed."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        if CONFIG_FILE in files:
            yield folder
        inside_run = RunFolder(folder).is_run()
        folders[:] = [
            below
            for below in folders
            if not below.startswith(".") and not (inside_run and below == "checkpoints")
        ]


def _listed(folder: Path, path: str) -> Listed:
    """Read what the folder says.

    Raises:
        UserError: its files are broken, or it holds no weights that are read.
    """
    weights = folder / WEIGHTS_FILE
    for file in (folder / CONFIG_FILE, weights):
        if file.is_symlink() and not file.exists():
            raise UserError(f"{file.name} is a link to {os.readlink(file)}, and nothing is there")
    if not weights.is_file():
        others = sorted(one.name for one in folder.glob("adapter_model.*"))
        found = f"; found {', '.join(others)}, which is not read" if others else ""
        raise UserError(f"{WEIGHTS_FILE} is missing{found}")
    saved = read_saved(folder)
    record, run = read_metadata(folder), RunFolder(folder.parent)
    is_of_run = folder == run.adapter and run.is_run()
    is_unfinished = is_of_run and not run.is_complete()
    is_complete = is_of_run and run.is_complete()
    is_recorded = record is None or record["adapter"]["sha256"] == sha256(weights)
    is_changed = not (is_recorded and (not is_complete or is_trained_adapter(run)))
    is_damaged = is_complete and _is_damaged(run)
    known = _by_peft(saved) if record is None else _by_record(record)
    size, seconds = weights.stat().st_size, weights.stat().st_mtime
    about = {"date": datetime.fromtimestamp(seconds, UTC).date().isoformat()} | known
    if is_unfinished or is_changed or is_damaged:  # what was said may be of another adapter
        about |= {"metric": None, "before": None, "after": None}
    return Listed(
        path=path,
        has_record=record is not None,
        is_unfinished=is_unfinished,
        is_changed=is_changed,
        is_damaged=is_damaged,
        bytes=size,
        dtype=_dtype(weights),
        **about,
    )


def _dtype(weights: Path) -> str:
    with safe_open(weights, "numpy") as file:
        found = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return DTYPES[found.pop()] if len(found) == 1 else "mixed"


def _is_damaged(run: RunFolder) -> bool:
    try:
        read_whole_summary(run)
    except UserError:
        return True
    return False


def _by_record(record: Mapping[str, Any]) -> dict[str, Any]:
    adapter, scores = record["adapter"], record["scores"] or {}
    metric = scores.get("metric")
    before, after = ((scores.get(model) or {}).get(metric) for model in ("base", "adapter"))
    return {
        "name": record["name"],
        "base": record["base"]["name"],
        "rank": adapter["rank"],
        "lowest_rank": adapter["lowest_rank"],
        "hours": record["data"]["hours"],
        "languages": tuple(record["languages"]),
        "metric": metric,
        "before": before,
        "after": after,
        "date": record["date"],
    }


def _by_peft(saved: SavedAdapter) -> dict[str, Any]:
    """What the adapter's own files say, which may be of any program."""
    ranks = saved.ranks.values()
    return {
        "name": saved.folder.name,
        "base": saved.base,
        "rank": max(ranks),
        "lowest_rank": min(ranks),
        "hours": None,
        "languages": (),
        "metric": None,
        "before": None,
        "after": None,
    }


# ── showing ──────────────────────────────────────────────────────────────────────────────────


# Names are not cut short, they would look alike: they are folded where they are longer than this.
FOLDED = {"adapter": 14, "base": 13, "data": 9}
BY_IMPORTANCE = ("adapter", "WER", "base", "rank", "data", "size", "date")


def adapter_table(adapters: Sequence[Listed], title: str, width: int) -> tuple[Table, list[str]]:
    """One row an adapter; what was downloaded is shown as it is, not as markup.

    Args:
        width: in columns of the terminal.

    Returns:
        the table, and which of its columns have no room
    """
    rows = [_cells(adapter) for adapter in adapters]
    widths = _widths(rows, width)
    table = Table(
        [
            Column(name, is_text=name not in ("rank", "size"), layout={"width": columns})
            for name, columns in widths.items()
        ],
        title,
        layout={**PLAIN, "padding": 0},
    )
    for row in rows:
        table.add(*(_folded(row[name], columns) for name, columns in widths.items()))
    return table, [name for name in rows[0] if name not in widths]


def _widths(rows: Sequence[Mapping[str, str]], width: int) -> dict[str, int]:
    """The columns that have room beside more important ones, in their order; the first has it.

    What is left over is shared by names that are longer than their column.
    """
    longest = {
        name: max(cell_len(line) for row in rows for line in (name, *row[name].split("\n")))
        for name in rows[0]
    }
    least = {name: min(FOLDED.get(name, length), length) for name, length in longest.items()}
    free, kept = width, set[str]()
    for name in BY_IMPORTANCE:
        if not kept or least[name] < free:  # one is the gap
            kept.add(name)
            free -= least[name] + (len(kept) > 1)
    widths = {name: least[name] for name in rows[0] if name in kept}
    missing = {name: longest[name] - least[name] for name in widths}
    every = sum(missing.values())
    given = max(0, min(free, every))
    more = {name: given * columns // max(1, every) for name, columns in missing.items()}
    more["adapter"] += given - sum(more.values())
    return {name: columns + more[name] for name, columns in widths.items()}


def _folded(text: str, width: int) -> str:
    """Lines of a name that is longer, broken behind what parts its words, if anything does."""
    lines = [""]
    for part in re.findall(r"[^/_,= \n-]*(?:[/_,= \n-]|$)", text):
        if cell_len(lines[-1] + part.rstrip()) > width:
            *full, part = [part[first : first + width] for first in range(0, len(part), width)]
            lines += [*full, ""]
        lines[-1] += part
    return "\n".join(lines).strip("\n")


def _cells(adapter: Listed) -> dict[str, str]:
    """By the column's name, in the order of columns."""
    of_dtype = "" if adapter.dtype == "float32" else f"\n({adapter.dtype})"
    return {
        "adapter": _printable(adapter.path),
        "base": _base_cell(adapter.base),
        "rank": _rank_cell(adapter),
        "size": megabytes(adapter.bytes) + of_dtype,
        "data": _data_cell(adapter),
        "WER": _rates_cell(adapter),
        "date": adapter.date,
    }


def _base_cell(base: str | None) -> str:
    """The last part of a path, and of a hub id of OpenAI's; `embedded:nano` as it is."""
    if base is None:
        return UNKNOWN
    if Path(base).parent.parts[-2:] == local_path(EMBEDDED).parts[-2:]:  # of an unfinished run
        return f"{EMBEDDED}{Path(base).name}"
    return _printable(Path(base).name if Path(base).is_absolute() else base).removeprefix("openai/")


def _rank_cell(adapter: Listed) -> str:
    if adapter.rank is None:
        return UNKNOWN
    is_one = adapter.lowest_rank == adapter.rank
    return str(adapter.rank) if is_one else f"{adapter.lowest_rank}–{adapter.rank}"


def _data_cell(adapter: Listed) -> str:
    """`2.2 h sw en +3`: languages beyond two are counted; of a stream the hours are not known."""
    more = len(adapter.languages) - 2
    named = " ".join(adapter.languages[:2]) + (f" +{more}" if more > 0 else "")
    hours = "" if adapter.hours is None else f"{adapter.hours:.1f} h"
    return f"{hours} {named}".strip() or UNKNOWN


def _rates_cell(adapter: Listed) -> str:
    """Before and after; a rate that is none of words says so."""
    if adapter.is_unfinished:
        return "unfinished"
    if adapter.is_damaged:
        return "run damaged"
    if adapter.is_changed:
        return "other weights"
    if adapter.metric is None or adapter.after is None:
        return UNKNOWN
    before = UNKNOWN if adapter.before is None else f"{100 * adapter.before:.1f}"
    rates = f"{before} → {percent(adapter.after)}"
    return rates if adapter.metric == "wer" else f"{rates}\n({adapter.metric.upper()})"


def _printable(text: str) -> str:
    """Names of files may hold what moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def main(arguments: Sequence[str] | None = None) -> int:
    """List adapters; 0: some were found, 2: none."""
    parser = argparse.ArgumentParser(
        prog="lora-whisper adapters",
        description="List the adapters in a folder: runs, sweeps, copied folders, exports.",
    )
    parser.add_argument(
        "folder", nargs="?", default="outputs", help="looked through with all below it (outputs/)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    with guarded():
        log_to_console()
        try:
            return _list(given.folder, given.json)
        except UserError as error:
            print_error(f"error: {error}")
            return 2


def _list(given: str, as_json: bool) -> int:
    root = local_path(given)
    if not root.is_dir():
        raise UserError(
            f"{given}: there is no such folder. Type {program()} adapters FOLDER, with one that "
            "runs were written to."
        )
    found, broken = find_adapters(root)
    if not found and not broken:
        raise UserError(
            f"{given}: no adapter is in this folder or below it (a folder with {CONFIG_FILE} in "
            f"it).\nTo make one, type {program()} train experiment=quickstart"
        )
    if as_json:
        listed = [asdict(adapter) for adapter in found]
        found_json = {"adapters": listed, "broken": broken}
        print_result(json.dumps(found_json, indent=2, ensure_ascii=False))
    else:
        if found:
            table, without_room = adapter_table(found, given, console.width)
            console.print(table.terminal())
            if without_room:
                told = f"no room for: {', '.join(without_room)}; --json has all"
                console.print(told, markup=False)
        for path, reason in broken.items():
            first = f"not listed: {_printable(path)}: {reason.splitlines()[0]}"
            console.print(first, markup=False, style="yellow")
        require_delivered(is_the_result=True)
    return 0 if found else 2


if __name__ == "__main__":
    sys.exit(main())
