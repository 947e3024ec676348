"""Which utterances share a window, and in which order an epoch has the windows.

Padded: each utterance has a window of its own. Packed: consecutive utterances of one speaker,
language and task fill a window, greedily and in the order of their source, as far as its length and
the decoder allow. That order is what makes one window's text the next one's previous text; where
speakers take turns in it, `by_speaker` brings together what each says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lora_whisper.data.dataset import Utterances, written_language
from lora_whisper.data.text import clean as clean_text
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import SpecialTokens, text_tokens

CHUNK_BATCHES = 50  # global batches that are cut from windows sorted by length together

# Each purpose draws from a generator of its own.
SHUFFLE, BATCHES, NO_SPEECH, TURNS, MARGINS = range(5)

SHARED_IN_A_WINDOW = ("speaker", "language", "task")
TIMESTAMPS_A_TEXT = 2  # one before, one after
# Slices of one file with so little between them are read as one stretch. In longer gaps somebody
# may speak whose row is not in this split, and the model would learn not to hear it.
LONGEST_GAP_SECONDS = 1.0
REMEMBERED_COUNTS = 1_000  # a text is counted for two windows at most, which are neighbours
OVERLAP_SECONDS = 0.01  # by which rounded boundaries may cross


# ── which utterances share a window ──────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Packing:
    """The windows of a set of utterances, in its order; arrays of (windows,) but for the last."""

    first: np.ndarray  # int64, the window's first utterance
    count: np.ndarray  # int64, of its utterances
    seconds: np.ndarray  # float64, of its sound
    continues: np.ndarray  # bool, whether the window before is of the same speaker and language
    gaps_seconds: np.ndarray  # (utterances,) float64 between it and the one before, which are read
    # in one go; NaN where it is read on its own

    def __len__(self) -> int:
        return len(self.first)


def pack(
    utterances: Utterances,
    tokenizer: Any,
    special_tokens: SpecialTokens,
    window_seconds: float,
    windows: str,
    clean: Sequence[str] = (),
) -> Packing:
    """Divide measured utterances into windows.

    Args:
        windows: "padded" or "packed".
        clean: what becomes of the texts before they are tokenized, see `text.clean`.
    """
    if windows == "padded":
        return unpacked(utterances.durations_seconds)
    continues, gaps = _neighbours(utterances)
    limits = _Limits(utterances, tokenizer, special_tokens, window_seconds, clean, continues, gaps)
    first = np.fromiter(limits.firsts(), np.int64)
    count = np.diff(first, append=len(utterances))
    gaps[first] = math.nan
    heard_seconds = utterances.durations_seconds + np.nan_to_num(gaps)
    seconds = np.add.reduceat(heard_seconds, first) if len(first) else np.zeros(0)
    return Packing(first, count, seconds, continues[first], gaps)


def by_speaker(utterances: Utterances) -> Utterances:
    """The same with what a speaker says in one language and task together, in the order of rows.

    Utterances that stand so already, as most data sets have them, keep their places.
    """
    number = np.zeros(len(utterances), np.int64)
    for name in SHARED_IN_A_WINDOW:
        codes = pc.dictionary_encode(_filled(utterances, name)).combine_chunks().indices.to_numpy()
        number = np.unique(number * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1]
    _, first, group = np.unique(number, return_index=True, return_inverse=True)
    order = np.argsort(first[group], kind="stable")
    return utterances if (order == np.arange(len(order))).all() else utterances.select(order)


def unpacked(durations_seconds: np.ndarray) -> Packing:
    """A window for each utterance."""
    count = len(durations_seconds)
    return Packing(
        first=np.arange(count),
        count=np.ones(count, np.int64),
        seconds=np.asarray(durations_seconds, np.float64),
        continues=np.zeros(count, bool),
        gaps_seconds=np.full(count, math.nan),
    )


def _neighbours(utterances: Utterances) -> tuple[np.ndarray, np.ndarray]:
    """(utterances,) whether each has speaker, language and task of the one before it; and the gap
    between the two in seconds, where both are slices close to each other, else NaN."""
    continues = np.ones(len(utterances), bool)
    continues[:1] = False
    for name in SHARED_IN_A_WINDOW:
        column = _filled(utterances, name)
        continues[1:] &= pc.equal(column[1:], column[:-1]).to_numpy()
    start, audio = utterances.column("start").to_numpy(), utterances.column("audio")
    gaps = np.full(len(utterances), math.nan)
    gaps[1:] = start[1:] - (start[:-1] + utterances.durations_seconds[:-1])
    close = (gaps >= -OVERLAP_SECONDS) & (gaps <= LONGEST_GAP_SECONDS) & continues
    # Audio inside a data set has no path, and each row its own.
    same_file = pc.and_(pc.equal(audio[1:], audio[:-1]), pc.not_equal(audio[1:], ""))
    close[1:] &= same_file.to_numpy()
    return continues, np.where(close, np.maximum(gaps, 0.0), math.nan)


def _filled(utterances: Utterances, name: str) -> pa.ChunkedArray:
    """No row says "", so that it can stand for what is unknown: unknown speakers count as one."""
    return pc.fill_null(utterances.column(name), "")


class _Limits:
    """Where windows have to end: by samples, by tokens, and where somebody else begins.

    A text has no more byte-level tokens than UTF-8 bytes, so that most windows are found without
    tokenizing anything; a text is tokenized, once, where bytes leave the question open.
    """

    def __init__(
        self,
        utterances: Utterances,
        tokenizer: Any,
        special_tokens: SpecialTokens,
        window_seconds: float,
        clean: Sequence[str],
        continues: np.ndarray,
        gaps_seconds: np.ndarray,
    ):
        self.utterances, self.tokenizer, self.special_tokens = utterances, tokenizer, special_tokens
        self.window_samples = round(window_seconds * SAMPLING_RATE)
        self.ends = np.append(np.flatnonzero(~continues)[1:], len(utterances))  # of the speakers
        # Rounded up one by one, no sum is less than what reading a whole stretch gives.
        samples = np.ceil(utterances.durations_seconds * SAMPLING_RATE)
        self.gaps_samples = np.ceil(np.nan_to_num(gaps_seconds) * SAMPLING_RATE)
        self.samples_before = _sums_before(samples + self.gaps_samples)
        self.texts = utterances.column("text")
        if clean:
            cleaned = [
                clean_text(utterance.text, clean, written_language(special_tokens, utterance))
                for utterance in utterances
            ]
            self.texts = pa.chunked_array([pa.array(cleaned, pa.string())])
        bytes_each = pc.binary_length(pc.utf8_normalize(self.texts, "NFC")).to_numpy()
        most_tokens = bytes_each.astype(np.int64) + 1 + TIMESTAMPS_A_TEXT  # 1: the space in front
        self.most_tokens_before = _sums_before(most_tokens)
        self.tokens: dict[int, int] = {}

    def firsts(self) -> Iterator[int]:
        """The first utterance of each window."""
        for begin, end in zip([0, *self.ends[:-1]], self.ends, strict=True):
            first = int(begin)
            while first < end:
                yield first
                first = self._next(first, int(end))

    def _next(self, first: int, end: int) -> int:
        """The first utterance that has no room in the window of `first`; that one always has."""
        # The gap in front of a window's first utterance is not read.
        limit = self.samples_before[first] + self.gaps_samples[first] + self.window_samples
        by_samples = int(np.searchsorted(self.samples_before, limit, side="right")) - 1
        last = max(first + 1, min(end, by_samples))
        most_tokens = self.most_tokens_before[last] - self.most_tokens_before[first]
        if most_tokens <= self.special_tokens.room_tokens:
            return last
        written = written_language(self.special_tokens, self.utterances[first])  # one in a window
        room = self.special_tokens.room_tokens
        for index in range(first, last):
            room -= self._count(index, written)
            if room < 0:
                return max(first + 1, index)
        return last

    def _count(self, index: int, written: str | None) -> int:
        """Tokens of a text between its timestamps; what was counted lately is remembered."""
        if index not in self.tokens:
            if len(self.tokens) > REMEMBERED_COUNTS:
                self.tokens.clear()
            tokens = text_tokens(self.tokenizer, self.texts[index].as_py(), written)
            self.tokens[index] = len(tokens) + TIMESTAMPS_A_TEXT
        return self.tokens[index]


def _sums_before(values: np.ndarray) -> np.ndarray:
    """(n + 1,) sums of the first 0, 1, … n values."""
    return np.concatenate([[0], np.cumsum(values)])


# ── the order of an epoch ────────────────────────────────────────────────────────────────────────

# Pure functions of the windows' lengths, the seed and the epoch.
#
#     every window of the first source once
#     + of each other source, `weight` windows for each of these, in turn from seeded permutations
#     + `no_speech_share` windows without speech for each of these
#     → shuffled → chunks of CHUNK_BATCHES global batches, each sorted by length, cut into batches
#     → the batches shuffled, a short one last.
#
# So each global batch holds windows of like lengths, while an epoch is as random as a permutation
# but for that. A resumed run sees the batches that it would have seen, and so do several processes.


@dataclass(frozen=True)
class GlobalBatch:
    """How much an optimizer step has, over all processes: `amount` windows.

    Or so many seconds, where `seconds_of` says how many a window adds: of (windows,) seconds of
    clips and whether there is speech in them, (windows,) seconds. Then an epoch has the same number
    of steps whatever it draws, which share it evenly.
    """

    amount: float
    seconds_of: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    def sizes(self, seconds: np.ndarray, is_speech: np.ndarray) -> np.ndarray:
        """What each window adds; all arrays (windows,)."""
        if self.seconds_of is None:
            return np.ones(len(seconds))
        return self.seconds_of(seconds, is_speech)

    def steps(self, total: float) -> int:
        """Optimizer steps that an epoch of so much has; the last may be short of windows."""
        if self.seconds_of is None:
            return ceil(total / self.amount)
        return max(1, floor(total / self.amount))

    def portions(self, total: float, steps: int) -> tuple[float, int]:
        """How much a step of an epoch has, and how many have as much."""
        if self.seconds_of is None:
            return self.amount, floor(total / self.amount)
        return total / steps, steps


@dataclass(frozen=True, eq=False)
class Epoch:
    """The windows of an epoch, in order; (windows,) each but for the last."""

    source: np.ndarray  # int16, number of the source
    window: np.ndarray  # int64, number in the source's packing
    is_speech: np.ndarray  # bool; without speech, it is only as long as that window
    starts: np.ndarray  # (steps + 1,) int64, the first window of each step, and of none

    def __len__(self) -> int:
        return len(self.source)


def windows_per_epoch(
    counts: Sequence[int], weights: Sequence[float], no_speech_share: float
) -> int:
    """Windows in an epoch of sources with `counts` windows; the first source's weight is 1."""
    return sum(_portions(counts, weights)) + round(no_speech_share * counts[0])


