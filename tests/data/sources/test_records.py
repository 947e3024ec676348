"""What is given for a manifest and is none, or none that can be read as it stands."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_whisper.data.dataset import Row
from lora_whisper.data.sources.manifest import parts, rows
from lora_whisper.data.sources.rows import USUAL_NAMES
from lora_whisper.errors import UserError

ROWS = [{"audio": "1.wav", "text": "moja"}, {"audio": "2.wav", "text": "mbili"}]
INDENTED = json.dumps(ROWS[0], indent=1).encode()


def read(path: Path, content: str | bytes, quoted: bool = True, **columns: str) -> list[Row]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(rows(path, USUAL_NAMES.chosen(columns), quoted=quoted))


def texts(found: list[Row]) -> list[tuple[str, str]]:
    return [(Path(row.audio).name, row.text) for row in found]


# ── quotation marks ──────────────────────────────────────────────────────────────────────────

SWALLOWING = {
    "the text is last": 'path\tsentence\na.wav\t"Where is he?\nb.wav\tGo home"\nc.wav\tWell\n',
    "the text is first": 'sentence,path\n"Where is he?,a.wav\nGo home",b.wav\nWell,c.wav\n',
    "several rows": 'path;sentence\na.wav;"Where?\nb.wav;x\nc.wav;y"\nd.wav;z\n',
    "never closed": 'path,sentence\na.wav,"Where?\nb.wav,x\nc.wav,y\n',
    "closed in a text": 'path,sentence\na.wav,"Where?\nb.wav,she said "yes" then\nc.wav,y\n',
    "three columns": 'path,sentence,age\na.wav,"Where?,1\nb.wav,"Go,2\nc.wav,y,3\n',
    "line ends of a Mac": 'path\tsentence\ra.wav\t"Where is he?\rb.wav\tGo home"\rc.wav\tWell\r',
}


@pytest.mark.parametrize("table", SWALLOWING.values(), ids=SWALLOWING.keys())
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_a_quoted_cell_that_swallows_rows_is_refused(
    tmp_path: Path, table: str, encoding: str
) -> None:
    with pytest.raises(UserError, match=r"a\.csv:2: found .*") as error:
        read(tmp_path / "a.csv", table.encode(encoding))
    assert "data.quoted=false" in str(error.value)
    found = read(tmp_path / "a.csv", table.encode(encoding), quoted=False)
    lines = table.replace("\r", "\n").splitlines()[1:]
    assert len(found) == len(lines)
    assert all(row.text in line for row, line in zip(found, lines, strict=True))


def test_a_text_of_several_lines_is_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = 'audio,text\na.wav,"Well,\nwho, then"\nb.wav,"say ""yes"", now"\nc.wav,no\n'
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path / "a.csv", table)
    assert texts(found) == [
        ("a.wav", "Well,\nwho, then"),
        ("b.wav", 'say "yes", now'),
        ("c.wav", "no"),
    ]
    assert "has 1 quoted cells" in caplog.text
    assert "a.csv:2–3" in caplog.text


# ── separators, headers, times ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("a.csv", "audio|text\n1.wav|moja\n2.wav|mbili\n"),
        ("a.tsv", "audio,text\n1.wav,moja\n2.wav,mbili\n"),
        ("a.csv", "sep=;\r\naudio;text\r\n1.wav;moja\r\n2.wav;mbili\r\n"),
        ("a.csv", "AUDIO,TEXT\n1.wav,moja\n2.wav,mbili\n"),
        ("a.csv", " Audio , Text \n1.wav,moja\n2.wav,mbili\n"),
        ("a.csv", "\ufeff\ufeffFile Name,Sentence\n1.wav,moja\n2.wav,mbili\n"),
        ("a.jsonl", '{"Audio-File":"1.wav","TEXT":"moja"}\n{"audio":"2.wav","text ":"mbili"}'),
        ("a.jsonl", json.dumps(ROWS, indent=1)),
        ("a.jsonl", json.dumps(ROWS)),
    ],
)  # fmt: skip
def test_ways_of_writing_a_table(tmp_path: Path, name: str, table: str) -> None:
    found = read(tmp_path / name, table)
    assert texts(found) == [("1.wav", "moja"), ("2.wav", "mbili")]


def test_an_empty_text_below_a_capital_header_is_a_text(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "a.csv", "Audio,Text\n1.wav,\n")) == [("1.wav", "")]


def test_of_two_columns_that_are_alike_the_exact_one_counts(tmp_path: Path) -> None:
    table = "audio,Text,text\n1.wav,no,yes\n"
    assert texts(read(tmp_path / "a.csv", table)) == [("1.wav", "yes")]
    assert texts(read(tmp_path / "a.csv", table, text="Text")) == [("1.wav", "no")]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("0,10", "with a decimal point, 0.10"),
        ("1:02:03.5", ": 3723.5"),
        ("00:01,5", ": 1.5"),
        ("1500ms", ": 1.5"),
        ("2 s", ": 2"),
        ("1_500", "seconds from 0 on"),
        ("-1", "seconds from 0 on"),
        ("nan", "seconds from 0 on"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_time_that_is_no_number_of_seconds(
    tmp_path: Path, name: str, start: str, expected: str
) -> None:
    row = {"audio": "1.wav", "text": "moja", "start": start, "end": "9000"}
    table = ";".join(row) + "\n" + ";".join(row.values())
    with pytest.raises(UserError) as error:
        read(tmp_path / name, json.dumps(row) if name == "a.jsonl" else table)
    assert f"found start '{start}'" in str(error.value)
    assert expected in str(error.value)


def test_a_time_in_quotation_marks_is_a_time(tmp_path: Path) -> None:
    row = {"audio": "1.wav", "text": "moja", "start": "0.5", "end": " 1.5 "}
    (found,) = read(tmp_path / "a.jsonl", json.dumps(row))
    assert (found.start, found.end) == (0.5, 1.5)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("LJ001-0001.wav|Printing|Printing\nLJ001-0002.wav|in|in\n", "put one on top of it"),
        ("audio text\n1.wav moja\n", "parted by commas"),
    ],
)
def test_a_table_without_names_of_columns(tmp_path: Path, table: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        read(tmp_path / "a.csv", table)


# ── other files ──────────────────────────────────────────────────────────────────────────────


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["moja"]}), file)
    return file.getvalue()


def archive(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr(name, "x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (parquet(), r"is a Parquet file\. Type data=hub data\.path={folder}/a.jsonl"),
        (archive("xl/workbook.xml"), r"is a spreadsheet\. Save it as CSV"),
        (archive("content.xml"), r"is a spreadsheet\. Save it as CSV"),
        (archive("a.jsonl"), r"is an archive\. Unpack"),
        (b"\x1f\x8b\x08\0", r"is compressed\. Type: gzip -dc {folder}/a.jsonl > NEW"),
        (b"RIFF\0\0\0\0WAVE", r"is a recording\. Name the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"git lfs pull"),
        (b"\n<!DOCTYPE html><html>", r"is a web page"),
        (b"\xef\xbb\xbf<html lang=en>", r"is a web page"),
        (json.dumps({"audio": {"0": "1.wav"}, "text": {"0": "a"}}).encode(), "of columns"),
        (INDENTED * 2, r"one a line\. Type:\n  jq -c \. {folder}/a.jsonl >"),
        (INDENTED, r"one a line\. Type:\n  jq -c"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_files_that_are_something_else(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    if name == "a.csv" and content[:1] == b"{":
        pytest.skip("a table of one column")
    pattern = expected.format(folder=tmp_path).replace("a.jsonl", name)
    with pytest.raises(UserError, match=pattern):
        read(tmp_path / name, content)


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(parquet())
    with pytest.raises(UserError, match=f"Type data=hub data.path={tmp_path}"):
        parts(tmp_path)


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_below_a_key_of_one_object(tmp_path: Path, indent: int | None) -> None:
    """What is advised is typed, and makes the manifest."""
    content = json.dumps({"version": "1.0", "data": ROWS}, indent=indent)
    with pytest.raises(UserError, match="rows stand below 'data'") as error:
        read(tmp_path / "a b.json", content)
    command = str(error.value).splitlines()[1].replace("python3", sys.executable)
    subprocess.run(command, shell=True, check=True)
    assert [row.text for row in rows(tmp_path / "NEW.jsonl")] == ["moja", "mbili"]


def test_arrays_a_line_are_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl:2: found .*expected an object"):
        read(tmp_path / "a.jsonl", '["1.wav", "moja"]\n["2.wav", "mbili"]\n')


@pytest.mark.parametrize("audio", ["audio", "Datei"])
def test_one_row_with_segments_in_it_is_a_row(tmp_path: Path, audio: str) -> None:
    row = {audio: "1.wav", "text": "moja", "segments": [{"start": 0, "text": "moja"}]}
    assert texts(read(tmp_path / "a.jsonl", json.dumps(row), audio=audio)) == [("1.wav", "moja")]


@pytest.mark.parametrize("path", ["clips\\1.wav", "C:\\users\\1.wav"])
def test_one_backslash_is_no_json(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"backslash is written twice, and a path is best written"):
        read(tmp_path / "a.jsonl", '{"audio": "' + path + '", "text": "moja"}\n')


def test_a_cell_that_is_null_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text is null, expected a value"):
        read(tmp_path / "a.jsonl", '{"audio": "1.wav", "text": null}\n')
