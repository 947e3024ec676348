"""Manifests of what can be used: their rows, and the folder that they are written into."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.dataset import Utterance
from lora_whisper.data.quality_findings import (
    UNUSABLE,
    Finding,
    manifest_row,
    require_repairable,
    write_repaired,
)
from lora_whisper.errors import UserError
from tests.data.test_quality import split
from tests.data.test_quality_measures import utterance


def finding(key: str, *rows: int) -> Finding:
    places = {"train": np.array(rows, np.int64)}
    return Finding(key, {}, places, lambda one, row: f"{key} in {row}")


def written(folder: Path, rows: int, split_long: Any = None, **found: list[int]) -> tuple[Any, Any]:
    one = split("train", *({"text": f"text {row}"} for row in range(rows)))
    findings = [finding(key, *found.get(key, [])) for key in UNUSABLE]
    repaired = write_repaired(folder, {"train": one}, findings, split_long)
    lines = [
        [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None
        for path in (folder / "train.jsonl", folder / "left_out.jsonl")
    ]
    return repaired, lines


def test_each_row_goes_once_for_its_first_reason(tmp_path: Path) -> None:
    repaired, (kept, left_out) = written(
        tmp_path / "new", 4, unreadable=[2], silent=[0, 2], over_window=[0]
    )
    assert [row["text"] for row in kept] == ["text 1", "text 3"]
    assert [(row["row"], row["reason"], row["detail"]) for row in left_out] == [
        ("train.jsonl:1", "silent", "silent in 0"),
        ("train.jsonl:3", "unreadable", "unreadable in 2"),
    ]
    assert repaired.kept == {"train": 2}
    assert repaired.left_out == {"train": {"silent": 1, "unreadable": 1}}


def test_of_a_finding_only_what_is_unusable_goes(tmp_path: Path) -> None:
    one = split("train", {"text": "a"}, {"text": "b"}, {"text": "c"})
    findings = [finding(key) for key in UNUSABLE if key != "contradicted"]
    unusable = {"train": np.array([2])}
    findings.append(replace(finding("contradicted", 0, 2), unusable=unusable))
    repaired = write_repaired(tmp_path / "new", {"train": one}, findings, None)
    assert (repaired.kept, repaired.left_out) == ({"train": 2}, {"train": {"contradicted": 1}})


def test_long_clips_are_cut_or_left_out(tmp_path: Path) -> None:
    def halves(one: Utterance, split: str) -> list[Utterance] | None:
        assert split == "train"
        assert one.duration_seconds == 2.0, "measured"
        if one.text == "text 0":
            return None
        return [
            utterance(one.audio, half, start_seconds=start, end_seconds=start + 1.0)
            for half, start in (("a", 0.0), ("b", 1.0))
        ]

    repaired, (kept, left_out) = written(tmp_path / "new", 3, halves, over_window=[0, 2])
    assert [(row["text"], row.get("start"), row.get("end")) for row in kept] == [
        ("text 1", None, None),
        ("a", 0.0, 1.0),
        ("b", 1.0, 2.0),
    ]
    assert [row["reason"] for row in left_out] == ["over_window, and cannot be split"]
    assert (repaired.kept["train"], repaired.pieces["train"]) == (3, 2)


def test_a_split_of_which_nothing_is_left_has_no_manifest(tmp_path: Path) -> None:
    repaired, (kept, left_out) = written(tmp_path / "new", 1, silent=[0])
    assert kept is None
    assert len(left_out) == 1
    assert repaired.kept["train"] == 0


def test_nothing_is_half_written(tmp_path: Path) -> None:
    def broken(one: Utterance, split: str) -> None:
        raise RuntimeError("out of luck")

    written(tmp_path / "new", 2)
    before = (tmp_path / "new" / "train.jsonl").read_bytes()
    with pytest.raises(RuntimeError):
        written(tmp_path / "new", 2, broken, over_window=[1])
    assert (tmp_path / "new" / "train.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_row_for_another_folder(tmp_path: Path) -> None:
    """Links are followed to where a folder really lies, as whoever opens `../x` will go."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    one = utterance(
        tmp_path / "link" / "a.wav",
        "Cafe\u0301",
        start_seconds=1.0,
        end_seconds=3.5,
        columns={"sentence": "Cafe\u0301", "duration": 9.0, "text": "old", "age": 40},
    )
    assert manifest_row(one, "train", str(tmp_path / "home")) == {
        "audio": "../real/deep/a.wav",
        "text": "Café",
        "language": "en",
        "task": "transcribe",
        "start": 1.0,
        "end": 3.5,
        "split": "train",
        "sentence": "Cafe\u0301",
        "duration": 2.5,
        "age": 40,
    }


def test_audio_inside_a_data_set_has_no_path(tmp_path: Path) -> None:
    rows = [utterance(EncodedAudio("set:1", bytes))]
    with pytest.raises(UserError, match="which name files"):
        require_repairable(tmp_path / "new", {"train": rows}, overwrite=False)
