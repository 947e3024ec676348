"""The configuration: every problem at once, and plain Python below the door."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

import pytest
import yaml
from pydantic import Strict, ValidationError

import lora_whisper.config
from lora_whisper.config import (
    EvaluateConfig,
    EvaluationConfig,
    MergeConfig,
    RescoringConfig,
    TrainConfig,
    TrainingConfig,
)
from lora_whisper.errors import UserError
from lora_whisper.schema import from_values, group_in, hints_of, is_group, meaning_of, parts_of
from tests.composed import train_values


def test_composed_values_become_frozen_dataclasses() -> None:
    config = from_values(TrainConfig, train_values("model=nano", "data.train=a.jsonl", "name=x"))
    assert config.adapter.rank == 16
    assert isinstance(config.adapter.alpha, float)
    assert config.adapter.targets == "all-linear"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "y"  # type: ignore[misc]


def test_all_problems_are_named_at_once() -> None:
    values = train_values("data.train=a.jsonl", "name=x")
    values["adapter"]["rank"] = 0
    values["optimizer"]["schedule"] = "steep"
    values["training"]["micro_batch"] = "many"
    values["training"]["global_batches"] = 3
    values["name"] = "../up"
    values["data"]["path"] = "???"
    with pytest.raises(UserError) as error:
        from_values(TrainConfig, values)
    message = str(error.value)
    assert "training.checkpoint" not in message, "what is right is not blamed"
    for part in (
        "adapter.rank: expected 1 or more, found 0",
        "optimizer.schedule: expected constant or linear or cosine, found 'steep'",
        "training.micro_batch: expected a whole number, found 'many'",
        "training.global_batches: unknown key",
        "data.path: missing; type data.path=…",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("adapter.rank", True, "a whole number"),
        ("adapter.rank", 4.0, "a whole number"),
        ("adapter.alpha", "32", "a number"),
        ("adapter.dropout", 1.0, "0 … below 1"),
        ("adapter.targets", "q_proj", "attention-qv or attention or all-linear"),
        ("adapter.layers", "middle", "expected all, or such as decoder or encoder.24-31"),
        ("overwrite", "yes", "true or false"),
        ("quantization.kind", None, "none or int8 or nf4"),
        ("data.train", "???", "missing; type data.train=…"),
        ("name", "../elsewhere", "a folder name below outputs/"),
        ("seed", -1, "0 … 4294967295"),
        ("optimizer.learning_rate", 0.0, "more than 0"),
        ("evaluation.beams", 0, "1 or more"),
        ("training.max_epochs", float("inf"), "a finite number"),
        ("data.language", False, "quote it"),
        ("data.train", None, "missing; type data.train=… (or data.path=…"),
        ("data.test_share", 0.95, "with validation_share below 1"),
        ("data.streaming", True, "only hub data sets"),
        ("data.clean", ["case", "vowels"], "punctuation or digits, found 'vowels'"),
        ("adapter.alpha", 2e6, "at most 1000000"),
        ("adapter.rank", 70_000, "at most 65536"),
        ("training.max_steps", 10**20, "at most 4294967295"),
        ("training.max_epochs", 1e300, "at most 1000000000"),
        ("data.clean", "vowels", "data.clean: expected annotations or case or"),
        ("data.mix", [{"weight": 1.0}], "expected a train=… or a path=…, found neither"),
        ("data.mix", [{"train": "b.jsonl"}], "data.mix[0].weight: missing; give each entry"),
        ("data.mix", "b.jsonl", "expected a list"),
        ("adapter.layers", "encoder+encoder.3", "expected all, or such as"),
        ("adapter.layers", "encoder.3-2-1", "expected all, or such as"),
        ("adapter.layers", "encoder.3-1", "its layers upwards, found 'encoder.3-1'"),
        ("training.averaging_rank", 4, "nothing is averaged: type training.averaging=best-3"),
        ("training.averaging", "best", "expected such as last-5 or best-3"),
        ("training.averaging", "last-1", "expected such as last-5 or best-3"),
        ("augmentation.gain", {"share": 1.0, "db": [6.0, -20.0]}, "[lowest, highest], found [6.0,"),
        ("augmentation.gain", {"share": 1.0, "db": 6.0}, "[lowest, highest], found 6.0"),
        ("augmentation.gain", {"share": 1.0, "db": [0.0, 1e6]}, "-100 … 100, found 1000000.0"),
        ("data.trimmed.margin_seconds", None, "expected [lowest, highest], found null"),
        ("data.trimmed.margin_seconds", [100000, 1e9], "expected 0 … 30, found 100000"),
        ("data.trimmed.margin_seconds", [1], "expected [lowest, highest], found [1]"),
        ("augmentation.gain", {"share": 1.0, "db": ["a", 6.0]}, "expected a number, found 'a'"),
        ("augmentation.speed", {"share": 1.0, "factors": [0.1, 1.1]}, "0.5 … 2, found 0.1"),
        ("augmentation.speed", {"share": 2.0, "factors": [0.9, 1.1]}, "0 … 1, found 2.0"),
    ],
)
def test_each_bad_value_says_what_was_expected(path: str, value: Any, expected: str) -> None:
    values = train_values("data.train=a.jsonl", "name=x")
    *groups, key = path.split(".")
    group = values
    for name in groups:
        group = group[name]
    group[key] = value
    with pytest.raises(UserError, match=r"(?s)" + path) as error:
        from_values(TrainConfig, values)
    assert expected in str(error.value)


def test_in_a_group_that_stands_in_a_list_null_may_be_left_out() -> None:
    values = train_values("data.train=a.jsonl", "name=x")
    columns = {"text": "sentence"}
    values["data"]["mix"] = [{"train": "b.jsonl", "weight": 1, "columns": columns}]
    (mix,) = from_values(TrainConfig, values).data.mix
    assert (mix.train, mix.weight, mix.source) == ("b.jsonl", 1.0, None)
    assert mix.columns is not None
    assert (mix.columns.text, mix.columns.audio) == ("sentence", None)


def test_augmentations_combine() -> None:
    config = from_values(
        TrainConfig,
        train_values("data.train=a.jsonl", "name=x", "augmentation=[speed,noise]"),
    )
    given = {name for name, value in vars(config.augmentation).items() if value is not None}
    assert given == {"speed", "noise"}


def test_a_name_of_digits_stays_text() -> None:
    values = train_values("data.train=a.jsonl", "name=2026")
    assert from_values(TrainConfig, values).name == "2026"


def test_the_config_survives_yaml() -> None:
    """config.yaml of a run is read back into the same configuration."""
    mix = "data.mix=[{train: b.jsonl, weight: 0.5}]"
    given = ["model=nano", "data.train=a.jsonl", "name=x", mix, "augmentation=[speed,telephone]"]
    config = from_values(TrainConfig, train_values(*given))
    values = dataclasses.asdict(config)
    assert from_values(TrainConfig, yaml.safe_load(yaml.safe_dump(values))) == config


def test_a_step_is_of_windows_or_of_seconds() -> None:
    assert TrainingConfig().whole_windows(30.0) == 16
    assert TrainingConfig(global_batch_seconds=100).whole_windows(30.0) == 3
    with pytest.raises(ValidationError, match="so is training"):
        TrainingConfig(global_batch=16, global_batch_seconds=100)


def test_overwrite_and_resume_contradict_each_other() -> None:
    with pytest.raises(UserError, match="contradict"):
        from_values(
            TrainConfig,
            train_values("data.train=a.jsonl", "name=x", "overwrite=true", "resume=auto"),
        )


def test_merge_config_lists_its_dtypes() -> None:
    with pytest.raises(UserError, match="float32 or float16 or bfloat16, found 'int8'"):
        from_values(MergeConfig, {"run": "a", "dtype": "int8", "overwrite": False})


FILES = [
    importlib.import_module(f"lora_whisper.config.{file.name}")
    for file in pkgutil.iter_modules(lora_whisper.config.__path__)
]
GROUPS = {one for file in FILES for one in vars(file).values() if is_group(one)}


@pytest.mark.parametrize("kind", sorted(GROUPS, key=str), ids=lambda kind: kind.__name__)
def test_every_knob_is_strict_and_says_what_it_means(kind: type) -> None:
    """A plain int would take "4" and 4.0 for 4, a plain bool "yes" for true."""
    for name, hint in hints_of(kind).items():
        assert meaning_of(kind, name) or (group_in(hint) or kind).__doc__, name
        strict = [one for one in parts_of(hint) if getattr(one, "__metadata__", None)]
        inside = [one.__origin__ for one in strict if Strict() in one.__metadata__]
        plain = [one for one in parts_of(hint) if one in (int, float, bool, str)]
        assert len(plain) == len(inside), name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("encoder+decoder", "all"),
        ("decoder+encoder.3", "encoder.3+decoder"),
        ("encoder", "encoder"),
    ],
)
def test_layers_have_one_form(given: str, meant: str) -> None:
    values = train_values("data.train=a.jsonl", "name=x", f"adapter.layers={given}")
    assert from_values(TrainConfig, values).adapter.layers == meant


def test_changes_say_nothing_until_they_are_given() -> None:
    """And then they are checked as what they change."""
    run = EvaluationConfig(beams=2, group_by=("region",))
    assert RescoringConfig().applied_to(run) == run
    changed = RescoringConfig(beams=5, max_utterances=9).applied_to(run)
    assert changed == dataclasses.replace(run, beams=5, max_utterances=9)
    with pytest.raises(UserError, match=r"evaluation\.beams: expected 1 or more, found 0"):
        from_values(EvaluateConfig, {"run": "a", "evaluation": {"beams": 0}})
