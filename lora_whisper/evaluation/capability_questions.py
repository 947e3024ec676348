"""What a model is asked beside writing words, and what it answers, clip by clip.

Languages, timestamps, silence, long recordings, prompts, translation. All of it is decoded
greedily; who decodes with beams gets other figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lora_whisper.config import Padding
from lora_whisper.data.dataset import token_language, written_language
from lora_whisper.evaluation.capability_material import (
    LONG_WINDOWS,
    Clip,
    JoinedClips,
    Material,
    is_foreign,
)
from lora_whisper.evaluation.decoding.decoder import (
    Decoder,
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    most_letters,
    text_of,
)
from lora_whisper.evaluation.decoding.long_form import (
    HeldWindows,
    Recording,
    Segment,
    is_silence,
    token_limit,
)
from lora_whisper.evaluation.decoding.transcribe import decode_windows, side_by_side
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.results import ScoredUtterance
from lora_whisper.evaluation.score import score_utterance
from lora_whisper.evaluation.text_style import SHARES, SHORTEST_PROMPTED, is_in_capitals, respelled
from lora_whisper.evaluation.translation import chrf, is_english
from lora_whisper.model.published import SECONDS_PER_TIMESTAMP
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES, SpecialTokens, text_tokens

NO_SPEECH_TOKENS = 48  # enough to see whether anything is written
BATCH = 8
FARTHEST_SECONDS = 2.0  # off: a boundary that is nowhere near any timestamp
LATE_SECONDS = 0.5  # that a timestamp may lie behind the end of its sound
HUNDREDTHS = 100  # of a second
TRANSLATION_COLUMN = "translation"  # of a test set, in English
NO_CLIPS = "no clip of the set has a text and fits into a window"
ENGLISH_ONLY = "the checkpoint knows English alone"


@dataclass(frozen=True)
class Counted:
    """Of each clip or recording, how much was found and of how much: whole numbers."""

    found: Sequence[int]
    of: Sequence[int]
    speakers: Sequence[str | None]
    noun: str = "clip"


Finding = Counted | str  # a text says why it was not measured


@dataclass(frozen=True)
class Questions:
    """A model, and the material that it is asked about."""

    decoder: Decoder
    material: Material
    padding: Padding
    advance: Callable[[int], None]  # by so many windows

    @property
    def special_tokens(self) -> SpecialTokens:
        return self.decoder.special_tokens

    def first_tokens(self, clips: Sequence[Clip]) -> dict[str, Finding]:
        """The language that is found, and whether timestamps go round all of a text.

        They are decoded by the rules of all programs, which force the first one, keep a second
        from standing alone, and let none run back. A model that has lost them ends without one.
        """
        if not clips:
            return {"language": NO_CLIPS, "timestamps": NO_CLIPS}
        prompts = [self._start(clip, timestamps=True) for clip in clips]
        results = self._decoded(clips, prompts, probabilities=True)
        begin = self.special_tokens.timestamp_begin
        valid = [
            are_valid(result.tokens, begin, clip.seconds)
            for clip, result in zip(clips, results, strict=True)
        ]
        right = [
            result.language == token_language(self.special_tokens, clip.utterance)
            for clip, result in zip(clips, results, strict=True)
        ]
        knows_languages = self.special_tokens.multilingual
        return {
            "language": _by_clip(clips, right) if knows_languages else ENGLISH_ONLY,
            "timestamps": _by_clip(clips, valid),
        }

    def without_speech(self) -> dict[str, Finding]:
        """Text in silence and noise, and what programs that look at <|nospeech|> leave of it."""
        clips = self.material.no_speech
        if not clips:
            return {"silence": NO_CLIPS, "silence-thresholds": NO_CLIPS}
        prompts = [self._start(clip) for clip in clips]
        results = self._decoded(clips, prompts, probabilities=True, most_tokens=NO_SPEECH_TOKENS)
        has_text = [any(map(str.isalnum, self._text(result))) for result in results]
        passes = [
            text and not is_silence(result) for text, result in zip(has_text, results, strict=True)
        ]
        return {"silence": _by_clip(clips, has_text), "silence-thresholds": _by_clip(clips, passes)}

    def long(self, alone: Mapping[str, ScoredUtterance]) -> dict[str, Finding]:
        """Recordings beyond a window: words, words left out, and where clips begin and end.

        Args:
            alone: what the model wrote of each clip by itself, by row.
        """
        recordings = self.material.recordings
        keys = ("boundaries", "long", "left-out")
        if not recordings:
            long = LONG_WINDOWS * self.material.window_seconds
            why = f"the clips of the test set, joined, make no recording of {long:g} s"
            return dict.fromkeys(keys, why)
        off, boundaries, errors, words, lost = [], [], [], [], list[int | None]()
        for one, decoded in zip(recordings, self._transcribed(recordings), strict=True):
            distances = [distance(pause, decoded.segments()) for pause in one.pauses_seconds]
            off.append(sum(round(HUNDREDTHS * seconds) for seconds in distances))
            boundaries.append(len(distances))
            like = one.clips[0].utterance
            language = written_language(self.special_tokens, like)
            row = score_utterance(like.row, language, one.text, decoded.text())
            errors.append(row.errors)
            words.append(row.reference_words)
            known = [alone.get(clip.utterance.row) for clip in one.clips]
            by_clips = [row.deletions for row in known if row is not None]
            lost.append(row.deletions - sum(by_clips) if len(by_clips) == len(known) else None)
        speakers = [one.clips[0].utterance.speaker for one in recordings]
        left_out: Finding = "the clips were not scored by themselves"
        if None not in lost:
            left_out = Counted([one or 0 for one in lost], words, speakers, "recording")
        return {
            "boundaries": Counted(off, boundaries, speakers, "recording"),
            "long": Counted(errors, words, speakers, "recording"),
            "left-out": left_out,
        }

    def prompts(self) -> dict[str, Finding]:
        """Whether spelling and capitals of a previous text are taken up."""
        clips = self.material.test
        return {"spelling": self._spelling(clips), "capitals-prompt": self._capitals(clips)}

    def _spelling(self, clips: Sequence[Clip]) -> Finding:
        spelled = [respelled(clip.utterance.text) for clip in clips]
        chosen = [
            (clip, words)
            for clip, words in zip(clips, spelled, strict=True)
            if words
            and written_language(self.special_tokens, clip.utterance) not in SPACELESS_LANGUAGES
        ]
        if not chosen:
            return f"no text has a word of {SHORTEST_PROMPTED} letters between spaces"
        asked = [clip for clip, _ in chosen]
        prompts = [self._prompted(clip, f"{', '.join(words)}.") for clip, words in chosen]
        texts = [self._text(result) for result in self._decoded(asked, prompts)]
        taken = []
        for (clip, words), text in zip(chosen, texts, strict=True):
            normalize = normalizer_for(written_language(self.special_tokens, clip.utterance))
            there = set(normalize(text).split())
            taken.append(sum(normalize(word) in there for word in words))
        of = [len(words) for _, words in chosen]
        return Counted(taken, of, [clip.utterance.speaker for clip in asked])

    def _capitals(self, clips: Sequence[Clip]) -> Finding:
        texts = [clip.utterance.text for clip in clips]
        if len(clips) < 2 or not any(text.upper() != text.lower() for text in texts):
            return "the script has no capitals" if texts else NO_CLIPS
        # Of another clip, since its own would tell the words; and one for all, to go in batches.
        first, second, *_ = texts
        before = [second, *[first] * (len(texts) - 1)]
        prompts = [
            self._prompted(clip, text.upper()) for clip, text in zip(clips, before, strict=True)
        ]
        found = [self._text(result) for result in self._decoded(clips, prompts)]
        return _by_clip(clips, list(map(is_in_capitals, found)))

    def translations(self, clips: Sequence[Clip]) -> dict[str, Finding]:
        """Whether English is written where a translation is asked for, and how near it comes."""
        foreign = [clip for clip in clips if is_foreign(clip)]
        if not self.special_tokens.multilingual or "translate" not in self.special_tokens.tasks:
            return {"translation": ENGLISH_ONLY}
        if not foreign:
            return {"translation": "its speech is English already"}
        prompts = [self._start(clip, task="translate") for clip in foreign]
        texts = [self._text(result) for result in self._decoded(foreign, prompts)]
        found: dict[str, Finding] = {"translation": _by_clip(foreign, list(map(is_english, texts)))}
        references = [str(clip.utterance.columns.get(TRANSLATION_COLUMN) or "") for clip in foreign]
        if all(references):
            pairs = zip(references, texts, strict=True)
            near = [round(SHARES * chrf(reference, text)) for reference, text in pairs]
            found["translation-chrf"] = _by_clip(foreign, near)
        return found

    # ── decoding ─────────────────────────────────────────────────────────────────────────────

    def _start(
        self, clip: Clip, task: str | None = None, timestamps: bool = False
    ) -> tuple[int, ...]:
        utterance = clip.utterance
        language = token_language(self.special_tokens, utterance)
        return tuple(self.special_tokens.start(language, task or utterance.task, timestamps))

    def _prompted(self, clip: Clip, previous: str) -> tuple[int, ...]:
        language = written_language(self.special_tokens, clip.utterance)
        tokens = text_tokens(self.decoder.tokenizer, previous, language)
        room = self.special_tokens.max_tokens // 2 - 1
        return (self.special_tokens.previous, *tokens[-room:], *self._start(clip))

    def _decoded(
        self,
        clips: Sequence[Clip],
        prompts: Sequence[tuple[int, ...]],
        probabilities: bool = False,
        most_tokens: int | None = None,
    ) -> list[DecodingResult]:
        """What is written of each clip, in batches of prompts of one length."""
        options = DecodingOptions(1, probabilities=probabilities)
        by_length: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), []).append(index)
        batches = [
            rows[first : first + BATCH]
            for rows in by_length.values()
            for first in range(0, len(rows), BATCH)
        ]

        def decoded(numbers: Sequence[int]) -> Iterator[tuple[list[int], list[DecodingResult]]]:
            for number in numbers:
                tasks = [
                    self._task(clips[index], prompts[index], most_tokens)
                    for index in batches[number]
                ]
                yield batches[number], self.decoder.decode(tasks, options)

        results: dict[int, DecodingResult] = {}
        threads = min(self.decoder.threads, len(batches))
        for rows, found in side_by_side(threads, decoded, range(len(batches))):
            results |= zip(rows, found, strict=True)
            self.advance(len(rows))
        return [results[index] for index in range(len(clips))]

    def _task(self, clip: Clip, prompt: tuple[int, ...], most: int | None) -> DecodingTask:
        features = self.decoder.features
        waveform = torch.from_numpy(clip.samples).to(features.hann.device)
        limit = token_limit(self.special_tokens, len(clip.samples), len(prompt))
        language = written_language(self.special_tokens, clip.utterance)
        letters = most_letters(clip.seconds, language)
        mel = features.clip(waveform, self.padding)
        return DecodingTask(mel, prompt, min(limit, most or limit), (), letters)

    def _text(self, result: DecodingResult) -> str:
        return text_of(self.decoder, result.tokens)

    def _transcribed(self, joined: Sequence[JoinedClips]) -> list[Recording]:
        """By Whisper's sequential algorithm, some recordings side by side."""
        recordings = []
        for first in range(0, len(joined), BATCH):
            states = [self._recording(one) for one in joined[first : first + BATCH]]
            while active := [one for one in states if not one.is_done]:
                decode_windows(self.decoder, active, beams=1, temperature_fallback=False)
                self.advance(len(active))
            recordings += states
        return recordings

    def _recording(self, one: JoinedClips) -> Recording:
        features = self.decoder.features
        waveform = torch.from_numpy(one.samples).to(features.hann.device)
        windows = HeldWindows(features, waveform, self.padding)
        start = self._start(one.clips[0], timestamps=True)
        return Recording(self.decoder, windows, start, previous_text=False, seed=())


