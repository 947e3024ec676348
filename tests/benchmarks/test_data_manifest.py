"""The benchmark of opening a manifest runs, on as few rows as are kept on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import data_manifest
from lora_whisper.data.dataset import ROWS_ON_DISK


@pytest.mark.slow
def test_both_openings_have_one_table_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_manifest, "HEADERS", 20)
    figures = data_manifest.measured(tmp_path, ROWS_ON_DISK)
    assert len(list(tmp_path.glob("tables/*.arrow"))) == 1, "the second reads what the first wrote"
    assert figures["table_bytes"] > figures["manifest_bytes"]
    assert figures["first"]["peak_memory_bytes"] < 500e6
