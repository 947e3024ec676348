"""Batches: padding, and the same run whoever loads it, from wherever it is resumed."""

import dataclasses
import gc
import itertools
import multiprocessing
import pickle
import subprocess
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lora_whisper.config import Padding
from lora_whisper.data import batches
from lora_whisper.data.batches import Batch, StepDataset, Trimming, collate, step_loader
from lora_whisper.data.sampler import GlobalBatch, pack
from lora_whisper.data.windows import BadAudio, Window, WindowMaker, WindowSource, window_tokens
from lora_whisper.model.features import LogMel
from tests.model.test_tokenizer import toy_special_tokens
from tests.toy_tokenizers import toy_tokenizer
from tests.toy_utterances import recorded, toy_utterances

SECONDS = [0.5, 1.4, 0.3, 0.9, 1.1, 0.2, 0.7, 1.3, 0.6, 0.8]


@pytest.fixture
def dataset(tmp_path: Path) -> StepDataset:
    """Ten utterances in steps of four windows, two at a time: steps of 4, 4 and 2."""
    return padded(tmp_path)


def padded(folder: Path) -> StepDataset:
    tokenizer, special_tokens = toy_tokenizer(), toy_special_tokens()
    utterances = recorded(folder, SECONDS)
    windows = pack(utterances, tokenizer, special_tokens, 5.0, "padded")
    return StepDataset(
        (WindowSource(utterances, windows),),
        WindowMaker(tokenizer, special_tokens, 5.0, seed=3),
        no_speech_share=0.0,
        global_batch=GlobalBatch(4),
        micro_batch=2,
        seed=3,
    )


class Louder:
    """An augmenter that makes what it drew visible."""

    def __call__(self, samples: np.ndarray, seed: tuple[int, ...]) -> "Augmented":
        gain = np.random.default_rng(seed).uniform(0.5, 1.5)
        return Augmented((samples * gain).astype(np.float32))

    def masks(self, samples: int, seed: tuple[int, ...]) -> tuple[tuple[str, int, int], ...]:
        return (("time", int(np.random.default_rng(seed).integers(samples)), 1),)


@dataclasses.dataclass
class Augmented:
    samples: np.ndarray
    speed: float = 1.0


@pytest.fixture
def everything(tmp_path: Path) -> StepDataset:
    """Packed windows of two sources with all that is drawn: an epoch of 8 + 4 + 2 windows."""
    tokenizer, special_tokens = toy_tokenizer(), toy_special_tokens()
    sources = []
    for name, weight in [("main", 1.0), ("mixed", 0.5)]:
        utterances = recorded(tmp_path / name, SECONDS * 2)
        windows = pack(utterances, tokenizer, special_tokens, 2.5, "packed")
        sources.append(WindowSource(utterances, windows, weight))
    maker = WindowMaker(tokenizer, special_tokens, 2.5, 0.5, 0.5, (), Louder(), seed=3)
    return StepDataset(
        tuple(sources), maker, 0.25, global_batch=GlobalBatch(4), micro_batch=2, seed=3
    )


def rows(batches: list[Batch]) -> list[str]:
    return [row for batch in batches for row in batch.rows]


def contents(batches: list[Batch]) -> list[tuple[object, ...]]:
    """Each window of the batches without its padding, in the order of what it holds."""
    found = []
    for batch in batches:
        for waveform, given, labels, masks in zip(
            batch.waveforms, batch.decoder_input, batch.labels, batch.masks, strict=True
        ):
            sound = np.trim_zeros(waveform.numpy(), "b").tobytes()
            kept = labels != -100
            last = int(kept.nonzero().max())
            tokens = (tuple(given[: last + 1].tolist()), tuple(labels[: last + 1].tolist()))
            found.append((tokens, masks, sound))
    return sorted(found, key=repr)


