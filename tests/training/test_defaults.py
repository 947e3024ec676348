"""Defaults that follow the model and the corpus."""

from __future__ import annotations

import pytest

from lora_whisper.data.loader import WindowKind, shares
from lora_whisper.training.defaults import (
    HIGHEST_RATE,
    learning_rate_for_width,
    total_steps,
    validate_every,
)
from tests.configs import data_config


@pytest.mark.parametrize(
    ("width", "published"),
    [(384, 1.5e-3), (512, 1e-3), (768, 5e-4), (1024, 2.5e-4), (1280, 1.75e-4)],
)
def test_the_default_is_near_whispers_own_rates(width: int, published: float) -> None:
    """Radford et al. 2022, appendix F."""
    assert learning_rate_for_width(width) == pytest.approx(published, rel=0.15)


def test_small_models_do_not_get_any_rate() -> None:
    assert learning_rate_for_width(64) == learning_rate_for_width(128) == HIGHEST_RATE


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(2, None, 14), (None, 5, 5), (2, 5, 5), (2, 50, 14), (0.1, None, 1), (0.5, None, 4)],
)
def test_the_smaller_limit_counts(epochs: float | None, steps: int | None, expected: int) -> None:
    assert total_steps(7, epochs, steps) == expected


@pytest.mark.parametrize(("in_epoch", "expected"), [(1, 50), (6, 50), (7, 56), (200, 1600)])
def test_without_a_limit_tiny_corpora_get_steps_enough(in_epoch: int, expected: int) -> None:
    assert total_steps(in_epoch, None, None) == expected


@pytest.mark.parametrize(("steps", "expected"), [(20, 25), (150, 25), (1000, 100), (1001, 101)])
def test_ten_validations_but_not_more_than_one_in_25_steps(steps: int, expected: int) -> None:
    assert validate_every(steps, None) == expected
    assert validate_every(steps, 3) == 3


@pytest.mark.parametrize(
    ("given", "windows", "expected"),
    [(None, "packed", 0.02), (None, "padded", 0.05), (0.0, "padded", 0.0), (0.5, "packed", 0.5)],
)
def test_a_share_that_is_given_goes_first(
    given: float | None, windows: str, expected: float
) -> None:
    config = data_config("manifest", no_speech_share=given, windows=windows)
    assert shares(config, WindowKind(windows)).no_speech == expected
