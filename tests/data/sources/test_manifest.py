"""Reading manifests: every spelling that is promised, and every error in one message."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.dataset import Row
from lora_whisper.data.sources import read_split
from lora_whisper.data.sources import rows as rows_module
from lora_whisper.data.sources.manifest import rows
from lora_whisper.data.sources.rows import USUAL_NAMES
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_speech import write_manifest


def read(path: Path, **columns: str) -> list[Row]:
    return list(rows(path, USUAL_NAMES.chosen(columns)))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path, **columns: str) -> str:
    with pytest.raises(UserError) as error:
        read(path, **columns)
    return str(error.value)


@pytest.mark.parametrize("audio", ["audio", "file_name", "audio_filepath", "path", "wav"])
@pytest.mark.parametrize("text", ["text", "transcription", "sentence", "transcript"])
def test_each_name_of_a_key(tmp_path: Path, audio: str, text: str) -> None:
    manifest = write_manifest(tmp_path / "a.jsonl", [{audio: "clips/1.wav", text: "habari"}])
    (row,) = read(manifest)
    assert row.audio == str(tmp_path / "clips/1.wav")
    assert (row.text, row.place) == ("habari", "a.jsonl:1")


def test_a_row_with_everything(tmp_path: Path) -> None:
    values = {
        "audio": "/far/1.wav",
        "text": "hello",
        "language": "en",
        "task": "translate",
        "start": 1,
        "end": 2.5,
        "speaker": 7,
        "previous_text": "well,",
        "split": "Dev",
        "dialect": "coastal",
    }
    (row,) = read(write_manifest(tmp_path / "a.jsonl", [values]))
    assert json.loads(row.columns) == values
    row.columns = ""
    assert row == Row(
        *("a.jsonl:1", "/far/1.wav", "hello", "en", "translate", 1.0, 2.5, "7", "well,"),
        *("validation", ""),
    )


EVERYTHING = {
    "audio": "1.wav",
    "text": 'sema "ndiyo", sasa',
    "lang": "sw",
    "task": "translate",
    "start": "1.5",
    "end": "3",
    "speaker_id": "7",
    "split": "test",
}


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")]
)
def test_a_table_says_what_json_says(tmp_path: Path, name: str, delimiter: str) -> None:
    with open(tmp_path / name, "w", newline="") as file:
        writer = csv.DictWriter(file, list(EVERYTHING), delimiter=delimiter)
        writer.writeheader()
        writer.writerow(EVERYTHING)
    (found,) = read(tmp_path / name)
    assert json.loads(found.columns) == EVERYTHING
    (expected,) = read(
        write_manifest(tmp_path / "b.jsonl", [EVERYTHING | {"start": 1.5, "end": 3.0}])
    )
    expected.place, expected.columns = f"{name}:2", found.columns
    assert found == expected


def test_empty_cells_say_nothing_but_for_the_text(tmp_path: Path) -> None:
    table = "audio,text,language,task,start,end,speaker,split\n1.wav,,,,,,,\n,,,,,,,\n\n"
    (row,) = read(write(tmp_path / "a.csv", table))
    assert row.text == ""
    optional = ("language", "task", "start", "end", "speaker", "previous_text", "split")
    assert [getattr(row, name) for name in optional] == [None] * 7


def test_lines_are_counted_through_quoted_cells(tmp_path: Path) -> None:
    table = 'audio,text\r\n1.wav,"moja\r\nmbili"\r\n\r\n2.wav,"tatu, ""nne"""\r\n'
    found = read(write(tmp_path / "a.csv", table))
    assert [(row.place, row.text) for row in found] == [
        ("a.csv:2", "moja\r\nmbili"),
        ("a.csv:5", 'tatu, "nne"'),
    ]


def test_columns_that_the_configuration_names(tmp_path: Path) -> None:
    values = {"audio": "no.wav", "text": "no", "Datei": "1.wav", "Text": "ja", "von": 1, "bis": 2}
    (row,) = read(
        write_manifest(tmp_path / "a.jsonl", [values]),
        **{"audio": "Datei", "text": "Text", "start": "von", "end": "bis"},
    )
    assert (Path(row.audio).name, row.text, row.start, row.end) == ("1.wav", "ja", 1, 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "audio,text\n1.wav,ja\n"),
        ("a.jsonl", '{"audio": "1.wav", "text": "ja"}'),
        ("a.json", '[{"audio": "1.wav", "text": "ja"}]'),
    ],
)
def test_a_named_column_that_is_not_there(tmp_path: Path, name: str, content: str) -> None:
    message = refusal(write(tmp_path / name, content), speaker="Sprecher")
    assert f"{name}:1: found the columns 'audio', 'text'; expected 'Sprecher'" in message


