"""What the model meets: the samples of a window, and the tokens that the decoder learns from it.

    multilingual   sot language task <|notimestamps|> text eot
    `.en`          sot <|notimestamps|> text eot
    timestamps     sot language task <|0.00|> text <|2.40|> <|2.50|> text <|5.10|> eot
    previous text  startofprev previous text sot …
    words          startofprev words, that may be said sot …

Every token after sot is learnt, language and task among them, as in Whisper's own training; what
stands before it is not. Of words and a previous text the words come first, and the text has the
room that is left, as in faster-whisper. Of a window without speech the decoder learns to say so
where it is asked, after sot, and to end at once where it is told to transcribe all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_whisper.config import Padding
from lora_whisper.data.acoustics import NOISE_KINDS, generated_noise
from lora_whisper.data.audio import AudioError, DecodedAudio, Remark, read_sound
from lora_whisper.data.dataset import Utterance, token_language, written_language
from lora_whisper.data.sampler import TIMESTAMPS_A_TEXT, Packing
from lora_whisper.data.text import clean
from lora_whisper.data.words import WordPrompts, before_text
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import SpecialTokens, text_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from lora_whisper.data.augmentation import Augmenter, Mask
    from lora_whisper.data.encoded import EncodedWindows

IGNORED = -100  # a label that PyTorch's cross-entropy leaves out

# Every draw has a generator of its own, so that none depends on whether another was made.
TIMESTAMPS, PREVIOUS_TEXT, AUGMENTATION, MASKS, NOISE, PADDING, WORDS, WORDS_CHOSEN = range(8)


@dataclass(frozen=True)
class BadAudio:
    """Audio that does not decode: a value and no exception, so that it outlives a worker."""

    row: str
    reason: str
    may_pass: bool = False  # its decoder was given up, and may have an answer another time


@dataclass(frozen=True)
class LeftOut(BadAudio):
    """A row that is sound but has no place in a window; `data.bad_audio=fail` does not mean it."""


@dataclass(frozen=True)
class Window:
    """Samples and tokens of one window; `labels[i]` is what follows `decoder_input[i]`."""

    rows: tuple[str, ...]  # the utterances in it
    samples: np.ndarray  # (samples,) float32 at 16 kHz, not padded
    decoder_input: list[int]
    labels: list[int]
    masks: tuple[Mask, ...] = ()
    padding: Padding = "sound"
    bad: tuple[BadAudio, ...] = ()  # utterances that should be in it
    remarks: tuple[tuple[str, Remark], ...] = ()  # on the sound of rows
    encoded: Tensor | None = None  # see `EncodedWindows`; then the samples are only counted


@dataclass(frozen=True)
class Segment:
    """The tokens of one text, and where in the window it is spoken."""

    tokens: list[int]
    start_seconds: float
    end_seconds: float


def token_sequence(
    special_tokens: SpecialTokens,
    segments: Sequence[Segment],
    language: str | None,
    task: str,
    timestamps: bool = False,
    previous: Sequence[int] = (),
) -> tuple[list[int], list[int]]:
    """Decoder input and labels of a window.

    Args:
        language: code of the language token; None for `.en`.
        previous: tokens of what was said before; as many of the last ones as fit become a prompt.
    """
    spoken = [segment for segment in segments if segment.tokens]
    if not spoken:  # <|nospeech|> after sot, where decoders read it; eot after the forced prompt
        start = special_tokens.start(language, task)
        between = [IGNORED] * (len(start) - 2)
        return start, [special_tokens.no_speech, *between, special_tokens.eot]
    if timestamps:
        text = _timestamped(special_tokens, spoken)
    else:
        text = [token for segment in spoken for token in segment.tokens]
    tokens = [*special_tokens.start(language, task, timestamps), *text, special_tokens.eot]
    room = prompt_room(special_tokens, len(tokens) - 1)
    prompt = before_text([], previous, room)
    return prompted(special_tokens, tokens[:-1], tokens[1:], prompt)


def prompt_room(special_tokens: SpecialTokens, tokens: int) -> int:
    """Tokens of a prompt before `tokens` others, beside <|startofprev|>.

    Decoders give it half of the room at most.
    """
    return max(0, min(special_tokens.max_tokens - tokens, special_tokens.prompt_tokens) - 1)


def prompted(
    special_tokens: SpecialTokens,
    decoder_input: list[int],
    labels: list[int],
    prompt: Sequence[int],
) -> tuple[list[int], list[int]]:
    """The same behind a prompt. What it is followed by, up to sot, is given and not learnt."""
    if not prompt:
        return decoder_input, labels
    given = [special_tokens.previous, *prompt]
    return [*given, *decoder_input], [IGNORED] * len(given) + labels


def fits_with_timestamps(special_tokens: SpecialTokens, segments: Sequence[Segment]) -> bool:
    """Whether the decoder has room for a pair of timestamps around each text."""
    tokens = sum(len(segment.tokens) + TIMESTAMPS_A_TEXT for segment in segments if segment.tokens)
    return tokens <= special_tokens.room_tokens


def _timestamped(special_tokens: SpecialTokens, segments: Sequence[Segment]) -> list[int]:
    """Each text between its two timestamps, which never run backwards."""
    tokens: list[int] = []
    latest = special_tokens.timestamp(0.0)
    for segment in segments:
        start = max(latest, special_tokens.timestamp(segment.start_seconds))
        latest = max(start, special_tokens.timestamp(segment.end_seconds))
        tokens += [start, *segment.tokens, latest]
    return tokens


def window_tokens(utterance: Utterance, tokenizer: Any, special_tokens: SpecialTokens) -> list[int]:
    """The plain sequence of one utterance, sot to eot; one less has to fit into the decoder."""
    language = token_language(special_tokens, utterance)
    text = text_tokens(tokenizer, utterance.text, written_language(special_tokens, utterance))
    return [*special_tokens.start(language, utterance.task), *text, special_tokens.eot]


@dataclass(frozen=True)
class WindowSource:
    """The windows of one set of utterances."""

    utterances: Sequence[Utterance]
    packing: Packing
    weight: float = 1.0  # windows drawn from it in an epoch for each window of the first source
    timestamps_share: float | None = None  # of its windows; None: the maker's
    encoded: EncodedWindows | None = None  # what a frozen encoder made of them


@dataclass(frozen=True)
class WindowMaker:
    """Makes windows, each a pure function of `seed` and of which window of which epoch it is."""

    tokenizer: Any
    special_tokens: SpecialTokens
    window_seconds: float
    timestamps_share: float = 0.0  # of the windows
    previous_text_share: float = 0.0  # of the windows that have some
    clean: tuple[str, ...] = ()  # steps of `text.clean`
    augmenter: Augmenter | None = None
    seed: int = 0
    log_mel_padding_share: float = 0.0  # of the windows
    words: WordPrompts | None = None

    def speech(
        self, source: WindowSource, window: int, epoch: int, source_number: int = 0
    ) -> Window | BadAudio:
        """The window of that number in the source's packing."""
        utterances, known = _utterances(source, window), _known(source, window)
        before = _utterances(source, window - 1) if source.packing.continues[window] else []
        key = (epoch, source_number, window)
        share = source.timestamps_share
        maker = self if share is None else replace(self, timestamps_share=share)
        made = maker.of(utterances, key, _gaps_seconds(source, window), before, known)
        if known is None or source.encoded is None or not isinstance(made, Window):
            return made
        return replace(made, encoded=source.encoded.read(window, made.padding))

    def decoded(self, source: WindowSource, window: int) -> Decoded:
        """The sound of that window alone, as long as it is and before any augmentation."""
        room_samples = round(self.window_seconds * SAMPLING_RATE)
        return _decode(_utterances(source, window), _gaps_seconds(source, window), room_samples)

    def of(
        self,
        utterances: Sequence[Utterance],
        key: tuple[int, ...],
        gaps_seconds: Sequence[float] | np.ndarray = (math.nan,),
        before: Sequence[Utterance] = (),
        decoded: Decoded | None = None,
    ) -> Window | BadAudio:
        """Decode the audio, augment it, and put the tokens in order.

        What does not decode is left out of a window of several, even if nothing remains of it:
        then its `rows` are empty.

        Args:
            utterances: of one speaker, language and task.
            key: numbers that tell this window of this epoch from every other.
            gaps_seconds: for each utterance, as in `Packing`.
            before: what was said before, for a prompt; a row's own `previous_text` goes first.
            decoded: what is known of the audio, which is not read then.
        """
        draw, room_samples = _Draw((self.seed, *key)), round(self.window_seconds * SAMPLING_RATE)
        decoded = decoded or _decode(utterances, gaps_seconds, room_samples)
        if not decoded.spoken:
            alone = len(decoded.bad) == 1
            return decoded.bad[0] if alone else Window((), decoded.samples, [], [], bad=decoded.bad)
        samples, speed, masks = self._augmented(decoded.samples, draw)
        segments = [
            Segment(self._tokens(one.utterance), one.start_seconds / speed, one.end_seconds / speed)
            for one in decoded.spoken
        ]
        timestamps = draw.happens(TIMESTAMPS, self.timestamps_share)
        like = utterances[0]
        has_text = any(segment.tokens for segment in segments)
        previous = self._previous_text(like, before, draw) if has_text else []
        decoder_input, labels = token_sequence(
            self.special_tokens,
            segments,
            token_language(self.special_tokens, like),
            like.task,
            timestamps and fits_with_timestamps(self.special_tokens, segments),
        )
        said = [self._text(one.utterance) for one in decoded.spoken]
        decoder_input, labels = self._prompted(decoder_input, labels, said, previous, draw)
        tokens, room = len(decoder_input), self.special_tokens.max_tokens
        if tokens > room:
            return LeftOut(like.row, f"a text of {tokens} tokens, where the decoder has {room}")
        rows = tuple(one.utterance.row for one in decoded.spoken)
        padding = self._padding(draw)
        return Window(
            rows, samples, decoder_input, labels, masks, padding, decoded.bad, decoded.remarks
        )

    def no_speech(
        self, source: WindowSource, window: int, epoch: int, source_number: int = 0
    ) -> Window:
        """Generated sound as long as a window of speech, in its language and for its task.

        It is augmented as speech is, so that no trace of that tells one from the other.
        """
        draw = _Draw((self.seed, epoch, source_number, window))
        generator = draw.generator(NOISE)
        like = source.utterances[int(source.packing.first[window])]
        samples = round(float(source.packing.seconds[window]) * SAMPLING_RATE)
        decoder_input, labels = token_sequence(
            self.special_tokens, [], token_language(self.special_tokens, like), like.task
        )
        decoder_input, labels = self._prompted(decoder_input, labels, [], [], draw)
        noise = generated_noise(str(generator.choice([*NOISE_KINDS])), samples, generator)
        augmented, _, masks = self._augmented(noise, draw)
        row = f"no speech, as long as {like.row}"
        return Window((row,), augmented, decoder_input, labels, masks, self._padding(draw))

    def _padding(self, draw: _Draw) -> Padding:
        return "log-mel" if draw.happens(PADDING, self.log_mel_padding_share) else "sound"

    def _text(self, utterance: Utterance) -> str:
        written = written_language(self.special_tokens, utterance)
        return clean(utterance.text, self.clean, written)

    def _tokens(self, utterance: Utterance) -> list[int]:
        written = written_language(self.special_tokens, utterance)
        return text_tokens(self.tokenizer, self._text(utterance), written)

    def _previous_text(
        self, utterance: Utterance, before: Sequence[Utterance], draw: _Draw
    ) -> list[int]:
        """The tokens of what was said before it, where they are drawn; see `of`."""
        if not draw.happens(PREVIOUS_TEXT, self.previous_text_share):
            return []
        own = utterance.previous_text
        texts = [replace(utterance, text=own)] if own else before
        return [token for one in texts for token in self._tokens(one)]

    def _prompted(
        self,
        decoder_input: list[int],
        labels: list[int],
        said: Sequence[str],
        previous: Sequence[int],
        draw: _Draw,
    ) -> tuple[list[int], list[int]]:
        """Behind words, where they are drawn, and as much of the previous text as has room.

        Args:
            said: the texts in the window.
        """
        room, words = prompt_room(self.special_tokens, len(decoder_input)), list[int]()
        if self.words is not None and draw.happens(WORDS, self.words.share):
            words = self.words.tokens(draw.generator(WORDS_CHOSEN), said, room)
        prompt = before_text(words, previous, room)
        return prompted(self.special_tokens, decoder_input, labels, prompt)

    def _augmented(
        self, samples: np.ndarray, draw: _Draw
    ) -> tuple[np.ndarray, float, tuple[Mask, ...]]:
        """Samples, the speed that they are played at, and what is hidden of their log-mel."""
        if self.augmenter is None:
            return samples, 1.0, ()
        augmented = self.augmenter(samples, draw.seed(AUGMENTATION))
        masks = self.augmenter.masks(len(augmented.samples), draw.seed(MASKS))
        return augmented.samples, augmented.speed, masks


