"""A run's configuration in its folder: written to last, read again, and held against another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml

from lora_whisper import older_keys
from lora_whisper.config import (
    SPLITS,
    AugmentationConfig,
    DataConfig,
    MixConfig,
    OptimizerConfig,
    TrainConfig,
    TrimmedConfig,
)
from lora_whisper.errors import UserError
from lora_whisper.files import write_whole
from lora_whisper.options import merge, nested
from lora_whisper.paths import EMBEDDED, local_path
from lora_whisper.run_folder import MARKER, RunFolder, Start
from lora_whisper.schema import defaults_of, from_values, plain_first

log = logging.getLogger("lora_whisper")
LENGTH = {"training.max_steps", "training.max_epochs"}  # free under a condition, see below
TRIMMED = {f"data.trimmed.{field.name}" for field in dataclasses.fields(TrimmedConfig)}  # as well

# Keys in which a resumed run may differ from the one it continues: none changes the adapter.
FREE_TO_CHANGE = {
    "overwrite",
    "resume",
    "name",
    "data.bad_audio",  # a run that goes on without a file had not met it before it was stopped
    "training.checkpoint_every_steps",
    "model.attention",  # kernels differ by rounding, and the next machine may lack one
    "model.allow_pickle",
    "training.micro_batch",  # accumulation is exact but for rounding
    "training.gradient_checkpointing",
    "training.log_every_steps",
    "training.loader_workers",
    "training.encoder_cache_gigabytes",  # what is kept differs by rounding
    "evaluation.batch_size",
    "evaluation.group_by",
    "evaluation.words",
    "tracking.trackers",
    "tracking.project",
    "card",
}


# What older versions had no key for, and did: hashes go without it.
LEGACY_DEFAULTS = {
    "data.quoted": True,
    "data.exclude": None,
    "data.words": None,
    "data.words_share": 0.5,
    "data.log_mel_padding_share": 0.0,
    "evaluation.padding": "sound",
    "training.global_batch_seconds": None,
}


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
    if evaluation.words is not None:
        evaluation = dataclasses.replace(evaluation, words=_lasting(evaluation.words))
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
        if config.exclude is not None:
            places["exclude"] = _lasting(config.exclude)
        if config.words is not None:
            places["words"] = _lasting(config.words)
        places["mix"] = tuple(map(_with_lasting_places, config.mix))
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


# ── in its folder ───────────────────────────────────────────────────────────────────────────


def begin_run(config: TrainConfig, folder: RunFolder, start: Start) -> None:
    """Make the run's folder, in place of the run that `overwrite=true` gave up, or open it again.

    A complete run that is made longer has no result from here on, until it is complete again.
    """
    if start == "resume":
        folder.reopen()
    elif folder.is_run():
        folder.remove()
    if config.data.words is not None:
        write_whole(folder.words, local_path(config.data.words).read_bytes())
    write_config(folder, config)


def write_config(folder: RunFolder, config: TrainConfig) -> None:
    """Write the resolved configuration; from here on the folder is a run."""
    text = yaml.safe_dump(plain_first(plain_values(config)), sort_keys=False, allow_unicode=True)
    write_whole(folder.config, (MARKER + text).encode())


def read_config(folder: RunFolder) -> TrainConfig:
    """The configuration that a run was started with, or continued with.

    Keys that an older version had not are as it did without them, or as they are by default today.

    Raises:
        UserError: it is damaged.
    """
    try:
        values = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise UserError("it holds no keys")
        for key, value in LEGACY_DEFAULTS.items():
            group, name = key.split(".")
            if isinstance(values.get(group), dict):
                values[group] = {name: value} | values[group]
        return from_values(TrainConfig, _completed(as_called_now(values), defaults_of(TrainConfig)))
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


def default_values() -> dict[str, Any]:
    """What `train` has with nothing typed, by the keys that are typed."""
    return flat(defaults_of(TrainConfig))


def written_values(config: str) -> dict[str, Any]:
    """What a run's config.yaml says, by the keys that are typed today."""
    return flat(as_called_now(yaml.safe_load(config)))


def as_called_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values that an older version may have written; what is not followed is said."""
    given = flat(values)
    for one in older_keys.not_followed(given):
        log.warning("settings    %s of an older version is no setting any more", one)
    found: dict[str, Any] = {}
    for key, value in older_keys.current(given).items():
        merge(found, nested(key, value))
    return found


def config_hash(config: TrainConfig) -> str:
    """Of what a checkpoint must have in common with the run that goes on from it."""
    free, values = free_to_change(config), older_keys.earlier(flat(plain_values(config)))
    as_before = {key for key, default in LEGACY_DEFAULTS.items() if values[key] == default}
    kept = {key: value for key, value in values.items() if key not in free | as_before}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def plain_values(config: TrainConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as one, with the keys that are typed: "adapter.rank"."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def free_to_change(config: TrainConfig) -> set[str]:
    """Keys in which a run may differ from the one that it continues.

    Its length is one of them where no step so far depends on it: where the learning rate stays
    once it has risen (`is_open_ended`), and no ranks fall by a plan for the whole run. And where
    the last checkpoints are averaged, it matters which these are. How windows are trimmed says
    nothing of whole ones.
    """
    averaged = config.training.averaged
    averages_last = averaged is not None and averaged.of == "last"
    fixed = {"training.checkpoint_every_steps"} if averages_last else set()
    has_open_end = is_open_ended(config.optimizer) and config.adapter.kind != "adalora"
    unused = set() if config.data.windows in ("auto", "trimmed") else TRIMMED
    return FREE_TO_CHANGE - fixed | (LENGTH if has_open_end else set()) | unused


def is_open_ended(config: OptimizerConfig) -> bool:
    """Whether no step's rate depends on how many there are: then a run can be made longer."""
    return config.schedule == "constant" and (config.warmup == 0 or config.warmup >= 1)
