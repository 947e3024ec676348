"""The order of an epoch: all is seen, as often as it should be, in batches of like lengths."""

import itertools
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data import sampler
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.sampler import (
    CHUNK_BATCHES,
    LONGEST_GAP_SECONDS,
    Epoch,
    GlobalBatch,
    Packing,
    bucketed,
    by_speaker,
    epoch_order,
    pack,
    steps_per_epoch,
    windows_per_epoch,
)
from lora_whisper.data.windows import Segment, token_sequence
from lora_whisper.model.tokenizer import read_special_tokens, text_tokens
from tests.model.test_tokenizer import model_config
from tests.toy_tokenizers import toy_generation_config, toy_tokenizer
from tests.toy_utterances import toy_utterances


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
    batch = GlobalBatch(global_batch)
    order = epoch_order(seconds, weights, no_speech_share, batch, seed, epoch)
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
        order = epoch_order(seconds, [1.0, weight], 0.0, GlobalBatch(4), 5, epoch)
        seen += speech_of(order, 1)
        all_times = [seen[window] for window in range(count)]
        assert max(all_times) - min(all_times) <= 1


def batches_of(
    seconds: np.ndarray, batch: GlobalBatch, steps: int, seed: int = 0, epoch: int = 0
) -> list[np.ndarray]:
    sizes = batch.sizes(seconds, np.ones(len(seconds), bool))
    order, starts = bucketed(seconds, sizes, batch, steps, seed, epoch)
    return [order[first:end] for first, end in itertools.pairwise(starts)]


