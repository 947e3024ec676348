"""The tensors of an optimizer step, loaded ahead of it by worker processes.

What a step is made of is a pure function of the sources, the seed and the step (`data.sampler`,
`data.windows`): a resumed run sees the batches that it would have seen, and one process sees the
same global batch as several do together.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lora_whisper.data.sampler import Epoch, epoch_order, steps_per_epoch, windows_per_epoch
from lora_whisper.data.windows import IGNORED, BadAudio, Window, WindowMaker, WindowSource
from lora_whisper.model.features import LogMel, content_frames
from lora_whisper.model.published import SAMPLING_RATE

if TYPE_CHECKING:
    from lora_whisper.data.audio import Remark
    from lora_whisper.data.augmentation import Mask


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

    @property
    def target_tokens(self) -> int:
        """Labels that count in the loss."""
        return int((self.labels != IGNORED).sum())

    def input_features(self, log_mel: LogMel) -> Tensor:
        """What the encoder is given: (batch, mel bins, frames), where `log_mel` computes."""
        from lora_whisper.data.augmentation import apply_masks

        waveforms = self.waveforms.to(log_mel.hann.device, non_blocking=True)
        return apply_masks(log_mel(waveforms, self.ends), self.masks)

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU copies from while the processor goes on.

        The loader calls it by this name. The labels stay: the loss looks for its targets in them.
        """
        return replace(
            self,
            waveforms=self.waveforms.pin_memory(),
            decoder_input=self.decoder_input.pin_memory(),
        )


def collate(windows: Sequence[Window | BadAudio], eot: int) -> Batch:
    """Pad the windows to the longest of them; bad ones stand aside."""
    good = [window for window in windows if isinstance(window, Window) and window.rows]
    return Batch(
        waveforms=_padded([torch.from_numpy(window.samples) for window in good], 0.0),
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
    )


def _padded(sequences: list[Tensor], value: float) -> Tensor:
    if not sequences:
        return torch.empty(0, 0)
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


@dataclass(frozen=True)
class StepDataset(Dataset[list[Batch]]):
    """Item `step` is what this process computes in that optimizer step, as micro-batches.

    Process `rank` of `world` takes every `world`-th window of the global batch, which is sorted by
    length. It may get none at the end of an epoch: then the item is an empty list.
    """

    sources: tuple[WindowSource, ...]  # the first makes the epochs, the others are mixed in
    maker: WindowMaker
    no_speech_share: float  # windows without speech for each window of the first source
    global_batch: int  # windows in one optimizer step, over all processes
    micro_batch: int  # windows in one forward pass
    seed: int
    rank: int = 0
    world: int = 1
    _latest: dict[int, Epoch] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def windows_per_epoch(self) -> int:
        counts = [len(source.packing) for source in self.sources]
        weights = [source.weight for source in self.sources]
        return windows_per_epoch(counts, weights, self.no_speech_share)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.windows_per_epoch, self.global_batch)

    def __getitem__(self, step: int) -> list[Batch]:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first, last = step_in_epoch * self.global_batch, (step_in_epoch + 1) * self.global_batch
        own = range(first, min(last, self.windows_per_epoch))[self.rank :: self.world]
        order, batches = self._order(epoch), []
        for start in range(0, len(own), self.micro_batch):
            windows = []
            for index in own[start : start + self.micro_batch]:
                make = self.maker.speech if order.is_speech[index] else self.maker.no_speech
                number, window = int(order.source[index]), int(order.window[index])
                windows.append(make(self.sources[number], window, epoch, number))
            batches.append(collate(windows, self.maker.vocabulary.eot))
        return batches

    def _order(self, epoch: int) -> Epoch:
        """Made once an epoch: that of a million windows takes a fifth of a second."""
        if epoch not in self._latest:
            self._latest.clear()
            self._latest[epoch] = epoch_order(
                [source.packing.seconds for source in self.sources],
                [source.weight for source in self.sources],
                self.no_speech_share,
                self.global_batch,
                self.seed,
                epoch,
            )
        return self._latest[epoch]


def step_loader(
    dataset: Dataset[list[Batch]], first_step: int, last_step: int, workers: int
) -> DataLoader[list[Batch]]:
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


class StepLoader(DataLoader[list[Batch]]):
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
