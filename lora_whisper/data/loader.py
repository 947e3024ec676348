"""From a run's configuration, base and speech to the windows that its loop loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_whisper import processes
from lora_whisper.config import AugmentationConfig, DataConfig, TrainConfig
from lora_whisper.data.augmentation import Augmenter
from lora_whisper.data.corpus import Corpus
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.sampler import GlobalBatch, by_speaker, pack
from lora_whisper.data.speech import DatasetSplits
from lora_whisper.data.windows import WindowMaker, WindowSource
from lora_whisper.data.words import Spoken, WordPrompts, read_words, spoken_in
from lora_whisper.errors import UserError
from lora_whisper.layers import ranges_in
from lora_whisper.model.base import Base
from lora_whisper.model.published import SECONDS_PER_TIMESTAMP
from lora_whisper.paths import local_path
from lora_whisper.terminal import counted

if TYPE_CHECKING:  # torch, which takes seconds
    from lora_whisper.data.batches import Batch, StepDataset, Trimming
    from lora_whisper.data.encoded import EncodedWindows
    from lora_whisper.data.streaming import StreamDataset

    Load = Callable[[int, int, int], Iterable[list[Batch]]]

# Of the windows. Packed: as distil-whisper (Gandhi et al. 2023, arXiv:2311.00430), and some
# silence, of which they have little. Padded: with these whisper-base found <|nospeech|> probable in
# 15 of 16 clips without speech, without them in 12; at no cost in WER (docs/genuine-whisper.md).
# Trimmed: as padded, but for windows without speech, each of which costs as much as ten short ones.
SHARES = {
    "packed": {"timestamps": 0.2, "previous_text": 0.2, "no_speech": 0.02},
    "padded": {"timestamps": 0.1, "previous_text": 0.0, "no_speech": 0.05},
    "trimmed": {"timestamps": 0.0, "previous_text": 0.0, "no_speech": 0.03},
}
# Of the packed windows beside trimmed ones. A short window with timestamps says that nothing comes
# behind an utterance, and a model that learnt so left out the rest of long recordings
# (docs/speed.md).
TIMESTAMPS_BESIDE_TRIMMED = 0.5


LONGEST_TRIMMED = 0.4  # of a window, that the mean clip has; of longer ones it was not measured


@dataclass(frozen=True)
class WindowKind:
    """How utterances become windows: what `data.windows` asks for, or what auto chose and why."""

    name: str  # padded | packed | trimmed
    reason: str = ""  # of auto


def window_kind(config: TrainConfig, base: Base, speech: DatasetSplits) -> WindowKind:
    """What the run's windows are: a function of its settings and speech alone."""
    if config.data.windows != "auto":
        return WindowKind(config.data.windows)
    if speech.train is None:
        return WindowKind("padded", "a stream cannot be put in order")
    is_frozen = "encoder" not in ranges_in(config.adapter.layers)
    augments = any(step is not None for step in vars(config.augmentation).values())
    if is_frozen and config.training.encoder_cache_gigabytes and not augments:
        return WindowKind("padded", "the encoder is frozen, and computed once for whole windows")
    mean_seconds = speech.train.seconds / max(1, len(speech.train.utterances))
    clips = f"clips of {mean_seconds:.1f} s on average"
    if mean_seconds > LONGEST_TRIMMED * base.window_seconds:
        return WindowKind("padded", f"{clips} leave less to trim")
    return WindowKind("trimmed", f"{clips} would be mostly padding")


@dataclass(frozen=True)
class TrainingWindows:
    """The global batches of a run, from one step to before another, in micro-batches of a size."""

    kind: WindowKind

    load: Load  # of each step, what this process computes
    load_whole: Load  # all of it
    per_epoch: int | None  # None of a stream, whose length nobody knows
    steps_per_epoch: int | None
    mean_positions: float | None = None  # of the encoder's, that a window keeps; None: all
    dataset: StepDataset | None = None  # that they are loaded from; None of a stream
    workers: int = 0

    def with_encoded(self, encoded: Sequence[EncodedWindows | None]) -> TrainingWindows:
        """The same, of which those of some sources are not encoded again, but read.

        Args:
            encoded: of each source.
        """
        from lora_whisper.data.batches import step_loader

        assert self.dataset is not None, "a stream's windows are known once"
        sources = zip(self.dataset.sources, encoded, strict=True)
        known = tuple(dataclasses.replace(source, encoded=one) for source, one in sources)
        dataset = dataclasses.replace(self.dataset, sources=known)
        load, load_whole = _loads(dataset, step_loader, self.workers)
        return dataclasses.replace(self, load=load, load_whole=load_whole, dataset=dataset)


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


