"""The benchmark of merging runs, at toy size; what it measures is not looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.merging import copied, merge_here, write_adapter
from lora_whisper.lora.saved import read_saved
from tests.toys import toy_checkpoint


def test_every_linear_layer_is_merged_and_a_copy_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = toy_checkpoint(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base)
    assert len(read_saved(tmp_path / "adapter").ranks) == 2 * 6 + 2 * 10
    assert merge_here(tmp_path) > 0
    sizes = [path.stat().st_size for path in tmp_path.glob("outputs/merged/merged/*.safetensors")]
    assert 0 < sum(sizes) < (base / "model.safetensors").stat().st_size, "in half of the bytes"
    assert copied(base, tmp_path / "copy") > 0
    assert not (tmp_path / "copy").exists()
