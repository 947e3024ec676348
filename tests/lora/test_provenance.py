"""A record that was downloaded: what is believed of it, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.errors import UserError
from lora_whisper.lora.provenance import read_metadata
from lora_whisper.run_folder import METADATA_FILE

SCORE = {"wer": 0.5, "wer_ci95": [0.4, 0.6], "cer": 0.2, "cer_ci95": [0.1, 0.3]}
RECORD: dict[str, Any] = {
    "format": 1,
    "name": "mine",
    "date": "2026-01-31",
    "base": {
        "name": "openai/whisper-small",
        "revision": "refs/pr/1",
        "commit": "a" * 40,
        "sha256": "b" * 64,
    },
    "quantization": "nf4",
    "adapter": {
        "kind": "lora",
        "rank": 32,
        "lowest_rank": 4,
        "targets": "attention",
        "stack": "both",
        "parameters": 1_000_000,
        "bytes": 4_000_000,
        "sha256": "c" * 64,
    },
    "languages": ["sw", "a dialect / of mine"],
    "data": {"from": ["train.jsonl"], "hours": None, "utterances": None},
    "scores": {
        "units": "words",
        "metric": "wer",
        "normalizer": "multilingual",
        "base": SCORE,
        "adapter": SCORE,
        "merged": None,
    },
    "versions": {},
}


def written(folder: Path, record: Any) -> Path:
    (folder / METADATA_FILE).write_text(json.dumps(record), encoding="utf-8")
    return folder


def changed(key: str, value: Any) -> dict[str, Any]:
    record = copy.deepcopy(RECORD)
    *groups, last = key.split(".")
    group = record
    for name in groups:
        group = group[name]
    group[last] = value
    return record


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) is None
    assert read_metadata(written(tmp_path, RECORD)) == RECORD
    more = RECORD | {"note": "of a later version", "scores": None}
    assert read_metadata(written(tmp_path, more)) == more


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../../etc/cron.d/mine"),
        ("name", ".."),
        ("name", "a\\b"),
        ("name", "a\x1b[2J"),  # clears a terminal
        ("name", ""),
        ("name", 3),
        ("date", "yesterday"),
        ("base", None),
        ("base.name", "/home/anna/whisper"),
        ("base.name", "../whisper"),
        ("base.name", "a/b/c"),
        ("base.revision", "../x"),
        ("base.commit", "main"),
        ("base.sha256", "B" * 64),
        ("adapter.rank", -1),
        ("adapter.rank", True),
        ("adapter.bytes", "4"),
        ("languages", "sw"),
        ("languages", ["sw\n"]),
        ("data.hours", -1),
        ("scores", []),
        ("scores.metric", "accuracy"),
        ("scores.base.wer", None),
        ("scores.adapter.cer_ci95", [0.1]),
    ],
)
def test_what_is_not_as_it_has_to_be_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        read_metadata(written(tmp_path, changed(key, value)))
    assert f"- {key}" in str(error.value)
    assert "\x1b" not in str(error.value)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_metadata(written(tmp_path, changed("name", "a/b") | {"date": 1}))
    assert "- name: expected a name without a path, found 'a/b'" in str(error.value)
    assert "- date: expected" in str(error.value)


def test_a_newer_format_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"format 2.*reads up to 1[^$]*pip install --upgrade"):
        read_metadata(written(tmp_path, {"format": 2}))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "found an empty file"),
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[1]", "expected a JSON object"),
        (" " * 1_000_001, "at most 1,000,000 bytes"),
    ],
    ids=["empty", "cut", "deep", "a list", "large"],
)
def test_what_is_no_record_is_named_with_the_way_on(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / METADATA_FILE).write_text(text)
    with pytest.raises(UserError, match=complaint) as raised:
        read_metadata(tmp_path)
    assert str(raised.value).endswith(
        "Take the file away, if you trust the adapter: it can be used without it."
    )