def steps_per_epoch(
    seconds: Sequence[np.ndarray],
    weights: Sequence[float],
    no_speech_share: float,
    batch: GlobalBatch,
) -> int:
    """Optimizer steps of an epoch, see `epoch_order`: the same for each, whatever it draws."""
    portions = _portions([len(source) for source in seconds], weights)
    total = 0.0
    for source, portion in zip(seconds, portions, strict=True):
        total += portion * batch.sizes(source, np.ones(len(source), bool)).mean()
    without = batch.sizes(seconds[0], np.zeros(len(seconds[0]), bool)).mean()
    return batch.steps(total + round(no_speech_share * len(seconds[0])) * without)


def epoch_order(
    seconds: Sequence[np.ndarray],
    weights: Sequence[float],
    no_speech_share: float,
    batch: GlobalBatch,
    seed: int,
    epoch: int,
) -> Epoch:
    """The windows of one epoch, global batch after global batch, each sorted by length.

    Args:
        seconds: of each source's windows, (windows,) each; the first is the main source.
        weights: of the sources; the first source's is not looked at.
    """
    counts = [len(source) for source in seconds]
    parts = [
        _turns(count, portion, (seed, TURNS, number), epoch)
        for number, (count, portion) in enumerate(
            zip(counts, _portions(counts, weights), strict=True)
        )
    ]
    generator = np.random.default_rng((seed, epoch, NO_SPEECH))
    without = generator.permutation(counts[0])[: round(no_speech_share * counts[0])]
    sizes = [len(part) for part in parts]
    source = np.repeat(np.arange(len(parts) + 1, dtype=np.int16), [*sizes, len(without)])
    window = np.concatenate([*parts, without])
    is_speech = source < len(parts)
    source[~is_speech] = 0
    lengths = [each[part] for each, part in zip(seconds, parts, strict=True)]
    lengths.append(seconds[0][without])
    length = np.concatenate(lengths)
    steps = steps_per_epoch(seconds, weights, no_speech_share, batch)
    order, starts = bucketed(length, batch.sizes(length, is_speech), batch, steps, seed, epoch)
    return Epoch(source[order], window[order], is_speech[order], starts)