def test_a_table_without_what_is_needed_is_one_problem(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.csv", "1.wav,habari\n2.wav,ndiyo\n"))
    assert "has 1 row that" in message
    assert "found the columns '1.wav', 'habari'; expected one of audio, file_name" in message
    assert "and one of text, transcription" in message
    assert "type data.columns.audio=NAME data.columns.text=NAME" in message


def test_a_slice_may_be_given_by_its_duration(tmp_path: Path) -> None:
    clip = {"audio": "1.wav", "text": "a", "duration": 2.5}
    manifest = write_manifest(tmp_path / "a.jsonl", [clip, clip | {"offset": 4}])
    assert [(row.start, row.end) for row in read(manifest)] == [(None, None), (4, 6.5)]


# ── encodings and line ends ──────────────────────────────────────────────────────────────────


def test_bom_carriage_returns_blank_lines_and_unusual_separators(tmp_path: Path) -> None:
    line = '{"audio": "1.wav", "text": "moja\u2028mbili é"}'
    content = b"\xef\xbb\xbf" + f"{line}\r\n\r\n  \r\n{line}".encode()
    found = read(write(tmp_path / "a.jsonl", content))
    assert [row.place for row in found] == ["a.jsonl:1", "a.jsonl:4"]
    assert found[0].text == "moja\u2028mbili é"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_what_spreadsheets_and_editors_save(
    tmp_path: Path, encoding: str, end: str, name: str
) -> None:
    lines = ["audio;text", "1.wav;hujambo é"]
    if name == "a.jsonl":
        lines = ['{"audio": "1.wav", "text": "hujambo é"}']
    (row,) = read(write(tmp_path / name, end.join([*lines, ""]).encode(encoding)))
    assert (Path(row.audio).name, row.text) == ("1.wav", "hujambo é")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.csv",
            "audio,text\n1.wav,é\n".encode("latin-1"),
            r"csv:2: found '1.wav,.xe9', .*UTF-8",
        ),
        ("a.csv", "audio,té\n1.wav,x\n".encode("latin-1"), "header is no UTF-8"),
        ("a.csv", "audio,text\n1.wav,é\n".encode("utf-16-le"), "iconv -f UTF-16LE"),
        ("a.csv", "audio,text\n1.wav,é\n".encode("utf-16-be"), "iconv -f UTF-16BE"),
        ("a.csv", "audio,text\n1.wav,é\n".encode("utf-32"), "iconv -f UTF-32"),
        ("a.csv", "audio,text\n1.wav,é\n".encode("utf-16")[:-1], "in UTF-16, but is damaged"),
        ("a.txt", "audio,text\n1.wav,é\n".encode("utf-16")[:-1], "in UTF-16, but is damaged"),
        ("a.xlsx", b"PK\3\4", "Save it as CSV"),
        ("a.csv", b"audio,text\n1.wav,a\0\n", "bytes of zero: it is no text, or damaged"),
        ("a.csv", b"ABCD\0\0\0\0WAVE", r"bytes of zero: it is no text, or damaged\. Expected"),
        ("a.json", '[{"audio": "é"}]'.encode("latin-1"), "expected UTF-8"),
    ],
)
def test_other_encodings_say_what_to_type(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        read(write(tmp_path / name, content))


@pytest.mark.parametrize("name", ["a.json", "a.txt"])
def test_one_json_array(tmp_path: Path, name: str) -> None:
    values = [{"audio": f"{number}.wav", "text": "\ud7ff"} for number in range(3)]
    found = read(write(tmp_path / name, json.dumps(values, indent=2)))
    assert [row.place for row in found] == [f"{name}:{number}" for number in (1, 2, 3)]
    assert [json.loads(row.columns) for row in found] == values


def test_json_lines_in_a_file_called_json(tmp_path: Path) -> None:
    line = '{"audio": "1.wav", "text": "a"}\n'
    assert len(read(write(tmp_path / "a.json", line * 2))) == 2


# ── paths ────────────────────────────────────────────────────────────────────────────────────


def test_absolute_home_and_parent_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/asha")
    given = ["/far/1.wav", "~/1.wav", "../1.wav", "./a//1.wav", "1.wav", "~nobody-here/1.wav"]
    folder = tmp_path / "corpus"
    values = [{"audio": path, "text": "a"} for path in given]
    found = read(write_manifest(folder / "a.jsonl", values))
    expected = ["/far/1.wav", "/home/asha/1.wav", f"{tmp_path}/1.wav", f"{folder}/a/1.wav"]
    assert [row.audio for row in found][:4] == expected
    assert [row.audio for row in found][4:] == [f"{folder}/1.wav", f"{folder}/~nobody-here/1.wav"]


def test_parent_paths_go_up_from_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "disk" / "clips").mkdir(parents=True)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "clips").symlink_to(tmp_path / "disk" / "clips")
    values = {"audio": "clips/../1.wav", "text": "a"}
    (row,) = read(write_manifest(tmp_path / "corpus" / "a.jsonl", [values]))
    assert row.audio == str((tmp_path / "disk" / "1.wav").resolve())


