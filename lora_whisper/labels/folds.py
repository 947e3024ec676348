"""Adapters for a language that the base does not know, each to listen to what it was not taught.

The rows are divided into folds; for each fold an adapter is trained on the others, by the training
loop itself, and listens to it. Wrong transcripts in the others are learnt from as well, but no
transcript is judged by a model that has seen it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration

from lora_whisper.config import CheckConfig, LabelsConfig, TrainConfig, TrainingConfig
from lora_whisper.data.corpus import Corpus, keep_what_fits
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.quality_measures import Measured
from lora_whisper.data.speech import DatasetSplits, Inputs
from lora_whisper.errors import UserError
from lora_whisper.evaluation.loading import load_model, whisper_inside
from lora_whisper.evaluation.models import ModelEntry, trained
from lora_whisper.files import remove_folder
from lora_whisper.labels.evidence import key_of
from lora_whisper.labels.listening import Clip
from lora_whisper.locks import locked_in_turn
from lora_whisper.lora.adapter import load_adapter, merged_in_place
from lora_whisper.lora.saved import open_adapter
from lora_whisper.model.base import Base
from lora_whisper.paths import cache_folder
from lora_whisper.run_config import begin_run, config_hash
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import counted
from lora_whisper.training.resume import rows_of
from lora_whisper.training.run import Run

log = logging.getLogger("lora_whisper")

USUAL_FOLDS = 2


def divide(clips: Sequence[Clip], folds: int) -> np.ndarray:
    """(clips,) the fold of each; rows of one speaker or of the same text are in one.

    Where there are fewer such groups than folds, speakers are in several, and texts alone keep
    together.
    """
    speakers = {clip.utterance.speaker for clip in clips}
    by_speaker = None not in speakers and len(speakers) >= folds
    roots = _groups(clips, by_speaker)
    if by_speaker and len(np.unique(roots)) < folds:  # all say the same sentences
        roots = _groups(clips, by_speaker=False)
    found, sizes = np.zeros(len(clips), int), np.zeros(folds)
    numbers, counts = np.unique(roots, return_counts=True)
    for place in np.argsort(-counts, kind="stable"):  # the largest first, to the smallest fold
        fold = int(sizes.argmin())
        found[roots == numbers[place]] = fold
        sizes[fold] += counts[place]
    return found


def _groups(clips: Sequence[Clip], by_speaker: bool) -> np.ndarray:
    """(clips,) the number of the first clip that has to be in the same fold."""
    groups = list(range(len(clips)))  # each clip's group, by the number of its first clip
    first: dict[object, int] = {}

    def root(number: int) -> int:
        while groups[number] != number:
            number = groups[number]
        return number

    for number, clip in enumerate(clips):
        text = ("text", _as_divided(clip.utterance.text))
        speaker = ("speaker", clip.utterance.speaker)
        for key in (text, speaker) if by_speaker else (text,):
            groups[root(number)] = root(first.setdefault(key, number))
    return np.array([root(number) for number in range(len(clips))])


def _as_divided(text: str) -> str:
    return " ".join(text.casefold().split())


def require_parts(texts: Iterable[str], labels: LabelsConfig) -> None:
    """See that there are as many texts as parts; rows of one text are in one part.

    Where `labels` leaves it to the base whether it listens, it needs two as well: what a single
    text costs cannot be held against another.

    Raises:
        UserError: there are fewer.
    """
    if labels.folds == 0:
        return
    parts, different = labels.folds or USUAL_FOLDS, set[str]()
    for text in texts:
        if text and text.strip():
            different.add(_as_divided(text))
        if len(different) == parts:
            return
    raise UserError(
        f"labels: the training speech cannot be divided into {parts} parts, each of which an "
        "adapter listens to that was trained on the others: rows of one text are in one part, and "
        f"{counted(len(different), 'text')} can be used. Add rows, or type labels='{{folds: 0}}': "
        "the base listens to all."
    )


def training_config(config: CheckConfig, labels: LabelsConfig) -> TrainConfig:
    """As `train` would, on the speech of `check` and without anything to score."""
    data = dataclasses.replace(
        config.data, validation=None, test=None, validation_share=0.0, test_share=0.0
    )
    return TrainConfig(
        name=config.name,
        seed=config.seed,
        model=config.model,
        data=data,
        augmentation=config.augmentation,
        training=TrainingConfig(max_epochs=labels.epochs, loader_workers=0),
    )


def train_without(
    config: TrainConfig,
    base: Base,
    measured: Mapping[str, Measured],
    left_out: Sequence[Clip],
) -> ModelEntry:
    """Train an adapter on all rows but those, or take the one that was trained before."""
    corpora = {}
    for split, one in measured.items():
        numbers = [clip.number for clip in left_out if clip.split == split]
        corpora[split] = _corpus(config, base, one, np.array(numbers, int))
    mixes = tuple(corpus for split, corpus in corpora.items() if split != "train")
    speech = DatasetSplits(corpora["train"], None, None, mixes)
    rows = {name: each.tolist() for name, each in rows_of(speech.parts).items()}
    name = key_of(config_hash(config), base.checkpoint, rows)
    folder = RunFolder(cache_folder("labels") / "folds" / name)
    with locked_in_turn(folder.path, _tell_of_another):  # which may be training the same
        _train_once(config, folder, Inputs(config.model, config.data, base, speech))
    return trained(config, "adapter", folder.adapter)


def _tell_of_another() -> None:
    log.info("labels      waiting for another process, which trains the same adapter")


def _train_once(config: TrainConfig, folder: RunFolder, inputs: Inputs) -> None:
    """Train the adapter, if it is not there and whole; one that was begun is gone on with."""
    if folder.is_complete() and not _is_sound(folder.adapter):
        log.warning("labels      the adapter kept for this part is damaged: it is trained anew")
        remove_folder(folder.path)
    if folder.is_complete():
        return
    is_begun = folder.is_run()
    config = dataclasses.replace(config, resume="auto" if is_begun else None)
    if folder.path.exists() and not is_begun:
        remove_folder(folder.path)
    with _quiet():
        run = Run(config, folder, inputs)
        begin_run(config, folder, "resume" if is_begun else "new")
        run.carry_out()


def _is_sound(adapter: Path) -> bool:
    try:
        open_adapter(adapter)
    except UserError:
        return False
    return True


def _corpus(config: TrainConfig, base: Base, measured: Measured, left_out: np.ndarray) -> Corpus:
    seconds = measured.records["seconds"]
    usable = (measured.records["problem"] == 0) & (seconds <= base.window_seconds)
    usable &= ~measured.records["has_unknown_language"]
    usable[left_out] = False
    rows: Utterances = measured.utterances.with_durations(seconds).select(usable)
    tokenizer, special_tokens = base.processor.tokenizer, base.special_tokens
    data = dataclasses.replace(config.data, long_audio="drop")
    return keep_what_fits(Corpus(rows, {}), tokenizer, special_tokens, data, config.data.clean)


@contextmanager
def opened(entry: ModelEntry, device: torch.device) -> Iterator[WhisperForConditionalGeneration]:
    """The Whisper of an entry, its adapter folded into it."""
    whisper = load_model(entry, "auto", device)
    if entry.adapter is None:
        yield whisper
        return
    model = load_adapter(whisper, entry.adapter)
    with merged_in_place(model):
        yield whisper_inside(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines of a run; its bar is seen."""
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
