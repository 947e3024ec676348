"""Which utterances make up an optimizer step, and their tensors.

The order is a pure function of (count, seed, step): a resumed run sees the batches that it would
have seen, and one process sees the same global batch as several do together.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lora_whisper.data.audio import SAMPLING_RATE
from lora_whisper.data.utterance import Utterance
from lora_whisper.data.vocabulary import Vocabulary
from lora_whisper.data.windows import IGNORED, BadAudio, Window, make_window


@dataclass(frozen=True)
class Batch:
    """The windows of one forward pass. All audio may turn out bad: then `rows` is empty."""

    waveforms: Tensor  # (batch, samples of the longest clip) float32, padded with silence
    decoder_input: Tensor  # (batch, tokens) int64, padded with eot
    labels: Tensor  # (batch, tokens) int64, padded with IGNORED
    audio_seconds: float  # before padding
    rows: tuple[str, ...]
    bad: tuple[BadAudio, ...]  # what is missing from the batch

    @property
    def target_tokens(self) -> int:
        """Labels that count in the loss."""
        return int((self.labels != IGNORED).sum())


def collate(windows: Sequence[Window | BadAudio], eot: int) -> Batch:
    """Pad the windows to the longest of them; bad ones stand aside."""
    good = [window for window in windows if isinstance(window, Window)]
    return Batch(
        waveforms=_padded([torch.from_numpy(window.samples) for window in good], 0.0),
        decoder_input=_padded([torch.tensor(window.decoder_input) for window in good], eot),
        labels=_padded([torch.tensor(window.labels) for window in good], IGNORED),
        audio_seconds=sum(len(window.samples) for window in good) / SAMPLING_RATE,
        rows=tuple(window.row for window in good),
        bad=tuple(window for window in windows if isinstance(window, BadAudio)),
    )


def _padded(sequences: list[Tensor], value: float) -> Tensor:
    if not sequences:
        return torch.empty(0, 0)
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


def steps_per_epoch(count: int, global_batch: int) -> int:
    """Optimizer steps in which each of `count` utterances is seen once; the last may be short."""
    return ceil(count / global_batch)


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` utterances in an epoch, as indices (count,)."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def step_indices(count: int, global_batch: int, seed: int, step: int) -> list[int]:
    """The utterances of one optimizer step, over all processes; steps are counted from 0."""
    epoch, step_in_epoch = divmod(step, steps_per_epoch(count, global_batch))
    first = step_in_epoch * global_batch
    return [int(index) for index in epoch_order(count, seed, epoch)[first : first + global_batch]]


@dataclass(frozen=True)
class StepDataset(Dataset[list[Batch]]):
    """Item `step` is what this process computes in that optimizer step, as micro-batches.

    Process `rank` of `world` takes every `world`-th window of the global batch. It may get none at
    the end of an epoch: then the item is an empty list.
    """

    utterances: Sequence[Utterance]
    tokenizer: Any
    vocabulary: Vocabulary
    global_batch: int  # windows in one optimizer step, over all processes
    micro_batch: int  # windows in one forward pass
    seed: int
    rank: int = 0
    world: int = 1

    def __getitem__(self, step: int) -> list[Batch]:
        indices = step_indices(len(self.utterances), self.global_batch, self.seed, step)
        own = [self.utterances[index] for index in indices[self.rank :: self.world]]
        return [
            self._batch(own[first : first + self.micro_batch])
            for first in range(0, len(own), self.micro_batch)
        ]

    def _batch(self, utterances: Sequence[Utterance]) -> Batch:
        windows = [make_window(one, self.tokenizer, self.vocabulary) for one in utterances]
        return collate(windows, self.vocabulary.eot)


def step_loader(
    dataset: StepDataset, first_step: int, last_step: int, workers: int
) -> DataLoader[list[Batch]]:
    """Load the steps first_step … last_step - 1 in order, in `workers` processes (0: in this one).

    The loader draws from a generator of its own: with PyTorch's global one the dropout of a run
    would depend on how often a loader was made, and a resumed run would differ.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        worker_init_fn=_begin_worker if workers else None,
        generator=torch.Generator().manual_seed(dataset.seed),
    )


def _begin_worker(worker: int) -> None:
    """One thread each, since workers share the machine with the training process.

    A terminal's Ctrl-C reaches them too, but ending is the training process's to decide; and they
    must not inherit its handler of SIGTERM, by which PyTorch ends them.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
