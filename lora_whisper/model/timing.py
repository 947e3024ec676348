"""How long a piece of work takes on this machine, tried before there is much of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Value = TypeVar("Value")
LONG_SECONDS = 1.0  # what takes longer is not done a second time only to be timed


def timed(action: Callable[[], Value], device: torch.device) -> tuple[float, Value]:
    """Seconds that `action` takes, of two goes the faster, and what it returned last.

    The first one pays for what is only done once: kernels are chosen, memory is mapped.
    """
    seconds, value = _once(action, device)
    if seconds < LONG_SECONDS:
        again, value = _once(action, device)
        seconds = min(seconds, again)
    return seconds, value


def _once(action: Callable[[], Value], device: torch.device) -> tuple[float, Value]:
    _wait_for(device)
    started = time.perf_counter()
    value = action()
    _wait_for(device)
    return time.perf_counter() - started, value


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
