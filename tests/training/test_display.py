"""What training looks like, on a terminal of 80 columns and without one."""

from __future__ import annotations

import dataclasses
import io
import itertools

import pytest
from rich.console import Console

from lora_whisper import terminal
from lora_whisper.training import display
from lora_whisper.training.display import StepFigures, training_display

FIGURES = StepFigures(
    step=1200,
    epoch=12.5,
    loss=1.2345,
    wer=0.234,
    best_wer=0.221,
    learning_rate=3e-4,
    audio_seconds_per_second=1234.56,
    memory_bytes=10_350_000_000,
    skipped_steps=2,
)
SHOWN = [
    "epoch 12.50",
    "loss 1.23",
    "WER 23.4 % (best 22.1 %)",
    "rate 3.0e-04",
    "1234.6 audio s/s",
    "memory 10.3 GB",
    "2 steps skipped",
]


def fake_console(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> io.StringIO:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    written = io.StringIO()
    console = Console(file=written, force_terminal=is_terminal, width=80, highlight=False)
    for module in (terminal, display):
        monkeypatch.setattr(module, "console", console)
    return written


def at(step: int) -> StepFigures:
    return dataclasses.replace(FIGURES, step=step)


def test_three_lines_move_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_console(monkeypatch, is_terminal=True)
    with training_display(15000, 1199) as shown:
        shown.update(at(1200))
        screen = Console(width=80, file=io.StringIO(), record=True)
        screen.print(shown)
        lines = screen.export_text().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("step 1200/15000")
    assert "left" in lines[0]
    for part in SHOWN:
        assert part in "\n".join(lines)


def test_a_bar_of_other_work_may_move_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation draws its own while training's stands."""
    written = fake_console(monkeypatch, is_terminal=True)
    with training_display(10) as shown:
        shown.update(at(5))
        with terminal.work("validating", 4) as work:
            work.update(2)
        shown.update(at(6))
    assert "validating" in written.getvalue()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_plain_lines_without_a_terminal_and_in_ci(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    written = fake_console(monkeypatch, is_terminal)
    if is_terminal:
        monkeypatch.setenv("CI", "true")
    with training_display(1000) as shown:
        for step in range(1, 1001):
            shown.update(at(step))
    lines = written.getvalue().splitlines()
    assert len(lines) == 20
    assert max(map(len, lines)) <= 80
    assert lines[-2].startswith("step 1000/1000  ")
    for part in SHOWN:
        assert part in "".join(lines[-2:])
    assert "\x1b" not in written.getvalue()


def test_a_run_of_days_writes_a_plain_line_every_five_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = fake_console(monkeypatch, is_terminal=False)
    minutes = itertools.count()
    monkeypatch.setattr(display.time, "monotonic", lambda: next(minutes) * 60.0)
    with training_display(10**9) as shown:
        for step in range(1, 31):
            shown.update(at(step))
    assert 5 <= written.getvalue().count("step") - written.getvalue().count("skipped") <= 15


def test_time_left_is_that_of_the_steps_still_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds a step, of which 90 are left; the start before the first step does not count."""
    now = 1000.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    progress = display._Progress(total_steps=100, step=5)
    now = 2000.0
    progress.reach(6)
    assert progress.left() == "…"
    for step in (7, 8, 9, 10):
        now += 10.0
        progress.reach(step)
    assert progress.left() == "15:00"
    now += 500.0
    assert progress.left() == "15:00", "stands still while a validation goes on"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"wer": None, "best_wer": None}, "epoch 12.50  loss 1.234"),
        ({"best_wer": 0.234}, "epoch 12.50  loss 1.234  WER 23.4 %"),
        ({"epoch": None, "loss": None, "wer": None}, "loss not finite"),
    ],
)
def test_what_is_not_known_is_left_out(changes: dict[str, float | None], expected: str) -> None:
    assert "  ".join(dataclasses.replace(FIGURES, **changes).learning()) == expected  # type: ignore[arg-type]
