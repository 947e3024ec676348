"""The order of an epoch: all is seen, as often as it should be, in batches of like lengths."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.sampler import (
    CHUNK_BATCHES,
    Epoch,
    bucketed,
    epoch_order,
    steps_per_epoch,
    windows_per_epoch,
)


def lengths(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 30, count)


def speech_of(epoch: Epoch, source: int) -> Counter[int]:
    chosen = (epoch.source == source) & epoch.is_speech
    return Counter(epoch.window[chosen].tolist())


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    weight=st.floats(0.01, 3),
    no_speech_share=st.floats(0, 1),
    global_batch=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 5),
)
def test_an_epoch_has_every_window_of_the_first_source_once_and_its_share_of_the_rest(
    counts: list[int],
    weight: float,
    no_speech_share: float,
    global_batch: int,
    seed: int,
    epoch: int,
) -> None:
    weights = [1.0] + [weight] * (len(counts) - 1)
    seconds = [lengths(count) for count in counts]
    order = epoch_order(seconds, weights, no_speech_share, global_batch, seed, epoch)
    assert len(order) == windows_per_epoch(counts, weights, no_speech_share)
    assert speech_of(order, 0) == Counter(range(counts[0]))
    for number, count in enumerate(counts[1:], 1):
        seen = speech_of(order, number)
        assert seen.total() == max(1, round(weight * counts[0]))
        assert set(seen) <= set(range(count))
    without = ~order.is_speech
    assert without.sum() == round(no_speech_share * counts[0])
    assert (order.source[without] == 0).all()
    assert len(set(order.window[without].tolist())) == without.sum()


@pytest.mark.parametrize(("count", "weight"), [(7, 0.3), (100, 0.3), (7, 2.5), (1, 0.01)])
def test_over_the_epochs_mixed_windows_are_seen_equally_often(count: int, weight: float) -> None:
    seconds = [lengths(20), lengths(count)]
    seen: Counter[int] = Counter()
    for epoch in range(12):
        seen += speech_of(epoch_order(seconds, [1.0, weight], 0.0, 4, 5, epoch), 1)
        all_times = [seen[window] for window in range(count)]
        assert max(all_times) - min(all_times) <= 1


def batches_of(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def test_global_batches_hold_windows_of_like_lengths_and_the_short_one_is_last() -> None:
    seconds = lengths(1003)
    batches = batches_of(bucketed(seconds, 8, seed=1, epoch=0), 8)
    assert [len(batch) for batch in batches] == [8] * 125 + [3]
    assert all((np.diff(seconds[batch]) >= 0).all() for batch in batches), "each is sorted"
    spreads = [np.ptp(seconds[batch]) for batch in batches[:-1]]
    at_random = np.ptp(np.random.default_rng(0).permutation(seconds)[:1000].reshape(-1, 8), axis=1)
    assert np.mean(spreads) < np.mean(at_random) / 10
    means = [seconds[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3, "no curriculum"


def test_windows_meet_others_in_every_epoch() -> None:
    seconds = lengths(4 * CHUNK_BATCHES * 3)
    pairs = [
        {frozenset(batch.tolist()) for batch in batches_of(bucketed(seconds, 4, 0, epoch), 4)}
        for epoch in range(2)
    ]
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 10


def test_order_depends_on_seed_and_epoch_only() -> None:
    def made(seed: int, epoch: int) -> list[int]:
        return epoch_order([lengths(100)], [1.0], 0.1, 8, seed, epoch).window.tolist()

    np.random.seed(1)
    first = made(1, 0)
    np.random.seed(2)
    assert made(1, 0) == first
    assert made(1, 1) != first
    assert made(2, 0) != first


def test_steps_of_an_epoch() -> None:
    assert [steps_per_epoch(windows, 16) for windows in (1, 16, 17, 100)] == [1, 1, 2, 7]


def test_each_of_a_million_windows_is_there_once() -> None:
    epoch = epoch_order([lengths(1_000_000)], [1.0], 0.02, 32, 0, 0)
    assert (np.bincount(epoch.window[epoch.is_speech]) == 1).all()
    assert np.count_nonzero(~epoch.is_speech) == 20_000
