"""A frozen encoder's work, done once: its activations of each window, on the disk.

Below the lowest layer that has an adapter, the encoder makes the same of a window in every epoch of
every run: with `adapter.layers=decoder`, all of it. So that is computed once, written beside the
other caches, and read from there by this run, by one that goes on, and by the points of a sweep.

Kept as they are computed where that is in 16 bits. Of fp32, the outputs of the last layer are kept
in float16, whose 11 bits hold them three digits better than bfloat16's 8: they are normed, and the
norm's weights say that none can reach 65,504. Between two layers they can, hence bfloat16 there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lora_whisper import processes
from lora_whisper.config import Padding, TrainConfig
from lora_whisper.data.batches import StepDataset, step_loader
from lora_whisper.data.contents import hash_of, row_hashes
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.encoded import (
    ACTIVATIONS,
    FORMAT,
    HEADER,
    INDEX,
    EncodedWindows,
    header,
    index_bytes,
    open_encoded,
)
from lora_whisper.data.loader import TrainingWindows, WindowKind
from lora_whisper.data.windows import WindowMaker, WindowSource
from lora_whisper.errors import UserError
from lora_whisper.evaluation.run_summary import EncoderCache
from lora_whisper.files import (
    folder_bytes,
    leftover_of,
    make_folder,
    reserve,
    tidy,
    write_json,
    write_synced,
    written_whole,
)
from lora_whisper.locks import InUse, locked, require_free
from lora_whisper.model.base import Base
from lora_whisper.model.checkpoint import weights_sha256
from lora_whisper.model.encoder import encode_below, normed_bound
from lora_whisper.model.features import content_frames
from lora_whisper.paths import below_home, cache_folder
from lora_whisper.terminal import counted, file_size, work
from lora_whisper.training.loop import Trainer

log = logging.getLogger("lora_whisper")

SLICE = ("start", "end")  # what names the sound of a row, beside its recording
CHUNK_WINDOWS = 4  # encoded together, whoever does it: how many that are can change last digits
SPARE_BYTES = 2_000_000_000  # that are left free on the disk for checkpoints
SIXTEEN_BITS = {"bf16": torch.bfloat16, "fp16": torch.float16}
FLOAT16_MAX = torch.finfo(torch.float16).max
WAIT_SECONDS = 1.0


def frozen_layers(adapter: Iterable[str], layers: int) -> int:
    """How many of the encoder's layers, from the first on, lie below all of its adapters.

    Args:
        adapter: names of the adapter's parameters.
        layers: that the encoder has.
    """
    adapted = (re.search(r"\.encoder\.layers\.(\d+)\.", name) for name in adapter)
    return min((int(found[1]) for found in adapted if found), default=layers)


@dataclass(frozen=True)
class Encoding:
    """The windows of one source that are to be encoded, or are already."""

    source: WindowSource
    of: dict[str, Any]  # all that decides on the activations; names the folder that they lie in

    @property
    def empty(self) -> EncodedWindows:
        """Where they lie and in which shape, without knowing what is there."""
        key = hashlib.sha256(json.dumps(self.of, sort_keys=True).encode()).hexdigest()[:32]
        positions, width = self.of["shape"]
        return EncodedWindows(
            cache_folder("encoder") / key,
            self.of["layers"],
            getattr(torch, self.of["kept"]),
            tuple(self.of["paddings"]),
            (positions, width),
            samples=np.zeros(len(self.source.packing), np.int64),
            spoken_seconds=np.zeros((len(self.source.utterances), 2)),
        )

    def open(self) -> EncodedWindows | None:
        return open_encoded(self.empty, self.of)


@dataclass(frozen=True)
class EncoderPlan:
    """What a run keeps of its frozen encoder, decided before anything is computed."""

    encodings: tuple[Encoding | None, ...]  # of each source; None: encoded in each step
    live_share: float  # of the windows, that are encoded in each step all the same

    @property
    def chosen(self) -> list[Encoding]:
        return [one for one in self.encodings if one is not None]

    @property
    def total_bytes(self) -> int:
        return sum(one.empty.total_bytes for one in self.chosen)

    @property
    def nothing(self) -> Tensor:
        """(1, positions, width) as it is read of a window, to time a step with."""
        empty = self.chosen[0].empty
        return torch.zeros(1, *empty.shape, dtype=empty.dtype)

    def mean(self, computed: float, read: float) -> float:
        """Of something that a window takes, where it is encoded and where it is not."""
        return self.live_share * computed + (1 - self.live_share) * read

    @property
    def summary(self) -> EncoderCache:
        first = self.chosen[0].empty
        return EncoderCache(
            layers=first.layers,
            dtype=self.chosen[0].of["kept"],
            windows=sum(len(one.source.packing) for one in self.chosen),
            size_bytes=self.total_bytes,
        )


def plan_encoder(
    config: TrainConfig, base: Base, windows: TrainingWindows, trainer: Trainer
) -> EncoderPlan | None:
    """What is worth keeping and has room, said in one line; None: it is computed in each step.

    It hangs on the run and its limit, and on the disk only where that is full: a run that goes on
    decides as it began.
    """
    limit_gigabytes = config.training.encoder_cache_gigabytes
    if not (trainer.frozen_layers and limit_gigabytes):
        return None
    other, plan = _differs_each_time(config, windows.kind, trainer), None
    if other is None:
        assert windows.dataset is not None, "it is no stream"
        chosen = _worth_it(windows.dataset, trainer)
        other = _too_large(chosen, windows.dataset, trainer, limit_gigabytes)
        if other is None:
            plan = _plan(config, base, chosen, windows.dataset, trainer)
            other = processes.from_main(lambda: _no_room(plan, limit_gigabytes))
    if plan is None or other is not None:
        log.info("encoder     frozen, but computed in each step: %s", other)
        return None
    kept = plan.summary
    log.info(
        "encoder     %s of it frozen, computed once for %s: %s in %s",
        *(counted(kept.layers, "layer"), counted(kept.windows, "window")),
        *(file_size(plan.total_bytes), kept.dtype),
    )
    return plan


def _worth_it(dataset: StepDataset, trainer: Trainer) -> list[int]:
    """The sources of which the run meets more windows than would have to be encoded for it."""
    epochs, ways = trainer.total_steps / dataset.steps_per_epoch, len(paddings(dataset.maker))
    return [
        number
        for number, source in enumerate(dataset.sources)
        if epochs * _in_epoch(dataset, number) > ways * len(source.packing)
    ]


def _too_large(
    chosen: Sequence[int], dataset: StepDataset, trainer: Trainer, limit_gigabytes: float
) -> str | None:
    """Why nothing is kept, as far as sizes tell; before the speech is read to name it."""
    if not chosen:
        return "the run meets too few windows twice for it to pay"
    positions, width = _shape(trainer)
    windows = sum(len(dataset.sources[number].packing) for number in chosen)
    total = 2 * windows * len(paddings(dataset.maker)) * positions * width
    limit = f"training.encoder_cache_gigabytes={limit_gigabytes:g}"
    if total <= limit_gigabytes * 1e9:
        return None
    return f"of all windows it takes {file_size(total)}, more than {limit}"


def _plan(
    config: TrainConfig, base: Base, chosen: Sequence[int], dataset: StepDataset, trainer: Trainer
) -> EncoderPlan:
    ways = paddings(dataset.maker)
    encodings = tuple(
        _encoding(config, base, source, ways, trainer) if number in chosen else None
        for number, source in enumerate(dataset.sources)
    )
    known = sum(_in_epoch(dataset, number) for number in chosen)
    return EncoderPlan(encodings, 1 - known / dataset.windows_per_epoch)


def _no_room(plan: EncoderPlan, limit_gigabytes: float) -> str | None:
    """Why what is not there yet does not go onto the disk, if it does not."""
    missing = sum(one.empty.total_bytes for one in plan.chosen if one.open() is None)
    if not missing:
        return None
    root = cache_folder("encoder")
    try:
        make_folder(root)
    except UserError as error:
        return str(error).splitlines()[0]
    # What another process is writing of the same windows is not added to them.
    own = {one.empty.folder.name for one in plan.chosen}
    others = [one for one in root.iterdir() if (leftover_of(one) or one.name) not in own]
    used = sum(map(folder_bytes, others))
    if used + plan.total_bytes > limit_gigabytes * 1e9:
        return (
            f"{below_home(str(root))} has {file_size(used)} of other runs in it, and with "
            f"{file_size(plan.total_bytes)} more than "
            f"training.encoder_cache_gigabytes={limit_gigabytes:g}; what is in there may be deleted"
        )
    free = shutil.disk_usage(root).free
    if missing + SPARE_BYTES > free:
        return f"it would take {file_size(missing)} of disk, where {file_size(free)} are free"
    return None


def _differs_each_time(config: TrainConfig, kind: WindowKind, trainer: Trainer) -> str | None:
    """Why a window is not the same in the next epoch, if it is not."""
    if config.data.streaming:
        return "the windows of a stream are not known before"
    if kind.name == "trimmed":
        return (
            "trimmed windows draw in each step how much silence a window keeps, which the "
            "encoder hears together with the speech"
        )
    steps = [name for name, step in vars(config.augmentation).items() if step is not None]
    if steps:
        return f"augmentation.{steps[0]} makes another window of it in each epoch"
    encoder = trainer.whisper.model.encoder
    if encoder.dropout or encoder.layerdrop or any(_drops_out(one) for one in encoder.layers):
        return "the base's config.json has dropout"
    return None


def _drops_out(layer: Any) -> bool:
    return bool(layer.dropout or layer.activation_dropout or layer.self_attn.dropout)


def _in_epoch(dataset: StepDataset, number: int) -> int:
    """How many windows of a source there are in an epoch, see `sampler.epoch_order`."""
    weight = dataset.sources[number].weight if number else 1.0
    return max(1, round(weight * len(dataset.sources[0].packing)))


def paddings(maker: WindowMaker) -> tuple[Padding, ...]:
    """How the windows of a run may be padded, each of them either way."""
    possible: dict[Padding, bool] = {
        "sound": maker.log_mel_padding_share < 1,
        "log-mel": maker.log_mel_padding_share > 0,
    }
    return tuple(padding for padding, is_drawn in possible.items() if is_drawn)


def _encoding(
    config: TrainConfig,
    base: Base,
    source: WindowSource,
    ways: tuple[Padding, ...],
    trainer: Trainer,
) -> Encoding:
    whisper, packing, utterances = trainer.whisper, source.packing, source.utterances
    assert isinstance(utterances, Utterances), "it is no toy"
    sound = processes.from_main(lambda: hash_of(row_hashes(utterances, "bytes", SLICE)))
    return Encoding(
        source,
        {
            "format": FORMAT,
            "base": weights_sha256(base.checkpoint),
            "quantization": config.quantization.kind,
            "weights": _name(whisper.dtype),
            "arithmetic": str(trainer.accelerator.mixed_precision),
            "layers": trainer.frozen_layers,
            "kept": _name(kept_dtype(trainer)),
            "shape": list(_shape(trainer)),
            "mel_bins": base.mel_bins,
            "window_seconds": base.window_seconds,
            "paddings": list(ways),
            "sound": sound,
            "windows": hash_of(np.stack([packing.first, packing.count])),
        },
    )


def _shape(trainer: Trainer) -> tuple[int, int]:
    """Positions of a whole window, and width."""
    config = trainer.whisper.config
    return config.max_source_positions, config.d_model


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kept_dtype(trainer: Trainer) -> torch.dtype:
    """16 bits that hold what is computed, see above."""
    computed, encoder = trainer.whisper.dtype, trainer.whisper.model.encoder
    if trainer.accelerator.mixed_precision in SIXTEEN_BITS:
        return SIXTEEN_BITS[trainer.accelerator.mixed_precision]
    if computed in SIXTEEN_BITS.values():
        return computed
    is_normed = trainer.frozen_layers == len(encoder.layers)
    return torch.float16 if is_normed and normed_bound(encoder) < FLOAT16_MAX else torch.bfloat16


# ── computing and writing ────────────────────────────────────────────────────────────────────


def encode_windows(
    plan: EncoderPlan, windows: TrainingWindows, trainer: Trainer
) -> tuple[TrainingWindows, EncoderCache | None]:
    """The windows of the run, read where they are encoded; now, if they were not before.

    All processes share the work, and meet the same windows afterwards. Where nothing can be kept,
    as on a disk that turns out to be full, everything is computed in each step.
    """
    assert windows.dataset is not None, "it is no stream"
    encoded, seconds = list[EncodedWindows | None](), 0.0
    try:
        for encoding in plan.encodings:
            started = time.monotonic()
            if encoding is not None and _is_missing(encoding, windows, trainer):
                seconds += time.monotonic() - started
            encoded.append(encoding.open() if encoding is not None else None)
    except UserError as error:
        reason = str(error).splitlines()[0]
        log.warning("encoder     computed in each step, since nothing can be kept: %s", reason)
        return windows, None
    summary = dataclasses.replace(plan.summary, seconds=round(seconds, 3))
    return windows.with_encoded(encoded), summary


def _is_missing(encoding: Encoding, windows: TrainingWindows, trainer: Trainer) -> bool:
    """Whether the windows of a source had to be encoded here; they are there afterwards."""
    assert windows.dataset is not None
    with ExitStack() as stack:
        aside = processes.from_main(lambda: _begun(encoding, stack))
        if aside is not None:
            index = _computed(encoding, aside, windows.dataset.maker, trainer, windows.workers)
            processes.from_main(lambda: _finish(encoding, aside, index))
        # In the main process the folder gets its name here, and is free; the others wait for that.
        processes.from_main(stack.close)
    return aside is not None


def _begun(encoding: Encoding, stack: ExitStack) -> Path | None:
    """The folder to write into, held for this process; None: it is whole, maybe by now."""
    empty, is_told = encoding.empty, False
    folder, is_held = empty.folder, False
    while encoding.open() is None:
        if is_held:
            break
        try:
            stack.enter_context(locked(folder))
            is_held = True  # and somebody may just have let go of it: it is looked at once more
        except InUse:
            if not is_told:
                log.info("encoder     waiting for another process, which encodes the same windows")
            is_told = True
            time.sleep(WAIT_SECONDS)
        except OSError as error:  # of file systems on which nothing can be locked
            raise UserError(f"{folder} cannot be locked: {error}") from error
    else:
        log.info("encoder     which is in %s already", below_home(str(folder)))
        return None
    _tidy_abandoned(folder.parent)
    aside = stack.enter_context(written_whole(folder))
    reserve(aside / ACTIVATIONS, empty.total_bytes)
    return aside


def _tidy_abandoned(root: Path) -> None:
    """Take away what killed processes left of windows that nobody encodes any more."""
    for one in root.iterdir():
        name = leftover_of(one)
        if name is not None:
            try:
                require_free(root / name)
            except InUse:
                continue
            tidy(root / name)


Index = tuple[np.ndarray, np.ndarray]  # samples and spoken_seconds, see `EncodedWindows`


def _computed(
    encoding: Encoding, aside: Path, maker: WindowMaker, trainer: Trainer, workers: int
) -> Index:
    """Encode this process's part of the windows; the index of those of all."""
    empty, source = encoding.empty, encoding.source
    count, world = len(source.packing), processes.count()
    chunks = -(-count // CHUNK_WINDOWS)
    own = range(processes.rank(), chunks, world)
    sounds = step_loader(_Sounds(source, maker, own), 0, len(own), workers)
    samples, spoken = empty.samples, empty.spoken_seconds
    with open(aside / ACTIVATIONS, "r+b") as file, work("encoding", len(own)) as progress:
        for number, chunk in enumerate(sounds):
            encoded = _encode(chunk, empty, trainer)
            for sound, activations in zip(chunk, encoded, strict=True):
                file.seek(empty.place(sound.window, empty.paddings[0]))
                file.write(activations.contiguous().view(torch.int16).numpy().tobytes())
                samples[sound.window] = len(sound.samples)
                first = int(source.packing.first[sound.window])
                spoken[first : first + len(sound.spoken_seconds)] = sound.spoken_seconds
            progress.update(number + 1)
    parts = processes.gather([(samples, spoken)])
    return sum(part[0] for part in parts), sum(part[1] for part in parts)  # type: ignore[return-value]


def _finish(encoding: Encoding, aside: Path, index: Index) -> None:
    content = index_bytes(*index)
    write_synced(aside / INDEX, content)
    write_json(aside / HEADER, header(encoding.of, content))


@dataclass(frozen=True)
class _Sound:
    """The sound of a window of a source."""

    window: int
    samples: np.ndarray  # (samples,) float32
    spoken_seconds: np.ndarray  # (utterances, 2)


@dataclass(frozen=True)
class _Sounds(Dataset[list[_Sound]]):
    """Item i has the sounds of the i-th of these chunks of windows.

    Left out is where a remark or an error is to be made: it is read in each step, as ever.
    """

    source: WindowSource
    maker: WindowMaker
    chunks: Sequence[int]

    def __getitem__(self, item: int) -> list[_Sound]:
        first = self.chunks[item] * CHUNK_WINDOWS
        sounds = []
        for window in range(first, min(first + CHUNK_WINDOWS, len(self.source.packing))):
            decoded = self.maker.decoded(self.source, window)
            if not (decoded.bad or decoded.remarks) and len(decoded.samples):
                times = [(one.start_seconds, one.end_seconds) for one in decoded.spoken]
                sounds.append(_Sound(window, decoded.samples, np.array(times)))
        return sounds


@torch.no_grad()
def _encode(chunk: Sequence[_Sound], empty: EncodedWindows, trainer: Trainer) -> Tensor:
    """(windows, paddings, positions, width) in 16 bits, on the CPU."""
    if not chunk:
        return torch.empty(0)
    device, log_mel = trainer.accelerator.device, trainer.features
    waveforms = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(sound.samples) for sound in chunk for _ in empty.paddings], True
    )
    ends = [
        content_frames(len(sound.samples)) if padding == "log-mel" else None
        for sound in chunk
        for padding in empty.paddings
    ]
    features = log_mel(waveforms.to(device), ends).to(trainer.whisper.dtype)
    with trainer.accelerator.autocast():
        encoded = encode_below(trainer.whisper.model.encoder, features, empty.layers)
    kept = encoded.to(empty.dtype).cpu()
    return kept.view(len(chunk), len(empty.paddings), *empty.shape)
