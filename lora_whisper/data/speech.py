"""The speech of a run: its splits, read, cleaned and seen to have nothing in common."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_whisper.config import SPLITS, DataConfig, ModelConfig, Split
from lora_whisper.data.contents import Recordings, Texts
from lora_whisper.data.corpus import Corpus, keep_what_fits, load_corpus, with_codes
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.decisions import without_excluded
from lora_whisper.data.sources import read_split, resolved
from lora_whisper.errors import UserError, listing
from lora_whisper.model.base import Base, read_base

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class DatasetSplits:
    """The three splits of a run, and what is mixed in; validation and test may be absent."""

    train: Corpus | None  # None where it is streamed
    validation: Corpus | None
    test: Corpus | None
    mixes: tuple[Corpus, ...] = ()  # in the order of data.mix

    @property
    def splits(self) -> dict[str, Corpus]:
        """Those that are there, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: corpus for name, corpus in named.items() if corpus is not None}

    @property
    def training(self) -> tuple[Corpus, ...]:
        """What is trained on, as far as it is known before."""
        return (*([self.train] if self.train else ()), *self.mixes)

    @property
    def parts(self) -> dict[str, Corpus]:
        """The splits, and what is mixed into train as "mix 1", "mix 2", …"""
        mixes = {f"mix {number}": corpus for number, corpus in enumerate(self.mixes, 1)}
        return self.splits | mixes

    @property
    def left_out(self) -> dict[str, dict[str, int]]:
        """How many utterances of each part were left out, by reason."""
        return {
            name: {reason: len(rows) for reason, rows in corpus.left_out.items()}
            for name, corpus in self.parts.items()
            if corpus.left_out
        }


@dataclass(frozen=True)
class Inputs:
    """What a run reads before it begins: everything about its base but the weights, its speech."""

    model: ModelConfig  # that they were read for, as is `data`
    data: DataConfig
    base: Base
    speech: DatasetSplits


def read_inputs(model: ModelConfig, data: DataConfig, earlier: Inputs | None = None) -> Inputs:
    """Read and check the base checkpoint and all speech of a run.

    Args:
        earlier: of another run; it is taken where it was read for the same.

    Raises:
        UserError: the checkpoint, a source or its audio cannot be used, or a split is empty.
    """
    if earlier is not None and (earlier.model, earlier.data) == (model, data):
        return earlier
    # All rows first, since reading the checkpoint takes seconds.
    train, mixed = training_rows(data)
    rows = {split: train if split == "train" else read_split(data, split) for split in SPLITS}
    mixes = [resolved(data, mix) for mix in data.mix]
    base = read_base(model)
    corpora = {
        split: usable(utterances, split, data, base)
        for split, utterances in rows.items()
        if utterances is not None
    }
    speech = DatasetSplits(
        corpora.get("train"),
        corpora.get("validation"),
        corpora.get("test"),
        tuple(
            usable(utterances, "train", config, base)
            for utterances, config in zip(mixed, mixes, strict=True)
        ),
    )
    refuse_leaks(speech)
    return Inputs(model, data, base, speech)


def training_rows(data: DataConfig) -> tuple[Utterances | None, list[Utterances]]:
    """The rows of train, None where it is streamed, and those of each mix; `data.exclude` is done.

    Raises:
        UserError: a source is missing or cannot be read, or no decision is about one of all rows.
    """
    whole = replace(data, exclude=None)
    train = [] if data.streaming else [train_rows(whole)]
    parts = train + [train_rows(resolved(whole, mix)) for mix in data.mix]
    if data.exclude is not None:
        parts = without_excluded(parts, data.exclude, is_all=True)
    return (None, parts) if data.streaming else (parts[0], parts[1:])


def train_rows(data: DataConfig) -> Utterances:
    rows = read_split(data, "train")
    assert rows is not None, "a training set that is missing is an error"
    return rows


def usable(utterances: Utterances, split: Split, data: DataConfig, base: Base) -> Corpus:
    """One split's utterances that fit the base's window, decoder and languages.

    A test set is not learnt from: recordings over the window are heard in several.
    """
    if split == "test":
        corpus = load_corpus(utterances, split, data, math.inf)
        return with_codes(corpus, base.special_tokens)
    corpus = load_corpus(utterances, split, data, base.window_seconds)
    clean = data.clean if split == "train" else ()  # references stay as they are
    return keep_what_fits(corpus, base.processor.tokenizer, base.special_tokens, data, clean)


def refuse_leaks(speech: DatasetSplits) -> None:
    """See that nothing that is trained on is scored; shared texts are only warned about.

    Raises:
        UserError: the same piece of audio stands in training and in another split.
    """
    scored = {name: corpus for name, corpus in speech.splits.items() if name != "train"}
    training = [corpus.utterances for corpus in speech.training]
    if scored and not training:
        log.warning("train       is streamed, so that nobody can look for test speech in it")
    if not (scored and training):
        return
    refuse_training_data(
        scored,
        training,
        "data.train or data.mix" if speech.mixes else "data.train",
        'Give each row a "split", or take them out of one of the manifests.',
    )


def refuse_training_data(
    scored: Mapping[str, Corpus], training: Sequence[Utterances], where: str, advice: str
) -> None:
    """See that no recording of `scored` is in `training`; shared texts are only warned about.

    Args:
        where: a name for what was trained on.
        advice: what to do about it.

    Raises:
        UserError: the same piece of audio is in both.
    """
    recordings, texts = Recordings(training), Texts(training)
    for name, corpus in scored.items():
        utterances = corpus.utterances
        shared = [utterances.row(index) for index in recordings.shared_with(utterances)]
        if shared:
            rows = [f"{row.place}: {Path(row.audio).name}".rstrip(": ") for row in shared]
            raise UserError(
                f"{len(shared)} recordings of data.{name} are in {where} too, so that a score "
                f"on them would mean nothing:\n{listing(rows)}\n{advice}"
            )
        same = texts.shared_with(utterances)
        if same:
            places = ", ".join(utterances.row(index).place for index in same[:3])
            log.warning("%-11s %d rows have a text of training: %s", name, len(same), places)
