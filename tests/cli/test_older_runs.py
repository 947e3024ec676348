"""Runs that were written before the package got its present structure (November 2026) still count.

`tests/older_runs` has two of nano on the embedded speech, whose places are names and no paths: one
that is complete, and one that was stopped after the first of two steps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from lora_whisper.cli import adapters
from lora_whisper.evaluation.run_summary import read_summary, scored_utterances_of
from lora_whisper.lora.provenance import is_trained_adapter, provenance_of, read_metadata
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RunFolder
from tests.cli.conftest import Line

OLDER = Path(__file__).parents[1] / "older_runs"
STOPPED = [  # the line that began it
    *("experiment=quickstart", "name=open", "training.max_steps=2", "training.global_batch=2"),
    *("training.validate_every_steps=null", "training.checkpoint_every_steps=1"),
    *("adapter.rank=1", "adapter.targets=attention-qv", "data.test=null", "data.validation=null"),
]


@pytest.fixture
def outputs(line: Line, tmp_path: Path) -> Path:
    """A copy of the runs, below the current folder."""
    shutil.copytree(OLDER, tmp_path / "outputs")
    return tmp_path / "outputs"


def test_its_scores_record_and_base_are_known(outputs: Path) -> None:
    run = RunFolder(outputs / "done")
    written = json.loads(run.summary.read_text())
    summary = read_summary(run)
    for model in ("base", "adapter"):
        score = summary.scores[model]
        assert score is not None
        assert score.wer == written[model]["wer"]
        assert len(scored_utterances_of(run, model, score)) == score.utterances == 100
    assert read_config(run).adapter.rank == 1
    assert is_trained_adapter(run)
    record = read_metadata(run.adapter)
    assert record is not None
    assert record["scores"]["adapter"]["wer"] == written["adapter"]["wer"]
    assert provenance_of(run.adapter).sha256 == written["adapter"]["of"]["weights"]["checkpoint"]


def test_it_is_listed_and_reported(
    outputs: Path, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapters.main(["outputs"]) == 0
    assert "102.9 → 101.4 %" in capsys.readouterr().out
    assert line("report", "outputs") == 0
    assert "101.4 %" in (outputs / "report.md").read_text()


def test_it_is_exported(outputs: Path, line: Line) -> None:
    assert line("export", "run=outputs/done", "format=adapter", "parity.utterances=2") == 0
    exported = load_file(outputs / "done/export/adapter/adapter_model.safetensors")
    trained = load_file(outputs / "done/adapter/adapter_model.safetensors")
    assert exported.keys() == trained.keys()


def test_it_goes_on_from_its_checkpoint(
    outputs: Path, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("train", *STOPPED, "resume=auto") == 0
    lines = map(json.loads, (outputs / "open/metrics.jsonl").read_text().splitlines())
    assert [one["step"] for one in lines] == [1, 2]
    assert read_summary(RunFolder(outputs / "open")).steps == 2
    assert (outputs / "open/adapter/adapter_model.safetensors").is_file()