def test_global_batches_hold_windows_of_like_lengths_and_the_short_one_is_last() -> None:
    seconds = lengths(1003)
    batches = batches_of(seconds, GlobalBatch(8), 126, seed=1)
    assert [len(batch) for batch in batches] == [8] * 125 + [3]
    assert all((np.diff(seconds[batch]) >= 0).all() for batch in batches), "each is sorted"
    spreads = [np.ptp(seconds[batch]) for batch in batches[:-1]]
    at_random = np.ptp(np.random.default_rng(0).permutation(seconds)[:1000].reshape(-1, 8), axis=1)
    assert np.mean(spreads) < np.mean(at_random) / 10
    means = [seconds[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3, "no curriculum"


def test_windows_meet_others_in_every_epoch() -> None:
    seconds = lengths(4 * CHUNK_BATCHES * 3)
    steps = 3 * CHUNK_BATCHES
    pairs = [
        {
            frozenset(batch.tolist())
            for batch in batches_of(seconds, GlobalBatch(4), steps, 0, epoch)
        }
        for epoch in range(2)
    ]
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 10


def test_order_depends_on_seed_and_epoch_only() -> None:
    def made(seed: int, epoch: int) -> list[int]:
        order = epoch_order([lengths(100)], [1.0], 0.1, GlobalBatch(8), seed, epoch)
        return order.window.tolist()

    np.random.seed(1)
    first = made(1, 0)
    np.random.seed(2)
    assert made(1, 0) == first
    assert made(1, 1) != first
    assert made(2, 0) != first


def test_steps_of_an_epoch() -> None:
    found = [
        steps_per_epoch([lengths(windows)], [1.0], 0.0, GlobalBatch(16))
        for windows in (1, 16, 17, 100)
    ]
    assert found == [1, 1, 2, 7]


def with_margin(seconds: np.ndarray, is_speech: np.ndarray) -> np.ndarray:
    return np.where(is_speech, seconds + 1.5, 30.0)


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 400),
    amount=st.floats(31.5, 600),
    no_speech_share=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 5),
)
def test_batches_by_seconds_are_level(
    count: int, amount: float, no_speech_share: float, seed: int, epoch: int
) -> None:
    """Each has what all have on the mean, but for half a window at both ends."""
    seconds, batch = [lengths(count), lengths(count // 3 + 1, 1)], GlobalBatch(amount, with_margin)
    order = epoch_order(seconds, [1.0, 0.3], no_speech_share, batch, seed, epoch)
    assert speech_of(order, 0) == Counter(range(count))
    steps = steps_per_epoch(seconds, [1.0, 0.3], no_speech_share, batch)
    assert len(order.starts) == steps + 1, "in each epoch as many, whatever was drawn"
    assert (order.starts[0], order.starts[-1]) == (0, len(order))
    length = np.choose(
        order.source, [seconds[0][order.window], seconds[1][order.window % len(seconds[1])]]
    )
    sizes = with_margin(length, order.is_speech)
    level, largest = sizes.sum() / steps, sizes.max()
    for first, end in itertools.pairwise(order.starts):
        assert abs(sizes[first:end].sum() - level) <= largest + 1e-6
        assert (np.diff(length[first:end]) >= 0).all()


def test_batches_by_seconds_hold_windows_of_like_lengths() -> None:
    """Few short clips stand with long ones: where one chunk ends and the next begins."""
    seconds = lengths(20_000)
    batches = batches_of(seconds, GlobalBatch(120.0, with_margin), steps := 2_800)
    assert min(map(len, batches)) >= 3
    assert max(map(len, batches)) > 30
    wide = [batch for batch in batches if np.ptp(seconds[batch]) > 2.0]
    assert len(wide) <= 2 * steps / CHUNK_BATCHES


def test_each_of_a_million_windows_is_there_once() -> None:
    epoch = epoch_order([lengths(1_000_000)], [1.0], 0.02, GlobalBatch(32), 0, 0)
    assert (np.bincount(epoch.window[epoch.is_speech]) == 1).all()
    assert np.count_nonzero(~epoch.is_speech) == 20_000


# ── which utterances share a window ──────────────────────────────────────────────────────────────


TOKENIZER = toy_tokenizer(window_seconds=30)
VOCABULARY = read_special_tokens(
    TOKENIZER, toy_generation_config(TOKENIZER), model_config(len(TOKENIZER))
)
WINDOW_SECONDS = 30.0


def packed(utterances: Utterances, **changes: Any) -> Packing:
    arguments = {"window_seconds": WINDOW_SECONDS, "windows": "packed"} | changes
    return pack(utterances, TOKENIZER, VOCABULARY, **arguments)


def parts(found: Packing) -> list[list[int]]:
    return [
        list(range(first, first + count))
        for first, count in zip(found.first.tolist(), found.count.tolist(), strict=True)
    ]


def test_padded_windows_hold_one_utterance_each() -> None:
    found = packed(toy_utterances([{}, {}, {}], [1.0, 30.0, 2.5]), windows="padded")
    assert parts(found) == [[0], [1], [2]]
    assert found.seconds.tolist() == [1.0, 30.0, 2.5]
    assert not found.continues.any()
    assert np.isnan(found.gaps_seconds).all()


def test_windows_are_filled_in_order_up_to_the_sample() -> None:
    found = packed(toy_utterances([{}] * 6, [10.0, 20.0, 10.0, 20.0001, 9.0, 30.0]))
    assert parts(found) == [[0, 1], [2], [3, 4], [5]]
    assert found.seconds.tolist() == pytest.approx([30.0, 10.0, 29.0001, 30.0])


@pytest.mark.parametrize(
    "changes", [{"speaker": "b"}, {"language": "de"}, {"task": "translate"}, {"speaker": None}]
)
def test_speaker_language_and_task_are_never_mixed(changes: dict[str, Any]) -> None:
    common = {"speaker": "a", "language": "en", "task": "transcribe"}
    found = packed(toy_utterances([common, common, common | changes, common]))
    assert parts(found) == [[0, 1], [2], [3]]
    assert found.continues.tolist() == [False, False, False]


def test_unknown_speakers_count_as_one() -> None:
    assert parts(packed(toy_utterances([{}, {"task": "transcribe"}, {}]))) == [[0, 1, 2]]


def test_a_window_continues_the_one_before_of_the_same_speaker() -> None:
    rows = [{"speaker": name} for name in "aaabbb"]
    found = packed(toy_utterances(rows, 15.0))
    assert parts(found) == [[0, 1], [2], [3, 4], [5]]
    assert found.continues.tolist() == [False, True, False, True]


def test_what_a_speaker_says_comes_together_in_the_order_of_rows() -> None:
    speakers = ["b", "a", None, "b", "a", "b", None]
    rows = [{"speaker": name, "text": f"{index}"} for index, name in enumerate(speakers)]
    found = by_speaker(toy_utterances(rows))
    assert "".join(one.text for one in found) == "0351426"
    again = by_speaker(found)
    assert again is found, "nothing moves that stands well"
    assert parts(packed(found)) == [[0, 1, 2], [3, 4], [5, 6]]


def test_one_speakers_languages_stay_apart() -> None:
    rows = [{"speaker": "a", "language": code, "text": code} for code in ("en", "de", "en")]
    assert [one.text for one in by_speaker(toy_utterances(rows))] == ["en", "en", "de"]


def slices(*boundaries: tuple[float, float], audio: str = "/one.wav") -> list[dict[str, Any]]:
    return [{"audio": audio, "start": start, "end": end} for start, end in boundaries]


def test_gaps_between_slices_count() -> None:
    rows = slices((0, 10), (10.5, 20), (20.4, 30.2), (31, 40))
    found = packed(toy_utterances(rows))
    assert parts(found) == [[0, 1], [2, 3]], "the third would end at 30.2 s"
    assert found.seconds.tolist() == pytest.approx([20.0, 19.6])
    assert found.gaps_seconds.tolist() == pytest.approx([np.nan, 0.5, np.nan, 0.8], nan_ok=True)


def test_only_close_slices_of_one_file_are_read_in_one_go() -> None:
    far = 4.0 + LONGEST_GAP_SECONDS + 0.1
    rows = slices((0, 2), (2, 4), (far, far + 2), (far + 1, far + 3))
    rows += [*slices((far + 3, far + 4), audio="/two.wav"), {"audio": "/two.wav"}]
    gaps = packed(toy_utterances(rows)).gaps_seconds
    assert gaps.tolist() == pytest.approx([np.nan, 0.0] + [np.nan] * 4, nan_ok=True)


def test_audio_inside_a_data_set_is_read_row_by_row() -> None:
    rows = slices((0, 2), (2, 4), audio="")
    assert np.isnan(packed(toy_utterances(rows)).gaps_seconds).all()


def greedy(utterances: Utterances) -> list[list[int]]:
    """Packing as one would write it without a thought of speed."""
    windows: list[list[int]] = []
    for index, one in enumerate(utterances):
        before = utterances[index - 1] if index else None
        same = before is not None and (before.speaker, before.language) == (
            one.speaker,
            one.language,
        )
        if same and fits([utterances[number] for number in [*windows[-1], index]]):
            windows[-1].append(index)
        else:
            windows.append([index])
    return windows


def fits(utterances: list[Any]) -> bool:
    segments = [Segment(tokens(one.text), 0.0, 1.0) for one in utterances]
    given, _ = token_sequence(VOCABULARY, segments, "en", "transcribe", timestamps=True)
    seconds = sum(one.duration_seconds for one in utterances)
    return len(given) <= VOCABULARY.max_tokens and seconds <= WINDOW_SECONDS


def tokens(text: str) -> list[int]:
    composed = unicodedata.normalize("NFC", text)  # which toy tokenizers do not do by themselves
    return TOKENIZER(f" {composed}", add_special_tokens=False).input_ids


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 240).map(lambda eighths: eighths / 8),  # sums are exact
            st.sampled_from([5, 60, 150, 300, 445]),
            st.sampled_from(["the in ", "x", "é", "<|en|>", "e\u0301"]),
            st.sampled_from("aab"),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_equal_to_a_plain_greedy_packing(rows: list[tuple[float, int, str, str]]) -> None:
    utterances = toy_utterances(
        [
            {"text": (word * letters)[:letters].strip(), "speaker": speaker}
            for _, letters, word, speaker in rows
        ],
        [seconds for seconds, *_ in rows],
    )
    special = any("<|" in word for _, _, word, _ in rows)
    found = parts(packed(utterances))
    assert [index for window in found for index in window] == list(range(len(rows)))
    if not special:  # the tokenizer would take it for a token, and not for letters
        assert found == greedy(utterances)


def test_labels_fit_whether_or_not_timestamps_are_drawn() -> None:
    room = VOCABULARY.max_tokens - 3
    exactly = [{"text": "x" * 199}, {"text": "x" * (room - 4 - 200 - 1)}]  # and a space each
    assert parts(packed(toy_utterances(exactly))) == [[0, 1]]
    exactly[1]["text"] += "x"
    assert parts(packed(toy_utterances(exactly))) == [[0], [1]]


def test_texts_are_counted_as_they_will_be_after_cleaning() -> None:
    rows = [{"text": "x" * 300}, {"text": "[" + "x" * 300 + "]"}]
    assert parts(packed(toy_utterances(rows))) == [[0], [1]]
    assert parts(packed(toy_utterances(rows), clean=("annotations",))) == [[0, 1]]


def test_nothing_gives_no_windows() -> None:
    assert len(packed(toy_utterances([]))) == 0


@pytest.mark.parametrize(("letters", "counted"), [(60, 0), (120, 3_000)])
def test_a_text_is_tokenized_once_and_only_where_its_bytes_leave_the_question_open(
    letters: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = toy_utterances([{"text": ("the in her " * 20)[:letters].strip()}], 4.0)
    utterances = Utterances(one.tables, one.defaults, np.zeros(3_000, np.int64), np.full(3_000, 4))
    texts: list[str] = []

    def counting(tokenizer: Any, text: str, language: str | None) -> list[int]:
        texts.append(text)
        return text_tokens(tokenizer, text, language)

    monkeypatch.setattr(sampler, "text_tokens", counting)
    assert packed(utterances).count.sum() == 3_000
    forgotten = 2 * 7 * (3_000 // sampler.REMEMBERED_COUNTS)  # a window's, when room is made
    assert counted <= len(texts) <= counted + (forgotten if counted else 0)
