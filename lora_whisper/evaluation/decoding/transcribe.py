"""Transcriptions for a set of utterances, by real autoregressive decoding on padded windows."""

from __future__ import annotations

import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event
from typing import TypeVar, cast

import numpy as np
import torch

from lora_whisper import processes
from lora_whisper.config import EvaluationConfig
from lora_whisper.data.audio import AudioError, AudioGivenUp, read_audio
from lora_whisper.data.dataset import Utterance, Utterances, token_language
from lora_whisper.data.windows import BadAudio
from lora_whisper.data.words import prompt_tokens
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.decoder import (
    Decoder,
    DecodingOptions,
    DecodingTask,
    RefillingDecoder,
    most_letters,
)
from lora_whisper.evaluation.decoding.long_form import (
    Clip,
    DecodingState,
    HeldWindows,
    Recording,
    Segment,
    decode_with_fallback,
    opened,
)
from lora_whisper.model.published import SAMPLING_RATE

Progress = Callable[[int, int], None]  # utterances done, utterances in all
# Done to the samples of an utterance, (samples,) float32 at 16 kHz, before anything else.
Change = Callable[[np.ndarray, Utterance], np.ndarray]


@dataclass(frozen=True)
class Transcription:
    """One utterance: its text and length, or why there is none."""

    text: str = ""
    seconds: float = 0.0
    segments: tuple[Segment, ...] = ()
    bad: BadAudio | None = None


@dataclass(frozen=True)
class Transcriptions:
    """Texts, in the order of the utterances."""

    texts: tuple[str, ...]  # "" where the audio did not decode
    seconds: tuple[float, ...]  # of audio as it was decoded, without padding; 0 where there is none
    segments: tuple[tuple[Segment, ...], ...]  # where timestamps were decoded, else empty
    bad: tuple[BadAudio, ...]
    decode_seconds: float  # wall clock: reading audio, features and generation

    @classmethod
    def of(cls, utterances: Sequence[Transcription], decode_seconds: float) -> Transcriptions:
        """Of each utterance one."""
        return cls(
            texts=tuple(one.text for one in utterances),
            seconds=tuple(one.seconds for one in utterances),
            segments=tuple(one.segments for one in utterances),
            bad=tuple(one.bad for one in utterances if one.bad is not None),
            decode_seconds=decode_seconds,
        )

    @property
    def audio_seconds(self) -> float:
        return sum(self.seconds)


