"""How fast a toy decodes, timed without a trace."""

from __future__ import annotations

import pytest

from lora_whisper.evaluation import estimate
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.evaluation.estimate import Pace, measured_pace
from tests.evaluation.toy_decoder import make_toy


def test_each_part_takes_its_time() -> None:
    decoder = make_toy().decoder
    decoder.model.train()
    found = measured_pace(decoder, 4)
    assert found.window_seconds > 0
    assert found.token_seconds > 0
    assert decoder.model.training, "as it was"


def test_windows_and_tokens_add_up() -> None:
    assert Pace(2.0, 0.5).seconds(windows=3, tokens=10) == 11


@pytest.mark.parametrize(("threads", "rows"), [(1, 8), (2, 4)])
def test_threads_share_the_batch_and_the_time(
    threads: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that take a second each for a window need half of one for each of the two."""
    widths: list[int] = []

    def timed(action, _):  # type: ignore[no-untyped-def]
        value = action()
        if isinstance(value, list):
            widths.append(len(value[0]))
        return 1.0, value

    monkeypatch.setattr(estimate, "timed", timed)
    decoder: WhisperDecoder = make_toy().decoder
    decoder.threads = threads
    found = measured_pace(decoder, 16)
    assert widths == [rows] * threads
    assert found.window_seconds == pytest.approx(1 / threads)
    assert found.token_seconds == pytest.approx(1 / estimate.STEPS / rows / threads)
