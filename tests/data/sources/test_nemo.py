"""NeMo manifests: slices by offset and duration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lora_whisper.data.sources import read_split
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_speech import write_manifest

CONFIG = replace(data_config("nemo", path="x"), train=None)


def test_slices_and_whole_files(tmp_path: Path) -> None:
    whole = {"audio_filepath": "/far/1.wav", "duration": 2.5, "text": "habari", "lang": "sw"}
    rows = [whole, whole | {"offset": 1.5, "speaker": "asha"}, whole | {"offset": 0.0}]
    path = write_manifest(tmp_path / "train.json", rows)
    found = read_split(replace(CONFIG, train=str(path)), "train")
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
    config = replace(CONFIG, path=str(tmp_path))
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
        read_split(replace(CONFIG, train=str(path)), "train")
    for line, expected in {
        1: "expected a value for one of audio_filepath",
        2: "expected a value for one of text",
        3: "found duration 0, expected more than 0",
        4: "found offset 'two', expected seconds",
    }.items():
        (found,) = (each for each in str(error.value).splitlines() if f"json:{line}:" in each)
        assert expected in found
