"""What a command reads before it writes: the speech, the base's files, and an earlier run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml

from lora_whisper.cli.compose import defaults
from lora_whisper.composing import to_config
from lora_whisper.config import AugmentationConfig, DataConfig, MixConfig, ModelConfig, TrainConfig
from lora_whisper.data.corpus import Corpus, keep_what_fits, load_corpus, with_codes
from lora_whisper.data.leaks import Recordings, Texts
from lora_whisper.data.sources import Split, read_split, resolved
from lora_whisper.data.table import Utterances
from lora_whisper.errors import UserError, listing
from lora_whisper.model.checkpoint import Checkpoint, locate
from lora_whisper.paths import EMBEDDED, local_path
from lora_whisper.run_folder import MARKER, RunFolder, further, write_whole
from lora_whisper.training.schedule import is_open_ended

if TYPE_CHECKING:
    from transformers import WhisperProcessor

    from lora_whisper.model.features import LogMel
    from lora_whisper.model.tokenizer import Vocabulary

log = logging.getLogger("lora_whisper")

SPLITS: tuple[Split, ...] = get_args(Split)

# Keys in which a resumed run may differ from the one it continues: none changes the adapter.
FREE_TO_CHANGE = {
    "overwrite",
    "resume",
    "name",
    "data.bad_audio",  # a run that goes on without a file had not met it before it was stopped
    "training.checkpoint_every_steps",
    "training.keep_checkpoints",
    "model.attention",  # kernels differ by rounding, and the next machine may lack one
    "model.allow_pickle",
    "training.micro_batch",  # accumulation is exact but for rounding
    "training.gradient_checkpointing",
    "training.log_every_steps",
    "training.loader_workers",
    "evaluation.batch_size",
    "evaluation.bootstrap_samples",
    "evaluation.group_by",
    "evaluation.keywords",
    "tracking.trackers",
    "tracking.project",
}
# What older versions had no key for, and did: hashes go without it.
ADDED = {
    "data.quoted": True,
    "data.log_mel_padding_share": 0.0,
    "evaluation.padding": "sound",
}
LENGTH = {"training.max_steps", "training.max_epochs"}  # free under a condition, see below


@dataclass(frozen=True)
class Base:
    """Everything about the base checkpoint but its weights."""

    checkpoint: Checkpoint
    processor: WhisperProcessor
    vocabulary: Vocabulary
    features: LogMel
    mel_bins: int
    window_seconds: float


@dataclass(frozen=True)
class Speech:
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
    def learnt(self) -> tuple[Corpus, ...]:
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


@lru_cache(maxsize=4)  # models that are scored side by side
def read_base(config: ModelConfig, with_weights: bool = True) -> Base:
    """Find the checkpoint and read its tokenizer and configurations.

    Without weights it suffices that those are there.

    Raises:
        UserError: it is not there, or its files do not belong together.
    """
    checkpoint = locate(config, with_weights)
    from lora_whisper.model.checkpoint import (
        load_config,
        load_generation_config,
        load_processor,
        window_seconds,
    )
    from lora_whisper.model.features import LogMel
    from lora_whisper.model.tokenizer import read_vocabulary

    shape, processor = load_config(checkpoint), load_processor(checkpoint)
    generation = load_generation_config(checkpoint)
    vocabulary = read_vocabulary(processor.tokenizer, generation, shape)
    seconds = window_seconds(shape)
    mel_bins = shape.num_mel_bins
    return Base(checkpoint, processor, vocabulary, LogMel(mel_bins, seconds), mel_bins, seconds)


@lru_cache(maxsize=1)
def read_speech(model: ModelConfig, data: DataConfig) -> Speech:
    """Read and check all speech of a run; the sweep's points share it.

    Raises:
        UserError: a source or its audio cannot be used, or a split is empty.
    """
    # All rows first, since reading the checkpoint takes seconds.
    streamed = ("train",) if data.streaming else ()
    found = {split: read_split(data, split) for split in SPLITS if split not in streamed}
    mixes = [resolved(data, mix) for mix in data.mix]
    mixed = [train_rows(config) for config in mixes]
    base = read_base(model)
    corpora = {
        split: usable(utterances, split, data, base)
        for split, utterances in found.items()
        if utterances is not None
    }
    speech = Speech(
        corpora.get("train"),
        corpora.get("validation"),
        corpora.get("test"),
        tuple(
            usable(utterances, "train", config, base)
            for utterances, config in zip(mixed, mixes, strict=True)
        ),
    )
    refuse_leaks(speech)
    return speech


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
        return with_codes(corpus, base.vocabulary)
    corpus = load_corpus(utterances, split, data, base.window_seconds)
    clean = data.clean if split == "train" else ()  # references stay as they are
    return keep_what_fits(corpus, base.processor.tokenizer, base.vocabulary, data, clean)


def refuse_leaks(speech: Speech) -> None:
    """See that nothing that is trained on is scored; shared texts are only warned about.

    Raises:
        UserError: the same piece of audio stands in training and in another split.
    """
    scored = {name: corpus for name, corpus in speech.splits.items() if name != "train"}
    learnt = [corpus.utterances for corpus in speech.learnt]
    if scored and not learnt:
        log.warning("train       is streamed, so that nobody can look for test speech in it")
    if not (scored and learnt):
        return
    refuse_learnt(
        scored,
        learnt,
        "data.train or data.mix" if speech.mixes else "data.train",
        'Give each row a "split", or take them out of one of the manifests.',
    )


def refuse_learnt(
    scored: Mapping[str, Corpus], learnt: Sequence[Utterances], where: str, advice: str
) -> None:
    """See that no recording of `scored` is in `learnt`; shared texts are only warned about.

    Args:
        where: a name for what was learnt.
        advice: what to do about it.

    Raises:
        UserError: the same piece of audio is in both.
    """
    recordings, texts = Recordings(learnt), Texts(learnt)
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


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same configuration for whoever reads config.yaml from another folder.

    What is embedded in the package keeps its name: the package may lie elsewhere by then. So do the
    names of splits and of what is on the hub.
    """
    model = config.model
    if local_path(model.checkpoint).is_dir():
        model = dataclasses.replace(model, checkpoint=_lasting(model.checkpoint))
    adapter = config.adapter
    # A run that is gone has its folder's name still; of a hub id, nobody has made the first half.
    if adapter.init_from is not None and local_path(adapter.init_from).parent.is_dir():
        adapter = dataclasses.replace(adapter, init_from=_lasting(adapter.init_from))
    evaluation = config.evaluation
    if evaluation.keywords is not None:
        evaluation = dataclasses.replace(evaluation, keywords=_lasting(evaluation.keywords))
    return dataclasses.replace(
        config,
        model=model,
        adapter=adapter,
        evaluation=evaluation,
        data=_with_lasting_places(config.data),
        augmentation=_with_lasting_folders(config.augmentation),
    )


