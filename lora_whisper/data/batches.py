"""The tensors of an optimizer step, loaded ahead of it by worker processes.

What a step is made of is a pure function of the sources, the seed and the step (`data.sampler`,
`data.windows`): a resumed run sees the batches that it would have seen, and one process sees the
same global batch as several do together.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lora_whisper.data.sampler import (
    MARGINS,
    Epoch,
    GlobalBatch,
    epoch_order,
    steps_per_epoch,
    windows_per_epoch,
)
from lora_whisper.data.windows import IGNORED, BadAudio, Window, WindowMaker, WindowSource
from lora_whisper.model.features import LogMel, content_frames, positions_with_sound
from lora_whisper.model.published import (
    FRAMES_PER_POSITION,
    SAMPLING_RATE,
    SECONDS_PER_TIMESTAMP,
)

if TYPE_CHECKING:
    from lora_whisper.data.audio import Remark
    from lora_whisper.data.augmentation import Mask


Item = TypeVar("Item")  # of a data set that is loaded


@dataclass(frozen=True)
class Batch:
    """The windows of one forward pass. All audio may turn out bad: then `rows` is empty."""

    waveforms: Tensor  # (batch, samples of the longest clip) float32, padded with silence
    decoder_input: Tensor  # (batch, tokens) int64, padded with eot
    labels: Tensor  # (batch, tokens) int64, padded with IGNORED
    audio_seconds: float  # before padding
    rows: tuple[str, ...]  # all utterances in it
    bad: tuple[BadAudio, ...]  # what is missing from the batch
    masks: tuple[tuple[Mask, ...], ...] = ()  # of each window
    ends: tuple[
        int | None, ...
    ] = ()  # of each window, where its log-mel is padded; None: its sound
    remarks: tuple[tuple[str, Remark], ...] = ()  # on the sound of rows
    positions: int | None = None  # of the encoder's, that the windows are cut to; None: all
    encoded: Tensor | None = None  # (batch, positions, width), what a frozen encoder made of those
    is_encoded: tuple[bool, ...] = ()  # of each window, whether it did; its waveform is not there

    @property
    def missing(self) -> list[int]:
        """Numbers of the windows that are still to be encoded, from their waveforms."""
        is_encoded = self.is_encoded or (False,) * len(self.labels)
        return [number for number, is_known in enumerate(is_encoded) if not is_known]

    @property
    def target_tokens(self) -> int:
        """Labels that count in the loss."""
        return int((self.labels != IGNORED).sum())

    def input_features(self, log_mel: LogMel) -> Tensor:
        """What the encoder is given: (missing, mel bins, frames), where `log_mel` computes.

        Sound is never cut off, should there be more of it than its headers promised.
        """
        from lora_whisper.data.augmentation import apply_masks

        if self.encoded is not None:
            rest = self._unencoded()
            return rest.input_features(log_mel) if len(rest.waveforms) else torch.empty(0)
        waveforms = self.waveforms.to(log_mel.hann.device, non_blocking=True)
        features = apply_masks(log_mel(waveforms, self.ends), self.masks)
        if self.positions is None:
            return features
        positions = max(self.positions, positions_with_sound(waveforms.shape[1]))
        return features[..., : FRAMES_PER_POSITION * positions]

    def _unencoded(self) -> Batch:
        """The windows without activations, as far as the encoder looks at them."""
        kept = self.missing
        return replace(
            self,
            waveforms=self.waveforms[kept],
            ends=tuple(self.ends[number] for number in kept),
            masks=tuple(self.masks[number] for number in kept),
            encoded=None,
        )

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU copies from while the processor goes on.

        The loader calls it by this name. The labels stay: the loss looks for its targets in them.
        """
        return replace(
            self,
            waveforms=self.waveforms.pin_memory(),
            decoder_input=self.decoder_input.pin_memory(),
            encoded=None if self.encoded is None else self.encoded.pin_memory(),
        )


def collate(windows: Sequence[Window | BadAudio], eot: int, positions: int | None = None) -> Batch:
    """Pad the windows to the longest of them; bad ones stand aside.

    Args:
        positions: see `Batch`.
    """
    good = [window for window in windows if isinstance(window, Window) and window.rows]
    return Batch(
        waveforms=_padded([_waveform(window) for window in good], 0.0),
        decoder_input=_padded([torch.tensor(window.decoder_input) for window in good], eot),
        labels=_padded([torch.tensor(window.labels) for window in good], IGNORED),
        audio_seconds=sum(len(window.samples) for window in good) / SAMPLING_RATE,
        rows=tuple(row for window in good for row in window.rows),
        bad=tuple(
            bad
            for window in windows
            for bad in (window.bad if isinstance(window, Window) else (window,))
        ),
        masks=tuple(window.masks for window in good),
        ends=tuple(
            content_frames(len(window.samples)) if window.padding == "log-mel" else None
            for window in good
        ),
        remarks=tuple(remark for window in good for remark in window.remarks),
        positions=positions,
        encoded=_encoded(good),
        is_encoded=tuple(window.encoded is not None for window in good),
    )


