"""What one row of speech measures: its sound, decoded in all processor cores, and its text.

A row becomes a record of some 70 bytes, so that a million of them stay in memory while the audio
passes through.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import pickle
import signal
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import regex

from lora_whisper.data.audio import (
    END_TOLERANCE_SECONDS,
    REMARKS,
    SHORTEST_SECONDS,
    AudioCutOff,
    AudioError,
    EncodedAudio,
    Header,
    Remark,
    read_header,
    read_sound,
)
from lora_whisper.data.dataset import Utterance, Utterances, token_language, written_language
from lora_whisper.data.durations import other_unit
from lora_whisper.data.text import leftovers
from lora_whisper.errors import UserError
from lora_whisper.model.tokenizer import (
    SpecialTokens,
    check_task,
    code_of,
    text_tokens,
    without_unseen,
)

SOUND_PROBLEMS = ("", "unreadable", "truncated", "too_short")

FRAME_SAMPLES = 320  # 20 ms, in which loudness is measured
QUIETEST_DBFS = -120.0  # what digital silence counts as
FULL_SCALE = 0.99  # a sample from here on is clipped; exactly 1 is lost in mixing and resampling
QUIET_DB = 40.0  # frames this far below the clip's loudest one hold no speech
STRETCH_SECONDS = 600.0  # decoded at once: 38 MB, also where a row is a recording of hours
ABSURD_RATIO = 50  # a row's `duration` this far off the file's is in another unit than seconds

PART_ROWS = 32  # that a worker process measures in one go
FEWEST_POOLED_ROWS = 100  # starting processes takes 2 s, in which one process decodes about as many

SCRIPTS = (
    "Latin Cyrillic Greek Armenian Hebrew Arabic Syriac Thaana Nko Devanagari Bengali Gurmukhi "
    "Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian "
    "Hangul Ethiopic Cherokee Canadian_Aboriginal Khmer Mongolian Hiragana Katakana Bopomofo Han "
    "Yi Tifinagh Vai Ol_Chiki Adlam Javanese Balinese"
).split()
LETTER_OF_SCRIPT = regex.compile(
    "|".join(rf"(?P<{name}>[\p{{Script={name}}}&&\p{{L}}])" for name in SCRIPTS), regex.V1
)
WRITTEN_TOGETHER = (  # scripts that one language mixes in every sentence
    {"Han", "Hiragana", "Katakana"},
    {"Han", "Hangul"},
    {"Han", "Bopomofo"},
)
DIGIT = regex.compile(r"\p{N}")


# ── sound ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SoundMeasures:
    """What decoding one utterance tells. Levels are relative to full scale (dBFS)."""

    problem: str = ""  # one of SOUND_PROBLEMS
    detail: str = ""
    format: str = ""  # by the file's name: "opus"
    rate: int = 0  # samples a second of what was recorded; 0 where nobody states it
    seconds: float = math.nan
    rms_dbfs: float = math.nan
    loudest_dbfs: float = math.nan  # of the frames of 20 ms
    quiet_share: float = math.nan  # of the frames, QUIET_DB below the loudest or more
    clipped_share: float = math.nan  # of the samples
    fingerprint: int = 0  # 64 bits of the samples' hash; 0 where nothing was decoded
    remarks: tuple[Remark, ...] = ()  # on what was read all the same


def measure_sounds(utterances: Sequence[Utterance]) -> Iterator[SoundMeasures]:
    """Measure the sound of each utterance, in their order, with all processor cores.

    Raises:
        UserError: a decoder took its whole process down; the rows among which it happened.
    """
    count, cores = len(utterances), os.cpu_count() or 1
    if count < FEWEST_POOLED_ROWS or cores == 1:
        yield from map(measure_sound, utterances)
        return
    parts = [(first, min(first + PART_ROWS, count)) for first in range(0, count, PART_ROWS)]
    # Processes are spawned: a fork would copy the threads' locks of the libraries in use here.
    context = multiprocessing.get_context("spawn")
    with tempfile.NamedTemporaryFile() as file:
        # Not as an argument: more than a pipe holds would be waited for, even if nobody reads it.
        pickle.dump(utterances, file)
        file.flush()
        with ProcessPoolExecutor(cores, context, _begin_worker, (file.name,)) as pool:
            done = 0
            try:
                for sounds in pool.map(_measure_part, parts):
                    yield from sounds
                    done += len(sounds)
            except BrokenProcessPool:
                last = min(done + cores * PART_ROWS, count) - 1
                first_row, last_row = utterances[done].row, utterances[last].row
                raise UserError(
                    f"A process that decodes audio was killed, somewhere from {first_row} to "
                    f"{last_row}:\na file that crashes its decoder, or too little memory. Take "
                    "these rows out, a half at a time, to find which."
                ) from None


_worker_utterances: Sequence[Utterance] = ()  # of a worker process


def _begin_worker(path: str) -> None:
    global _worker_utterances
    _worker_utterances = pickle.loads(Path(path).read_bytes())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that shows it


def _measure_part(part: tuple[int, int]) -> list[SoundMeasures]:
    return [measure_sound(_worker_utterances[index]) for index in range(*part)]


def measure_sound(utterance: Utterance) -> SoundMeasures:
    """Read the header, decode, and measure; what goes wrong is a result, and not raised."""
    kind = audio_format(utterance.audio)
    try:
        header = read_header(utterance.audio)
    except AudioError as error:
        return SoundMeasures(_problem(error), str(error), kind)
    rate = header.rate if header.original_rate is None else header.original_rate
    start = utterance.start_seconds or 0.0
    end = header.seconds if utterance.end_seconds is None else utterance.end_seconds
    seconds = min(end, header.seconds) - start
    if cut := _cut_off(utterance, header, start, end):
        return SoundMeasures("truncated", cut, kind, rate, max(seconds, 0.0))
    if seconds < SHORTEST_SECONDS:
        return SoundMeasures("too_short", f"{seconds:.3f} s", kind, rate, seconds)
    try:
        levels = _levels(utterance.audio, start, start + seconds)
    except AudioError as error:
        return SoundMeasures(_problem(error), str(error), kind, rate, seconds)
    return replace(levels, format=kind, rate=rate, seconds=seconds)


def _problem(error: AudioError) -> str:
    return "truncated" if isinstance(error, AudioCutOff) else "unreadable"


def audio_format(audio: Path | EncodedAudio) -> str:
    """The format that a file's name claims, "opus"; "" where it claims none."""
    return Path(audio.name).suffix.lower().removeprefix(".")[:8]


