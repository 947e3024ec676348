"""From an utterance of any length to windows, and from their tokens to its text.

What fits into a window is one. Longer recordings go through it by Whisper's sequential algorithm
(openai/whisper, `transcribe`; Radford et al. 2022, section 4.5): timestamps are decoded, and the
next window begins where the last finished segment ended. There it is written as one loop; here each
recording is an object that knows where it is, so that several can be decoded together.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from lora_whisper.config import Padding
from lora_whisper.data.words import before_text
from lora_whisper.evaluation.decoding.decoder import (
    Decoder,
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    text_of,
)
from lora_whisper.model.features import LogMel, content_frames
from lora_whisper.model.published import HOP_SAMPLES, SAMPLING_RATE, SECONDS_PER_TIMESTAMP
from lora_whisper.model.tokenizer import SpecialTokens

# A hypothesis may have 20 tokens and 50 more a second. Read Swahili has 6 a second at most; fast
# speech in scripts that Whisper's vocabulary spells byte by byte (Burmese, Amharic, Georgian: three
# tokens a letter) stays below 50. So it only ends hallucinations, of short clips above all.
FREE_TOKENS = 20
TOKENS_PER_SECOND = 50
FRAMES_PER_SECOND = SAMPLING_RATE // HOP_SAMPLES
FRAMES_PER_TIMESTAMP = round(SECONDS_PER_TIMESTAMP * FRAMES_PER_SECOND)
HIGHEST_PROMPT_TEMPERATURE = 0.5  # what was drawn at a higher one is nobody's prompt


@dataclass(frozen=True)
class Segment:
    """A piece of a text, and where in its recording it is spoken."""

    start_seconds: float
    end_seconds: float
    text: str


class DecodingState(Protocol):
    """How far the decoding of an utterance is."""

    @property
    def is_done(self) -> bool: ...

    @property
    def needs_probabilities(self) -> bool:
        """Whether it has to know the probabilities of its tokens."""
        ...

    def task(self) -> DecodingTask:
        """The window to decode next."""
        ...

    def take(self, result: DecodingResult) -> None:
        """Note its tokens."""
        ...

    def text(self) -> str: ...

    def segments(self) -> tuple[Segment, ...]:
        """Empty where no timestamps were decoded."""
        ...


class Clip:
    """An utterance that fits into a window."""

    def __init__(
        self,
        decoder: Decoder,
        samples: Tensor,
        prompt: Sequence[int],
        needs_probabilities: bool,
        seed: tuple[int, ...],
        padding: Padding,
        most_letters: float = math.inf,
    ):
        """`samples`: (samples,) float32 at 16 kHz, no more than a window's.

        With `needs_probabilities`, what seems to be silence has no text.
        """
        self.most_letters = most_letters
        self.decoder, self.prompt, self.seed = decoder, tuple(prompt), seed
        self.needs_probabilities = needs_probabilities
        self.samples = len(samples)
        self.features = decoder.features.clip(samples, padding)
        self.tokens: tuple[int, ...] = ()
        self.is_done = False

    def task(self) -> DecodingTask:
        most = token_limit(self.decoder.special_tokens, self.samples, len(self.prompt))
        return DecodingTask(self.features, self.prompt, most, self.seed, self.most_letters)

    def take(self, result: DecodingResult) -> None:
        self.tokens = () if self.needs_probabilities and is_silence(result) else result.tokens
        self.is_done = True

    def text(self) -> str:
        return text_of(self.decoder, self.tokens)

    def segments(self) -> tuple[Segment, ...]:
        """Its finished segments, and what follows them up to the clip's end."""
        if self.prompt[-1] == self.decoder.special_tokens.no_timestamps:
            return ()
        return tuple(segment for segment, _ in self.spoken())

    def spoken(self) -> list[tuple[Segment, list[int]]]:
        """Segments that have text, with their tokens; without timestamps, one of all of it."""
        pieces, rest = split_at_timestamps(self.tokens, self.decoder.special_tokens.timestamp_begin)
        pieces += [rest] if rest else []
        seconds = self.samples / SAMPLING_RATE
        found = [(_segment(self.decoder, piece, 0.0, seconds), piece) for piece in pieces]
        return [(segment, piece) for segment, piece in found if segment.text]


