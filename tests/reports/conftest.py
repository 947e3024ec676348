"""Commands that are tested by what they show have the fixtures of the commands' tests."""

from tests.cli.conftest import empty_plots, line, trained, world

__all__ = ["empty_plots", "line", "trained", "world"]