def test_a_manifest_given_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "corpus" / "a.jsonl", [{"audio": "1.wav", "text": "a"}])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (row,) = read(Path("../corpus/a.jsonl"))
    assert row.audio == str((tmp_path / "corpus" / "1.wav").resolve())


# ── what cannot be used ──────────────────────────────────────────────────────────────────────


def test_all_bad_lines_are_named_in_one_message(tmp_path: Path) -> None:
    bad = {
        "{audio: 1.wav}": "expected JSON",
        "[1, 2]": "expected an object",
        '{"text": "a"}': "expected a value for one of audio, file_name, audio_filepath",
        '{"audio": "1.wav"}': "expected a value for one of text, transcription, sentence",
        '{"audio": 1, "text": "a"}': "found audio 1, expected a path",
        '{"audio": " ", "text": "a"}': "expected a path",
        '{"audio": "1.wav", "text": ["a"]}': "found text ['a'], expected text",
        '{"audio": "1.wav", "text": "a", "start": -1}': "found start -1, expected seconds",
        '{"audio": "1.wav", "text": "a", "start": 2, "end": 1}': "found end 1, expected more than",
        '{"audio": "1.wav", "text": "a", "task": "sing"}': "expected transcribe or translate",
    }
    manifest = tmp_path / "a.jsonl"
    manifest.write_text('{"audio": "1.wav", "text": "good"}\n' + "\n".join(bad), encoding="utf-8")
    message = refusal(manifest)
    assert "has 10 lines" in message
    for number, expected in enumerate(bad.values(), start=2):
        (line,) = (line for line in message.splitlines() if f"a.jsonl:{number}:" in line)
        assert expected in line


def test_messages_stay_short(tmp_path: Path) -> None:
    table = ",".join(f"{number:05000d}" for number in range(50))
    message = refusal(write(tmp_path / "a.csv", f"{table}\n{table}\n"))
    assert len(message) < 2_000
    assert "and 40 more" in message
    assert len(refusal(write(tmp_path / "a.jsonl", '{"' + "x" * 5_000 + '": 1}'))) < 1_000


def test_a_path_with_braces(tmp_path: Path) -> None:
    (tmp_path / "{0}").mkdir()
    assert "{0}/a.jsonl has 1 line that" in refusal(write(tmp_path / "{0}" / "a.jsonl", "7"))


def test_the_first_ten_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.jsonl", "[]\n" * 25))
    assert "has 25 lines" in message
    assert message.count("a.jsonl:") == 10
    assert "… and 15 more" in message


def test_all_bad_rows_of_a_table(tmp_path: Path) -> None:
    table = (
        "audio,text,start,task,speaker\n"
        "1.wav,a,soon,,\n"
        "2.wav,a\n"
        "3.wav,a, b,,,x\n"
        '4.wav,"a"b,,,\n'
        "5.wav,a,nan,,\n"
        ",a,,,\n"
        "7.wav,a,1,sing,\n"
        "8.wav,good,,,\n"
        '9.wav,"open,,,\n'
    )
    message = refusal(write(tmp_path / "a.csv", table))
    assert "has 8 rows" in message
    for line, expected in {
        2: "found start 'soon', expected seconds",
        3: "found 2 cells, expected 5",
        4: "found 6 cells, expected 5",
        5: "expected cells with quotation marks",
        6: "found start 'nan'",
        7: "expected a value for one of audio",
        8: "expected transcribe or translate",
        10: "unexpected end of data",
    }.items():
        (found,) = (each for each in message.splitlines() if f"a.csv:{line}:" in each)
        assert expected in found