def test_any_split_sees_the_same_global_batch(everything: StepDataset) -> None:
    for step in range(everything.steps_per_epoch + 2):
        whole = everything[step]
        for world, micro_batch in itertools.product((1, 2, 3), (1, 2, 4)):
            found = []
            for rank in range(world):
                split = {"micro_batch": micro_batch, "rank": rank, "world": world}
                part = dataclasses.replace(everything, **split)[step]
                assert all(1 <= len(batch.labels) <= micro_batch for batch in part)
                found += part
            assert contents(found) == contents(whole), (world, micro_batch)
            assert sorted(rows(found)) == sorted(rows(whole))


def test_every_epoch_has_other_batches_and_draws(everything: StepDataset) -> None:
    steps = everything.steps_per_epoch
    first, second = [
        [batch for step in range(epoch * steps, (epoch + 1) * steps) for batch in everything[step]]
        for epoch in range(2)
    ]
    main = {f"a.jsonl:{number + 1}" for number in range(20)}
    assert set(rows(first)) >= main
    assert set(rows(second)) >= main
    windows = [sum(len(batch.labels) for batch in epoch) for epoch in (first, second)]
    assert windows == [everything.windows_per_epoch] * 2
    sounds = [{sound for _, _, sound in contents(epoch)} for epoch in (first, second)]
    assert len(sounds[0] & sounds[1]) == 0


def test_windows_without_speech_have_their_share(everything: StepDataset) -> None:
    silent = toy_special_tokens().no_speech
    batches = [batch for step in range(everything.steps_per_epoch) for batch in everything[step]]
    found = sum(int((batch.labels[:, 0] == silent).sum()) for batch in batches)
    assert found == round(0.25 * len(everything.sources[0].packing)) > 0
    assert sum(row.startswith("no speech") for row in rows(batches)) == found


def test_micro_batches_hold_windows_of_like_lengths(dataset: StepDataset) -> None:
    for step in range(2):
        lengths = [batch.audio_seconds for batch in dataset[step]]
        assert lengths == sorted(lengths)


def test_a_process_may_have_nothing_to_do_at_the_end_of_an_epoch(dataset: StepDataset) -> None:
    idle = dataclasses.replace(dataset, rank=2, world=3)
    assert idle[2] == []  # the last step of the epoch has two windows


def test_each_row_is_its_utterance_and_padding(dataset: StepDataset) -> None:
    maker, utterances = dataset.maker, dataset.sources[0].utterances
    eot = maker.special_tokens.eot
    by_row = {one.row: one for one in utterances}
    batches = [batch for step in range(3) for batch in dataset[step]]
    target_tokens = 0
    for batch in batches:
        assert batch.waveforms.dtype == torch.float32
        assert batch.decoder_input.dtype == batch.labels.dtype == torch.int64
        for row, inputs, labels in zip(batch.rows, batch.decoder_input, batch.labels, strict=True):
            tokens = window_tokens(by_row[row], maker.tokenizer, maker.special_tokens)
            padding = len(labels) - (len(tokens) - 1)
            assert inputs.tolist() == tokens[:-1] + padding * [eot]
            assert labels.tolist() == tokens[1:] + padding * [-100]
            target_tokens += len(tokens) - 1
    assert sum(batch.target_tokens for batch in batches) == target_tokens
    assert sum(batch.audio_seconds for batch in batches) == pytest.approx(sum(SECONDS))
    assert Counter(row for batch in batches for row in batch.rows) == Counter(by_row.keys())


def test_waveforms_are_padded_to_the_longest_clip_with_silence(dataset: StepDataset) -> None:
    (batch, *_) = dataset[0]
    durations = {one.row: one.duration_seconds for one in dataset.sources[0].utterances}
    samples = [round(durations[row] * 16_000) for row in batch.rows]
    assert batch.waveforms.shape == (len(samples), max(samples))
    for waveform, length in zip(batch.waveforms, samples, strict=True):
        assert not waveform[length:].any()
        assert waveform[:length].any()


