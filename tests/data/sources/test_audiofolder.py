"""Audio folders as `datasets` knows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lora_whisper.data.dataset import Row
from lora_whisper.data.sources import read_split
from lora_whisper.data.sources.manifest import audiofolder_parts
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_speech import write_clip, write_manifest

CONFIG = replace(data_config("audiofolder", path="x"), train=None)

SWAHILI = Path("../shared/speech/swahili")


def read(folder: Path) -> list[Row]:
    (part,) = audiofolder_parts(folder)
    return list(part.rows())


def write_metadata(folder: Path, *rows: str, header: str = "file_name,transcription") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join([header, *rows]))


def test_metadata_in_each_split(tmp_path: Path) -> None:
    for split, name in {"train": "train", "validation": "valid", "test": "test"}.items():
        write_metadata(tmp_path / name, f"1.wav,{split}")
        write_clip(tmp_path / name / "1.wav", 0.2)
    found = read(tmp_path)
    assert {row.split: row.text for row in found} == {"train": "train", "test": "test"} | {
        "validation": "validation"
    }
    assert all(Path(row.audio).is_file() for row in found)
    assert sorted(row.place for row in found) == [
        f"{name}/metadata.csv:2" for name in ("test", "train", "valid")
    ]


def test_recordings_in_folders_called_like_splits(tmp_path: Path) -> None:
    rows = [{"file_name": f"{name}/a/1.wav", "text": name} for name in ("train", "dev", "clips")]
    rows.append({"file_name": "train/2.wav", "text": "named", "split": "test"})
    write_manifest(tmp_path / "metadata.jsonl", rows)
    assert [row.split for row in read(tmp_path)] == ["train", "validation", None, "test"]


@pytest.mark.parametrize("column", ["file_name", "audio_file_name", "speech_file_name"])
def test_the_columns_that_name_files(tmp_path: Path, column: str) -> None:
    write_metadata(tmp_path, "1.wav,a", header=f"{column},text")
    (row,) = read(tmp_path)
    assert row.audio == str(tmp_path / "1.wav")


def test_a_folder_called_like_a_split_above_says_nothing(tmp_path: Path) -> None:
    write_metadata(tmp_path / "test" / "corpus", "1.wav,a")
    (row,) = read(tmp_path / "test" / "corpus")
    assert row.split is None


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read(tmp_path / "absent")
    with pytest.raises(UserError, match=r"have no metadata\.csv or metadata\.jsonl"):
        read(tmp_path)
    (tmp_path / "metadata.parquet").touch()
    with pytest.raises(UserError, match=r"metadata\.parquet is not read"):
        read(tmp_path)
    write_metadata(tmp_path, "1.wav,a")
    with pytest.raises(UserError, match="data=manifest"):
        read(tmp_path / "metadata.csv")
    write_manifest(tmp_path / "train" / "metadata.jsonl", [])
    with pytest.raises(UserError, match=r"twice: metadata\.csv, train/metadata\.jsonl"):
        read(tmp_path)


def test_bad_rows_are_named_with_their_folder(tmp_path: Path) -> None:
    write_metadata(tmp_path / "train", ",a", "2.wav")
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert "train/metadata.csv:2: found" in str(error.value)
    assert "train/metadata.csv:3: found" in str(error.value)


def test_the_splits_are_those_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for name in ("train", "test"):
        write_metadata(tmp_path / name, f"1.wav,{name} one")
        write_clip(tmp_path / name / "1.wav", 0.2)
    theirs = datasets.load_dataset("audiofolder", data_dir=str(tmp_path), streaming=True)
    config = replace(CONFIG, path=str(tmp_path))
    ours = {name: read_split(config, name) for name in ("train", "validation", "test")}
    assert {name for name, rows in ours.items() if rows} == set(theirs)


@pytest.mark.skipif(not SWAHILI.is_dir(), reason="no real speech here")
def test_real_speech() -> None:
    config = replace(CONFIG, path=str(SWAHILI), language="sw")
    found = {split: read_split(config, split) for split in ("train", "validation", "test")}
    assert {split: len(rows or ()) for split, rows in found.items()} == {
        "train": 186,
        "validation": 46,
        "test": 231,
    }
    assert all(one.audio.is_file() for rows in found.values() for one in rows or ())
