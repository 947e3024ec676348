"""Merged folders that each program's tests export."""

from __future__ import annotations

import pytest

from tests.export.toy_merged import Merged, narrow_large_v3, tiny


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    return narrow_large_v3(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="session")
def genuine_tiny(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    return tiny(tmp_path_factory.mktemp("tiny"))
