"""How long it takes on this machine to decode speech, told before it is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lora_whisper import processes
from lora_whisper.data.corpus import sample
from lora_whisper.data.dataset import Utterances, written_language
from lora_whisper.evaluation.decoding.greedy import GreedySearch, Rows
from lora_whisper.evaluation.decoding.transcribe import side_by_side
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.model.base import Base
from lora_whisper.model.device import timed
from lora_whisper.model.tokenizer import text_tokens

SAMPLE_UTTERANCES = 100  # that texts are measured on, and that are advised to be scored
PROMPT_TOKENS, STEPS = 4, 4  # of the batch that is timed, the steps together
# A batch is filled again when all of its rows are done, which leave it one after another.
SHARE_BUSY = 0.5


# ── the pace on this machine: timed on silence, in less time than a clip takes ───────────────


@dataclass(frozen=True)
class Pace:
    """How long all threads together take, on the mean."""

    window_seconds: float  # encoder, its keys and values in the decoder, and the first token
    token_seconds: float  # each one after it

    def seconds(self, windows: float, tokens: float) -> float:
        """Of so many windows, whose texts have so many tokens in all."""
        return windows * self.window_seconds + tokens * self.token_seconds


def pace_of_all(decoder: WhisperDecoder, batch_size: int) -> Pace:
    """Of all processes at once, as slow as the slowest."""
    paces = processes.gather([measured_pace(decoder, batch_size)])
    slowest = (max(getattr(pace, name) for pace in paces) for name in vars(paces[0]))
    return Pace(*(seconds / len(paces) for seconds in slowest))


def measured_pace(decoder: WhisperDecoder, batch_size: int) -> Pace:
    """Encode a window, and decode some tokens in a batch as it is on the mean.

    Threads that decode side by side are timed side by side, since they share the processor.
    """
    threads = min(decoder.threads, batch_size)
    rows = max(1, round(SHARE_BUSY * batch_size / threads))

    def in_thread(_: Sequence[int]) -> list[Pace]:
        return [_pace(decoder, rows)]

    with decoder.inference():
        paces = list(side_by_side(threads, in_thread, range(threads)))
    return Pace(
        sum(pace.window_seconds for pace in paces) / threads**2,
        sum(pace.token_seconds for pace in paces) / threads**2,
    )


def _pace(decoder: WhisperDecoder, rows: int) -> Pace:
    """Of one thread. A CPU encodes one window after another, a GPU all of a batch at once."""
    device = decoder.device
    at_once = 1 if device.type == "cpu" else rows
    silence = torch.zeros(at_once, decoder.features.window_samples, device=device)
    sot = decoder.special_tokens.sot

    def begun() -> GreedySearch:
        batch = Rows(
            decoder.encode(list(decoder.features(silence))),
            torch.full((at_once, PROMPT_TOKENS), sot, device=device),
            torch.full((at_once,), STEPS, device=device),
        )
        search = GreedySearch(decoder.base, decoder.special_tokens, batch, rules=[])
        search.forward()
        return search

    window_seconds, search = timed(begun, device)
    search.in_step.repeat(rows // at_once)
    search.tokens = search.tokens.repeat_interleave(rows // at_once, 0)
    steps_seconds, _ = timed(lambda: [search.forward() for _ in range(STEPS)], device)
    return Pace(window_seconds / at_once, steps_seconds / STEPS / rows)


# ── what there is to decode ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Texts:
    """How long they are, in tokens."""

    mean: float
    longest: int


def decoding_seconds(utterances: Utterances, base: Base, beams: int, pace: Pace) -> float:
    """Of texts as long as those that they should be; a base that repeats itself takes longer."""
    tokens = len(utterances) * (1 + texts_of(utterances, base).mean)
    return pace.seconds(windows_of(utterances, base), beams * tokens)


def windows_of(utterances: Utterances, base: Base) -> int:
    """That they are decoded in."""
    return int(np.ceil(utterances.durations_seconds / base.window_seconds).clip(min=1).sum())


def texts_of(utterances: Utterances, base: Base) -> Texts:
    """Of a sample, which is the same in every process."""
    tokenizer, special_tokens = base.processor.tokenizer, base.special_tokens
    lengths = [
        len(text_tokens(tokenizer, utterance.text, written_language(special_tokens, utterance)))
        for utterance in sample(utterances, SAMPLE_UTTERANCES, seed=0)
    ]
    return Texts(float(np.mean(lengths)), max(lengths))
