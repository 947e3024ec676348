"""Batches: what makes up a step, padding, and the same run whoever loads it."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.batches import (
    Batch,
    StepDataset,
    collate,
    epoch_order,
    step_indices,
    step_loader,
    steps_per_epoch,
)
from lora_whisper.data.corpus import load_corpus
from lora_whisper.data.windows import window_tokens
from tests.data.test_corpus import FAIL
from tests.data.test_vocabulary import toy_vocabulary
from tests.toy_speech import toy_speech
from tests.toy_tokenizers import toy_tokenizer


@pytest.fixture
def dataset(tmp_path: Path) -> StepDataset:
    """Ten utterances in steps of four windows, two at a time: steps of 4, 4 and 2."""
    utterances = load_corpus(toy_speech(tmp_path, count=10), "train", FAIL, 5.0).utterances
    return StepDataset(
        utterances, toy_tokenizer(), toy_vocabulary(), global_batch=4, micro_batch=2, seed=3
    )


def rows(batches: list[Batch]) -> list[str]:
    return [row for batch in batches for row in batch.rows]


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 40),
    global_batch=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 3),
)
def test_every_epoch_visits_each_utterance_once(
    count: int, global_batch: int, seed: int, epoch: int
) -> None:
    steps = steps_per_epoch(count, global_batch)
    seen = Counter(
        index
        for step in range(epoch * steps, (epoch + 1) * steps)
        for index in step_indices(count, global_batch, seed, step)
    )
    assert seen == Counter(range(count))


def test_order_depends_on_seed_and_epoch_only() -> None:
    first = epoch_order(100, seed=1, epoch=0).tolist()
    assert first == epoch_order(100, seed=1, epoch=0).tolist()
    assert first != epoch_order(100, seed=1, epoch=1).tolist()
    assert first != epoch_order(100, seed=2, epoch=0).tolist()
    assert first != sorted(first)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_any_split_sees_the_same_global_batch(
    dataset: StepDataset, world: int, micro_batch: int
) -> None:
    for step in range(4):
        indices = step_indices(10, 4, 3, step)
        expected = [dataset.utterances[index].row for index in indices]
        found = []
        for rank in range(world):
            part = StepDataset(
                dataset.utterances,
                dataset.tokenizer,
                dataset.vocabulary,
                global_batch=4,
                micro_batch=micro_batch,
                seed=3,
                rank=rank,
                world=world,
            )[step]
            assert all(1 <= len(batch.rows) <= micro_batch for batch in part)
            assert rows(part) == expected[rank::world]
            found += rows(part)
        assert sorted(found) == sorted(expected)


def test_a_process_may_have_nothing_to_do_at_the_end_of_an_epoch(dataset: StepDataset) -> None:
    idle = StepDataset(dataset.utterances, None, dataset.vocabulary, 4, 2, seed=3, rank=2, world=3)
    assert idle[2] == []  # the last step of the epoch has two windows


def test_each_row_is_its_utterance_and_padding(dataset: StepDataset) -> None:
    eot = dataset.vocabulary.eot
    by_row = {one.row: one for one in dataset.utterances}
    batches = [batch for step in range(3) for batch in dataset[step]]
    target_tokens = 0
    for batch in batches:
        assert batch.waveforms.dtype == torch.float32
        assert batch.decoder_input.dtype == batch.labels.dtype == torch.int64
        for row, inputs, labels in zip(batch.rows, batch.decoder_input, batch.labels, strict=True):
            tokens = window_tokens(by_row[row], dataset.tokenizer, dataset.vocabulary)
            padding = len(labels) - (len(tokens) - 1)
            assert inputs.tolist() == tokens[:-1] + padding * [eot]
            assert labels.tolist() == tokens[1:] + padding * [-100]
            target_tokens += len(tokens) - 1
    assert sum(batch.target_tokens for batch in batches) == target_tokens
    corpus_seconds = sum(one.duration_seconds for one in dataset.utterances)
    assert sum(batch.audio_seconds for batch in batches) == pytest.approx(corpus_seconds)


def test_waveforms_are_padded_to_the_longest_clip_with_silence(dataset: StepDataset) -> None:
    (batch, *_) = dataset[0]
    durations = {one.row: one.duration_seconds for one in dataset.utterances}
    samples = [round(durations[row] * 16_000) for row in batch.rows]
    assert batch.waveforms.shape == (len(samples), max(samples))
    for waveform, length in zip(batch.waveforms, samples, strict=True):
        assert not waveform[length:].any()
        assert waveform[:length].any()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_steps_in_order(dataset: StepDataset, workers: int) -> None:
    loaded = list(step_loader(dataset, 1, 5, workers))
    assert [rows(batches) for batches in loaded] == [rows(dataset[step]) for step in range(1, 5)]
    assert torch.equal(loaded[0][0].waveforms, dataset[1][0].waveforms)


def test_resuming_continues_the_run_that_was_stopped(dataset: StepDataset) -> None:
    whole = [rows(batches) for batches in step_loader(dataset, 0, 7, workers=0)]
    resumed = [rows(batches) for batches in step_loader(dataset, 4, 7, workers=0)]
    assert whole[4:] == resumed


def test_loading_leaves_the_global_generator_alone(dataset: StepDataset) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(step_loader(dataset, 0, 2, workers=0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_goes_bad_travels_back_as_a_value(dataset: StepDataset, workers: int) -> None:
    broken = [dataset.utterances[index] for index in step_indices(10, 4, 3, step=0)[:3]]
    for utterance in broken:
        utterance.audio.write_text("overwritten since the corpus was checked")
    (batches,) = step_loader(dataset, 0, 1, workers)
    none_left, one_left = batches
    assert none_left.rows == ()
    assert none_left.target_tokens == 0
    assert [bad.row for bad in none_left.bad] == [one.row for one in broken[:2]]
    assert len(one_left.rows) == 1
    assert one_left.waveforms.shape[0] == 1
    assert "does not decode" in one_left.bad[0].reason


def test_collate_of_nothing_is_an_empty_batch() -> None:
    batch = collate([], eot=0)
    assert (batch.rows, batch.target_tokens, batch.audio_seconds) == ((), 0, 0)
