"""What training looks like: three lines that move on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lora_whisper.terminal import PLAIN_LINES, clock, console, gigabytes, is_live, percent

PLAIN_SECONDS = 300.0  # between two reports, at most: a run of days is not to look stuck
FRAMES_PER_SECOND = 4


@dataclass(frozen=True)
class StepFigures:
    """A step as it is shown."""

    step: int
    epoch: float | None  # None of a stream
    loss: float | None  # per target token, over the last steps; None: none of them was finite
    wer: float | None  # of the last validation
    best_wer: float | None
    learning_rate: float
    audio_seconds_per_second: float  # over the last steps, validation left out
    memory_bytes: int  # the GPU's where there is one, else this process's
    skipped_steps: int

    def learning(self) -> list[str]:
        """What the run learns, a word or two for each figure."""
        wer = []
        if self.wer is not None:
            wer = [f"WER {percent(self.wer)}"]
            if self.best_wer is not None and self.best_wer != self.wer:
                wer[0] += f" (best {percent(self.best_wer)})"
        return [
            *([f"epoch {self.epoch:.2f}"] if self.epoch is not None else []),
            f"loss {self.loss:.3f}" if self.loss is not None else "loss not finite",
            *wer,
        ]

    def working(self) -> list[str]:
        """How it gets along."""
        return [
            f"rate {self.learning_rate:.1e}",
            f"{self.audio_seconds_per_second:.1f} audio s/s",
            f"memory {gigabytes(self.memory_bytes)}",
            *([f"{self.skipped_steps} steps skipped"] if self.skipped_steps else []),
        ]


class TrainingDisplay(Protocol):
    """Shows the figures of one step after another."""

    def update(self, figures: StepFigures) -> None: ...


@contextmanager
def training_display(total_steps: int, done: int = 0) -> Iterator[TrainingDisplay]:
    """Show a training run of which `done` steps lie behind: live on a terminal, else in lines."""
    progress = _Progress(total_steps, done)
    if not is_live():
        yield _PlainDisplay(progress)
        return
    display = _LiveDisplay(progress)
    with Live(display, console=console, transient=True, refresh_per_second=FRAMES_PER_SECOND):
        yield display


@dataclass
class _Progress:
    """How far a run is, and when it will be done if it goes on as since its first step here."""

    total_steps: int
    step: int
    started: float = field(default_factory=time.monotonic)
    _first: tuple[int, float] | None = None  # step and time; before it lies the wait for batches
    _left_seconds: float | None = None

    def reach(self, step: int) -> None:
        """Note that `step` has ended. Validations and checkpoints before it count: more come."""
        now, self.step = time.monotonic(), step
        if self._first is None:
            self._first = step, now
        elif step > self._first[0]:
            seconds_per_step = (now - self._first[1]) / (step - self._first[0])
            self._left_seconds = seconds_per_step * (self.total_steps - step)

    def left(self) -> str:
        return "…" if self._left_seconds is None else clock(self._left_seconds)


class _PlainDisplay:
    """About ten times two lines of 80 columns, and in long runs two every five minutes."""

    def __init__(self, progress: _Progress):
        self._progress = progress
        self._shown_share = self._share(progress.step)
        self._shown_at = time.monotonic()

    def _share(self, step: int) -> int:
        return step * PLAIN_LINES // max(1, self._progress.total_steps)

    def update(self, figures: StepFigures) -> None:
        self._progress.reach(figures.step)
        share, now = self._share(figures.step), time.monotonic()
        if share > self._shown_share or now - self._shown_at >= PLAIN_SECONDS:
            self._shown_share, self._shown_at = share, now
            step = f"step {figures.step}/{self._progress.total_steps}"
            lines = (
                [step, *figures.learning()],
                [*figures.working(), f"left {self._progress.left()}"],
            )
            for line, indent in zip(lines, ("", "  "), strict=True):
                console.print(indent + "  ".join(line), markup=False, soft_wrap=True)


class _LiveDisplay:
    """A bar with the time left, what the run learns, and how it gets along."""

    def __init__(self, progress: _Progress):
        self._progress = progress
        self._figures: StepFigures | None = None

    def update(self, figures: StepFigures) -> None:
        self._progress.reach(figures.step)
        self._figures = figures

    def __rich__(self) -> Group:
        """Drawn by rich's thread several times a second, between two updates as well."""
        progress = self._progress
        grid = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None, None):
            grid.add_column(ratio=ratio, no_wrap=True)
        grid.add_row(
            f"step {progress.step}/{progress.total_steps}",
            ProgressBar(total=progress.total_steps, completed=progress.step),
            clock(time.monotonic() - progress.started),
            f"left {progress.left()}",
        )
        lines: list[RenderableType] = [grid]
        if self._figures is not None:
            lines += [_spread(self._figures.learning()), _spread(self._figures.working())]
        return Group(*lines)


def _spread(figures: list[str]) -> Text:
    return Text("  ".join(figures), style="dim", no_wrap=True, overflow="ellipsis")