def _waveform(window: Window) -> Tensor:
    return torch.empty(0) if window.encoded is not None else torch.from_numpy(window.samples)


def _encoded(windows: Sequence[Window]) -> Tensor | None:
    """What is known of them, one after the other; zeros of what is not."""
    known = next((window.encoded for window in windows if window.encoded is not None), None)
    if known is None:
        return None
    nothing = torch.zeros_like(known)
    return torch.stack([nothing if each.encoded is None else each.encoded for each in windows])


def _padded(sequences: list[Tensor], value: float) -> Tensor:
    if not sequences:
        return torch.empty(0, 0)
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


SAMPLE_STEPS = 200  # that tell how much of a window the others keep
WIDEST_GROUP = 1.25  # the widest of the windows that are cut to one width, to the narrowest


@dataclass(frozen=True)
class Trimming:
    """How much windows keep: the longest clip among those of like length, and a margin behind it.

    A function of the global batch, so that its gradient does not hang on how processes and
    micro-batches share it.
    """

    whole_share: float  # of the windows with speech, which stay whole
    margin_positions: tuple[int, int]  # fewest and most, of silence as the padding of windows is
    window_positions: int  # of a whole window
    slowest_speed: float  # by which augmentation makes clips longer

    def positions(
        self, seconds: np.ndarray, is_speech: np.ndarray, seed: tuple[int, ...]
    ) -> np.ndarray:
        """What is kept of each window of a global batch; all of those in which nobody speaks.

        Those are what keeps a model silent over whole windows of silence.

        Shapes: (windows,); seconds of their clips, in ascending order.
        """
        generator, (fewest, most) = np.random.default_rng(seed), self.margin_positions
        margin = int(generator.integers(fewest, most, endpoint=True))
        samples = np.ceil(seconds / self.slowest_speed * SAMPLING_RATE)
        needed = [positions_with_sound(int(each)) + margin for each in samples]
        kept, first = np.empty(len(needed), np.int64), 0
        for index, width in enumerate(needed):
            if width > WIDEST_GROUP * needed[first]:
                first = index
            kept[first : index + 1] = width
        is_whole = ~is_speech | (generator.random(len(needed)) < self.whole_share)
        kept[is_whole] = self.window_positions
        return np.minimum(kept, self.window_positions)

    def mean_seconds(self, seconds: np.ndarray, is_speech: np.ndarray) -> np.ndarray:
        """What is kept of each window, whatever it meets and is drawn; all arrays (windows,)."""
        whole = self.window_positions * SECONDS_PER_TIMESTAMP
        margin = sum(self.margin_positions) / 2 * SECONDS_PER_TIMESTAMP
        kept = np.minimum(seconds / self.slowest_speed + margin, whole)
        kept += self.whole_share * (whole - kept)
        return np.where(is_speech, kept, whole)


