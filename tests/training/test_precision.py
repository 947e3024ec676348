"""What auto is on a CPU, and that a run keeps it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from benchmarks.parts import train_config
from lora_whisper.config import TrainConfig
from lora_whisper.model import device
from lora_whisper.run_config import write_config
from lora_whisper.run_folder import RunFolder
from lora_whisper.training.precision import with_recorded_precision, with_tried_precision

WIDTH = 512


def asked(precision: str = "auto", **changes: object) -> TrainConfig:
    config = train_config()
    training = dataclasses.replace(config.training, precision=precision)
    return dataclasses.replace(config, training=training, **changes)  # type: ignore[arg-type]


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Widths that were tried; bf16 is faster from 512 on."""
    tried: list[int] = []

    def found(width: int) -> float:
        tried.append(width)
        return 2.0 if width >= WIDTH else 1.1

    monkeypatch.setattr(device, "bf16_gain", found)
    monkeypatch.setattr(device, "trains_on_cpu", lambda: True)
    return tried


def test_the_faster_one_is_taken_and_said(
    gain: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lora_whisper"):
        assert with_tried_precision(asked(), WIDTH).training.precision == "bf16"
        assert with_tried_precision(asked(), 384).training.precision == "fp32"
    assert [line.split(":")[0].split()[1] for line in caplog.messages] == ["bf16", "fp32"]


def test_nothing_is_tried_where_something_is_asked_for_or_the_model_is_narrow(
    gain: list[int],
) -> None:
    model = dataclasses.replace(asked().model, dtype="float16")
    quantization = dataclasses.replace(asked().quantization, kind="nf4")
    given = [asked("fp32"), asked("bf16"), asked(model=model), asked(quantization=quantization)]
    assert [with_tried_precision(one, WIDTH) for one in given] == given
    assert with_tried_precision(asked(), 160) == asked(), "the quickstart computes as it did"
    assert gain == []


@pytest.mark.parametrize("began", ["bf16", "fp32", "auto"])
def test_a_run_that_goes_on_keeps_what_it_began_with(began: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_config(folder, asked(began))
    assert with_recorded_precision(asked(), folder).training.precision == began
    assert with_recorded_precision(asked("bf16"), folder) == asked("bf16"), "and is compared"
    anew = asked(overwrite=True)
    assert with_recorded_precision(anew, folder) == anew


def test_it_is_tried_in_no_time() -> None:
    assert device.bf16_gain.__wrapped__(384) > 0
