"""The record beside an adapter: it reads back, it agrees with the run, and names nobody."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from lora_whisper.evaluation.run_summary import read_summary
from lora_whisper.lora.provenance import read_metadata
from lora_whisper.reports.model_card import adapter_record
from lora_whisper.reports.run import write_results
from tests.cli.toy_run import Heard, toy_run


def test_the_folder_alone_says_what_the_run_said(tmp_path: Path) -> None:
    run, summary = toy_run(tmp_path / "toy", ranks=(2, 4), finished="2026-01-31T23:59:59+00:00")
    write_results(run, summary)
    copied = shutil.copytree(run.adapter, tmp_path / "copied")
    shutil.rmtree(run.path)
    record = read_metadata(copied)
    assert record is not None
    assert (record["name"], record["date"]) == ("toy", "2026-01-31")
    assert record["base"] == {
        "name": "openai/whisper-small",
        "revision": None,
        "commit": "a" * 40,
        "sha256": None,
    }
    weights = (copied / "adapter_model.safetensors").read_bytes()
    assert record["adapter"] == {
        "kind": "lora",
        "rank": 4,
        "lowest_rank": 2,
        "targets": "all-linear",
        "stack": "both",
        "parameters": 128,
        "bytes": summary.adapter_bytes,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert record["data"] == {
        "from": ["train.jsonl"],
        "hours": 1.0,
        "hours_seen": 2.0,
        "utterances": 300,
    }
    for model in ("base", "adapter"):
        score, known = summary.scores[model], record["scores"][model]
        assert score is not None
        assert (known["wer"], known["cer"]) == (score.wer, score.cer)
        assert tuple(known["wer_ci95"]) == score.wer_ci95
    assert record["scores"]["merged"] is None


def test_a_merge_adds_its_score_and_changes_nothing_else(tmp_path: Path) -> None:
    heard = [Heard("moja mbili", "moja", "moja mbili", merged="moja mbili")]
    run, summary = toy_run(tmp_path / "toy", heard=heard)
    write_results(run, replace(summary, merged=None))
    before = read_metadata(run.adapter)
    write_results(run, replace(read_summary(run), merged=summary.merged))
    after = read_metadata(run.adapter)
    assert before is not None
    assert after is not None
    assert after["scores"].pop("merged")["wer"] == 0.0
    assert before["scores"].pop("merged") is None
    assert after == before


def test_a_run_without_test_set_and_a_stream(tmp_path: Path) -> None:
    run, summary = toy_run(tmp_path / "toy", heard=(), train_audio_seconds=0.0, utterances={})
    write_results(run, summary)
    record = read_metadata(run.adapter)
    assert record is not None
    assert record["scores"] is None
    assert record["data"]["hours"] is None
    assert record["data"]["hours_seen"] == 2.0


def test_an_older_run_is_dated_by_its_file(tmp_path: Path) -> None:
    run, summary = toy_run(tmp_path / "toy")
    os.utime(run.adapter / "adapter_model.safetensors", (0, 0))
    assert adapter_record(run, summary)["date"] == "1970-01-01"


def test_no_path_and_no_name_of_the_machine(tmp_path: Path) -> None:
    home = "/home/anna"
    given = [f"data.train={home}/speech/train.jsonl", f"model.checkpoint={home}/models/mine"]
    local = {"checkpoint": f"{home}/models/mine", "checkpoint_fingerprint": f"sha256:{'b' * 64}"}
    run, summary = toy_run(tmp_path / "toy", *given, **local)
    write_results(run, summary)
    record = read_metadata(run.adapter)
    assert record is not None
    assert record["base"]["name"] == "mine"
    assert record["base"]["sha256"] == "b" * 64
    assert "anna" not in (run.adapter / "lora_whisper.json").read_text()


def test_the_hash_of_the_weights_beside_the_commit(tmp_path: Path) -> None:
    run, summary = toy_run(tmp_path / "toy", checkpoint_sha256="d" * 64)
    base = adapter_record(run, summary)["base"]
    assert (base["commit"], base["sha256"]) == ("a" * 40, "d" * 64)