@dataclass(frozen=True)
class _Draw:
    """The random numbers of one window; those for one purpose do not depend on any other's."""

    key: tuple[int, ...]

    def seed(self, purpose: int) -> tuple[int, ...]:
        return (*self.key, purpose)

    def generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng(self.seed(purpose))

    def happens(self, purpose: int, share: float) -> bool:
        return share > 0 and self.generator(purpose).random() < share


@dataclass(frozen=True)
class Spoken:
    """An utterance, and where in the window it is spoken."""

    utterance: Utterance
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Decoded:
    """The sound of a window: its audio, joined; what does not decode is left out."""

    samples: np.ndarray  # (samples,) float32
    spoken: tuple[Spoken, ...]
    bad: tuple[BadAudio, ...]
    remarks: tuple[tuple[str, Remark], ...] = ()


def _decode(
    utterances: Sequence[Utterance], gaps_seconds: Sequence[float] | np.ndarray, window_samples: int
) -> Decoded:
    """Read and join the audio; slices with a known gap between them are read in one go."""
    samples, spoken, bad = [np.zeros(0, np.float32)], list[Spoken](), list[BadAudio]()
    remarks: list[tuple[str, Remark]] = []
    for stretch in _stretches(utterances, gaps_seconds):
        before_samples, origin_seconds = sum(map(len, samples)), stretch[0].start_seconds or 0.0
        try:
            sound = _read(stretch, window_samples - before_samples)
        except AudioError as error:
            bad += [BadAudio(one.row, str(error)) for one in stretch]
            continue
        begin = before_samples / SAMPLING_RATE
        for one in stretch:
            start = (one.start_seconds or 0.0) - origin_seconds
            # The last ends with the sound, of which its header may have known less exactly.
            is_last = one is stretch[-1]
            end = len(sound.samples) / SAMPLING_RATE if is_last else start + one.duration_seconds
            spoken.append(Spoken(one, begin + start, begin + end))
        samples.append(sound.samples)
        remarks += [(stretch[0].row, remark) for remark in sound.remarks]
    return Decoded(np.concatenate(samples), tuple(spoken), tuple(bad), tuple(remarks))