def _by_clip(clips: Sequence[Clip], found: Sequence[int]) -> Counted:
    """Of each clip, whether something holds, or how many of `SHARES`."""
    speakers = [clip.utterance.speaker for clip in clips]
    return Counted(list(map(int, found)), [1] * len(found), speakers)


# ── timestamps ───────────────────────────────────────────────────────────────────────────────


def are_valid(tokens: Sequence[int], timestamp_begin: int, seconds: float) -> bool:
    """Whether all text stands between two timestamps each, which go forward and end in time."""
    kinds = "".join("t" if token >= timestamp_begin else "x" for token in tokens)
    times = [token for token in tokens if token >= timestamp_begin]
    latest = timestamp_begin + (seconds + LATE_SECONDS) / SECONDS_PER_TIMESTAMP
    return (
        re.fullmatch("(tx+t)+", kinds) is not None
        and times == sorted(times)
        and times[-1] <= latest
    )


def distance(pause: tuple[float, float], segments: Sequence[Segment]) -> float:
    """Seconds from a pause to the nearest beginning or end of a segment; 0 within it."""
    edges = [edge for one in segments for edge in (one.start_seconds, one.end_seconds)]
    start, end = pause
    distances = [max(start - edge, edge - end, 0.0) for edge in edges]
    return min([*distances, FARTHEST_SECONDS])
