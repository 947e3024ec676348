"""How fast a model decodes on this machine: timed on silence, in less time than a clip takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lora_whisper.evaluation.greedy import GreedySearch, Rows
from lora_whisper.evaluation.side_by_side import side_by_side
from lora_whisper.evaluation.whisper_recognizer import WhisperRecognizer
from lora_whisper.model.timing import timed

PROMPT_TOKENS, STEPS = 4, 4  # the steps are timed together
# A batch is filled again when all of its rows are done, which leave it one after another.
SHARE_BUSY = 0.5


@dataclass(frozen=True)
class Pace:
    """How long all threads together take, on the mean."""

    window_seconds: float  # encoder, its keys and values in the decoder, and the first token
    token_seconds: float  # each one after it

    def seconds(self, windows: float, tokens: float) -> float:
        """Of so many windows, whose texts have so many tokens in all."""
        return windows * self.window_seconds + tokens * self.token_seconds


def measured_pace(recognizer: WhisperRecognizer, batch_size: int) -> Pace:
    """Encode a window, and decode some tokens in a batch as it is on the mean.

    Threads that hear side by side are timed side by side, since they share the processor.
    """
    threads = min(recognizer.threads, batch_size)
    rows = max(1, round(SHARE_BUSY * batch_size / threads))

    def in_thread(_: Sequence[int]) -> Iterator[Pace]:
        yield _pace(recognizer, rows)

    with recognizer.listening():
        paces = list(side_by_side(threads, in_thread, range(threads)))
    return Pace(
        sum(pace.window_seconds for pace in paces) / threads**2,
        sum(pace.token_seconds for pace in paces) / threads**2,
    )


def _pace(recognizer: WhisperRecognizer, rows: int) -> Pace:
    """Of one thread. A CPU encodes one window after another, a GPU all of a batch at once."""
    device = recognizer.device
    at_once = 1 if device.type == "cpu" else rows
    silence = torch.zeros(at_once, recognizer.features.window_samples, device=device)

    def begun() -> GreedySearch:
        search = _search(recognizer, silence)
        search.forward()
        return search

    window_seconds, search = timed(begun, device)
    search.cache.batch_repeat_interleave(rows // at_once)
    search.tokens = search.tokens.repeat_interleave(rows // at_once, 0)
    steps_seconds, _ = timed(lambda: [search.forward() for _ in range(STEPS)], device)
    return Pace(window_seconds / at_once, steps_seconds / STEPS / rows)


def _search(recognizer: WhisperRecognizer, silence: torch.Tensor) -> GreedySearch:
    count, device = len(silence), silence.device
    sot = recognizer.vocabulary.sot
    rows = Rows(
        recognizer.encode(list(recognizer.features(silence))),
        torch.full((count, PROMPT_TOKENS), sot, device=device),
        torch.full((count,), STEPS, device=device),
    )
    return GreedySearch(recognizer.base, recognizer.vocabulary, rows, rules=[])