Places = TypeVar("Places", DataConfig, MixConfig)


def _with_lasting_places(config: Places) -> Places:
    """A split is a file, or the name of one in what `path` holds."""
    places: dict[str, Any] = {
        key: _lasting(given)
        for key, given in vars(config).items()
        if key in ("path", *SPLITS) and given is not None and _is_local(given, key)
    }
    if isinstance(config, DataConfig):
        return dataclasses.replace(
            config, **places, mix=tuple(map(_with_lasting_places, config.mix))
        )
    return dataclasses.replace(config, **places)


def _is_local(given: str, key: str) -> bool:
    place = local_path(given)
    return place.exists() if key == "path" else place.is_file()


def _with_lasting_folders(config: AugmentationConfig) -> AugmentationConfig:
    """Recordings of noise and of rooms lie in folders."""
    kinds: dict[str, Any] = {
        name: dataclasses.replace(kind, folder=_lasting(kind.folder))
        for name, kind in vars(config).items()
        if getattr(kind, "folder", None) is not None
    }
    return dataclasses.replace(config, **kinds)


def _lasting(path: str) -> str:
    return path if path.startswith(EMBEDDED) else str(local_path(path))


# ── an earlier run ───────────────────────────────────────────────────────────────────────────


def write_config(folder: RunFolder, config: TrainConfig) -> None:
    """Write the resolved configuration; from here on the folder is a run."""
    text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    write_whole(folder.config, (MARKER + text).encode())


def read_config(folder: RunFolder) -> TrainConfig:
    """The configuration that a run was started with, or continued with.

    Keys that an older version had not are as it did without them, or as they are by default today.

    Raises:
        UserError: it is damaged.
    """
    try:
        values = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        for key, value in ADDED.items():
            group, name = key.split(".")
            if isinstance(values.get(group), dict):
                values[group] = {name: value} | values[group]
        return to_config(TrainConfig, _completed(values, defaults("train")))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{folder.config} is damaged: {error}\n"
            "Bring it back from a copy, or begin the run anew with overwrite=true."
        ) from error


