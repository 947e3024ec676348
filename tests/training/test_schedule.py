"""The learning rate is a pure function of the step."""

from __future__ import annotations

import math

import pytest

from lora_whisper.run_config import is_open_ended
from lora_whisper.training.schedule import learning_rate
from tests.configs import optimizer_config


def rates(schedule: str, steps: int = 100, warmup_share: float = 0.1) -> list[float]:
    config = optimizer_config(schedule=schedule, warmup_share=warmup_share)
    return [learning_rate(step, steps, 2.0, config) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_steps_to_the_peak(schedule: str) -> None:
    found = rates(schedule)
    assert found[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert max(found) == pytest.approx(2.0)


def test_what_follows_the_warm_up() -> None:
    assert set(rates("constant")[10:]) == {2.0}
    linear = rates("linear")[10:]
    assert linear == pytest.approx([2.0 * (1 - step / 90) for step in range(90)])
    cosine = rates("cosine")[10:]
    assert cosine[45] == pytest.approx(1.0)
    assert cosine == pytest.approx([1 + math.cos(math.pi * step / 90) for step in range(90)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup_share", [0.0, 1.0])
def test_no_step_has_no_rate_at_all(schedule: str, warmup_share: float) -> None:
    assert min(rates(schedule, 7, warmup_share)) > 0


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_in_steps_goes_before_its_share(schedule: str) -> None:
    config = optimizer_config(schedule=schedule, warmup_share=0.5, warmup_steps=4)
    found = [learning_rate(step, 100, 2.0, config) for step in range(6)]
    assert found[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup_steps", [None, 0, 7])
@pytest.mark.parametrize("warmup_share", [0.0, 0.1])
def test_open_ended_is_what_does_not_depend_on_the_number_of_steps(
    schedule: str, warmup_steps: int | None, warmup_share: float
) -> None:
    """`is_open_ended` says what the schedule does: asked of the schedule itself."""
    config = optimizer_config(
        schedule=schedule, warmup_steps=warmup_steps, warmup_share=warmup_share
    )
    shorter, longer = (
        [learning_rate(step, total, 2.0, config) for step in range(40)] for total in (40, 90)
    )
    assert is_open_ended(config) == (shorter == longer)
