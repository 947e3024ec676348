"""A record that was downloaded: what is believed of it, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.errors import UserError
from lora_whisper.files import write_json
from lora_whisper.lora import provenance
from lora_whisper.lora.provenance import (
    BaseProvenance,
    compared,
    is_trained_adapter,
    provenance_of,
    read_metadata,
    require_trained_adapter,
    trained_hashes,
)
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.checkpoint import Checkpoint, locate, weights_sha256
from lora_whisper.run_folder import MARKER, METADATA_FILE, RunFolder
from tests.configs import model_config
from tests.toys import toy_checkpoint

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


# ── which base ────────────────────────────────────────────────────────────────────────────────────


THIS, OTHER, HASH = "a" * 40, "b" * 40, "c" * 64


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return locate(model_config(toy_checkpoint(tmp_path / "toy")))


def of_hub(monkeypatch: pytest.MonkeyPatch, sha256: str | None) -> Checkpoint:
    """At the commit THIS; None: its weights must not be read."""

    def hashed(_: Checkpoint) -> str:
        assert sha256 is not None, "gigabytes were read for nothing"
        return sha256

    monkeypatch.setattr(provenance, "fingerprint", lambda _: f"commit:{THIS}")
    monkeypatch.setattr(provenance, "weights_sha256", hashed)
    return Checkpoint("owner/toy", None, "owner/toy")


@pytest.mark.parametrize(
    ("known", "sha256", "verdict"),
    [
        (BaseProvenance(THIS, HASH), None, "same"),
        (BaseProvenance(THIS, None), None, "same"),
        (BaseProvenance(OTHER, None), None, "another"),
        (BaseProvenance(OTHER, HASH), HASH, "same"),  # a commit that changed the card alone
        (BaseProvenance(OTHER, HASH), "d" * 64, "another"),
        (BaseProvenance(None, HASH), HASH, "same"),  # it was trained on a folder
        (BaseProvenance(None, None), None, "unknown"),
    ],
)
def test_a_base_of_the_hub(known, sha256, verdict, monkeypatch):
    assert compared(known, of_hub(monkeypatch, sha256))[0] == verdict


def test_a_base_in_a_folder(checkpoint):
    own = weights_sha256(checkpoint)
    assert compared(BaseProvenance(THIS, own), checkpoint) == ("same", f"sha256:{own}")
    assert compared(BaseProvenance(None, HASH), checkpoint) == ("another", f"sha256:{own}")
    assert compared(BaseProvenance(THIS, None), checkpoint)[0] == "unknown", (
        "a folder has no commit"
    )


@pytest.mark.parametrize(
    ("fingerprint", "expected"),
    [
        (f"commit:{THIS}", BaseProvenance(THIS, None)),
        (f"sha256:{HASH}", BaseProvenance(None, HASH)),
    ],
)
def test_a_run_knows_its_base_by_its_summary(fingerprint, expected, tmp_path):
    run = RunFolder(tmp_path)
    run.adapter.mkdir()
    assert provenance_of(run.adapter) == BaseProvenance(None, None)
    run.config.write_text(MARKER)
    write_json(run.summary, {"checkpoint_fingerprint": fingerprint})
    assert provenance_of(run.adapter) == expected


def test_what_is_known_can_be_shown():
    assert str(BaseProvenance(THIS, HASH)) == f"commit:{THIS} sha256:{HASH}"
    assert str(BaseProvenance(None, None)) == ""


# ── what a run trained ────────────────────────────────────────────────────────────────────────────


OWN = hashlib.sha256(b"own").hexdigest()
OLD_SCORE = {"of": {"weights": {"adapter": OWN}}}


def run_of(folder: Path, summary: dict[str, Any], weights: bytes) -> RunFolder:
    run = RunFolder(folder)
    run.adapter.mkdir(parents=True)
    run.config.write_text(MARKER)
    write_json(run.summary, summary)
    (run.adapter / WEIGHTS_FILE).write_bytes(weights)
    return run


@pytest.mark.parametrize(
    "summary", [{"adapter_sha256": OWN, "adapter": None}, {"adapter": OLD_SCORE}], ids=str
)
def test_another_file_is_refused_and_both_are_named(
    summary: dict[str, Any], tmp_path: Path
) -> None:
    """The record does not count: it lies in the folder that is copied."""
    run = run_of(tmp_path / "own", summary, b"own")
    (run.adapter / METADATA_FILE).write_text("{}")
    assert trained_hashes(run).get("adapter") == OWN
    require_trained_adapter(run)
    (run.adapter / WEIGHTS_FILE).write_bytes(b"another")
    with pytest.raises(UserError, match=OWN) as refusal:
        require_trained_adapter(run)
    said = str(refusal.value)
    assert hashlib.sha256(b"another").hexdigest() in said
    assert f"merge adapter={run.adapter} name=other" in said
    assert "resume=auto" not in said, "no checkpoint is there to write it from"


@pytest.mark.parametrize("summary", [{}, {"adapter": None}, {"adapter": {"wer": 0.5}}], ids=str)
def test_an_older_run_that_does_not_say_goes_on(summary: dict[str, Any], tmp_path: Path) -> None:
    run = run_of(tmp_path / "older", summary, b"whatever")
    assert trained_hashes(run) == {}
    require_trained_adapter(run)
    run.summary.write_text('{"ada')
    assert is_trained_adapter(run), "that is for others to say"
