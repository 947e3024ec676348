"""What several tests of the data share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_whisper.data.sources import hub


@pytest.fixture
def cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty folder for what `datasets` and our tables keep, and nothing remembered of others."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(folder))
    yield folder
    hub._builder.cache_clear()
    hub._split_names.cache_clear()