def audio_name(audio: Path | EncodedAudio) -> str:
    """What to call the audio in a report: the path, or the name inside its data set."""
    return audio.name if isinstance(audio, EncodedAudio) else str(audio)


def _cut_off(utterance: Utterance, header: Header, start: float, end: float) -> str:
    """How the file is shorter than its row says, or ""."""
    if end > header.seconds + END_TOLERANCE_SECONDS or start > header.seconds:
        times = other_unit(header, utterance.start_seconds, utterance.end_seconds)
        return f"ends at {header.seconds:.2f} s, its row at {max(start, end):.2f} s{times}"
    declared = utterance.columns.get("duration")
    is_whole = utterance.start_seconds is None and utterance.end_seconds is None
    if is_whole and isinstance(declared, int | float) and math.isfinite(declared):
        in_seconds = declared < ABSURD_RATIO * header.seconds
        if in_seconds and declared - header.seconds > END_TOLERANCE_SECONDS + 0.01 * declared:
            return f"lasts {header.seconds:.2f} s, its row says {declared:.2f} s"
    return ""


def _levels(audio: Path | EncodedAudio, start: float, end: float) -> SoundMeasures:
    """Decode from `start` to `end` (seconds), a stretch at a time, and measure levels alone."""
    digest, clipped, powers = hashlib.blake2b(digest_size=8), 0, []
    remarks: dict[str, Remark] = {}
    samples_read = 0
    stretches = max(1, math.ceil((end - start - SHORTEST_SECONDS) / STRETCH_SECONDS))
    for begin in start + STRETCH_SECONDS * np.arange(stretches):
        sound = read_sound(audio, begin, min(begin + STRETCH_SECONDS, end))
        samples = sound.samples
        remarks |= {one.kind: one for one in sound.remarks}
        digest.update((samples * 32_768).round().clip(-32_768, 32_767).astype("<i2").tobytes())
        clipped += int(np.count_nonzero(np.abs(samples) >= FULL_SCALE))
        samples_read += len(samples)
        # Of what sounds: a constant is heard as silence. Where it is most of the signal, so are the
        # frames at both ends, in which it begins and ends for the resampler alone.
        whole = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].astype(np.float64)
        constant = whole.mean()
        power = np.square(whole - constant).reshape(-1, FRAME_SAMPLES).mean(axis=1)  # of frames
        powers.append(power if constant**2 <= power.mean() else power[1:-1])
    frames = np.concatenate(powers)
    quiet = frames < max(frames.max(), 1e-12) * 10 ** (-QUIET_DB / 10)
    return SoundMeasures(
        rms_dbfs=decibels(frames.mean()),
        loudest_dbfs=decibels(frames.max()),
        quiet_share=float(quiet.mean()),
        clipped_share=clipped / samples_read,
        fingerprint=int.from_bytes(digest.digest(), "little") or 1,
        remarks=tuple(remarks.values()),
    )


