"""Every file in conf/ composes, and becomes a configuration."""

from __future__ import annotations

import dataclasses
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lora_whisper.cli import misfits
from lora_whisper.cli.compose import COMMANDS, hydra_over, our_keys
from lora_whisper.config import TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.options import configuration_folder, configured
from lora_whisper.schema import defaults_of, from_values
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
    others = {str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml")}
    others -= {f"{option}.yaml" for option in OPTIONS}
    assert others == {
        "_hydra_.yaml",
        *(f"{command}.yaml" for command in COMMANDS),
        *(f"hydra/launcher/{name}.yaml" for name in ("joblib", "submitit_local", "submitit_slurm")),
    }


REQUIRED = {
    "data": ["data.path=x", "data.config=x"],
    "search": ["search.trials=3"],
    "experiment": ["evaluation.words=x", "data.config=x"],
}


def combined() -> list[list[str]]:
    """Each option once: those of different groups together, but for experiments, which choose."""
    groups: dict[str, list[str]] = {}
    for option in OPTIONS:
        group, name = option.split("/")
        groups.setdefault(group, []).append(f"{group}={name}")
    apart = [[one] for group in ("experiment", "search") for one in groups.pop(group)]
    return apart + [[one for one in row if one] for row in zip_longest(*groups.values())]


@pytest.mark.parametrize("options", combined(), ids=" ".join)
def test_each_option_composes_with_hydra_and_without(options: list[str]) -> None:
    groups = [option.partition("=")[0] for option in options]
    primary = "search" if "search" in groups else "train"
    required = [one for group in groups for one in REQUIRED.get(group, ())]
    given = (*options, "name=x", "data.train=a.jsonl", *required)
    config = from_values(COMMANDS[primary], train_values(*given, primary=primary))
    assert config.name == "x"
    assert config == from_values(COMMANDS[primary], by_hydra(primary, *given))


@pytest.mark.parametrize("primary", COMMANDS)
def test_what_hydra_composes_of_nothing_is_the_defaults(primary: str) -> None:
    kind = COMMANDS[primary]
    ignored = getattr(kind, "ignored", ())
    composed = {key: value for key, value in by_hydra(primary).items() if key not in ignored}
    assert composed == defaults_of(kind)


def by_hydra(primary: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(primary, list(overrides))
    return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_each_file_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#")
    assert len(max(lines, key=len)) <= 100


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


def test_options_values_and_paths_are_given_in_python() -> None:
    given = {"model": "tiny", "adapter": "dora", "adapter.rank": 8, "data": {"train": "a.jsonl"}}
    config = configured(TrainConfig, given | {"name": "x", "augmentation": ["speed", "noise"]})
    assert config.model.checkpoint == "openai/whisper-tiny"
    assert (config.adapter.kind, config.adapter.rank) == ("dora", 8)
    assert config.augmentation.noise is not None
    assert config.evaluation.beams == 1


def test_an_experiment_gives_way_in_python_too() -> None:
    config = configured(
        TrainConfig,
        {"experiment": "quickstart", "model": "base", "training": {"max_epochs": 2}},
    )
    assert config.model.checkpoint == "openai/whisper-base"
    assert (config.training.max_epochs, config.training.global_batch) == (2, 8)


def test_an_option_that_there_is_not_is_answered_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"model=enormous: .* There are base"):
        configured(TrainConfig, {"model": "enormous"})


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        (["adapter.kind=adalora"], "adapter.alpha=1024"),
        (["adapter.kind=rslora", "adapter.rank=8"], "adapter.alpha=16"),
        (["adapter=adalora", "adapter.kind=lora"], "adapter.alpha=32"),
        (["data.source=common_voice", "data.path=x", "data.train=a"], "data.test=test"),
    ],
    ids=" ".join,
)
def test_a_kind_without_its_option_is_refused(typed: list[str], left: str) -> None:
    """It would be trained with what suits another kind."""
    with pytest.raises(UserError, match=re.escape(left)) as in_python:
        train_values(*typed)
    with hydra_over("train", None) as hydra, pytest.raises(UserError) as on_the_line:
        misfits.compose(hydra, "train", typed)
    problem = str(in_python.value).replace("\n", "\n    ")
    assert problem in str(on_the_line.value)


@pytest.mark.parametrize(
    "typed",
    [
        ["adapter.kind=dora"],
        ["adapter.kind=adalora", "adapter.alpha=32"],
        ["adapter=adalora", "adapter.kind=adalora"],
        ["data.source=nemo", "data.train=a"],
        ["data.source=hub", "data.path=x", "data.train=a"],
    ],
    ids=" ".join,
)
def test_a_kind_that_lacks_nothing_is_taken(typed: list[str]) -> None:
    assert train_values(*typed) == by_line(typed)


def by_line(typed: list[str]) -> Any:
    with hydra_over("train", None) as hydra:
        composed = misfits.compose(hydra, "train", typed)
    return OmegaConf.to_container(OmegaConf.masked_copy(composed, our_keys(composed)), resolve=True)


@pytest.mark.parametrize(("alpha", "is_taken"), [("", False), ("  alpha: 64\n", True)])
def test_a_file_of_ones_own_that_says_what_suits_is_taken(
    tmp_path: Path, alpha: str, is_taken: bool
) -> None:
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\nadapter:\n  kind: adalora\n{alpha}"
    (tmp_path / "experiment/own.yaml").write_text(text)
    with hydra_over("train", str(tmp_path)) as hydra:
        if is_taken:
            assert misfits.compose(hydra, "train", ["experiment=own"]).adapter.alpha == 64
        else:
            with pytest.raises(UserError, match="adapter=adalora"):
                misfits.compose(hydra, "train", ["experiment=own"])
