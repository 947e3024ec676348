"""What a run trained is known by its summary, whatever was copied into its adapter's folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.errors import UserError
from lora_whisper.lora.provenance import is_trained_adapter, require_trained_adapter, trained_sha256
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.run_folder import MARKER, METADATA_FILE, RunFolder, write_json

OWN = hashlib.sha256(b"own").hexdigest()
SCORE = {"of": {"weights": {"adapter": OWN}}}


def run_of(folder: Path, summary: dict[str, Any], weights: bytes) -> RunFolder:
    run = RunFolder(folder)
    run.adapter.mkdir(parents=True)
    run.config.write_text(MARKER)
    write_json(run.summary, summary)
    (run.adapter / WEIGHTS_FILE).write_bytes(weights)
    return run


@pytest.mark.parametrize(
    "summary", [{"adapter_sha256": OWN, "adapter": None}, {"adapter": SCORE}], ids=str
)
def test_another_file_is_refused_and_both_are_named(
    summary: dict[str, Any], tmp_path: Path
) -> None:
    """The record does not count: it lies in the folder that is copied."""
    run = run_of(tmp_path / "own", summary, b"own")
    (run.adapter / METADATA_FILE).write_text("{}")
    assert trained_sha256(run) == OWN
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
    assert trained_sha256(run) is None
    require_trained_adapter(run)
    run.summary.write_text('{"ada')
    assert is_trained_adapter(run), "that is for others to say"
