"""JSON objects in files that somebody else made."""

import json
import os

import pytest

from lora_whisper.json_files import read_object, shown

NESTED = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[1, 2]", "expected a JSON object, found a list of 2"),
        (b'"x"', 'expected a JSON object, found "x"'),
        (b"null", "expected a JSON object, found null"),
        (b"", "expected JSON, found an empty file. Download or copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull --include x.json"),
        (b"<!DOCTYPE html>\n<html>", "is a web page"),
        (b'{"a": 1', "expected JSON, found an error"),
        (b'{"a": "\xff"}', "in UTF-8, found other bytes at 7"),
        ('{"a": 1}'.encode("utf-16"), "in UTF-8, found other bytes"),
        (b"\xef\xbb\xbf{}", "without a byte order mark"),
        (b"{}" + b" " * 1_000, "at most 1,000 bytes, found 1,002"),
        (b'{"a": ' + NESTED.encode()[:900], "found an error"),
    ],
)
def test_what_is_no_object_is_named_in_one_line(content, found, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=found) as caught:
        read_object(tmp_path / "x.json", most_bytes=1_000)
    assert "\n" not in str(caught.value)


def test_brackets_without_end_and_numbers_without_end_are_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": ' + NESTED)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_object(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": ' + "9" * 5_000 + "}")
    with pytest.raises(ValueError, match="limit"):
        read_object(tmp_path / "x.json")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name, found in [
        ("folder", "found a folder"),
        ("loop", "cannot be read: Too many levels"),
        ("pipe", "found a pipe"),
        ("nothing", "cannot be read: No such file"),
    ]:
        with pytest.raises(ValueError, match=found):
            read_object(tmp_path / name)


def test_values_are_shown_in_little_room():
    assert shown({"a": 1}) == "an object of 1"
    assert shown(json.loads("[NaN]")[0]) == "NaN"
    assert len(shown("x" * 1_000)) == 60