@pytest.mark.parametrize(
    "line",
    [
        b'{"audio": "1.wav", "text": "\xff"}',  # Latin-1
        b'{"audio": "1.wav", "text": "a", "start": NaN}',
        b'{"audio": "1.wav", "text": "a", "end": true}',
        b'{"audio": "1.wav", "text": "a", "speaker": true}',
        b'{"audio": "1.wav", "text": "a", "end": 1' + b"0" * 400 + b"}",
        b"[" * 100_000,
        b'{"audio": "1.wav", "text": "a", "start": ' + b"9" * 5_000 + b"}",
    ],
)
def test_nasty_lines_are_the_users_to_mend(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl:1: found"):
        read(write(tmp_path / "a.jsonl", line))


@pytest.mark.parametrize(
    ("key", "value", "flaw"),
    [
        ("text", f"{'long ' * 20}\\ud83d", r"half of a letter (\ud83d, "),
        ("audio", "a\\u0000b", r"a NUL (\u0000) in it, expected a path"),
        ("language", "\\u0000", r"a NUL (\u0000) in it, expected text or null"),
        ("speaker", "\\udc00", r"half of a letter (\udc00, "),
    ],
)
def test_what_is_wrong_with_a_text_is_said(tmp_path: Path, key: str, value: str, flaw: str) -> None:
    cells = {"audio": "1.wav", "text": "a"} | {key: value}
    line = ", ".join(f'"{name}": "{cell}"' for name, cell in cells.items())
    with pytest.raises(UserError, match=r"a\.jsonl:1: found") as error:
        read(write(tmp_path / "a.jsonl", f"{{{line}}}".encode()))
    assert flaw in str(error.value)


@pytest.mark.parametrize("second", ["TEXT", "sentence"])
def test_two_columns_that_could_be_the_text_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second: str
) -> None:
    rows_module._warn_of_choice.cache_clear()
    path = write(tmp_path / "a.csv", f"audio,Text,{second}\na.wav,hello,other\n")
    texts = [row.text for row in read(path)]
    assert texts == (["hello"] if second == "TEXT" else ["other"])
    first, other = ("Text", second) if second == "TEXT" else (second, "Text")
    assert f"the text is read from {first!r}, and {other!r} could be it" in caplog.text
    caplog.clear()
    assert [row.text for row in read(path, text="Text")] == ["hello"]
    assert caplog.text == ""


@pytest.mark.parametrize("header", ["audio,text,text", "audio,,text,audio"])
def test_a_header_that_names_a_column_twice(tmp_path: Path, header: str) -> None:
    assert "twice" in refusal(write(tmp_path / "a.csv", f"{header}\n"))


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("1.wav,well, yes", "a text with a ',' in it stands in quotation marks"),
        (f"1.wav,{'word ' * 30_000}", "a cell of more than 131,072 characters"),
    ],
)
def test_what_makes_a_row_too_wide_is_said(tmp_path: Path, row: str, part: str) -> None:
    message = refusal(write(tmp_path / "a.csv", f"audio,text\n{row}\n"))
    assert part in message
    assert "data.quoted" not in message  # which would help neither


def test_the_advised_encoding_is_not_one_for_all(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.csv", b"audio,text\n1.wav," + "Привет".encode("koi8-r")))
    assert "iconv -f ENCODING -t UTF-8" in message


def test_a_missing_manifest_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl cannot be read.*data\.train=FILE"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match=r"is a folder. Type data\.path=") as raised:
        read(tmp_path)
    assert "there is" not in str(raised.value), "it is, and is not what was asked for"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.txt"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_manifest_has_no_rows(tmp_path: Path, name: str, content: str) -> None:
    assert read(write(tmp_path / name, content)) == []


# ── anything at all ──────────────────────────────────────────────────────────────────────────

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
    ),
    max_leaves=5,
)
keys = st.sampled_from(
    ["audio", "file_name", "text", "sentence", "start", "end", "split", "task", "speaker", "x"]
)
wild_rows = st.dictionaries(keys, json_values, max_size=6)
cells = st.text(max_size=6) | st.sampled_from(['"', ",", ";", "\t", "\n", "1.5", "é", "\x85"])
names = st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])


def checked_rows(path: Path) -> list[Row] | None:
    """All rows, each fit for a table and for a file of its own; None if the file is refused."""
    try:
        found = read(path)
    except UserError as error:
        str(error).encode()
        return None
    for row in found:
        for part in (row.audio, row.text, row.columns, row.speaker, row.language, row.split):
            (part or "").encode()
        assert row.task in (None, "transcribe", "translate")
        assert isinstance(json.loads(row.columns), dict)
    return found


@settings(deadline=None, max_examples=150)
@given(content=st.binary(max_size=80), name=names)
def test_no_bytes_do_worse_than_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    checked_rows(write(tmp_path_factory.mktemp("fuzz") / name, content))