def _completed(values: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with all keys of `default`; where that has a list, so have they."""
    found = dict(values)
    for key, usual in default.items():
        value = values.get(key)
        if isinstance(usual, Mapping) and isinstance(value, Mapping):
            found[key] = _completed(value, usual)
        elif key not in values or (value is None and isinstance(usual, list)):
            found[key] = usual
    return found


def require_same(folder: RunFolder, config: TrainConfig) -> None:
    """Refuse to continue, or report as complete, a run of a configuration with another result.

    Raises:
        UserError: names every key that differs, with both values.
    """
    before, now = flat(_plain(read_config(folder))), flat(_plain(config))
    free = free_to_change(config)
    changed = [
        f"{key}: was {before.get(key)}, is {now.get(key)}{_why_not(key, config)}"
        for key in before | now
        if key not in free and before.get(key) != now.get(key)
    ]
    if changed:
        is_longer = folder.is_complete() and all(line.startswith(tuple(LENGTH)) for line in changed)
        first = f"Type {further(folder.path)}, or g" if is_longer else "G"
        raise UserError(
            f"The run {folder.path} has another configuration:\n{listing(changed)}\n"
            f"{first}ive it the same values, type another name=…, or overwrite=true to begin anew."
        )


def require_same_speech(config: TrainConfig, folder: RunFolder, speech: Speech) -> None:
    """Refuse to go on with other speech than the run began with, unless that was asked for.

    Raises:
        UserError: names the splits that changed, and rows.
    """
    from lora_whisper.training.resume import changes, require_unchanged, rows_of

    if config.resume == "auto":
        changed = changes(folder.rows, rows_of(speech.parts))
        require_unchanged(folder.path, changed, speech.parts)


def has_other_length(folder: RunFolder, config: TrainConfig) -> bool:
    """Whether a run that can be made longer is asked to be of another length than it was."""
    before, now = read_config(folder).training, config.training
    return (before.max_steps, before.max_epochs) != (now.max_steps, now.max_epochs)


def require_checkpoint(folder: RunFolder) -> None:
    """Refuse to go on with a complete run that would have to begin anew."""
    if folder.last_checkpoint() is None:
        raise UserError(
            f"{folder.path} is complete, and its checkpoints were removed, so that it cannot be "
            "made longer.\nType another name=…, or overwrite=true to begin anew."
        )


def require_steps_left(folder: RunFolder, done_steps: int, total_steps: int) -> None:
    """Refuse to go on with a run that is to have fewer steps than it has done.

    Raises:
        UserError: it has done more.
    """
    if done_steps > total_steps:
        raise UserError(
            f"The run {folder.path} has done {done_steps} steps, and is now to have "
            f"{total_steps}.\nType training.max_steps={done_steps} or more, another name=…, or "
            "overwrite=true to begin anew."
        )


def free_to_change(config: TrainConfig) -> set[str]:
    """Keys in which a run may differ from the one that it continues.

    Its length is one of them where no step so far depends on it: where the learning rate stays
    once it has risen (`is_open_ended`), and no ranks fall by a plan for the whole run. And where
    the last checkpoints are averaged, it matters which these are.
    """
    averaging = config.training.averaging
    averages_last = averaging is not None and averaging.of == "last"
    fixed = {"training.checkpoint_every_steps"} if averages_last else set()
    has_open_end = is_open_ended(config.optimizer) and config.adapter.kind != "adalora"
    return FREE_TO_CHANGE - fixed | (LENGTH if has_open_end else set())


def _why_not(key: str, config: TrainConfig) -> str:
    """Why a run's length cannot be changed any more."""
    if key not in LENGTH:
        return ""
    if config.adapter.kind == "adalora":
        return " (adalora's ranks fall by a plan for the whole run)"
    return (
        " (the learning rate of each step depends on it; it does not with "
        "optimizer.schedule=constant and a warm-up in steps)"
    )


def config_hash(config: TrainConfig) -> str:
    """Of what a checkpoint must have in common with the run that goes on from it."""
    free, values = free_to_change(config), flat(_plain(config))
    as_before = {key for key, default in ADDED.items() if values[key] == default}
    kept = {key: value for key, value in values.items() if key not in free | as_before}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _plain(config: TrainConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as one, with the keys that are typed: "adapter.rank"."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found
