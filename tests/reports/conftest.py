"""Commands that are tested by what they show have the fixtures of the commands' tests."""

from collections.abc import Iterator

import pytest

from tests.cli.conftest import empty_plots, line, trained, world
from tests.reports.toy_sweep import MADE

__all__ = ["empty_plots", "line", "trained", "world"]


@pytest.fixture(autouse=True, scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the runs of toy sweeps are made."""
    MADE.append(tmp_path_factory.mktemp("made"))
    yield
    MADE.clear()