def decibels(power: float) -> float:
    return max(QUIETEST_DBFS, 10 * math.log10(power)) if power > 0 else QUIETEST_DBFS


# ── text ─────────────────────────────────────────────────────────────────────────────────────


def comparable(text: str) -> str:
    """The text as it is compared with others: as it is seen, without case, single spaces."""
    return " ".join(without_unseen(text).casefold().split())


def text_key(text: str) -> int:
    """64 bits that equal texts have in common; 0 for an empty one."""
    words = comparable(text).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") if words else 0


def digits(text: str) -> list[str]:
    """Words with digits, numbers and the like in any script."""
    return [word for word in text.split() if DIGIT.search(word)]


@cache
def script(letter: str) -> str | None:
    """The Unicode script of a letter; None for all that is none, or stands in several scripts."""
    match = LETTER_OF_SCRIPT.match(letter)
    return match.lastgroup if match else None


def mixed_scripts(text: str) -> list[str]:
    """The scripts of a text's letters where it has more than one language would write with."""
    scripts = {name for name in map(script, text) if name}
    if len(scripts) < 2 or any(scripts <= together for together in WRITTEN_TOGETHER):
        return []
    return sorted(scripts, key=lambda name: [script(one) for one in text].index(name))


CountWords = Callable[[str, str | None], tuple[int, int]]  # of a text in a language


@dataclass(frozen=True)
class TextRules:
    """What a checkpoint's tokenizer and vocabulary say of a text."""

    tokenizer: Any
    special_tokens: SpecialTokens
    words_of: CountWords | None = None  # how many are written and scored; None: nobody asks
    _tokens: dict[str, int] = field(default_factory=dict)  # of a character
    _problems: dict[tuple[str | None, ...], str] = field(default_factory=dict)  # of a language

    def tokens(self, utterance: Utterance) -> int:
        """Decoder positions that the utterance takes; 0 where its bytes say that there is room.

        Byte-level BPE makes no more tokens than the text has bytes; one more is for the space that
        is put in front. Where positions are left is of no interest, and tokenizing takes time.
        """
        start = 4 if self.special_tokens.multilingual else 2  # sot, language, task, no timestamps
        text = unicodedata.normalize("NFC", utterance.text)
        if len(text.encode("utf-8")) + 1 + start <= self.special_tokens.max_tokens:
            return 0
        return start + len(text_tokens(self.tokenizer, text, self.written(utterance)))

    def words(self, utterance: Utterance) -> tuple[int, int]:
        """How many words of the text are written, and how many scored."""
        if self.words_of is None:
            return 0, 0
        return self.words_of(utterance.text, self.written(utterance))

    def language_problem(self, utterance: Utterance) -> str:
        """Why the checkpoint cannot be told the utterance's language and task, or ""."""
        prompt = utterance.language, utterance.language_token, utterance.task
        if prompt not in self._problems:
            try:
                token_language(self.special_tokens, utterance)
                check_task(self.special_tokens, utterance.task)
                self._problems[prompt] = ""
            except UserError as error:
                self._problems[prompt] = str(error)
        return self._problems[prompt]

    def spelled_in_bytes(self, text: str) -> list[str]:
        """Characters that the tokenizer knows only as single bytes, each a token of its own."""
        characters = [one for one in unicodedata.normalize("NFC", text) if not one.isascii()]
        for one in set(characters) - self._tokens.keys():
            # "en": any language that is written with spaces; the space in front is a token or none
            alone = text_tokens(self.tokenizer, f"a{one}", "en")
            self._tokens[one] = len(alone) - len(text_tokens(self.tokenizer, "a", "en"))
        distinct = dict.fromkeys(characters)
        return [one for one in distinct if self._tokens[one] >= len(one.encode("utf-8"))]

    def written(self, utterance: Utterance) -> str | None:
        try:
            return written_language(self.special_tokens, utterance)
        except UserError:  # an unknown language is a finding of its own
            return None