def transcribe(
    decoder: Decoder,
    utterances: Sequence[Utterance],
    settings: EvaluationConfig,
    seed: int = 0,
    *,
    change: Change | None = None,
    prompt: str = "",
    on_progress: Progress | None = None,
) -> Transcriptions:
    """Decode utterances of any length.

    Audio is read and turned into log-mels as its turn comes, the longest first: memory is short at
    once or not at all. Each row carries its own language and task. A text is the same in a batch
    as on its own, but for near ties that rounding decides; `seed` is that of what temperature
    fallback draws. So several processes can each decode a part, of all lengths; every one of them
    gets all texts.

    Args:
        prompt: a text that stands before each window's.

    Raises:
        UserError: a language that the checkpoint does not know, or none where it needs one;
            temperature fallback where draws cannot be repeated.
        BrokenModel: the model gives values that are not finite numbers.
    """
    started = time.perf_counter()
    _check(decoder, utterances, settings)
    assert settings.batch_size is not None, "null is for whoever knows the model's width"
    threads = min(decoder.threads, settings.batch_size)  # they share a batch's size
    words = tuple(prompt_tokens(decoder.tokenizer, prompt))
    in_batches = _InBatches(decoder, settings, seed, change, settings.batch_size // threads, words)
    mine = _longest_first(utterances)[processes.rank() :: processes.count()]
    by_row: dict[int, Transcription] = {}
    failure: UserError | None = None
    try:
        with decoder.inference():
            decoded = side_by_side(threads, lambda rows: in_batches.decode(utterances, rows), mine)
            for row, transcription in decoded:
                by_row[row] = transcription
                if on_progress is not None:  # the other processes are about as far
                    done = min(len(by_row) * processes.count(), len(utterances))
                    on_progress(done, len(utterances))
    except UserError as error:  # the others would wait for this process for ever
        failure = error
    in_order = _from_all_processes(by_row, failure)
    return Transcriptions.of(in_order, time.perf_counter() - started)


def _longest_first(utterances: Sequence[Utterance]) -> list[int]:
    """Rows in the order in which they are decoded."""
    if isinstance(utterances, Utterances):  # which have their durations without making any
        seconds = utterances.durations_seconds
    else:
        seconds = np.array([utterance.duration_seconds for utterance in utterances])
    order: list[int] = np.argsort(-seconds, kind="stable").tolist()
    return order


def _from_all_processes(
    by_row: dict[int, Transcription], failure: UserError | None
) -> list[Transcription]:
    """What all of them decoded, in the order of the rows.

    Raises:
        UserError: the failure of any of them.
    """
    of_all: dict[int, Transcription] = {}
    for part, failed in processes.gather([(by_row, failure)]):
        if failed is not None:
            raise failed
        of_all |= part
    return [of_all[row] for row in range(len(of_all))]


@dataclass(frozen=True)
class _InBatches:
    """Decoding of utterances, each of which takes its place in a batch when another is done."""

    decoder: Decoder
    settings: EvaluationConfig
    seed: int
    change: Change | None
    batch_size: int
    words: tuple[int, ...]  # tokens before each text

    def decode(
        self, utterances: Sequence[Utterance], rows: Iterable[int]
    ) -> Iterator[tuple[int, Transcription]]:
        """Yield each row as it is done."""
        is_greedy = self.settings.beams == 1 and not self.settings.temperature_fallback
        if self.decoder.refills and is_greedy:
            return self._as_they_come(utterances, iter(rows))
        return self._in_step(utterances, iter(rows))

    def _as_they_come(
        self, utterances: Sequence[Utterance], waiting: Iterator[int]
    ) -> Iterator[tuple[int, Transcription]]:
        """Clips by a decoder that refills its batch; then recordings over a window."""
        active: dict[int, tuple[int, float, DecodingState]] = {}  # by the numbers of their tasks
        recordings: list[int] = []
        bad: list[tuple[int, Transcription]] = []
        numbers = itertools.count()
        window_seconds = self.decoder.features.window_samples / SAMPLING_RATE

        def tasks() -> Iterator[DecodingTask]:
            for row in waiting:
                if utterances[row].duration_seconds > window_seconds:
                    recordings.append(row)
                    continue
                samples = self._read(utterances[row])
                if isinstance(samples, BadAudio):
                    bad.append((row, Transcription(bad=samples)))
                    continue
                one = self._begin(samples, utterances[row])
                if one.needs_probabilities:  # it has been made longer than a window
                    recordings.append(row)
                    continue
                active[next(numbers)] = row, len(samples) / SAMPLING_RATE, one
                yield one.task()

        decoder = cast(RefillingDecoder, self.decoder)
        for number, result in decoder.decode_as_they_come(tasks(), self.batch_size):
            row, seconds, one = active.pop(number)
            one.take(result)
            yield row, Transcription(one.text(), seconds, one.segments())
        yield from bad
        yield from self._in_step(utterances, iter(recordings))

    def _in_step(
        self, utterances: Sequence[Utterance], waiting: Iterator[int]
    ) -> Iterator[tuple[int, Transcription]]:
        """A window of each in a batch, and then the next of each."""
        active: dict[int, tuple[float, DecodingState]] = {}
        while True:
            while len(active) < self.batch_size and (row := next(waiting, None)) is not None:
                samples = self._read(utterances[row])
                if isinstance(samples, BadAudio):
                    yield row, Transcription(bad=samples)
                    continue
                seconds = len(samples) / SAMPLING_RATE
                active[row] = seconds, self._begin(samples, utterances[row])
            if not active:
                return
            states = [state for _, state in active.values()]
            settings = self.settings
            decode_windows(self.decoder, states, settings.beams, settings.temperature_fallback)
            for row in [row for row, (_, one) in active.items() if one.is_done]:
                seconds, one = active.pop(row)
                yield row, Transcription(one.text(), seconds, one.segments())

    def _read(self, utterance: Utterance) -> np.ndarray | BadAudio:
        try:
            samples = read_audio(utterance.audio, utterance.start_seconds, utterance.end_seconds)
        except AudioError as error:
            return BadAudio(utterance.row, str(error), isinstance(error, AudioGivenUp))
        return samples if self.change is None else self.change(samples, utterance)

    def _begin(self, samples: np.ndarray, utterance: Utterance) -> DecodingState:
        """Prompt and features of an utterance."""
        decoder, settings = self.decoder, self.settings
        special_tokens = decoder.special_tokens
        language = token_language(special_tokens, utterance)
        waveform = torch.from_numpy(samples).to(decoder.features.hann.device)
        # The row's name stays the same in a sample of the test set, where its number does not.
        seed = (self.seed, zlib.crc32(utterance.row.encode()))
        if len(samples) > decoder.features.window_samples:
            start = special_tokens.start(language, utterance.task, timestamps=True)
            windows = HeldWindows(decoder.features, waveform, settings.padding)
            return Recording(decoder, windows, start, settings.previous_text, seed, self.words)
        start = special_tokens.start(language, utterance.task, settings.timestamps)
        prompt = [*opened(special_tokens, self.words), *start]
        # By a loop, temperature fallback sees that a text has failed.
        needs_probabilities = settings.temperature_fallback
        seconds = len(samples) / SAMPLING_RATE
        most = math.inf if needs_probabilities else most_letters(seconds, language)
        return Clip(decoder, waveform, prompt, needs_probabilities, seed, settings.padding, most)


def decode_windows(
    decoder: Decoder, active: Sequence[DecodingState], beams: int, temperature_fallback: bool
) -> None:
    """Decode a window of each: those together that a decoder can decode together."""
    tasks = [one.task() for one in active]
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, task in enumerate(tasks):
        has_timestamps = task.prompt[-1] != decoder.special_tokens.no_timestamps
        groups.setdefault((len(task.prompt), has_timestamps), []).append(index)
    for group in groups.values():
        needs_probabilities = any(active[index].needs_probabilities for index in group)
        options = DecodingOptions(beams, probabilities=temperature_fallback or needs_probabilities)
        of_group = [tasks[index] for index in group]
        results = (
            decode_with_fallback(decoder, of_group, options)
            if temperature_fallback
            else decoder.decode(of_group, options)
        )
        for index, result in zip(group, results, strict=True):
            active[index].take(result)


def _check(decoder: Decoder, utterances: Iterable[Utterance], settings: EvaluationConfig) -> None:
    """Complain before the first batch, not after an hour."""
    if settings.temperature_fallback and not decoder.draws_by_seed:
        raise UserError(
            "evaluation.temperature_fallback=true draws tokens, and this kind of model cannot draw "
            "the same ones twice, so that no score could be repeated. Type "
            "evaluation.temperature_fallback=false, or score the checkpoint it was converted from."
        )
    for utterance in utterances:
        token_language(decoder.special_tokens, utterance)


# ── several threads of this process, each with its part of the processor ─────────────────────

Item = TypeVar("Item")


def side_by_side(
    threads: int, function: Callable[[Sequence[int]], Iterable[Item]], rows: Sequence[int]
) -> Iterator[Item]:
    """Yield what `function` gives for `rows`, of which every thread gets an equal part.

    PyTorch divides each operation among its threads, which wait for each other at the end of every
    one; threads that each have a batch of their own and a share of PyTorch's do not. Two of them
    took 0.28 to 0.67 of the time to decode with whisper-tiny on two cores that had other work too.

    Raises:
        Whatever `function` raises; the other threads then end after what they are at.
    """
    if threads == 1:
        yield from function(rows)
        return
    items: SimpleQueue[Item | Future[None]] = SimpleQueue()
    stop, in_all = Event(), torch.get_num_threads()
    share = max(1, in_all // threads)

    def work(part: Sequence[int]) -> None:
        torch.set_num_threads(share)  # of operations that this thread calls
        with torch.inference_mode():
            for item in function(part):
                items.put(item)
                if stop.is_set():
                    return

    pool = ThreadPoolExecutor(threads)
    try:
        for first in range(threads):
            pool.submit(work, rows[first::threads]).add_done_callback(items.put)
        while threads:  # until every one has ended
            item = items.get()
            if isinstance(item, Future):
                item.result()  # raises what the thread raised
                threads -= 1
            else:
                yield item
    finally:
        stop.set()
        pool.shutdown()
        torch.set_num_threads(in_all)  # what threads that begin later go by