WINDOW_POSITIONS = 250  # of windows of 5 s


def trimmed(folder: Path, whole_share: float = 0.0) -> StepDataset:
    trimming = Trimming(whole_share, (3, 9), WINDOW_POSITIONS, slowest_speed=1.0)
    return dataclasses.replace(padded(folder), trimming=trimming)


def test_trimmed_windows_end_a_margin_behind_the_longest_clip_of_like_length(
    tmp_path: Path,
) -> None:
    """As the whole step has it, so that its gradient is the same however it is shared."""
    dataset, log_mel, whole = trimmed(tmp_path), LogMel(16, 5.0), padded(tmp_path)
    margins, widths = set(), set()
    for step in range(60):
        order = dataset._order(step // 3)
        places = range(4 * (step % 3), min(4 * (step % 3) + 4, 10))
        ends = np.ceil(50 * np.array([SECONDS[order.window[place]] for place in places]))
        kept = dataset.positions(step)
        margins |= {(width - ends[kept == width].max()) for width in kept}
        for width in kept:
            margin = width - ends[kept == width].max()
            assert width <= 1.25 * (ends[kept == width].min() + margin)
        widths.add(len({*kept}))
        expected = sorted(kept.tolist())
        for world, micro_batch in [(1, 1), (1, 4), (2, 1), (3, 2)]:
            split = {"micro_batch": micro_batch, "world": world}
            processes = [dataclasses.replace(dataset, rank=rank, **split) for rank in range(world)]
            batches = [batch for each in processes for batch in each[step]]
            assert sorted(each.positions for each in batches for _ in each.rows) == expected
    assert margins == {*range(4, 11)}  # a frame's sound reaches into the next position
    assert max(widths) > 1
    features = {
        row: one
        for batch in whole[0]
        for row, one in zip(batch.rows, batch.input_features(log_mel), strict=True)
    }
    for batch in dataset[0]:
        expected = torch.stack([features[row] for row in batch.rows])
        assert torch.equal(batch.input_features(log_mel), expected[..., : 2 * batch.positions])


def test_a_forward_pass_has_more_windows_where_these_are_shorter(tmp_path: Path) -> None:
    dataset = dataclasses.replace(trimmed(tmp_path), micro_batch=1)
    sizes = set()
    for step in range(6):
        for positions in {*dataset.positions(step)}:
            batches = [batch for batch in dataset[step] if batch.positions == positions]
            fit = WINDOW_POSITIONS // positions
            assert all(len(batch.rows) == fit for batch in batches[:-1])
            assert len(batches[-1].rows) <= fit
            sizes.add(len(batches[0].rows))
    assert max(sizes) > 1


def test_steps_by_seconds_are_the_same_however_they_are_shared_and_resumed(
    everything: StepDataset,
) -> None:
    trimming = Trimming(0.1, (3, 9), 125, slowest_speed=1.0)
    batch = GlobalBatch(10.0, trimming.mean_seconds)
    dataset = dataclasses.replace(everything, trimming=trimming, global_batch=batch)
    assert dataset.steps_per_epoch == 3
    steps = range(2 * dataset.steps_per_epoch)
    for step in steps:
        whole = contents(dataset[step])
        assert whole
        anew = dataclasses.replace(dataset, micro_batch=1)  # as a run that begins here makes it
        assert contents(anew[step]) == whole
        halves = [dataclasses.replace(dataset, rank=rank, world=2)[step] for rank in range(2)]
        assert contents(halves[0] + halves[1]) == whole
    for epoch in (steps[:3], steps[3:]):
        windows = [len(contents(dataset[step])) for step in epoch]
        assert sum(windows) == dataset.windows_per_epoch


def test_a_share_of_the_windows_is_whole(tmp_path: Path) -> None:
    dataset = trimmed(tmp_path, whole_share=0.25)
    kept = np.concatenate([dataset.positions(step) for step in range(1_000)])
    assert 0.22 < (kept == WINDOW_POSITIONS).mean() < 0.28
    step = next(n for n in range(1_000) if WINDOW_POSITIONS in dataset.positions(n))
    *_, last = dataset[step]
    assert last.positions is None
    assert last.input_features(LogMel(16, 5.0)).shape[2] == 2 * WINDOW_POSITIONS


def test_sound_that_no_header_promised_is_not_cut_off(dataset: StepDataset) -> None:
    (batch, *_) = dataset[0]
    short = dataclasses.replace(batch, positions=1)
    frames = short.input_features(LogMel(16, 5.0)).shape[2]
    assert frames * 160 >= batch.waveforms.shape[1]


def test_clips_that_augmentation_slows_down_keep_their_margin() -> None:
    usual, slow = (Trimming(0.0, (8, 8), 1500, speed) for speed in (1.0, 0.5))
    speech = np.array([True, True])
    assert slow.positions(np.array([10.0]), speech[:1], (1,)).tolist() == [1009]
    assert usual.positions(np.array([10.0, 29.9]), speech, (1,)).tolist() == [509, 1500]


def test_windows_in_which_nobody_speaks_stay_whole() -> None:
    trimming, is_speech = Trimming(0.0, (8, 8), 1500, 1.0), np.array([True, False, True])
    kept = trimming.positions(np.array([10.0, 10.0, 10.0]), is_speech, (1,))
    assert kept.tolist() == [509, 1500, 509]


def test_the_loader_gives_the_same_steps_with_and_without_workers(everything: StepDataset) -> None:
    alone, helped = (list(step_loader(everything, 1, 9, workers)) for workers in (0, 2))
    assert [contents(batches) for batches in alone] == [contents(batches) for batches in helped]
    assert [rows(batches) for batches in alone] == [rows(everything[step]) for step in range(1, 9)]


def test_workers_outlive_a_signal_to_all_processes_of_a_job(everything: StepDataset) -> None:
    """The training process has to finish its step, for which it needs what they load."""
    before = set(multiprocessing.active_children())  # of other tests, such as joblib's
    batches = iter(step_loader(everything, 0, 20, workers=2))
    found = [rows(next(batches))]
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for worker in workers:  # from another process than this one, their parent
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    found += map(rows, batches)
    assert found == [rows(everything[step]) for step in range(20)]


def test_workers_outlive_a_signal_while_they_begin(
    everything: StepDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = batches._begin_worker

    def begin_late(worker: int) -> None:
        time.sleep(0.5)
        begin(worker)

    monkeypatch.setattr(batches, "_begin_worker", begin_late)
    before = set(multiprocessing.active_children())
    loaded = iter(step_loader(everything, 0, 4, workers=2))
    for worker in set(multiprocessing.active_children()) - before:
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
        subprocess.run(["kill", "-INT", str(worker.pid)], check=True)
    assert [rows(one) for one in loaded] == [rows(everything[step]) for step in range(4)]


def test_workers_end_at_once_when_the_training_process_ends_them(everything: StepDataset) -> None:
    before = set(multiprocessing.active_children())
    batches = iter(step_loader(everything, 0, 20, workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


def test_a_batch_for_a_gpu_holds_the_same(
    everything: StepDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's loader finds the method by its name, also in a list of batches."""
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batches = everything[0]
    found = torch.utils.data._utils.pin_memory.pin_memory(batches)
    assert contents(found) == contents(batches)
    assert [id(one.waveforms) for one in found] == list(map(id, pinned[::2]))
    assert [id(one.decoder_input) for one in found] == list(map(id, pinned[1::2]))


def test_resuming_continues_the_run_that_was_stopped(everything: StepDataset) -> None:
    whole = [contents(batches) for batches in step_loader(everything, 0, 9, workers=0)]
    anew = dataclasses.replace(everything)  # as another process would make it
    resumed = [contents(batches) for batches in step_loader(anew, 5, 9, workers=0)]
    assert everything.steps_per_epoch not in (5, 9), "in the middle of an epoch"
    assert whole[5:] == resumed


def test_a_dataset_in_use_can_be_sent_to_a_worker(everything: StepDataset) -> None:
    expected = contents(everything[2])
    assert contents(pickle.loads(pickle.dumps(everything))[2]) == expected


def test_memory_does_not_grow_with_the_epochs() -> None:
    """Of a hundred thousand windows' order, 1.1 MB each, only the last one is kept."""
    utterances = toy_utterances([{"audio": "/absent.wav"}])
    tokenizer, special_tokens = toy_tokenizer(), toy_special_tokens()
    windows = pack(utterances, tokenizer, special_tokens, 5.0, "padded")
    many = dataclasses.replace(
        windows, **{name: np.repeat(value, 100_000) for name, value in vars(windows).items()}
    )
    dataset = StepDataset(
        (WindowSource(utterances, many),),
        WindowMaker(tokenizer, special_tokens, 5.0),
        0.0,
        GlobalBatch(2),
        2,
        0,
    )
    dataset[0]
    tracemalloc.start()
    for epoch in range(1, 5):
        dataset[epoch * dataset.steps_per_epoch]
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2.5e6, "four orders, each in the place of the one before"


def test_loading_leaves_the_global_generator_alone(dataset: StepDataset) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(step_loader(dataset, 0, 2, workers=0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_goes_bad_travels_back_as_a_value(dataset: StepDataset, workers: int) -> None:
    by_row = {one.row: one for one in dataset.sources[0].utterances}
    broken = rows(dataset[0])[:3]
    for row in broken:
        by_row[row].audio.write_text("overwritten since the corpus was checked")
    (batches,) = step_loader(dataset, 0, 1, workers)
    none_left, one_left = batches
    assert none_left.rows == none_left.masks == ()
    assert none_left.target_tokens == 0
    assert [bad.row for bad in none_left.bad] == broken[:2]
    assert len(one_left.rows) == 1
    assert one_left.waveforms.shape[0] == 1
    assert "does not decode" in one_left.bad[0].reason


def test_the_log_mel_is_padded_from_each_clip_s_own_end() -> None:
    """As the first clip alone, and not from where the longest of the batch ends."""
    clips = [np.full(samples, 0.1, np.float32) for samples in (1_700, 4_000, 3_200)]
    paddings: tuple[Padding, ...] = ("log-mel", "log-mel", "sound")
    windows = [
        Window((f"a:{number}",), clip, [1], [2], padding=padding)
        for number, (clip, padding) in enumerate(zip(clips, paddings, strict=True))
    ]
    batch = collate(windows, eot=0)
    assert batch.ends == (10, 25, None)
    log_mel = LogMel(80, 2)
    features = batch.input_features(log_mel)
    for found, clip, padding in zip(features, clips, paddings, strict=True):
        alone = log_mel.clip(torch.from_numpy(clip), padding)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


def test_a_window_of_which_nothing_is_left_stands_aside_with_all_its_utterances() -> None:
    good = Window(
        ("a:1", "a:2"), np.ones(8, np.float32), [1, 2], [2, 3], bad=(BadAudio("a:3", ""),)
    )
    empty = Window((), np.zeros(0, np.float32), [], [], bad=(BadAudio("a:4", ""),) * 2)
    batch = collate([good, empty, BadAudio("a:5", "")], eot=0)
    assert (batch.rows, batch.waveforms.shape) == (("a:1", "a:2"), (1, 8))
    assert [bad.row for bad in batch.bad] == ["a:3", "a:4", "a:4", "a:5"]


def test_collate_of_nothing_is_an_empty_batch() -> None:
    batch = collate([], eot=0)
    assert (batch.rows, batch.target_tokens, batch.audio_seconds) == ((), 0, 0)
