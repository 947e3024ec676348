"""Manifests: JSON lines, a JSON array, CSV or TSV; each row an audio file, or a slice, and a text.

Audio is relative to the manifest. The columns are found by their usual names, `USUAL_NAMES`. A
manifest of NeMo, the metadata of an audio folder and the tables of a Common Voice release are
manifests, too, whose columns have other names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from lora_whisper.config import SPLITS
from lora_whisper.data.dataset import Row, folder_split, split_name, table_key
from lora_whisper.data.sources.records import (
    SUFFIXES,
    TableFile,
    is_json,
    json_records,
    open_text,
)
from lora_whisper.data.sources.rows import (
    READERS_VERSION,
    USUAL_NAMES,
    BadRows,
    ColumnNames,
    Part,
    RowError,
    RowMaker,
)
from lora_whisper.errors import UserError
from lora_whisper.model.tokenizer import code_of

GIVE = (
    "Expected a file with one JSON object a line, or a CSV or TSV table, "
    "such as data.train=FILE.jsonl (or data.validation=, data.test=, evaluation.retention=)."
)
ROW = 'Each line is one JSON object: {{"{audio}": "clips/1.wav", "{text}": "what is said"}}'
TABLE = "The first line names the columns, such as {audio},{text}; each other line is a row."
OTHER_NAMES = "For other names, type data.columns.audio=NAME data.columns.text=NAME"


METADATA = ("metadata.csv", "metadata.jsonl")
AUDIOFOLDER_NAMES = replace(USUAL_NAMES, audio=("file_name", "audio_file_name", "*_file_name"))


CLIPS = "clips"
COMMON_VOICE_NAMES = replace(
    USUAL_NAMES, audio=("path",), text=("sentence",), language=("locale",), speaker=("client_id",)
)
WITHOUT_CLIPS = ("clip_durations", "reported", "unvalidated_sentences", "validated_sentences")


# Without an offset the duration is that of the whole file, so a slice begins where there is one.
NEMO_NAMES = replace(
    USUAL_NAMES,
    audio=("audio_filepath",),
    text=("text",),
    language=("lang", "language", "source_lang"),
    start=("offset",),
    end=(),
)


def rows(
    path: Path,
    names: ColumnNames = USUAL_NAMES,
    *,
    audio_folder: Path | None = None,
    label: str | None = None,
    quoted: bool = True,
) -> Iterator[Row]:
    """Read a manifest row by row, in its order and in constant memory.

    Args:
        names: which column holds what.
        audio_folder: what audio is relative to; None: the manifest's own folder.
        label: what the rows' places call the file; None: its name.
        quoted: whether a table's cells may be quoted.

    Raises:
        UserError: no such manifest, or, after the last row, all those that cannot be used.
    """
    problems = BadRows(label or path.name)
    make = RowMaker(audio_folder or path.parent.absolute(), names)
    with open_text(path, GIVE) as file:
        if has_json := is_json(path, file):
            records = json_records(path, file, problems)
        else:
            table = TableFile(path, file, quoted)
            records = table.records(problems, always=make.text_columns(table.header))
            if table.header and not _require_columns(make, 1, table.header, problems):
                records = iter(())
        last: tuple[int, tuple[str, ...]] | None = None
        for line, values, text in records:
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


def _require_columns(make: RowMaker, line: int, keys: tuple[str, ...], problems: BadRows) -> bool:
    """Whether each column that is needed is there; if not, that is one problem of the file."""
    try:
        make.require_columns(keys)
    except RowError as error:
        problems.add(line, error)
        return False
    return True


# ── files and folders of them ────────────────────────────────────────────────────────────────


def part(name: str, path: Path, names: ColumnNames, quoted: bool) -> Part:
    """One manifest, read when its rows are asked for.

    Raises:
        UserError: it cannot be opened.
    """
    with open_text(path, GIVE):  # what cannot be opened has no key
        pass
    key = table_key("manifest", READERS_VERSION, [path], (names, quoted))
    return Part(name, str(path), key, partial(rows, path, names, quoted=quoted))


def parts(path: Path, names: ColumnNames = USUAL_NAMES, quoted: bool = True) -> list[Part]:
    """One manifest, or a folder with one of each split (train.jsonl, dev.csv, …).

    Raises:
        UserError: no such file or folder, or a folder without manifests.
    """
    if not path.is_dir():
        return [part("", path, names, quoted)]
    files = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    if not files:
        if any(path.glob("**/*.parquet")):
            raise UserError(
                f"The folder {path} has Parquet files and no manifest. Type data=hub "
                f"data.path={path}"
            )
        raise UserError(
            f"The folder {path} has no manifest ({', '.join(SUFFIXES)}). Name a file, "
            "data.train=FILE.jsonl, or say what kind of folder it is: data=audiofolder, "
            "data=common_voice or data=subtitles."
        )
    if len(files) == 1 and split_name(files[0].stem) not in SPLITS:
        return [part("", files[0], names, quoted)]
    return [part(each.stem, each, names, quoted) for each in files]


# ── audio folders of Hugging Face ────────────────────────────────────────────────────────────────

# https://huggingface.co/docs/datasets/audio_dataset. The metadata stand in the folder itself, or in
# sub-folders such as train/ and test/; a row belongs to the split that it names, else to the
# sub-folder that holds its metadata, or its recording, if that is called like a split.


def audiofolder_rows(
    folder: Path, metadata: list[Path], names: ColumnNames, quoted: bool
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
        for row in rows(path, names, label=label, quoted=quoted):
            if row.split is None:
                row.split = split_of(row.audio.rpartition("/")[0])
            yield row


def audiofolder_parts(
    folder: Path, names: ColumnNames = AUDIOFOLDER_NAMES, quoted: bool = True
) -> list[Part]:
    """All metadata of the folder: its own, or that of its sub-folders.

    Raises:
        UserError: no such folder, no metadata in it, or two of them in one place.
    """
    if not folder.is_dir():
        found = "is a file: for a manifest, type data=manifest" if folder.exists() else "is missing"
        raise UserError(f"data.path={folder} {found}. Expected a folder with {METADATA[0]}.")
    metadata = _metadata(folder)
    key = table_key("audiofolder", READERS_VERSION, metadata, (names, quoted))
    read = partial(audiofolder_rows, folder, metadata, names, quoted)
    return [Part("", str(folder), key, read)]


def _metadata(folder: Path) -> list[Path]:
    beside = sorted(each for each in folder.iterdir() if each.is_dir())
    inner = [[each / name for name in METADATA if (each / name).is_file()] for each in beside]
    own = [folder / name for name in METADATA if (folder / name).is_file()]
    files = [path for each in (own, *inner) for path in each]
    if not files:
        parquet = "; metadata.parquet is not read" if (folder / "metadata.parquet").exists() else ""
        raise UserError(
            f"The folder {folder} and its sub-folders have no {' or '.join(METADATA)}{parquet}. "
            "Write one with the columns file_name and text, or for another file type "
            "data=manifest data.path=FILE."
        )
    if max(len(own), *map(len, inner), 1) > 1 or (own and len(files) > len(own)):
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


# ── Common Voice ─────────────────────────────────────────────────────────────────────────────────

# https://github.com/common-voice/cv-dataset. The tables were written in two ways: with cells quoted
# (up to release 5), and since then without, a quotation mark being a letter; both are read.


def common_voice_rows(table: Path, names: ColumnNames) -> Iterator[Row]:
    """Read one table of a release; that a clip is missing is for others to find.

    Raises:
        UserError: it cannot be read, or, after the last row, all those that cannot be used.
    """
    clips = table.parent.absolute() / CLIPS
    for row in rows(table, names, audio_folder=clips, quoted=False):
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


def common_voice_parts(release: Path, names: ColumnNames = COMMON_VOICE_NAMES) -> list[Part]:
    """The tables of a release that name clips.

    Raises:
        UserError: no such folder, or no tables in it.
    """
    tables = [each for each in sorted(release.glob("*.tsv")) if each.stem not in WITHOUT_CLIPS]
    expected = "Expected the folder of one language, with train.tsv and clips/ in it."
    if not release.is_dir():
        found = "is a file" if release.exists() else "is missing"
        raise UserError(f"data.path={release} {found}. {expected} Unpack the archive first.")
    if not tables and (
        languages := sorted(path.parent.name for path in release.glob("*/train.tsv"))
    ):
        raise UserError(
            f"The folder {release} holds the languages {', '.join(languages[:10])}; "
            f"type data.path={release / languages[0]}"
        )
    if not tables:
        raise UserError(f"The folder {release} has no tables (*.tsv). {expected}")
    return [
        Part(
            table.stem,
            str(table),
            table_key("common_voice", READERS_VERSION, [table], names),
            partial(common_voice_rows, table, names),
        )
        for table in tables
    ]