def shares(data: DataConfig, kind: WindowKind) -> Shares:
    """What is asked for, or what suits the kind of windows."""
    given = {
        "timestamps": data.timestamps_share,
        "previous_text": data.previous_text_share,
        "no_speech": data.no_speech_share,
    }
    asked = {name: share for name, share in given.items() if share is not None}
    return Shares(**(SHARES[kind.name] | asked), log_mel_padding=data.log_mel_padding_share)


def new_augmenter(config: AugmentationConfig, base: Base) -> Augmenter | None:
    """What training windows go through; None where every augmentation is off.

    Raises:
        UserError: a package is missing, a folder holds no recordings, a codec is not known.
    """
    if all(step is None for step in vars(config).values()):
        return None
    return Augmenter(config, base.window_seconds, base.mel_bins)


def words_spoken(words: Sequence[str], speech: DatasetSplits) -> Spoken:
    """What of a list is said in training."""
    texts = (text for one in speech.training for text in one.utterances.column("text").to_pylist())
    return spoken_in(words, texts)


def word_prompts(data: DataConfig, base: Base, speech: DatasetSplits) -> WordPrompts | None:
    """What makes prompts of `data.words`; None where there is no such list.

    Words that nobody says in training are in no prompt: the model would learn of just these that
    they are never to be written. Of a stream nobody knows which those are.

    Raises:
        UserError: the list cannot be read, or none of its words is said.
    """
    if data.words is None:
        return None
    words = read_words(local_path(data.words), "data.words")
    said = words
    if speech.train is not None:
        spoken = words_spoken(words, speech)
        said = tuple(word for word in words if spoken.times[word])
    if not said:
        raise UserError(
            f"data.words={data.words}: none of its {counted(len(words), 'word')} is said in "
            f"{counted(spoken.of_texts, 'training text')}, such as {words[0]!r}. A model would "
            "learn that prompts are never right.\nWrite words into it that are, or leave it out."
        )
    return WordPrompts(words, said, data.words_share, base.processor.tokenizer)


def training_windows(config: TrainConfig, base: Base, speech: DatasetSplits) -> TrainingWindows:
    """The windows of the training set and of what is mixed into it, or those of a stream."""
    kind = window_kind(config, base, speech)
    asked = shares(config.data, kind)
    maker = _window_maker(config, asked, base, speech)
    size = config.training.whole_windows(base.window_seconds)
    seed, workers = config.seed, config.training.loader_workers
    if config.data.streaming:
        from lora_whisper.data.streaming import StreamDataset, stream_loader

        stream = StreamDataset(config.data, maker, asked.no_speech, size, size, seed)
        return TrainingWindows(kind, *_loads(stream, stream_loader, workers), None, None)
    from lora_whisper.data.batches import StepDataset, step_loader

    assert speech.train is not None, "only a stream has no corpus"
    trimming, batch = None, GlobalBatch(size)
    if kind.name == "trimmed":
        trimming, seconds = _trimming(config, base), config.training.global_batch_seconds
        batch = batch if seconds is None else GlobalBatch(seconds, trimming.mean_seconds)
    dataset = StepDataset(
        tuple(_sources(config.data, kind.name, base, speech.train, speech.mixes)),
        maker,
        asked.no_speech,
        batch,
        size,
        seed,
        trimming=trimming,
    )
    return TrainingWindows(
        kind,
        *_loads(dataset, step_loader, workers),
        dataset.windows_per_epoch,
        dataset.steps_per_epoch,
        dataset.mean_positions(),
        dataset,
        workers,
    )


