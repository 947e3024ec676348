"""Hugging Face audio folders: metadata.csv or metadata.jsonl beside the recordings.

https://huggingface.co/docs/datasets/audio_dataset. The metadata stand in the folder itself, or in
sub-folders such as train/ and test/; a row belongs to the split that it names, else to the
sub-folder that holds its metadata, or its recording, if that is called like a split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from lora_whisper.config import ColumnsConfig, DataConfig
from lora_whisper.data.sources import manifest
from lora_whisper.data.sources.rows import READERS_VERSION, USUAL_NAMES, Part
from lora_whisper.data.splits import folder_split, split_name
from lora_whisper.data.table import Row, table_key
from lora_whisper.errors import UserError

METADATA = ("metadata.csv", "metadata.jsonl")
NAMES = replace(USUAL_NAMES, audio=("file_name", "audio_file_name", "*_file_name"))


def rows(
    folder: Path, columns: ColumnsConfig, metadata: list[Path], *, quoted: bool = True
) -> Iterator[Row]:
    """Read metadata files of the folder, one after the other.

    Raises:
        UserError: one cannot be read, or, after its last row, all those that cannot be used.
    """
    root = folder.absolute()
    is_divided = any(folder_split(path.parent.absolute(), root) for path in metadata)
    for path in metadata:
        label = path.relative_to(folder).as_posix()
        split_of = _splits_by_folder(folder, path, is_divided)
        for row in manifest.rows(path, columns, NAMES, label=label, quoted=quoted):
            if row.split is None:
                row.split = split_of(row.audio.rpartition("/")[0])
            yield row


def parts(folder: Path, config: DataConfig) -> list[Part]:
    """All metadata of the folder: its own, or that of its sub-folders.

    Raises:
        UserError: no such folder, no metadata in it, or two of them in one place.
    """
    if not folder.is_dir():
        found = "is a file: for a manifest, type data=manifest" if folder.exists() else "is missing"
        raise UserError(f"data.path={folder} {found}. Expected a folder with {METADATA[0]}.")
    metadata = _metadata(folder)
    settings = (config.columns, config.quoted)
    key = table_key("audiofolder", READERS_VERSION, metadata, settings)
    read = partial(rows, folder, config.columns, metadata, quoted=config.quoted)
    return [Part("", str(folder), key, read)]


def _metadata(folder: Path) -> list[Path]:
    beside = sorted(each for each in folder.iterdir() if each.is_dir())
    found = [[each / name for name in METADATA if (each / name).is_file()] for each in beside]
    own = [folder / name for name in METADATA if (folder / name).is_file()]
    files = [path for each in (own, *found) for path in each]
    if not files:
        parquet = "; metadata.parquet is not read" if (folder / "metadata.parquet").exists() else ""
        raise UserError(
            f"The folder {folder} and its sub-folders have no {' or '.join(METADATA)}{parquet}. "
            "Write one with the columns file_name and text, or for another file type "
            "data=manifest data.path=FILE."
        )
    if max(len(own), *map(len, found), 1) > 1 or (own and len(files) > len(own)):
        names = ", ".join(path.relative_to(folder).as_posix() for path in files)
        raise UserError(f"The folder {folder} has metadata twice: {names}. Keep one of them.")
    return files


def _splits_by_folder(
    folder: Path, metadata: Path, is_divided: bool
) -> Callable[[str], str | None]:
    """What split the recordings of a folder belong to, where their rows do not say it.

    Beside folders that are called like splits (`is_divided`), any other is one of its own name.
    """
    root = folder.absolute()
    own = folder_split(metadata.parent.absolute(), root)
    if own is None and is_divided and metadata.parent.absolute() != root:
        own = split_name(metadata.parent.name)

    @lru_cache(maxsize=10_000)
    def split_of(recordings: str) -> str | None:
        return own or folder_split(Path(recordings), root)

    return split_of
