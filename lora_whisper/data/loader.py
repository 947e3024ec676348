"""From a run's configuration, base and speech to the windows that its loop loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_whisper import processes
from lora_whisper.config import AugmentationConfig, DataConfig, TrainConfig
from lora_whisper.data.speech import DatasetSplits
from lora_whisper.model.base import Base

if TYPE_CHECKING:
    from lora_whisper.data.augmentation import Augmenter
    from lora_whisper.data.batches import Batch, StepDataset
    from lora_whisper.data.dataset import Utterances
    from lora_whisper.data.windows import WindowMaker, WindowSource

    Load = Callable[[int, int, int], Iterable[list[Batch]]]

# Of the windows. Packed: as distil-whisper (Gandhi et al. 2023, arXiv:2311.00430), and some
# silence, of which they have little. Padded: with these whisper-base found <|nospeech|> probable in
# 15 of 16 clips without speech, without them in 12; at no cost in WER (docs/genuine-whisper.md).
SHARES = {
    "packed": {"timestamps": 0.2, "previous_text": 0.2, "no_speech": 0.02},
    "padded": {"timestamps": 0.1, "previous_text": 0.0, "no_speech": 0.05},
}


@dataclass(frozen=True)
class TrainingWindows:
    """The global batches of a run, from one step to before another, in micro-batches of a size."""

    load: Load  # of each step, what this process computes
    load_whole: Load  # all of it
    per_epoch: int | None  # None of a stream, whose length nobody knows
    steps_per_epoch: int | None


@dataclass(frozen=True)
class Shares:
    """Of the windows, what `data` asks for or, where it says null, what suits their kind."""

    timestamps: float
    previous_text: float
    no_speech: float
    log_mel_padding: float

    def __str__(self) -> str:
        words = {name: name.replace("log_mel", "log-mel").replace("_", " ") for name in vars(self)}
        given = [f"{words[name]} {share:g}" for name, share in vars(self).items() if share]
        return ", ".join(given)


def shares(data: DataConfig) -> Shares:
    """What is asked for, or what suits the kind of windows."""
    return Shares(
        share_of_windows(data.timestamps_share, data.windows, "timestamps"),
        share_of_windows(data.previous_text_share, data.windows, "previous_text"),
        share_of_windows(data.no_speech_share, data.windows, "no_speech"),
        data.log_mel_padding_share,
    )


def new_augmenter(config: AugmentationConfig, base: Base) -> Augmenter | None:
    """What training windows go through; None where every augmentation is off.

    Raises:
        UserError: a package is missing, a folder holds no recordings, a codec is not known.
    """
    if all(step is None for step in vars(config).values()):
        return None
    from lora_whisper.data.augmentation import Augmenter

    return Augmenter(config, base.window_seconds, base.mel_bins)


def training_windows(config: TrainConfig, base: Base, speech: DatasetSplits) -> TrainingWindows:
    """The windows of the training set and of what is mixed into it, or those of a stream."""
    rank, world = processes.rank(), processes.count()
    if config.data.streaming:
        own, whole = _stream(config, base, rank, world), _stream(config, base, 0, 1)
        return TrainingWindows(own, whole, None, None)
    dataset = _training_steps(config, base, speech)
    workers = config.training.loader_workers
    own, whole = _steps(dataset, workers, rank, world), _steps(dataset, workers, 0, 1)
    return TrainingWindows(own, whole, dataset.windows_per_epoch, dataset.steps_per_epoch)


def _steps(dataset: StepDataset, workers: int, rank: int, world: int) -> Load:
    from lora_whisper.data.batches import step_loader

    def load(first: int, end: int, micro_batch: int) -> Iterable[list[Batch]]:
        part = dataclasses.replace(dataset, micro_batch=micro_batch, rank=rank, world=world)
        return step_loader(part, first, end, workers)

    return load


def validation_windows(
    config: TrainConfig, base: Base, utterances: Utterances, micro_batch: int
) -> Iterable[list[Batch]]:
    """One utterance a window and nothing drawn, for the loss; can be iterated again and again.

    Each process has its part of them, in micro-batches as large as one process would have.
    """
    from lora_whisper.data.batches import StepDataset, step_loader

    source = _source(utterances, base, "padded")
    padded = float(config.evaluation.padding == "log-mel")
    maker = _maker(base, config.seed, log_mel_padding_share=padded)
    dataset = StepDataset(
        (source,),
        maker,
        no_speech_share=0.0,
        global_batch=micro_batch * processes.count(),
        micro_batch=micro_batch,
        seed=config.seed,
        rank=processes.rank(),
        world=processes.count(),
    )
    return step_loader(dataset, 0, dataset.steps_per_epoch, workers=0)


def _stream(config: TrainConfig, base: Base, rank: int, world: int) -> Load:
    from lora_whisper.data.streaming import stream_loader

    maker = _training_maker(config, base)

    def load(first: int, end: int, micro_batch: int) -> Iterable[list[Batch]]:
        return stream_loader(
            config.data,
            maker,
            config.training.global_batch,
            micro_batch,
            config.seed,
            first,
            end,
            config.training.loader_workers,
            no_speech_share=shares(config.data).no_speech,
            rank=rank,
            world=world,
        )

    return load


def _training_steps(config: TrainConfig, base: Base, speech: DatasetSplits) -> StepDataset:
    from lora_whisper.data.batches import StepDataset

    data = config.data
    assert speech.train is not None, "only a stream has no corpus"
    corpora = [speech.train, *speech.mixes]
    weights = [1.0, *(mix.weight for mix in data.mix)]
    return StepDataset(
        sources=tuple(
            _source(corpus.utterances, base, data.windows, data.clean, weight)
            for corpus, weight in zip(corpora, weights, strict=True)
        ),
        maker=_training_maker(config, base),
        no_speech_share=shares(data).no_speech,
        global_batch=config.training.global_batch,
        micro_batch=config.training.global_batch,
        seed=config.seed,
    )


def _source(
    utterances: Utterances,
    base: Base,
    windows: str,
    clean: tuple[str, ...] = (),
    weight: float = 1.0,
) -> WindowSource:
    from lora_whisper.data.sampler import plan
    from lora_whisper.data.windows import WindowSource

    tokenizer, seconds = base.processor.tokenizer, base.window_seconds
    windows_plan = plan(utterances, tokenizer, base.vocabulary, seconds, windows, clean)
    return WindowSource(utterances, windows_plan, weight)


def _training_maker(config: TrainConfig, base: Base) -> WindowMaker:
    asked = shares(config.data)
    return _maker(
        base,
        config.seed,
        timestamps_share=asked.timestamps,
        previous_text_share=asked.previous_text,
        log_mel_padding_share=asked.log_mel_padding,
        clean=config.data.clean,
        augmenter=new_augmenter(config.augmentation, base),
    )


def _maker(base: Base, seed: int, **changes: Any) -> WindowMaker:
    from lora_whisper.data.windows import WindowMaker

    tokenizer = base.processor.tokenizer
    return WindowMaker(tokenizer, base.vocabulary, base.window_seconds, seed=seed, **changes)


def share_of_windows(given: float | None, windows: str, name: str) -> float:
    """A share that the configuration may leave open, by the kind of windows."""
    return SHARES[windows][name] if given is None else given