@dataclass(frozen=True)
class StepDataset(Dataset[list[Batch]]):
    """Item `step` is what this process computes in that optimizer step, as micro-batches.

    Process `rank` of `world` takes every `world`-th window of the global batch, which is sorted by
    length. It may get none at the end of an epoch: then the item is an empty list.
    """

    sources: tuple[WindowSource, ...]  # the first makes the epochs, the others are mixed in
    maker: WindowMaker
    no_speech_share: float  # windows without speech for each window of the first source
    global_batch: GlobalBatch  # what one optimizer step has, over all processes
    micro_batch: int  # windows in one forward pass
    seed: int
    rank: int = 0
    world: int = 1
    trimming: Trimming | None = None  # None: all windows are whole
    _latest: dict[int, Epoch] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def windows_per_epoch(self) -> int:
        counts = [len(source.packing) for source in self.sources]
        weights = [source.weight for source in self.sources]
        return windows_per_epoch(counts, weights, self.no_speech_share)

    @cached_property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(*self._windows, self.global_batch)

    @property
    def _windows(self) -> tuple[list[np.ndarray], list[float], float]:
        """Lengths and weights of the sources, and the share without speech."""
        seconds = [source.packing.seconds for source in self.sources]
        return seconds, [source.weight for source in self.sources], self.no_speech_share

    def __getitem__(self, step: int) -> list[Batch]:
        epoch, order, global_batch = self._global_batch(step)
        own = np.asarray(global_batch)[self.rank :: self.world]
        batches = []
        for positions, group in self._groups(step, own):
            size = self._micro_batch(positions)
            for start in range(0, len(group), size):
                windows = []
                for index in group[start : start + size]:
                    make = self.maker.speech if order.is_speech[index] else self.maker.no_speech
                    number, window = int(order.source[index]), int(order.window[index])
                    windows.append(make(self.sources[number], window, epoch, number))
                batches.append(collate(windows, self.maker.special_tokens.eot, positions))
        return batches

    def positions(self, step: int) -> np.ndarray | None:
        """What each window of a step keeps of the encoder's positions; None: all of them."""
        if self.trimming is None:
            return None
        _, order, global_batch = self._global_batch(step)
        seconds = [
            self.sources[order.source[index]].packing.seconds[order.window[index]]
            for index in global_batch
        ]
        is_speech = order.is_speech[global_batch]
        return self.trimming.positions(np.array(seconds), is_speech, (self.seed, step, MARGINS))

    def mean_positions(self) -> float | None:
        """Of a window in the first epoch, from some of its steps; None: all are whole."""
        if self.trimming is None:
            return None
        steps = range(0, self.steps_per_epoch, math.ceil(self.steps_per_epoch / SAMPLE_STEPS))
        kept = [found for step in steps if (found := self.positions(step)) is not None]
        return float(np.concatenate(kept).mean())

    def _groups(self, step: int, own: np.ndarray) -> Iterator[tuple[int | None, np.ndarray]]:
        """This process's windows by what they keep; None: all of it."""
        kept = self.positions(step)
        if kept is None or self.trimming is None:
            yield None, own
            return
        kept = kept[self.rank :: self.world]
        for positions in np.unique(kept).tolist():
            is_whole = positions == self.trimming.window_positions
            yield None if is_whole else positions, own[kept == positions]

    def _global_batch(self, step: int) -> tuple[int, Epoch, range]:
        """The epoch, its order, and which of its windows the step has."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        first, end = order.starts[step_in_epoch : step_in_epoch + 2].tolist()
        return epoch, order, range(first, end)

    def _micro_batch(self, positions: int | None) -> int:
        """Windows in a forward pass: of short ones more, so that it has as many positions."""
        if self.trimming is None or positions is None:
            return self.micro_batch
        return self.micro_batch * self.trimming.window_positions // positions

    def _order(self, epoch: int) -> Epoch:
        """Made once an epoch: that of a million windows takes a fifth of a second."""
        if epoch not in self._latest:
            self._latest.clear()
            self._latest[epoch] = epoch_order(*self._windows, self.global_batch, self.seed, epoch)
        return self._latest[epoch]


def step_loader(
    dataset: Dataset[Item], first_step: int, last_step: int, workers: int
) -> DataLoader[Item]:
    """Load the steps first_step … last_step - 1 in order, in `workers` processes (0: in this one).

    The loader draws from a generator of its own: with PyTorch's global one the dropout of a run
    would depend on how often a loader was made, and a resumed run would differ. Nothing that is
    loaded is drawn from it.
    """
    # Workers have to notice the end of the training process, their parent. By default, Python 3.14
    # lets a server fork them: they would wait for ever for the next step of one that was killed.
    default = multiprocessing.get_start_method()
    start_method = "fork" if default == "forkserver" else default
    return StepLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        worker_init_fn=_begin_worker if workers else None,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator().manual_seed(0),
        pin_memory=torch.cuda.is_available(),
    )


HELD_BACK = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # until a worker can meet them


class StepLoader(DataLoader[Item]):
    """Its workers begin with signals held back, and say themselves when they can meet them.

    A signal to all processes of a job would end the one that is still on its way there.
    """

    def __iter__(self) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(worker: int) -> None:
    """One thread each, since workers share the machine with the training process.

    A terminal's Ctrl-C and its end reach them too, and so does the SIGTERM of a launcher or a batch
    system, which goes to all processes of a job. But ending is the training process's to decide,
    which needs them to the end of its step; it ends them by SIGTERM, so that the sender matters.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    met = set(HELD_BACK)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        met.remove(signal.SIGTERM)
        threading.Thread(target=_end_with_training, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, met)


def _end_with_training() -> None:
    """Wait for the SIGTERM that comes from the training process."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
