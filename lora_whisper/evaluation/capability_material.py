"""The speech that a capability card asks about: clips of the sets, recordings joined from them, and
sound without speech.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lora_whisper.data.audio import AudioError, read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.data.segmentation import find_pauses
from lora_whisper.evaluation.robustness import KINDS, no_speech_clips
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES, code_of

CLIPS = 32  # of a set. Where no two of 32 differ, 9 of 100 still may: less than what counts as kept
NO_SPEECH_CLIPS = CLIPS // len(KINDS)  # of each kind
WINDOW_TOKENS = 40  # on the mean, as far as can be told before
GAP_SECONDS = 1.0  # of silence between joined clips
LONG_WINDOWS = 1.5  # that a joined recording fills at least


@dataclass(frozen=True)
class Clip:
    """An utterance of a test set, decoded to samples."""

    utterance: Utterance
    samples: np.ndarray  # (samples,) float32 at 16 kHz, at most a window's

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLING_RATE


@dataclass(frozen=True)
class JoinedClips:
    """Clips in a row with pauses between them, so that their boundaries are known."""

    clips: tuple[Clip, ...]

    @cached_property
    def samples(self) -> np.ndarray:
        gap = np.zeros(round(GAP_SECONDS * SAMPLING_RATE), np.float32)
        parts = [part for clip in self.clips for part in (clip.samples, gap)]
        return np.concatenate(parts[:-1])

    @property
    def text(self) -> str:
        is_spaced = _code(self.clips[0]) not in SPACELESS_LANGUAGES
        return (" " * is_spaced).join(clip.utterance.text for clip in self.clips)

    @cached_property
    def pauses_seconds(self) -> list[tuple[float, float]]:
        """The gaps, with the silence of the clips around them."""
        found = find_pauses(self.samples)
        pauses, end = [], 0.0
        for clip in self.clips[:-1]:
            start = end + clip.seconds
            end = start + GAP_SECONDS
            around = [pause for pause in found if pause[0] < end and pause[1] > start]
            edges = [start, end, *(float(edge) for pause in around for edge in pause)]
            pauses.append((min(edges), max(edges)))
        return pauses


@dataclass(frozen=True)
class Material:
    """What all models of a card are asked about; made once."""

    sets: Mapping[str, Sequence[Clip]]  # the test set first, then those that must not get worse
    window_seconds: float
    seed: int
    is_brief: bool = False  # only what takes a window a clip: languages, timestamps and silence
    no_speech: Sequence[Clip] = ()

    @property
    def test(self) -> Sequence[Clip]:
        return next(iter(self.sets.values()))

    @cached_property
    def recordings(self) -> list[JoinedClips]:
        """Of the test set, each longer than a window; clips in one language and in their order."""
        recordings, clips = [], list[Clip]()
        for clip in self.test:
            if clips and _spoken(clips[0]) != _spoken(clip):
                clips = []
            clips.append(clip)
            seconds = sum(one.seconds + GAP_SECONDS for one in clips)
            if len(clips) > 1 and seconds - GAP_SECONDS >= LONG_WINDOWS * self.window_seconds:
                recordings.append(JoinedClips(tuple(clips)))
                clips = []
        return recordings

    @property
    def windows(self) -> int:
        """That a model decodes for it, roughly."""
        clips = sum(map(len, self.sets.values())) + len(self.no_speech)
        if self.is_brief:
            return clips
        window_samples = self.window_seconds * SAMPLING_RATE
        long = sum(len(one.samples) / window_samples for one in self.recordings)
        foreign = sum(is_foreign(clip) for set in self.sets.values() for clip in set)
        return clips + round(1.5 * long) + 2 * len(self.test) + foreign


def _spoken(clip: Clip) -> tuple[str | None, str | None, str]:
    utterance = clip.utterance
    return utterance.language, utterance.language_token, utterance.task


def _code(clip: Clip) -> str | None:
    language = clip.utterance.language
    return code_of(language) if language else None


def is_foreign(clip: Clip) -> bool:
    """Whether what is spoken can be translated into English."""
    return _code(clip) not in ("en", None)


def new_material(
    sets: Mapping[str, Sequence[Utterance]],
    window_seconds: float,
    seed: int,
    is_brief: bool = False,
) -> Material:
    """Read the sound of some clips of each set.

    Args:
        sets: the test set first. What does not fit into a window, has no
            text or does not decode is left out.
    """
    clips = {name: list(_clips(rows, window_seconds, seed)) for name, rows in sets.items()}
    test = next(iter(clips.values()))
    silent: list[Clip] = []
    if test:
        like = test[0].utterance
        language = like.language_token or like.language
        probes = no_speech_clips(NO_SPEECH_CLIPS, window_seconds, language, like.task, seed)
        silent = [Clip(one, read_audio(one.audio)) for one in probes]
    return Material(clips, window_seconds, seed, is_brief, silent)


def _clips(rows: Sequence[Utterance], window_seconds: float, seed: int) -> Iterator[Clip]:
    fitting = [
        index
        for index, row in enumerate(rows)
        if row.text.strip() and 0 < row.duration_seconds <= window_seconds
    ]
    for index in sorted(random.Random(seed).sample(fitting, min(CLIPS, len(fitting)))):
        row = rows[index]
        try:
            samples = read_audio(row.audio, row.start_seconds, row.end_seconds)
        except AudioError:
            continue  # the scores name it
        if len(samples) <= window_seconds * SAMPLING_RATE:
            yield Clip(row, samples)
