"""Files that are given for a manifest and are none: what they are, and what to type instead.

By their first bytes and not by their names: a Parquet file may be called .jsonl.
"""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

from lora_whisper.data.sources.rows import LOOKS_LIKE_AUDIO, USUAL_NAMES, matching
from lora_whisper.stand_ins import stand_in

SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
AS_CSV = "Save it as CSV (UTF-8) and give that file."
AS_ONE = "Type data=hub data.path={file} in the place of data.train=… (a folder has its splits)"
AS_HUB = "Type data=hub data.path={folder} in the place of data.train=…"
LARGEST_JSON_BYTES = 200_000_000  # that is read whole to say what is wrong with it

# Beginnings of files: https://en.wikipedia.org/wiki/List_of_file_signatures
BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", AS_ONE),
    (b"ARROW1", "an Arrow file", AS_HUB),
    (b"\xff\xff\xff\xff", "a stream of Arrow", AS_HUB),
    (b"\x1f\x8b", "compressed", "Type: gzip -dc {file} > NEW"),
    (b"BZh", "compressed", "Type: bzip2 -dc {file} > NEW"),
    (b"\xfd7zXZ", "compressed", "Type: xz -dc {file} > NEW"),
    (b"\x28\xb5\x2f\xfd", "compressed", "Type: zstd -dc {file} > NEW"),
    (b"7z\xbc\xaf", "an archive", "Unpack it and give the manifest in it."),
    (b"Rar!", "an archive", "Unpack it and give the manifest in it."),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet of an older Excel", AS_CSV),
    (b"SQLite format 3\0", "a database", "Write its rows to a CSV file and give that."),
    (b"\x93NUMPY", "an array of NumPy", "Write its rows to a CSV file and give that."),
    (b"%PDF", "a PDF", "Expected text in UTF-8."),
    *((start, "a recording", "") for start in (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb")),
)
RECORDING = "Name the file that says what is spoken in it: {expected}"


def what_it_is(path: Path, beginning: bytes, expected: str) -> str | None:
    """What is given in the place of a manifest, and the way out; None where it may be one."""
    file, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
    if path.suffix.lower() in SHEETS:
        return f"{path} is a spreadsheet. {AS_CSV}"
    for start, what, advice in BEGINNINGS:
        if beginning.startswith(start):
            advice = advice.format(file=file, folder=folder) or RECORDING.format(expected=expected)
            return f"{path} is {what}. {advice}"
    if beginning.startswith(b"PK\x03\x04"):
        return f"{path} is {_zip(path)}"
    found = stand_in(path.name, beginning)
    return f"{path} {found}" if found else None


def _zip(path: Path) -> str:
    """A spreadsheet is an archive, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    if any(name.startswith(("xl/", "content.xml", "Index/")) for name in names):
        return f"a spreadsheet. {AS_CSV}"
    return "an archive. Unpack it and give the manifest in it."


# ── JSON that has its rows elsewhere ─────────────────────────────────────────────────────────


def other_json(path: Path, text: str) -> str | None:
    """How the rows of a file stand in its JSON where that is not one object a line; None if not."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _objects_over_lines(path, text)
    if not isinstance(found, dict):
        return None
    if _is_row(found):
        return _objects_over_lines(path, text)
    lists = [key for key, value in found.items() if _is_rows(value)]
    if lists:
        return _rows_below(path, lists)
    if len(found) > 1 and all(isinstance(value, dict | list) for value in found.values()):
        return (
            f"{path} is one JSON object of columns, and not of rows. In pandas, write it with "
            "to_json(FILE, orient='records', lines=True)."
        )
    return None


def _objects_over_lines(path: Path, text: str) -> str | None:
    """The way out where the first of many objects is written over several lines; None if not."""
    try:
        _, end = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return None
    if "\n" not in text.lstrip()[:end]:
        return None
    new = shlex.quote(str(path.with_name("NEW.jsonl")))
    return (
        f"{path} has its rows over several lines each; expected one a line. Type:\n"
        f"  jq -c . {shlex.quote(str(path))} > {new}\n"
        "and give the new file."
    )


def _is_row(values: dict[str, Any]) -> bool:
    """Whether the object is a row itself, which may have segments or words in it."""
    names = matching(tuple(values), USUAL_NAMES.audio)
    texts = [value for value in values.values() if isinstance(value, str)]
    is_named = any(isinstance(values[name], str) for name in names)
    return is_named or any(map(LOOKS_LIKE_AUDIO.search, texts))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _rows_below(path: Path, keys: list[str]) -> str:
    """The command that takes the rows out of the object."""
    taken = (
        f"import json; print(*map(json.dumps, json.load(open({str(path)!r}))[{keys[0]!r}]), "
        "sep=chr(10))"
    )
    names = ", ".join(map(repr, keys))
    return (
        f"{path} is one JSON object, whose rows stand below {names}. Type:\n"
        f"  python3 -c {shlex.quote(taken)} > {shlex.quote(str(path.with_name('NEW.jsonl')))}\n"
        "and give the new file."
    )