class Windows(Protocol):
    """The log-mel of a recording, wherever it is kept."""

    frames: int  # of the recording, without what is behind it

    def window(self, first_frame: int) -> Tensor:
        """(mel bins, frames of a window), padded behind the recording's end."""
        ...


class HeldWindows:
    """A recording in memory."""

    def __init__(self, features: LogMel, samples: Tensor, padding: Padding):
        """`samples`: (samples,) float32 at 16 kHz."""
        self.mel, self.frames = features.recording(samples, padding), content_frames(len(samples))
        self.window_frames = features.window_samples // HOP_SAMPLES

    def window(self, first_frame: int) -> Tensor:
        return self.mel[:, first_frame : first_frame + self.window_frames]


class Recording:
    """A recording longer than a window, on the way from its beginning to its end."""

    needs_probabilities = True

    def __init__(
        self,
        decoder: Decoder,
        windows: Windows,
        start: Sequence[int],
        previous_text: bool,
        seed: tuple[int, ...],
        words: Sequence[int] = (),
    ):
        """
        Args:
            start: what the decoder is given before the first timestamp.
            words: tokens that are given before each window's text.
        """
        self.decoder, self.start, self.seed = decoder, tuple(start), seed
        self.words = tuple(words)
        self.previous_text = previous_text
        self.windows, self.frames = windows, windows.frames
        self.window_frames = decoder.features.window_samples // HOP_SAMPLES
        self.seek_frames = 0  # where the next window begins
        self.tokens: list[int] = []  # of all segments, with their timestamps
        self.prompt_since = 0  # the first of them that may be in a prompt
        self.found: list[Segment] = []
        self.pieces: list[list[int]] = []  # tokens of each segment

    @property
    def is_done(self) -> bool:
        return self.seek_frames >= self.frames

    def task(self) -> DecodingTask:
        # Where sound is padded, the tail is followed by silence. openai/whisper did so from March
        # 2023 on (#1052, against hallucinations); #1838 left its mel-frames at 0 instead.
        window = self.windows.window(self.seek_frames)
        prompt = (*self._prompt(), *self.start)
        samples = self._frames_here() * HOP_SAMPLES
        most = token_limit(self.decoder.special_tokens, samples, len(prompt))
        return DecodingTask(window, prompt, most, (*self.seed, self.seek_frames))

    def take(self, result: DecodingResult) -> None:
        """Add its segments that have text and take time; go to where the last finished one ends."""
        if is_silence(result):
            self.seek_frames += self._frames_here()
            return
        begin = self.decoder.special_tokens.timestamp_begin
        pieces, rest = split_at_timestamps(result.tokens, begin)
        offset = self.seek_frames / FRAMES_PER_SECOND
        end = offset + self._frames_here() / FRAMES_PER_SECOND
        for piece in pieces or [list(result.tokens)]:
            segment = _segment(self.decoder, piece, offset, end)
            if segment.text and segment.start_seconds < segment.end_seconds:
                self.found.append(segment)
                self.pieces.append(piece)
                self.tokens += piece
        if not self.previous_text or result.temperature > HIGHEST_PROMPT_TEMPERATURE:
            self.prompt_since = len(self.tokens)
        finished = (pieces[-1][-1] - begin) * FRAMES_PER_TIMESTAMP if pieces and rest else 0
        self.seek_frames += finished or self._frames_here()

    def text(self) -> str:
        return text_of(self.decoder, self.tokens)

    def segments(self) -> tuple[Segment, ...]:
        return tuple(self.found)

    def _frames_here(self) -> int:
        """Frames of the recording in this window."""
        return min(self.window_frames, self.frames - self.seek_frames)

    def _prompt(self) -> list[int]:
        """Half of what the decoder has room for, at most."""
        special_tokens = self.decoder.special_tokens
        previous = self.tokens[self.prompt_since :]
        prompt = before_text(self.words, previous, special_tokens.prompt_tokens)
        return opened(special_tokens, prompt)


