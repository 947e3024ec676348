"""Reading manifests: every spelling that is promised, and every error in one message."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.manifest import read_manifest, split_counts
from lora_whisper.data.utterance import Utterance
from lora_whisper.errors import UserError
from tests.toy_speech import write_manifest


def read(path: Path, split: str = "train") -> list[Utterance]:
    return read_manifest(path, split, language="sw", task="transcribe")


@pytest.mark.parametrize("audio", ["audio", "file_name", "audio_filepath"])
@pytest.mark.parametrize("text", ["text", "transcription", "sentence"])
def test_each_name_of_a_key(tmp_path: Path, audio: str, text: str) -> None:
    manifest = write_manifest(tmp_path / "a.jsonl", [{audio: "clips/1.wav", text: "habari"}])
    (utterance,) = read(manifest)
    assert utterance.audio == tmp_path / "clips/1.wav"
    assert (utterance.text, utterance.row) == ("habari", "a.jsonl:1")


def test_a_row_with_everything(tmp_path: Path) -> None:
    row = {
        "audio": "/far/1.wav",
        "text": "hello",
        "language": "en",
        "task": "translate",
        "start": 1,
        "end": 2.5,
        "speaker": 7,
        "dialect": "coastal",
    }
    (utterance,) = read(write_manifest(tmp_path / "a.jsonl", [row]))
    assert utterance == Utterance(
        audio=Path("/far/1.wav"),
        text="hello",
        language="en",
        task="translate",
        start_seconds=1,
        end_seconds=2.5,
        speaker="7",
        row="a.jsonl:1",
        columns=row,
    )


def test_the_configuration_speaks_where_the_row_does_not(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"audio": "1.wav", "text": "a"}]
    rows.append({"audio": "2.wav", "text": "b", "language": None, "task": None})
    for utterance in read(write_manifest(tmp_path / "a.jsonl", rows)):
        assert (utterance.language, utterance.task) == ("sw", "transcribe")


def test_bom_carriage_returns_blank_lines_and_unusual_separators(tmp_path: Path) -> None:
    line = '{"audio": "1.wav", "text": "moja\u2028mbili é"}'
    manifest = tmp_path / "a.jsonl"
    manifest.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n  \r\n{line}".encode())
    assert [one.row for one in read(manifest)] == ["a.jsonl:1", "a.jsonl:4"]
    assert read(manifest)[0].text == "moja\u2028mbili é"


def test_rows_go_to_the_split_that_they_name(tmp_path: Path) -> None:
    splits = ["train", "dev", "valid", "val", "validation", "Test", None]
    rows = [{"audio": f"{name}.wav", "text": str(name), "split": name} for name in splits]
    rows.append({"audio": "none.wav", "text": "absent"})
    manifest = write_manifest(tmp_path / "a.jsonl", rows)
    assert [one.text for one in read(manifest, "train")] == ["train", "None", "absent"]
    assert len(read(manifest, "validation")) == 4 + 2
    assert [one.text for one in read(manifest, "test")] == ["Test", "None", "absent"]
    assert split_counts(manifest) == {"train": 1, "validation": 4, "test": 1, "none named": 2}


def test_all_bad_lines_are_named_in_one_message(tmp_path: Path) -> None:
    bad = {
        "{audio: 1.wav}": "expected JSON",
        "[1, 2]": "expected an object",
        '{"text": "a"}': "expected one of the keys audio, file_name, audio_filepath",
        '{"audio": "1.wav"}': "expected one of the keys text, transcription, sentence",
        '{"audio": 1, "text": "a"}': "found audio 1, expected a path",
        '{"audio": " ", "text": "a"}': "expected a path",
        '{"audio": "1.wav", "text": ["a"]}': "found text ['a'], expected text",
        '{"audio": "1.wav", "text": "a", "start": -1}': "found start -1, expected seconds",
        '{"audio": "1.wav", "text": "a", "start": 2, "end": 1}': "found end 1, expected more than",
        '{"audio": "1.wav", "text": "a", "task": "sing"}': "expected transcribe or translate",
    }
    manifest = tmp_path / "a.jsonl"
    manifest.write_text('{"audio": "1.wav", "text": "good"}\n' + "\n".join(bad), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read(manifest)
    message = str(error.value)
    assert "has 10 lines" in message
    for number, expected in enumerate(bad.values(), start=2):
        (line,) = (line for line in message.splitlines() if f"a.jsonl:{number}:" in line)
        assert expected in line


@pytest.mark.parametrize(
    "line",
    [
        b'{"audio": "1.wav", "text": "\xff"}',  # Latin-1
        b'{"audio": "1.wav", "text": "\\ud800"}',  # half a surrogate pair
        b'{"audio": "a\\u0000b", "text": "a"}',
        b'{"audio": "1.wav", "text": "a", "start": NaN}',
        b'{"audio": "1.wav", "text": "a", "end": true}',
        b'{"audio": "1.wav", "text": "a", "end": 1' + b"0" * 400 + b"}",
        b"[" * 100_000,
        b'{"audio": "1.wav", "text": "a", "start": ' + b"9" * 5_000 + b"}",
    ],
)
def test_nasty_lines_are_the_users_to_mend(tmp_path: Path, line: bytes) -> None:
    manifest = tmp_path / "a.jsonl"
    manifest.write_bytes(line)
    with pytest.raises(UserError, match=r"a\.jsonl:1: found"):
        read(manifest)


def test_a_missing_manifest_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl cannot be read.*data\.train=FILE"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)


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
rows = st.dictionaries(keys, json_values, max_size=6)
lines = st.one_of(st.binary(max_size=30), rows.map(lambda row: json.dumps(row).encode()))


@settings(deadline=None, max_examples=60)
@given(content=st.lists(lines, max_size=5), wild=rows)
def test_no_content_does_worse_than_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], wild: dict[str, Any]
) -> None:
    manifest = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    valid = {"audio": "1.wav", "text": "a"}
    manifest.write_bytes(b"\n".join([*content, json.dumps(wild | valid).encode()]))
    try:
        utterances = read(manifest)
    except UserError:
        return
    for utterance in utterances:
        utterance.text.encode()
        assert utterance.task in ("transcribe", "translate")
