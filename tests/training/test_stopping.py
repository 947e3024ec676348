"""Signals to a loop: the first is noted, its echo is no second one, and a second is in haste."""

import os
import signal

import pytest

from lora_whisper.training import stopping
from lora_whisper.training.stopping import StopRequest


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    """As under torchrun, when a batch system ends all processes of a job."""
    with StopRequest() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.stopped("now").exit_code == 143


def test_who_types_ctrl_c_again_means_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "ONE_SIGNAL_SECONDS", 0.0)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="at once"):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
