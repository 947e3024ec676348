"""What a command reads before it writes: the speech, the base's files, and an earlier run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lora_whisper.composing import to_config
from lora_whisper.config import DataConfig, ModelConfig, TrainConfig
from lora_whisper.data.corpus import Corpus, keep_what_fits, load_corpus
from lora_whisper.data.manifest import read_manifest
from lora_whisper.data.utterance import Utterance
from lora_whisper.errors import UserError, listing
from lora_whisper.model.checkpoint import EMBEDDED, Checkpoint, local_path, locate
from lora_whisper.run_folder import MARKER, RunFolder

if TYPE_CHECKING:
    from transformers import WhisperProcessor

    from lora_whisper.data.features import LogMel
    from lora_whisper.data.vocabulary import Vocabulary

log = logging.getLogger("lora_whisper")

# Keys in which a resumed run may differ from the one it continues: none changes the adapter.
FREE_TO_CHANGE = {
    "overwrite",
    "resume",
    "name",
    "training.checkpoint_every_steps",
    "training.keep_checkpoints",
    "training.micro_batch",  # accumulation is exact but for rounding
    "training.gradient_checkpointing",
    "training.log_every_steps",
    "training.loader_workers",
    "evaluation.batch_size",
    "evaluation.bootstrap_samples",
    "evaluation.group_by",
}


@dataclass(frozen=True)
class Base:
    """Everything about the base checkpoint but its weights."""

    checkpoint: Checkpoint
    processor: WhisperProcessor
    vocabulary: Vocabulary
    features: LogMel
    window_seconds: float


@dataclass(frozen=True)
class Speech:
    """The three splits of a run; validation and test may be absent."""

    train: Corpus
    validation: Corpus | None
    test: Corpus | None

    @property
    def splits(self) -> dict[str, Corpus]:
        """Those that are there, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: corpus for name, corpus in named.items() if corpus is not None}

    @property
    def left_out(self) -> dict[str, dict[str, int]]:
        """How many utterances of each split were left out, by reason."""
        return {
            name: {reason: len(rows) for reason, rows in corpus.left_out.items()}
            for name, corpus in self.splits.items()
            if corpus.left_out
        }


@lru_cache(maxsize=1)
def read_base(config: ModelConfig) -> Base:
    """Find the checkpoint and read its tokenizer and configurations.

    Raises:
        UserError: it is not there, or its files do not belong together.
    """
    checkpoint = locate(config)
    from transformers.utils.logging import disable_progress_bar

    from lora_whisper.data.features import LogMel
    from lora_whisper.data.vocabulary import read_vocabulary
    from lora_whisper.model.checkpoint import (
        load_config,
        load_generation_config,
        load_processor,
        window_seconds,
    )

    disable_progress_bar()  # of reading and writing shards; downloads keep theirs
    shape, processor = load_config(checkpoint), load_processor(checkpoint)
    generation = load_generation_config(checkpoint)
    vocabulary = read_vocabulary(processor.tokenizer, generation, shape)
    seconds = window_seconds(shape)
    return Base(checkpoint, processor, vocabulary, LogMel(shape.num_mel_bins, seconds), seconds)


@lru_cache(maxsize=1)
def read_speech(model: ModelConfig, data: DataConfig) -> Speech:
    """Read and check all manifests of a run; the sweep's points share them.

    Raises:
        UserError: a manifest or its audio cannot be used, or a split is empty.
    """
    manifests = {"train": data.train, "validation": data.validation, "test": data.test}
    given = {split: local_path(path) for split, path in manifests.items() if path is not None}
    for split, path in given.items():  # first, since reading the checkpoint takes seconds
        read_manifest(path, split, data.language, data.task)
    base = read_base(model)
    corpora = {split: read_split(path, split, data, base) for split, path in given.items()}
    speech = Speech(corpora["train"], corpora.get("validation"), corpora.get("test"))
    refuse_leaks(speech)
    return speech


def refuse_leaks(speech: Speech) -> None:
    """See that nothing that is trained on is scored; shared texts are only warned about.

    Raises:
        UserError: the same piece of audio stands in training and in another split.
    """
    trained = {_recording(one) for one in speech.train.utterances}
    texts = {one.text.casefold().strip() for one in speech.train.utterances}
    for name in ("validation", "test"):
        utterances = speech.splits[name].utterances if name in speech.splits else ()
        shared = [
            f"{one.row}: {one.audio.name}" for one in utterances if _recording(one) in trained
        ]
        if shared:
            raise UserError(
                f"{len(shared)} recordings of data.{name} are in data.train too, so that a score "
                f"on them would mean nothing:\n{listing(shared)}\n"
                'Give each row a "split", or take them out of one of the manifests.'
            )
        same = [one.row for one in utterances if one.text.casefold().strip() in texts]
        if same:
            log.warning(
                "%-11s %d texts are in training too: %s", name, len(same), ", ".join(same[:3])
            )


def _recording(utterance: Utterance) -> tuple[Path, float | None, float | None]:
    return utterance.audio.resolve(), utterance.start_seconds, utterance.end_seconds


def read_split(path: Path, split: str, data: DataConfig, base: Base) -> Corpus:
    """One split whose utterances fit the base's window, decoder and languages."""
    corpus = load_corpus(path, split, data, base.window_seconds)
    return keep_what_fits(corpus, base.processor.tokenizer, base.vocabulary, data)


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same configuration for whoever reads config.yaml from another folder.

    What is embedded in the package keeps its name: the package may lie elsewhere by then.
    """
    data, model = config.data, config.model
    if local_path(model.checkpoint).is_dir():  # a hub id stays what it is
        model = dataclasses.replace(model, checkpoint=_lasting(model.checkpoint))
    data = dataclasses.replace(
        data,
        path=data.path and _lasting(data.path),
        train=data.train and _lasting(data.train),
        validation=data.validation and _lasting(data.validation),
        test=data.test and _lasting(data.test),
    )
    return dataclasses.replace(config, data=data, model=model)


def _lasting(path: str) -> str:
    return path if path.startswith(EMBEDDED) else str(local_path(path))


# ── an earlier run ───────────────────────────────────────────────────────────────────────────


def write_config(folder: RunFolder, config: TrainConfig) -> None:
    """Write the resolved configuration; from here on the folder is a run."""
    folder.path.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    folder.config.write_text(MARKER + text, encoding="utf-8")


def read_config(folder: RunFolder) -> TrainConfig:
    """The configuration that a run was started with."""
    return to_config(TrainConfig, yaml.safe_load(folder.config.read_text(encoding="utf-8")))


def require_same(folder: RunFolder, config: TrainConfig) -> None:
    """Refuse to continue, or report as complete, a run of a configuration with another result.

    Raises:
        UserError: names every key that differs, with both values.
    """
    before, now = _flat(_plain(read_config(folder))), _flat(_plain(config))
    changed = [
        f"{key}: was {before[key]}, is {now[key]}"
        for key in now
        if key not in FREE_TO_CHANGE and before.get(key) != now[key]
    ]
    if changed:
        raise UserError(
            f"The run {folder.path} has another configuration:\n{listing(changed)}\n"
            "Give it the same values, type another name=…, or overwrite=true to begin anew."
        )


def _plain(config: TrainConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