# ── rows ─────────────────────────────────────────────────────────────────────────────────────

REMARK_KINDS = tuple(REMARKS)
RECORD = np.dtype(
    [
        ("problem", "u1"),  # index of SOUND_PROBLEMS
        ("remarks", "u1"),  # a bit for each of REMARKS
        ("seconds", "f8"),
        ("rms_dbfs", "f4"),
        ("loudest_dbfs", "f4"),
        ("quiet_share", "f4"),
        ("clipped_share", "f4"),
        ("fingerprint", "u8"),
        ("rate", "u4"),
        ("format", "i2"),
        ("characters", "u4"),
        ("text_key", "u8"),
        ("tokens", "u4"),
        ("language", "i4"),
        ("speaker", "i4"),
        ("has_digits", "?"),
        ("has_mixed_scripts", "?"),
        ("is_spelled_in_bytes", "?"),
        ("has_unknown_language", "?"),
        ("has_leftovers", "?"),
        ("written_words", "u4"),
        ("scored_words", "u4"),
    ]
)


class Categories:
    """Numbers for names that many rows share; -1 is none."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str | None) -> int:
        if not name:
            return -1
        if name not in self._numbers:
            self._numbers[name] = len(self.all)
            self.all.append(name)
        return self._numbers[name]

    def __getitem__(self, number: int) -> str:
        return self.all[number] if number >= 0 else ""


@dataclass(frozen=True)
class Measured:
    """One split: its rows, and a record of `RECORD` for each."""

    split: str
    utterances: Utterances
    records: np.ndarray  # (rows,) RECORD
    details: dict[int, str]  # of rows whose sound has a problem
    languages: Categories
    speakers: Categories
    formats: Categories
    remarks: dict[int, tuple[Remark, ...]] = field(default_factory=dict)  # on rows' sound


def measure(
    splits: Mapping[str, Utterances],
    rules: TextRules,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Measured]:
    """Measure every row of every split; `progress` is told how many are done."""
    names = Categories(), Categories(), Categories()
    measured, done = {}, 0
    for split, utterances in splits.items():
        one = Measured(split, utterances, np.zeros(len(utterances), RECORD), {}, *names)
        for index, sound in enumerate(measure_sounds(utterances)):
            _fill(one, index, sound, rules)
            progress(done := done + 1)
        measured[split] = one
    return measured


def _fill(measured: Measured, index: int, sound: SoundMeasures, rules: TextRules) -> None:
    utterance, record = measured.utterances[index], measured.records[index]
    record["problem"] = SOUND_PROBLEMS.index(sound.problem)
    if sound.problem:
        measured.details[index] = sound.detail
    if sound.remarks:
        measured.remarks[index] = sound.remarks
        record["remarks"] = sum(1 << REMARK_KINDS.index(one.kind) for one in sound.remarks)
    for name in ("seconds", "rms_dbfs", "loudest_dbfs", "quiet_share", "clipped_share", "rate"):
        record[name] = getattr(sound, name)
    record["fingerprint"] = sound.fingerprint
    record["format"] = measured.formats.number(sound.format)
    record["language"] = measured.languages.number(
        utterance.language and code_of(utterance.language)
    )
    record["speaker"] = measured.speakers.number(utterance.speaker)
    text = unicodedata.normalize("NFC", utterance.text).strip()
    record["characters"] = len(text)
    record["text_key"] = text_key(text)
    record["tokens"] = rules.tokens(utterance)
    record["has_digits"] = bool(DIGIT.search(text))
    record["has_mixed_scripts"] = bool(mixed_scripts(text))
    record["is_spelled_in_bytes"] = bool(rules.spelled_in_bytes(text))
    record["has_unknown_language"] = bool(rules.language_problem(utterance))
    record["written_words"], record["scored_words"] = rules.words(utterance)
    record["has_leftovers"] = bool(leftovers(utterance.text, rules.written(utterance)))
