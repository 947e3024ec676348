"""Manifests: JSON lines, a JSON array, CSV or TSV; each row an audio file, or a slice, and a text.

Audio is relative to the manifest. The columns are found by their usual names, `USUAL_NAMES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from lora_whisper.config import SPLITS, ColumnsConfig, DataConfig
from lora_whisper.data.sources.records import (
    SUFFIXES,
    Record,
    TableFile,
    is_json,
    json_records,
    open_text,
)
from lora_whisper.data.sources.rows import (
    READERS_VERSION,
    USUAL_NAMES,
    Names,
    Part,
    Problems,
    RowError,
    RowMaker,
)
from lora_whisper.data.splits import split_name
from lora_whisper.data.table import Row, table_key
from lora_whisper.errors import UserError

GIVE = (
    "Expected a file with one JSON object a line, or a CSV or TSV table, "
    "such as data.train=FILE.jsonl (or data.validation=, data.test=, evaluation.retention=)."
)
ROW = 'Each line is one JSON object: {{"{audio}": "clips/1.wav", "{text}": "what is said"}}'
TABLE = "The first line names the columns, such as {audio},{text}; each other line is a row."
OTHER_NAMES = "For other names, type data.columns.audio=NAME data.columns.text=NAME"


def rows(
    path: Path,
    columns: ColumnsConfig,
    names: Names = USUAL_NAMES,
    *,
    audio_folder: Path | None = None,
    label: str | None = None,
    quoted: bool = True,
) -> Iterator[Row]:
    """Read a manifest row by row, in its order and in constant memory.

    Args:
        columns, names: which column holds what: those that the configuration names, else `names`.
        audio_folder: what audio is relative to; None: the manifest's own folder.
        label: what the rows' places call the file; None: its name.
        quoted: whether a table's cells may be quoted.

    Raises:
        UserError: no such manifest, or, after the last row, all those that cannot be used.
    """
    problems = Problems(label or path.name)
    with open_text(path, GIVE) as file:
        has_json = is_json(path, file)
        make = RowMaker(audio_folder or path.parent.absolute(), names, columns)
        last: tuple[int, tuple[str, ...]] | None = None
        for line, values, text in _records(path, file, make, problems, has_json, quoted):
            last = line, tuple(values)
            try:
                yield make(f"{problems.file}:{line}", values, text)
            except RowError as error:
                problems.add(line, error)
    if has_json and last and not problems.count:
        _require_columns(make, *last, problems)
    noun, expected = ("line", ROW) if has_json else ("row", TABLE)
    expected = expected.format(audio=make.names.audio[0], text=make.names.text[0])
    problems.refuse(f"The manifest {path}", noun, f"{expected}\n{OTHER_NAMES}")


def _records(
    path: Path, file: TextIO, make: RowMaker, problems: Problems, has_json: bool, quoted: bool
) -> Iterator[Record]:
    if has_json:
        return json_records(path, file, problems)
    table = TableFile(path, file, quoted)
    if table.header and not _require_columns(make, 1, table.header, problems):
        return iter(())
    return table.records(problems, always=make.text_columns(table.header))


def _require_columns(make: RowMaker, line: int, keys: tuple[str, ...], problems: Problems) -> bool:
    """Whether each column that is needed is there; if not, that is one problem of the file."""
    try:
        make.require_columns(keys)
    except RowError as error:
        problems.add(line, error)
        return False
    return True


# ── files and folders of them ────────────────────────────────────────────────────────────────


def part(name: str, path: Path, config: DataConfig, names: Names = USUAL_NAMES) -> Part:
    """One manifest, read when its rows are asked for.

    Raises:
        UserError: it cannot be opened.
    """
    with open_text(path, GIVE):  # what cannot be opened has no key
        pass
    settings = (names, config.columns, config.quoted)
    key = table_key("manifest", READERS_VERSION, [path], settings)
    read = partial(rows, path, config.columns, names, quoted=config.quoted)
    return Part(name, str(path), key, read)


def parts(place: Path, config: DataConfig, names: Names = USUAL_NAMES) -> list[Part]:
    """One manifest, or a folder with one of each split (train.jsonl, dev.csv, …).

    Raises:
        UserError: no such file or folder, or a folder without manifests.
    """
    if not place.is_dir():
        return [part("", place, config, names)]
    files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        if any(place.glob("**/*.parquet")):
            raise UserError(
                f"The folder {place} has Parquet files and no manifest. Type data=hub "
                f"data.path={place}"
            )
        raise UserError(
            f"The folder {place} has no manifest ({', '.join(SUFFIXES)}). Name a file, "
            "data.train=FILE.jsonl, or say what kind of folder it is: data=audiofolder, "
            "data=common_voice or data=subtitles."
        )
    if len(files) == 1 and split_name(files[0].stem) not in SPLITS:
        return [part("", files[0], config, names)]
    return [part(path.stem, path, config, names) for path in files]
