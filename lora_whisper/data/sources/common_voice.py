"""A downloaded Common Voice release: train.tsv, dev.tsv, test.tsv, others, and clips/.

https://github.com/common-voice/cv-dataset. The tables were written in two ways: with cells quoted
(up to release 5), and since then without, a quotation mark being a letter; both are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from lora_whisper.config import ColumnsConfig, DataConfig
from lora_whisper.data.sources import manifest
from lora_whisper.data.sources.rows import READERS_VERSION, USUAL_NAMES, Part
from lora_whisper.data.table import Row, table_key
from lora_whisper.errors import UserError
from lora_whisper.model.languages import code_of

CLIPS = "clips"
NAMES = replace(
    USUAL_NAMES, audio=("path",), text=("sentence",), language=("locale",), speaker=("client_id",)
)
WITHOUT_CLIPS = ("clip_durations", "reported", "unvalidated_sentences", "validated_sentences")


def rows(table: Path, columns: ColumnsConfig) -> Iterator[Row]:
    """Read one table of a release; that a clip is missing is for others to find.

    Raises:
        UserError: it cannot be read, or, after the last row, all those that cannot be used.
    """
    clips = table.parent.absolute() / CLIPS
    for row in manifest.rows(table, columns, NAMES, audio_folder=clips, quoted=False):
        if "." not in row.audio.rpartition("/")[2]:
            row.audio += ".mp3"  # releases 1 and 2 leave it out
        if row.language is not None:
            row.language = code_of(row.language)
        row.text = unquoted(row.text)
        yield row


def unquoted(cell: str) -> str:
    """The text of a cell, in which quotation marks are doubled or not: `Say ""yes""` was either."""
    if '"' not in cell:
        return cell
    inner = cell[1:-1] if cell[0] == cell[-1] == '"' else cell
    for text in (inner, cell):
        doubled = text.replace('""', "")
        if '""' in text and '"' not in doubled:
            return text.replace('""', '"')
    return cell


def parts(release: Path, config: DataConfig) -> list[Part]:
    """The tables of a release that name clips.

    Raises:
        UserError: no such folder, or no tables in it.
    """
    tables = sorted(release.glob("*.tsv")) if release.is_dir() else []
    tables = [table for table in tables if table.stem not in WITHOUT_CLIPS]
    if not tables:
        raise UserError(_not_a_release(release))
    return [
        Part(
            table.stem,
            str(table),
            table_key("common_voice", READERS_VERSION, [table], config.columns),
            partial(rows, table, config.columns),
        )
        for table in tables
    ]


def _not_a_release(folder: Path) -> str:
    expected = "Expected the folder of one language, with train.tsv and clips/ in it."
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "is missing"
        return f"data.path={folder} {found}. {expected} Unpack the archive first."
    inner = sorted(table.parent.name for table in folder.glob("*/train.tsv"))
    if not inner:
        return f"The folder {folder} has no tables (*.tsv). {expected}"
    return (
        f"The folder {folder} holds the languages {', '.join(inner[:10])}; "
        f"type data.path={folder / inner[0]}"
    )
