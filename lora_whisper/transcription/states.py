"""How far the transcription of a recording is: evaluation's decoding, with what it leaves out.

Its prompt may begin with words that are given; its language may be unknown until it is heard; its
segments keep their tokens, by which words are found in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from lora_whisper.config import Padding
from lora_whisper.evaluation.decoding.decoder import DecodingResult, DecodingTask
from lora_whisper.evaluation.decoding.long_form import (
    FRAMES_PER_SECOND,
    Clip,
    DecodingState,
    Recording,
    Windows,
    opened,
)
from lora_whisper.evaluation.decoding.long_form import Segment as FoundSegment
from lora_whisper.model.published import HOP_SAMPLES, SAMPLING_RATE
from lora_whisper.transcription.backends import Backend
from lora_whisper.transcription.results import Segment
from lora_whisper.transcription.word_times import within, words_of


@dataclass(frozen=True)
class Asking:
    """What is asked of every window."""

    task: str  # transcribe or translate
    prefix: tuple[int, ...]  # tokens of the words that are given before each text
    timestamps: bool  # of recordings that fit into a window
    previous_text: bool
    fallback: bool
    words: bool  # whether their times are found
    padding: Padding


class TranscriptionState(DecodingState, Protocol):
    """The decoding of a recording, or of one stretch of speech in it."""

    language: str | None
    finished: list[Segment]  # with seconds from its beginning

    @property
    def first_window(self) -> Tensor: ...

    @property
    def done_seconds(self) -> float: ...

    def speak(self, language: str | None) -> None:
        """Say which language is spoken; before anything is decoded."""
        ...


class ClipState(Clip):
    """A recording, or a stretch of speech, that fits into a window.

    Without fallback, which sees to endless loops, it has what the model says up to the decoder's
    last position, as Transformers' pipeline does; evaluation cuts loops short.
    """

    def __init__(self, backend: Backend, samples: Tensor, asking: Asking, seed: tuple[int, ...]):
        super().__init__(backend, samples, (), asking.fallback, seed, asking.padding)
        self.backend, self.asking = backend, asking
        self.language: str | None = None
        self.finished: list[Segment] = []

    @property
    def first_window(self) -> Tensor:
        return self.features

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLING_RATE

    @property
    def done_seconds(self) -> float:
        return self.seconds if self.is_done else 0.0

    def speak(self, language: str | None) -> None:
        self.language, special_tokens = language, self.backend.special_tokens
        start = special_tokens.start(language, self.asking.task, self.asking.timestamps)
        self.prompt = (*opened(special_tokens, self.asking.prefix), *start)

    def task(self) -> DecodingTask:
        task = super().task()
        if self.asking.fallback:
            return task
        room = self.backend.special_tokens.max_tokens - len(self.prompt)
        return replace(task, most_tokens=room)

    def take(self, result: DecodingResult) -> None:
        super().take(result)
        frames = math.ceil(self.samples / HOP_SAMPLES)
        self.finished = _finished(self, self.spoken(), result, self.features, 0, frames)


class RecordingState(Recording):
    """A recording longer than a window."""

    def __init__(self, backend: Backend, windows: Windows, asking: Asking, seed: tuple[int, ...]):
        super().__init__(backend, windows, (), asking.previous_text, seed, asking.prefix)
        self.backend, self.asking = backend, asking
        self.language: str | None = None
        self.finished: list[Segment] = []

    @property
    def first_window(self) -> Tensor:
        return self.windows.window(0)

    @property
    def done_seconds(self) -> float:
        return min(self.seek_frames, self.frames) / FRAMES_PER_SECOND

    def speak(self, language: str | None) -> None:
        self.language = language
        start = self.backend.special_tokens.start(language, self.asking.task, timestamps=True)
        self.start = tuple(start)

    def take(self, result: DecodingResult) -> None:
        first, known = self.seek_frames, len(self.found)
        window, frames = self.windows.window(first), self._frames_here()
        super().take(result)
        new = list(zip(self.found[known:], self.pieces[known:], strict=True))
        self.finished += _finished(self, new, result, window, first, frames)


def _finished(
    state: ClipState | RecordingState,
    spoken: Sequence[tuple[FoundSegment, Sequence[int]]],
    result: DecodingResult,
    window: Tensor,
    first_frame: int,
    frames: int,
) -> list[Segment]:
    """A window's segments, with their words where those are asked for.

    A model may name times behind the recording's end, where there is nothing.
    """
    latest = round((first_frame + frames) / FRAMES_PER_SECOND, 2)
    segments = [
        Segment(
            min(one.start_seconds, latest),
            min(one.end_seconds, latest),
            one.text,
            (),
            result.mean_log_probability,
            result.no_speech_probability,
            result.temperature,
        )
        for one, _ in spoken
    ]
    if not (segments and state.asking.words):
        return segments
    backend, eot = state.backend, state.backend.special_tokens.eot
    texts = [[token for token in piece if token < eot] for _, piece in spoken]
    start = backend.special_tokens.start(state.language, state.asking.task)
    alignment = backend.align(window, frames, start, [one for text in texts for one in text])
    offset = first_frame / FRAMES_PER_SECOND
    words = words_of(backend.tokenizer, alignment, texts, state.language, offset)
    return [
        replace(one, words=within(own, one.start_seconds, one.end_seconds))
        for one, own in zip(segments, words, strict=True)
    ]