def _stretches(
    utterances: Sequence[Utterance], gaps_seconds: Sequence[float] | np.ndarray
) -> list[list[Utterance]]:
    stretches: list[list[Utterance]] = []
    for utterance, gap_seconds in zip(utterances, gaps_seconds, strict=True):
        if stretches and not math.isnan(gap_seconds):
            stretches[-1].append(utterance)
        else:
            stretches.append([utterance])
    return stretches


def _read(stretch: Sequence[Utterance], room_samples: int) -> DecodedAudio:
    first, last = stretch[0], stretch[-1]
    sound = read_sound(first.audio, first.start_seconds, last.end_seconds)
    if len(sound.samples) > room_samples:  # a header may promise less than there is
        seconds, room = len(sound.samples) / SAMPLING_RATE, room_samples / SAMPLING_RATE
        raise AudioError(f"{first.audio}: {seconds:.2f} s, where {room:.2f} s were planned")
    return sound


def _utterances(source: WindowSource, window: int) -> list[Utterance]:
    first, count = int(source.packing.first[window]), int(source.packing.count[window])
    return [source.utterances[index] for index in range(first, first + count)]


def _gaps_seconds(source: WindowSource, window: int) -> np.ndarray:
    first, count = int(source.packing.first[window]), int(source.packing.count[window])
    return source.packing.gaps_seconds[first : first + count]


def _known(source: WindowSource, window: int) -> Decoded | None:
    """What is known of an encoded window without reading its audio: as much silence as sound."""
    if source.encoded is None or not source.encoded.samples[window]:
        return None
    silence = np.broadcast_to(np.float32(0.0), source.encoded.samples[window])  # takes no memory
    times = source.encoded.spoken_seconds[int(source.packing.first[window]) :]
    utterances = zip(_utterances(source, window), times.tolist(), strict=False)
    return Decoded(silence, tuple(Spoken(one, *between) for one, between in utterances), ())