@settings(deadline=None, max_examples=60)
@given(content=st.lists(st.binary(max_size=30) | wild_rows, max_size=5), wild=wild_rows)
def test_no_json_does_worse_than_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, content: list[Any], wild: dict[str, Any]
) -> None:
    valid = {"audio": "1.wav", "text": "a"}
    lines = [
        each if isinstance(each, bytes) else json.dumps(each).encode()
        for each in [*content, wild | valid]
    ]
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    found = checked_rows(write(path, b"\n".join(lines)))
    in_lines = sum(bool(line.strip()) for line in b"\n".join(lines).splitlines())
    assert found is None or len(found) == in_lines


@settings(deadline=None, max_examples=100)
@given(
    table=st.lists(st.tuples(cells, cells, cells), max_size=5),
    name=st.sampled_from(["a.csv", "a.tsv"]),
)
def test_no_row_of_a_table_is_lost(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, str]], name: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    with open(path, "w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        writer = csv.writer(file, delimiter="\t" if name == "a.tsv" else ",")
        writer.writerows([("audio", "text", "note"), *table])
    found = checked_rows(path)
    if found is not None:
        kept = [row for row in table if any(row)]
        assert [json.loads(row.columns)["text"] for row in found] == [row[1] for row in kept]


VALID = {
    "jsonl": "".join(f'{{"audio": "{n}.wav", "text": "é, \\"x\\""}}\n' for n in range(5)),
    "json": json.dumps(
        [{"audio": f"{n}.wav", "text": "é", "start": n} for n in range(5)], indent=1
    ),
    "csv": "audio,text\n" + "".join(f'{n}.wav,"é, ""x"""\n' for n in range(5)),
    "tsv": "audio\ttext\n" + "".join(f"{n}.wav\té, x\n" for n in range(5)),
    "txt": "audio;text\n" + "".join(f"{n}.wav;é, x\n" for n in range(5)),
}
MARKS = [
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"{",
    b"[[",
    b"9" * 5_000,
    b"NaN",
]


@settings(deadline=None, max_examples=200)
@given(
    suffix=st.sampled_from(list(VALID)),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"]),
    place=st.integers(0, 300),
    removed=st.integers(0, 2),
    added=st.sampled_from(MARKS) | st.binary(max_size=2),
)
def test_a_damaged_manifest_keeps_its_rows_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    encoding: str,
    place: int,
    removed: int,
    added: bytes,
) -> None:
    content = VALID[suffix].encode(encoding)
    damaged = content[:place] + added + content[place + removed :]
    found = checked_rows(write(tmp_path_factory.mktemp("fuzz") / f"a.{suffix}", damaged))
    assert found is None or len(found) in range(4, 7)


# ── NeMo ─────────────────────────────────────────────────────────────────────────────────────────


NEMO = replace(data_config("nemo", path="x"), train=None)


def test_slices_and_whole_files(tmp_path: Path) -> None:
    whole = {"audio_filepath": "/far/1.wav", "duration": 2.5, "text": "habari", "lang": "sw"}
    rows = [whole, whole | {"offset": 1.5, "speaker": "asha"}, whole | {"offset": 0.0}]
    path = write_manifest(tmp_path / "train.json", rows)
    found = read_split(replace(NEMO, train=str(path)), "train")
    assert found is not None
    assert [(one.start_seconds, one.end_seconds) for one in found] == [
        (None, None),
        (1.5, 4.0),
        (0.0, 2.5),
    ]
    assert [(one.language, one.speaker) for one in found][:2] == [("sw", None), ("sw", "asha")]


def test_a_folder_of_manifests(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        row = {"audio_filepath": f"{name}.wav", "text": name, "duration": 1.0}
        write_manifest(tmp_path / f"{name}.json", [row])
    config = replace(NEMO, path=str(tmp_path))
    assert [one.text for one in read_split(config, "train") or ()] == ["train"]
    assert [one.text for one in read_split(config, "validation") or ()] == ["dev"]
    assert read_split(config, "test") is None


def test_rows_of_another_kind(tmp_path: Path) -> None:
    rows = [
        {"audio": "1.wav", "text": "a"},
        {"audio_filepath": "1.wav", "duration": 1.0},
        {"audio_filepath": "1.wav", "text": "a", "offset": 2.0, "duration": 0},
        {"audio_filepath": "1.wav", "text": "a", "offset": "two", "duration": 1},
    ]
    path = write_manifest(tmp_path / "train.json", rows)
    with pytest.raises(UserError) as error:
        read_split(replace(NEMO, train=str(path)), "train")
    for line, expected in {
        1: "expected a value for one of audio_filepath",
        2: "expected a value for one of text",
        3: "found duration 0, expected more than 0",
        4: "found offset 'two', expected seconds",
    }.items():
        (found,) = (each for each in str(error.value).splitlines() if f"json:{line}:" in each)
        assert expected in found
