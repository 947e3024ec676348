"""Several recordings at once: each takes its place in a batch when another is done."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch

from lora_whisper.data.audio import AudioError
from lora_whisper.evaluation.decoding.decoder import DecodingTask, RefillingDecoder
from lora_whisper.evaluation.decoding.transcribe import decode_windows, side_by_side
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES
from lora_whisper.transcription.backends import Backend
from lora_whisper.transcription.results import Failed, Segment, Transcript
from lora_whisper.transcription.sound import HeldSound, KeptWindows, Sound
from lora_whisper.transcription.states import Asking, ClipState, RecordingState, TranscriptionState

Progress = Callable[[float], None]  # seconds of audio done, of all recordings
# Seconds at which stretches of speech begin and end, each no longer than a window.
FindSpeech = Callable[[Sound], Sequence[tuple[float, float]]]
SHORT_SECONDS = 1.0  # beyond a window: what a header says may be that much more than there is


@dataclass
class _Recording:
    """One of those that are transcribed, on its way."""

    index: int
    sound: Sound
    parts: list[_Part] = field(default_factory=list)
    missing: int = 0  # parts that are not done
    language: str | None = None
    probability: float | None = None
    is_failed: bool = False


@dataclass
class _Part:
    """What is decoded by itself: all of a recording, or a stretch of speech in it."""

    recording: _Recording
    state: TranscriptionState
    start_seconds: float = 0.0
    is_told: bool = False  # which language is spoken


Finished = tuple[int, Transcript | Failed]


class Batches:
    """Recordings on their way through a model."""

    def __init__(
        self,
        backend: Backend,
        asking: Asking,
        *,
        language: str | None,
        beams: int,
        batch_size: int,
        seed: int,
        find_speech: FindSpeech | None = None,
        on_progress: Progress | None = None,
    ):
        """`language`: Whisper's code; None: it is detected, in the first window of each."""
        self.backend, self.asking, self.language = backend, asking, language
        self.beams, self.batch_size, self.seed = beams, batch_size, seed
        self.find_speech, self.on_progress = find_speech, on_progress
        self._lock = threading.Lock()
        self._active: dict[int, _Part] = {}
        self._done_seconds = 0.0

    def run(self, sounds: Sequence[Sound]) -> Iterator[Finished]:
        """Yield each recording's index and text as it is done.

        Raises:
            BrokenModel: the model gives values that are not finite numbers.
        """
        is_cut = self.find_speech is not None
        clips: list[tuple[int, Sound]] = []
        longer: list[tuple[int, Sound]] = []
        for one in enumerate(sounds):
            (clips if is_cut or self._is_short(one[1]) else longer).append(one)
        with self.backend.inference():
            yield from self._side_by_side(clips, is_cut or len(clips) > 1)
            # A long recording is one window after another: only several make use of threads.
            yield from self._side_by_side(longer, len(longer) > 1)

    def _is_short(self, sound: Sound) -> bool:
        """Whether it is likely to fit into a window; or fails, as soon as it is its turn."""
        try:
            return sound.seconds <= self.backend.features.window_samples / SAMPLING_RATE
        except AudioError:
            return True

    def _side_by_side(
        self, sounds: Sequence[tuple[int, Sound]], is_divided: bool
    ) -> Iterator[Finished]:
        threads = min(self.backend.threads, self.batch_size) if is_divided else 1
        waiting, batch_size = self._parts(sounds), max(1, self.batch_size // threads)
        if self.find_speech is None:  # memory is taken for no more than there are
            batch_size = max(1, min(batch_size, -(-len(sounds) // threads)))
        is_plain = self.backend.refills and self.beams == 1 and not self.asking.fallback
        work = self._as_they_come if is_plain and is_divided else self._in_step
        yield from side_by_side(threads, lambda _: work(waiting, batch_size), range(threads))

    def _as_they_come(
        self, waiting: Iterator[_Part | Finished], batch_size: int
    ) -> Iterator[Finished]:
        """What one thread does with clips: one takes another's place as soon as that is done."""
        active: dict[int, _Part] = {}  # by the numbers of their tasks
        ended: list[Finished] = []
        longer: list[_Part] = []  # than their headers say
        numbers = itertools.count()

        def tasks() -> Iterator[DecodingTask]:
            while (one := self._next(waiting)) is not None:
                if not isinstance(one, _Part):
                    ended.append(one)
                    continue
                self._speak(one)
                if one.state.needs_probabilities:
                    longer.append(one)
                    continue
                active[next(numbers)] = one
                yield one.state.task()

        decoder = cast(RefillingDecoder, self.backend)
        for number, result in decoder.decode_as_they_come(tasks(), batch_size):
            part = active.pop(number)
            part.state.take(result)
            finished = self._end(part)
            self._report()  # before whoever writes the text says so
            if finished is not None:
                yield finished
        yield from ended
        yield from self._in_step(iter(longer), batch_size)

    def _in_step(self, waiting: Iterator[_Part | Finished], batch_size: int) -> Iterator[Finished]:
        """What one thread does: a window of each in a batch, and then the next of each."""
        active: list[_Part] = []
        while True:
            while len(active) < batch_size and (one := self._next(waiting)) is not None:
                if isinstance(one, _Part):
                    self._speak(one)
                    active.append(one)
                else:
                    yield one
            if not active:
                return
            states = [part.state for part in active]
            decode_windows(self.backend, states, self.beams, self.asking.fallback)
            done = [part for part in active if part.state.is_done]
            active = [part for part in active if not part.state.is_done]
            ended = [self._end(part) for part in done]
            self._report()
            yield from (finished for finished in ended if finished is not None)

    def _next(self, waiting: Iterator[_Part | Finished]) -> _Part | Finished | None:
        with self._lock:
            one = next(waiting, None)
            if isinstance(one, _Part):
                self._active[id(one)] = one
            return one

    def _parts(self, sounds: Sequence[tuple[int, Sound]]) -> Iterator[_Part | Finished]:
        """What there is to decode; or at once the end of what fails, or has no speech."""
        for index, sound in sounds:
            recording = _Recording(index, sound)
            try:
                if self.find_speech is None:
                    recording.missing = 1
                    yield self._whole(recording)
                else:
                    yield from self._stretches(recording, self.find_speech(sound))
            except AudioError as error:
                recording.is_failed = True
                yield index, Failed(str(error))

    def _stretches(
        self, recording: _Recording, speech: Sequence[tuple[float, float]]
    ) -> Iterator[_Part | Finished]:
        """Each of them as it is asked for, all in the language of the first."""
        recording.missing = len(speech)
        sound = recording.sound
        for start, end in speech:
            samples = sound.slice(start, end if end < sound.seconds else None)
            most = self.backend.features.window_samples
            seed = (self.seed, round(1000 * start))
            part = _Part(recording, self._clip(samples[:most], seed), start)
            self._speak(part)
            yield part
        if not speech:
            yield recording.index, self._transcript(recording)

    def _whole(self, recording: _Recording) -> _Part:
        sound: Sound = recording.sound
        backend = self.backend
        seed = (self.seed, 0)  # whatever the file is called
        window_samples = backend.features.window_samples
        if sound.seconds <= window_samples / SAMPLING_RATE + SHORT_SECONDS:
            samples = sound.slice(0.0, None)
            if len(samples) <= window_samples:
                state: TranscriptionState = self._clip(samples, seed)
                return _Part(recording, state)
            sound = HeldSound(samples, sound.name)
        windows = KeptWindows(backend.features, sound, self.asking.padding)
        return _Part(recording, RecordingState(backend, windows, self.asking, seed))

    def _clip(self, samples: object, seed: tuple[int, ...]) -> ClipState:
        waveform = torch.as_tensor(samples).to(self.backend.features.hann.device)
        return ClipState(self.backend, waveform, self.asking, seed)

    def _speak(self, part: _Part) -> None:
        """Find out which language is spoken, where nobody has said it."""
        if part.is_told:  # as the stretches of a recording are, each as it is cut
            return
        recording, part.is_told = part.recording, True
        language = self.language or recording.language
        if language is None and self.backend.special_tokens.multilingual:
            language, recording.probability = self.backend.language(part.state.first_window)
        recording.language = language
        part.state.speak(language)

    def _end(self, part: _Part) -> Finished | None:
        recording = part.recording
        with self._lock:
            del self._active[id(part)]
            self._done_seconds += part.state.done_seconds
            recording.parts.append(part)
            recording.missing -= 1
            if recording.missing or recording.is_failed:
                return None
            # What was between its stretches is done, too.
            spoken = sum(one.state.done_seconds for one in recording.parts)
            self._done_seconds += max(recording.sound.seconds - spoken, 0.0)
        return recording.index, self._transcript(recording)

    def _transcript(self, recording: _Recording) -> Transcript:
        parts = sorted(recording.parts, key=lambda part: part.start_seconds)
        join = "" if recording.language in SPACELESS_LANGUAGES else " "
        texts = [text for part in parts if (text := part.state.text())]
        return Transcript(
            join.join(texts),
            recording.language or self.language,
            recording.probability,
            round(recording.sound.seconds, 2),
            tuple(
                _shifted(one, part.start_seconds) for part in parts for one in part.state.finished
            ),
            recording.sound.remarks,
        )

    def _report(self) -> None:
        if self.on_progress is None:
            return
        with self._lock:
            going = sum(part.state.done_seconds for part in self._active.values())
            self.on_progress(self._done_seconds + going)


def _shifted(segment: Segment, seconds: float) -> Segment:
    """A segment of a stretch, in the time of its recording."""
    if not seconds:
        return segment

    def shifted(one: float) -> float:
        return round(one + seconds, 2)

    words = [
        replace(
            word,
            start_seconds=shifted(word.start_seconds),
            end_seconds=shifted(word.end_seconds),
        )
        for word in segment.words
    ]
    return replace(
        segment,
        start_seconds=shifted(segment.start_seconds),
        end_seconds=shifted(segment.end_seconds),
        words=tuple(words),
    )
