"""The order of an epoch: pure functions of the windows' lengths, the seed and the epoch.

    every window of the first source once
    + of each other source, `weight` windows for each of these, in turn from seeded permutations
    + `no_speech_share` windows without speech for each of these
    → shuffled → chunks of CHUNK_BATCHES global batches, each sorted by length and cut into batches
    → the batches shuffled, the short one last.

So each global batch holds windows of like lengths, while an epoch is as random as a permutation
but for that. A resumed run sees the batches that it would have seen, and so do several processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

CHUNK_BATCHES = 50  # global batches that are cut from windows sorted by length together

SHUFFLE, BATCHES, NO_SPEECH, TURNS = range(4)  # each purpose draws from a generator of its own


@dataclass(frozen=True, eq=False)
class Epoch:
    """The windows of an epoch, in order; (windows,) each."""

    source: np.ndarray  # int16, number of the source
    window: np.ndarray  # int64, number in the source's plan
    is_speech: np.ndarray  # bool; without speech, it is only as long as that window

    def __len__(self) -> int:
        return len(self.source)


def windows_per_epoch(
    counts: Sequence[int], weights: Sequence[float], no_speech_share: float
) -> int:
    """Windows in an epoch of sources with `counts` windows; the first source's weight is 1."""
    return sum(_portions(counts, weights)) + round(no_speech_share * counts[0])


def steps_per_epoch(windows: int, global_batch: int) -> int:
    """Optimizer steps in which each window of an epoch is seen once; the last may be short."""
    return ceil(windows / global_batch)


def epoch_order(
    seconds: Sequence[np.ndarray],
    weights: Sequence[float],
    no_speech_share: float,
    global_batch: int,
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
    order = bucketed(np.concatenate(lengths), global_batch, seed, epoch)
    return Epoch(source[order], window[order], is_speech[order])


def bucketed(seconds: np.ndarray, global_batch: int, seed: int, epoch: int) -> np.ndarray:
    """An order of (windows,) lengths, in which neighbours in a global batch are of like lengths."""
    order = np.random.default_rng((seed, epoch, SHUFFLE)).permutation(len(seconds))
    in_full_batches = len(order) - len(order) % global_batch
    chunk = np.arange(len(order)) // (CHUNK_BATCHES * global_batch)
    chunk[in_full_batches:] = len(order)  # what is left over is the short batch
    order = order[np.lexsort((seconds[order], chunk))]
    batches = order[:in_full_batches].reshape(-1, global_batch)
    batches = np.random.default_rng((seed, epoch, BATCHES)).permutation(batches)
    return np.concatenate([batches.ravel(), order[in_full_batches:]])


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