def bucketed(
    seconds: np.ndarray, sizes: np.ndarray, batch: GlobalBatch, steps: int, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """An order of windows, in which neighbours in a global batch are of like lengths.

    Returns it, (windows,), and where in it each batch begins, (steps + 1,).

    Args:
        seconds: their lengths, (windows,).
        sizes: what each adds to its batch, (windows,).
    """
    per_step, full = batch.portions(float(sizes.sum()), steps)

    def batches(order: np.ndarray) -> np.ndarray:
        """That of each window, where its middle lies."""
        middle = np.cumsum(sizes[order]) - sizes[order] / 2
        return np.minimum((middle / per_step).astype(np.int64), steps - 1)

    order = np.random.default_rng((seed, epoch, SHUFFLE)).permutation(len(seconds))
    number = batches(order)
    chunk = np.where(number < full, number // CHUNK_BATCHES, steps)  # left over: the short batch
    order = order[np.lexsort((seconds[order], chunk))]
    turn = np.arange(steps)
    turn[np.random.default_rng((seed, epoch, BATCHES)).permutation(full)] = np.arange(full)
    turn = turn[batches(order)]
    starts = np.concatenate([[0], np.cumsum(np.bincount(turn, minlength=steps))])
    return order[np.lexsort((seconds[order], turn))], starts


def _portions(counts: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Windows of each source in an epoch; none is left out of it altogether."""
    return [counts[0], *(max(1, round(weight * counts[0])) for weight in weights[1:])]


def _turns(count: int, portion: int, seed: tuple[int, ...], epoch: int) -> np.ndarray:
    """The next `portion` of `count` windows, taken in turn from one permutation after another.

    Over the epochs each window is seen equally often, whatever the portion is.
    """
    first = epoch * portion
    permutations = range(first // count, ceil((first + portion) / count))
    drawn = [np.random.default_rng((*seed, number)).permutation(count) for number in permutations]
    skipped = first % count
    return np.concatenate([np.zeros(0, np.int64), *drawn])[skipped : skipped + portion]
