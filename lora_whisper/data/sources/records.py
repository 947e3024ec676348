"""From a file of text to its records: JSON lines, a JSON array, or a table with delimiters.

Each record comes with the line that it begins on and its own JSON. What cannot be parsed goes to
`BadRows`, and reading goes on behind it. A quoted cell that may have swallowed rows is refused, or
said with its lines: whoever wrote `"Where is he?` and no second mark would lose the next row.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import re
import shlex
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from lora_whisper.data.durations import absent
from lora_whisper.data.sources.rows import (
    LOOKS_LIKE_AUDIO,
    USUAL_NAMES,
    BadRows,
    RowError,
    excerpt,
    is_encodable,
    listed,
    matching,
    trimmed,
    why_no_columns,
)
from lora_whisper.errors import UserError, listing
from lora_whisper.stand_ins import stand_in

log = logging.getLogger("lora_whisper")

LINE_SUFFIXES = (".jsonl", ".ndjson")
JSON_SUFFIXES = (*LINE_SUFFIXES, ".json")
DELIMITERS = {".tsv": "\t", ".tab": "\t"}
SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".tab")
EXPECTED_ENCODING = (
    "expected UTF-8 (save the file as that, or iconv -f ENCODING -t UTF-8, with the one that it "
    "was written in: CP1252 in Western Europe, CP1251 or KOI8-R, SHIFT_JIS, GB18030, …)"
)
BEGINNING_BYTES = 4096  # looked at to see what kind of file it is

AS_ESCAPED = "; in JSON a backslash is written twice, and a path is best written with /"
to_json = json.JSONEncoder(ensure_ascii=False).encode


QUOTING = (
    'cells with quotation marks in them quoted, and those doubled: "say ""yes"" now"; where the '
    "marks are letters of the text and each line is a row, type data.quoted=false"
)
STATED_DELIMITER = re.compile(r'"?sep=(.)"?')
LINE_END = re.compile(r"\r\n|\r|\n")
Record = tuple[int, dict[str, Any], str]  # line, values by column, their JSON


@contextlib.contextmanager
def open_text(path: Path, expected: str) -> Iterator[TextIO]:
    """Open text in UTF-8, or in UTF-16 that says so; lines keep their ends.

    Bytes that are no UTF-8 are read as halves of surrogate pairs, for each record to refuse.

    Raises:
        UserError: no such file, a folder, a spreadsheet, or another encoding. `expected` says what
            to give instead.
    """
    encoding = _encoding(path, expected)
    errors = "strict" if encoding == "utf-16" else "surrogateescape"
    with open(path, encoding=encoding, errors=errors, newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise UserError(f"{path} begins in UTF-16, but is damaged: {error.reason}.") from None


def _encoding(path: Path, expected: str) -> str:
    try:
        with open(path, "rb") as file:
            beginning = file.read(BEGINNING_BYTES)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        if path.is_dir():
            raise UserError(
                f"{path} is a folder. Type data.path={shlex.quote(str(path))} where it holds all "
                f"splits, and data=audiofolder with it where it holds recordings. {expected}"
            ) from None
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}){absent(path)}. {expected}") from None
    if problem := what_it_is(path, beginning, expected):
        raise UserError(problem)
    if beginning.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise UserError(f"{path} is in UTF-32. Type: iconv -f UTF-32 -t UTF-8 {path} > NEW")
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in beginning:
        raise UserError(f"{path} has bytes of zero: {_with_zeros(path, beginning)}")
    return "utf-8-sig"


def _with_zeros(path: Path, beginning: bytes) -> str:
    """What a file may be that has them: of two bytes in UTF-16, one often is, the other hardly."""
    even, odd = beginning[::2].count(0), beginning[1::2].count(0)
    if max(even, odd) < max(8 * min(even, odd), len(beginning) / 16):
        return "it is no text, or damaged. Expected text in UTF-8."
    name = "UTF-16LE" if odd > even else "UTF-16BE"
    return (
        f"it is no text, or text in {name} without a mark that says so. Expected UTF-8; for text, "
        f"type: iconv -f {name} -t UTF-8 {path} > NEW"
    )


def is_json(path: Path, file: TextIO) -> bool:
    """By the name; where that says nothing, by the first character."""
    suffix = path.suffix.lower()
    return suffix in JSON_SUFFIXES or (suffix not in SUFFIXES and first_character(file) in "[{")


def first_character(file: TextIO) -> str:
    """The first character that is no space; the file is wound back. "\\n" where there is none."""
    first = next((line.lstrip()[0] for line in file if line.strip()), "\n")
    file.seek(0)
    return first


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────


def json_records(path: Path, file: TextIO, problems: BadRows) -> Iterator[Record]:
    """One object a line, or one array of them, whatever the file is called.

    Raises:
        UserError: one object over the whole file, whose rows stand in it.
    """
    first = first_character(file)
    lines = list(islice((line for line in file if line.strip()), 2))
    file.seek(0)
    if first == "[":
        are_arrays = len(lines) > 1 and all(line.strip()[0] == "[" for line in lines)
        if not (are_arrays and lines[0].strip()[-1] == "]"):
            return array_records(file.read(), problems)
    elif first == "{" and path.stat().st_size <= LARGEST_JSON_BYTES:
        try:
            json.loads(lines[0])
            is_object = True
        except (ValueError, RecursionError):
            is_object = False
        if not (is_object and len(lines) > 1):
            problem = other_json(path, lines[0] if is_object else file.read())
            file.seek(0)
            if problem:
                raise UserError(problem)
    return line_records(file, problems)


def line_records(lines: Iterable[str], problems: BadRows) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            yield number, parsed(line), line.strip()
        except RowError as error:
            problems.add(number, error)


def parsed(line: str) -> dict[str, Any]:
    """The object in a line of JSON."""
    if not line.isascii() and not is_encodable(line):
        raise RowError(f"found {_excerpt_around_bytes(line)}, {EXPECTED_ENCODING}")
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        advice = AS_ESCAPED if "escape" in error.msg else ""
        found = f"found {excerpt(line.strip())}, expected JSON ({error.msg})"
        raise RowError(found + advice) from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, brackets without end
        raise RowError(f"found {excerpt(line.strip())}, expected JSON of a sane size") from None
    return _object(values)


def array_records(text: str, problems: BadRows) -> Iterator[Record]:
    """The objects of one JSON array, over any number of lines; they are counted, not the lines."""
    if not is_encodable(text):
        problems.add(1, f"found {_excerpt_around_bytes(text)}, {EXPECTED_ENCODING}")
        return
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.add(1, f"found no complete JSON array ({error})")
        return
    for number, item in enumerate(items, start=1):
        try:
            yield number, _object(item), json.dumps(item)
        except RowError as error:
            problems.add(number, error)


def _object(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise RowError(f"found {excerpt(values)}, expected an object in braces")
    return values


def _excerpt_around_bytes(text: str) -> str:
    """What is around the first byte that is no UTF-8."""
    content = text.encode("utf-8", "surrogateescape")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        content = content[max(0, error.start - 20) : error.start + 20]
    return excerpt(content)


# ── tables ───────────────────────────────────────────────────────────────────────────────────


class TableFile:
    """A table whose first line names its columns; quoted cells may hold anything, even lines."""

    def __init__(self, path: Path, file: TextIO, quoted: bool = True) -> None:
        """Without `quoted`, quotation marks are letters like others and a line is a row.

        Raises:
            UserError: a header that names a column twice, or that cannot be read.
        """
        self.path, self._quoted = path, quoted
        first = file.readline()
        while first.isspace():
            first = file.readline()
        stated = STATED_DELIMITER.fullmatch(first.strip("\ufeff\r\n"))  # the line that Excel writes
        if stated is None:
            file.seek(0)
        self._lines_before = 0 if stated is None else 1
        self._delimiter = stated[1] if stated else _delimiter(first, path.suffix.lower())
        self._rows = csv.reader(
            file,
            delimiter=self._delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        self.header = self._read_header()

    def _read_header(self) -> tuple[str, ...]:
        try:
            cells = next((cells for cells in self._rows if any(map(str.strip, cells))), [])
        except csv.Error as error:
            raise UserError(f"{self.path}: the header cannot be read ({error}).") from None
        header = tuple(map(trimmed, cells))
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice or not all(map(is_encodable, header)):
            wrong = f"names {listed(twice)} twice" if twice else "is no UTF-8"
            columns = listed(header)
            raise UserError(
                f"{self.path}: the header {wrong}; found {columns}{why_no_columns(header)}. "
                "Rename the columns; where this is a row already, put a line of names on top."
            )
        return header

    def records(self, problems: BadRows, always: tuple[str, ...]) -> Iterator[Record]:
        """Each row's cells by column, without the empty ones but for the columns in `always`.

        Cells that go over several lines are said at the end, with these lines.
        """
        several, delimiter = list[str](), self._delimiter
        for line, last, cells in self._numbered(problems):
            if last > line:
                if swallowed := self._swallowed(cells):
                    found = f"found a quoted cell that goes on to line {last}, over {swallowed}"
                    problems.add(line, f"{found}, expected {QUOTING}")
                    continue
                several.append(f"{problems.file}:{line}–{last}")
            if len(cells) != len(self.header):
                if any(cells):  # a row of nothing is what spreadsheets leave at the end
                    found, why = f"found {len(cells)} cells, expected {len(self.header)}", ""
                    if self._quoted and len(cells) > len(self.header):
                        mark = {"\t": "a tab", "|": "a |"}.get(delimiter, f"a {delimiter!r}")
                        why = f"; a text with {mark} in it stands in quotation marks"
                    problems.add(line, f"{found}: {excerpt(cells)}{why}")
                continue
            values = dict(zip(self.header, cells, strict=True))
            text = to_json(values)
            if not text.isascii() and not is_encodable(text):
                found = _excerpt_around_bytes(delimiter.join(cells))
                problems.add(line, f"found {found}, {EXPECTED_ENCODING}")
            elif any(cells):
                yield line, {k: v for k, v in values.items() if v or k in always}, text
        if several:
            log.warning(
                "%-11s %s has %d quoted cells that go over several lines, and are read as one text "
                "each (data.quoted=false reads each line as a row):\n%s",
                *("table", self.path.name, len(several), listing(several, 5)),
            )

    def _swallowed(self, cells: list[str]) -> str:
        """The rows that a quoted cell took for a part of itself; "" where it is only long.

        A row has as many cells as the header, one of which names a file; the first of those found
        may be the row that begins the cell.
        """
        rows = []
        for line in LINE_END.split(self._delimiter.join(cells)):
            parts = line.split(self._delimiter)
            if len(parts) == len(self.header) and any(map(LOOKS_LIKE_AUDIO.search, parts)):
                rows.append(line)
        return f"what looks like {len(rows)} rows, the last {excerpt(rows[-1])}" if rows[1:] else ""

    def _numbered(self, problems: BadRows) -> Iterator[tuple[int, int, list[str]]]:
        """Each row with the line that it begins on, and its last one."""
        while True:
            line = self._rows.line_num + 1 + self._lines_before
            try:
                cells = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:
                found = f"found {error}, expected {QUOTING}"
                if "field limit" in str(error):
                    found = (
                        f"found a cell of more than {csv.field_size_limit():,} characters, "
                        "expected what is said in one clip: a quotation mark without its second "
                        "takes in what follows"
                    )
                problems.add(line, found)
                continue
            if cells:
                yield line, self._rows.line_num + self._lines_before, cells


def _delimiter(header: str, suffix: str) -> str:
    """A tab where the name says so and there is one; else the one that the header has most of."""
    named = DELIMITERS.get(suffix)
    if named is not None and (named in header or not any(map(header.count, ",;|"))):
        return named
    return max((",", ";", "\t", "|"), key=header.count)


# ── files that are given for a manifest and are none ─────────────────────────────────────────────

# By their first bytes and not by their names: a Parquet file may be called .jsonl.

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
    if beginning.startswith(b"PK\x03\x04"):  # a spreadsheet is an archive, too
        names: list[str] = []
        with contextlib.suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.startswith(("xl/", "content.xml", "Index/")) for name in names):
            return f"{path} is a spreadsheet. {AS_CSV}"
        return f"{path} is an archive. Unpack it and give the manifest in it."
    problem = stand_in(path.name, beginning)
    return f"{path} {problem}" if problem else None


# ── JSON that has its rows elsewhere ─────────────────────────────────────────────────────────


def other_json(path: Path, text: str) -> str | None:
    """How the rows of a file stand in its JSON where that is not one object a line; None if not."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return _objects_over_lines(path, text)
    if not isinstance(content, dict):
        return None
    if _is_row(content):
        return _objects_over_lines(path, text)
    lists = [
        key
        for key, value in content.items()
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    ]
    if lists:
        taken = (
            f"import json; print(*map(json.dumps, json.load(open({str(path)!r}))[{lists[0]!r}]), "
            "sep=chr(10))"
        )
        new = shlex.quote(str(path.with_name("NEW.jsonl")))
        return (
            f"{path} is one JSON object, whose rows stand below {', '.join(map(repr, lists))}. "
            f"Type:\n  python3 -c {shlex.quote(taken)} > {new}\nand give the new file."
        )
    if len(content) > 1 and all(isinstance(value, dict | list) for value in content.values()):
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