def _window_maker(
    config: TrainConfig, asked: Shares, base: Base, speech: DatasetSplits
) -> WindowMaker:
    return WindowMaker(
        base.processor.tokenizer,
        base.special_tokens,
        base.window_seconds,
        timestamps_share=asked.timestamps,
        previous_text_share=asked.previous_text,
        clean=config.data.clean,
        augmenter=new_augmenter(config.augmentation, base),
        seed=config.seed,
        log_mel_padding_share=asked.log_mel_padding,
        words=word_prompts(config.data, base, speech),
    )


def _sources(
    data: DataConfig, kind: str, base: Base, train: Corpus, mixes: Sequence[Corpus]
) -> Iterator[WindowSource]:
    """The training set, what is mixed into it and, of trimmed windows, a part of it packed."""
    windows = "padded" if kind == "trimmed" else kind
    weights = [1.0, *(mix.weight for mix in data.mix)]
    for corpus, weight in zip([train, *mixes], weights, strict=True):
        yield _source(corpus.utterances, base, windows, data.clean, weight)
    if kind == "trimmed" and data.trimmed.packed_share:
        packed = _source(train.utterances, base, "packed", data.clean)
        weight = data.trimmed.packed_share * len(packed.packing) / len(train.utterances)
        share = TIMESTAMPS_BESIDE_TRIMMED if data.timestamps_share is None else None
        yield dataclasses.replace(packed, weight=weight, timestamps_share=share)


def _trimming(config: TrainConfig, base: Base) -> Trimming:
    from lora_whisper.data.batches import Trimming

    asked, speed = config.data.trimmed, config.augmentation.speed
    fewest, most = (round(seconds / SECONDS_PER_TIMESTAMP) for seconds in asked.margin_seconds)
    return Trimming(
        whole_share=asked.whole_share,
        margin_positions=(fewest, most),
        window_positions=round(base.window_seconds / SECONDS_PER_TIMESTAMP),
        slowest_speed=min(1.0, speed.factors[0]) if speed else 1.0,
    )


def _loads(
    dataset: StepDataset | StreamDataset, loader: Callable[..., Any], workers: int
) -> tuple[Load, Load]:
    """What loads this process's part of the steps, and what loads all of them."""

    def part(rank: int, world: int) -> Load:
        def load(first: int, end: int, micro_batch: int) -> Iterable[list[Batch]]:
            own = dataclasses.replace(dataset, micro_batch=micro_batch, rank=rank, world=world)
            return loader(own, first, end, workers)

        return load

    return part(processes.rank(), processes.count()), part(0, 1)


def validation_windows(
    config: TrainConfig, base: Base, utterances: Utterances, micro_batch: int
) -> Iterable[list[Batch]]:
    """One utterance a window and nothing drawn, for the loss; can be iterated again and again.

    Each process has its part of them, in micro-batches as large as one process would have.
    """
    from lora_whisper.data.batches import StepDataset, step_loader

    maker = WindowMaker(
        base.processor.tokenizer,
        base.special_tokens,
        base.window_seconds,
        seed=config.seed,
        log_mel_padding_share=float(config.evaluation.padding == "log-mel"),
    )
    dataset = StepDataset(
        (_source(utterances, base, "padded"),),
        maker,
        no_speech_share=0.0,
        global_batch=GlobalBatch(micro_batch * processes.count()),
        micro_batch=micro_batch,
        seed=config.seed,
        rank=processes.rank(),
        world=processes.count(),
    )
    return step_loader(dataset, 0, dataset.steps_per_epoch, workers=0)


def _source(
    utterances: Utterances,
    base: Base,
    windows: str,
    clean: tuple[str, ...] = (),
    weight: float = 1.0,
) -> WindowSource:
    tokenizer, seconds = base.processor.tokenizer, base.window_seconds
    if windows == "packed":
        utterances = by_speaker(utterances)
    packing = pack(utterances, tokenizer, base.special_tokens, seconds, windows, clean)
    return WindowSource(utterances, packing, weight)