def opened(special_tokens: SpecialTokens, prompt: Sequence[int]) -> list[int]:
    """A prompt as it stands before <|startoftranscript|>."""
    return [special_tokens.previous, *prompt] if prompt else []


def token_limit(special_tokens: SpecialTokens, samples: int, prompt_tokens: int) -> int:
    """Tokens that audio of this length may have after a prompt; eot comes after them."""
    room = special_tokens.max_tokens - prompt_tokens - 1
    spoken = math.ceil(TOKENS_PER_SECOND * samples / SAMPLING_RATE)
    return min(FREE_TOKENS + spoken, room)


def split_at_timestamps(
    tokens: Sequence[int], timestamp_begin: int
) -> tuple[list[list[int]], list[int]]:
    """Cut between two timestamps in a row: finished pieces, and the rest that has no end yet.

    A single timestamp at the very end finishes its piece where there is one before, and says that
    nothing is spoken after it; without any two in a row, all is rest.
    """
    is_time = [token >= timestamp_begin for token in tokens]
    cuts = [index for index in range(1, len(tokens)) if is_time[index - 1] and is_time[index]]
    if cuts and is_time[-2:] == [False, True]:
        cuts.append(len(tokens))
    pieces = [list(tokens[start:end]) for start, end in zip([0, *cuts], cuts, strict=False)]
    return pieces, list(tokens[cuts[-1] :] if cuts else tokens)


def _segment(
    decoder: Decoder, piece: Sequence[int], offset_seconds: float, window_end_seconds: float
) -> Segment:
    """A piece with its times; one without an end lasts to the end of its audio."""
    begin = decoder.special_tokens.timestamp_begin
    times = [
        offset_seconds + (one - begin) * SECONDS_PER_TIMESTAMP for one in piece if one >= begin
    ]
    is_open = len(times) < 2
    start = times[0] if times else offset_seconds
    end = window_end_seconds if is_open else times[-1]
    return Segment(round(start, 2), round(end, 2), text_of(decoder, piece))


# ── temperature fallback: what a model seems to have failed on is decoded again, by drawing ──
#
# Radford et al. 2022, section 4.5, and openai/whisper's `transcribe`, whose thresholds these are.

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # after 0
LARGEST_COMPRESSION_RATIO = 2.4  # a text that compresses better repeats itself
LOWEST_LOG_PROBABILITY = -1.0  # mean of a token's
SILENCE_PROBABILITY = 0.6  # of <|nospeech|>


def decode_with_fallback(
    decoder: Decoder, tasks: Sequence[DecodingTask], options: DecodingOptions
) -> list[DecodingResult]:
    """Decode all tasks; those that fail again at rising temperatures, until they do not.

    The text at the last temperature stands, as in openai/whisper.
    """

    def repeats(result: DecodingResult) -> bool:
        return compression_ratio(text_of(decoder, result.tokens)) > LARGEST_COMPRESSION_RATIO

    results = dict(enumerate(decoder.decode(tasks, options)))
    for temperature in TEMPERATURES:
        failed = [
            index
            for index, result in results.items()
            if not is_silence(result) and (not _is_probable(result) or repeats(result))
        ]
        if not failed:
            break
        again = [tasks[index] for index in failed]
        drawn = decoder.decode(again, replace(options, temperature=temperature))
        results |= zip(failed, drawn, strict=True)
    return [results[index] for index in range(len(tasks))]


def is_silence(result: DecodingResult) -> bool:
    """Whether nobody speaks: <|nospeech|> is probable, and the text is not."""
    assert result.no_speech_probability is not None
    return result.no_speech_probability > SILENCE_PROBABILITY and not _is_probable(result)


def compression_ratio(text: str) -> float:
    """How many times its compressed form a text takes, in UTF-8; high where it repeats itself."""
    written = text.encode()
    return len(written) / len(zlib.compress(written))


def _is_probable(result: DecodingResult) -> bool:
    assert result.mean_log_probability is not None
    return result.mean_log_probability >= LOWEST_LOG_PROBABILITY
