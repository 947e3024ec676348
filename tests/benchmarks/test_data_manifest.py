"""The benchmark of opening a manifest runs, on as few rows as are kept on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import data_manifest
from lora_whisper.data.table import ROWS_ON_DISK


@pytest.mark.slow
def test_the_second_opening_is_the_faster_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_manifest, "HEADERS", 20)
    figures = data_manifest.measured(tmp_path, ROWS_ON_DISK)
    assert figures["second"]["seconds"] < figures["first"]["seconds"]
    assert figures["table_bytes"] > figures["manifest_bytes"]
    assert figures["first"]["peak_memory_bytes"] < 500e6
