"""Every file in conf/ composes, and becomes a configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lora_whisper.cli.compose import configuration_folder
from lora_whisper.config import (
    CheckConfig,
    EvaluateConfig,
    ExportConfig,
    MergeConfig,
    PlanConfig,
    PushConfig,
    ReportConfig,
    SearchConfig,
    TrainConfig,
)
from lora_whisper.schema import from_values
from tests.composed import train_values

CONF = configuration_folder()
OPTIONS = sorted(
    str(path.relative_to(CONF).with_suffix(""))
    for path in CONF.glob("*/*.yaml")
    if not path.name.startswith("_")
)


def test_the_options_are_all_known() -> None:
    """A new file has to be counted here, so that none is left untested by accident."""
    assert len(OPTIONS) == 64
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == [
        "_augmentation_",
        "_hydra_",
        "check",
        "evaluate",
        "export",
        "merge",
        "plan",
        "push",
        "report",
        "search",
        "train",
    ]


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_composes(option: str) -> None:
    group, name = option.split("/")
    required = ["data.path=x", "data.config=x"] if group == "data" else []
    primary, kind = ("search", SearchConfig) if group == "search" else ("train", TrainConfig)
    given = (f"{group}={name}", "name=x", "data.train=a.jsonl", *required)
    config = from_values(kind, train_values(*given, primary=primary))
    assert config.name == "x"


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_each_file_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#")
    assert len(max(lines, key=len)) <= 100


def test_conf_names_every_field_and_no_other() -> None:
    """Values live in conf/, meaning lives in config.py: neither has a key that the other lacks."""
    values = train_values()
    groups = {field.name: field for field in dataclasses.fields(TrainConfig)}
    assert values.keys() == groups.keys()
    from_values(EvaluateConfig, train_values("run=x", primary="evaluate"))
    from_values(MergeConfig, train_values("run=x", primary="merge"))
    from_values(ExportConfig, train_values("run=x", "format=ggml", primary="export"))
    from_values(PlanConfig, train_values(primary="plan"))
    from_values(PushConfig, train_values("run=x", "repo=a/b", primary="push"))
    from_values(SearchConfig, train_values("name=x", "data.train=a.jsonl", primary="search"))
    from_values(ReportConfig, train_values("sweep=x", primary="report"))
    from_values(CheckConfig, train_values("name=x", "data.train=a.jsonl", primary="check"))


def test_the_quickstart_trains_nano_and_scores_both_halves() -> None:
    config = from_values(TrainConfig, train_values("experiment=quickstart"))
    assert config.name == "quickstart"
    assert config.model.checkpoint == "embedded:nano"
    assert config.evaluation.group_by == ("voices",)


def test_the_rehearsed_quickstart_learns_the_same_and_is_scored_on_the_same() -> None:
    plain = from_values(TrainConfig, train_values("experiment=quickstart"))
    rehearsed = from_values(TrainConfig, train_values("experiment=quickstart-rehearsal"))
    assert rehearsed.name == "quickstart-rehearsal"
    (mixed,) = rehearsed.data.mix
    assert mixed.train == "embedded:speech/rehearsal/train.jsonl"
    assert dataclasses.replace(rehearsed.data, mix=()) == plain.data
    assert (rehearsed.model, rehearsed.adapter) == (plain.model, plain.adapter)
    assert rehearsed.evaluation == plain.evaluation


def test_the_rehearsal_gives_way_to_the_command_line() -> None:
    given = ("experiment=quickstart-rehearsal", "augmentation=telephone", "data.mix=[]")
    config = from_values(TrainConfig, train_values(*given))
    assert config.augmentation.telephone is not None
    assert config.augmentation.speed is None
    assert config.data.mix == ()


def test_an_experiment_gives_way_to_the_command_line() -> None:
    config = from_values(TrainConfig, train_values("experiment=quickstart", "name=mine"))
    assert config.name == "mine"
