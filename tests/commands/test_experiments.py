"""Experiments for real work: each composes, says what it needs, and trains on a toy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lora_whisper.commands._composition import configuration_folder
from lora_whisper.commands._inputs import flat
from tests.commands.conftest import Line, World
from tests.composed import train_values
from tests.toy_hub import write_fleurs

FOLDER = configuration_folder() / "experiment"
TOY_CONFIG = "cmn_hans_cn"
# What each is about, as its run has it.
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "large-v3-8gb": {"quantization.kind": "nf4", "training.micro_batch": "auto"},
    "large-v3-12gb": {"quantization.kind": "none", "training.gradient_checkpointing": True},
    "large-v3-24gb": {"quantization.kind": "none", "training.gradient_checkpointing": False},
    "turbo-6gb": {"quantization.kind": "none", "training.gradient_checkpointing": True},
    "small-cpu": {"adapter.stack": "decoder", "quantization.kind": "none"},
    "low-resource-language": {"adapter.stack": "both", "training.patience": 4},
    "domain-vocabulary": {"augmentation.speed.share": 0.5, "training.patience": 4},
    "accent": {"adapter.stack": "encoder", "augmentation.spec_augment.share": 1.0},
    "noisy-telephone": {"augmentation.telephone.share": 0.8, "augmentation.noise.share": 0.7},
}
CHECKPOINTS = {
    "large-v3-8gb": "openai/whisper-large-v3",
    "large-v3-12gb": "openai/whisper-large-v3",
    "large-v3-24gb": "openai/whisper-large-v3",
    "turbo-6gb": "openai/whisper-large-v3-turbo",
}


@pytest.fixture
def toys(world: World, tmp_path: Path) -> list[str]:
    """What stands in for the model, the speech and the list of words."""
    words = tmp_path / "words.txt"
    words.write_text("three\nfour\n", encoding="utf-8")
    splits = ("train", "validation", "test")
    speech = [f"data.{split}={world.speech / f'{split}.jsonl'}" for split in splits]
    return [
        f"model.checkpoint={world.checkpoint}",
        "data=manifest",
        *speech,
        "training.max_steps=2",
        "training.loader_workers=0",
        "evaluation.bootstrap_samples=20",
    ]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_trains_two_steps(name: str, line: Line, toys: list[str], tmp_path: Path) -> None:
    arguments = [f"experiment={name}", *toys]
    if name == "low-resource-language":
        arguments += _fleurs(tmp_path)
    if name == "domain-vocabulary":
        arguments.append("evaluation.keywords=words.txt")
    assert line("train", *arguments) == 0
    run = Path("outputs") / name
    kept = flat(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
    assert {key: kept[key] for key in EXPERIMENTS[name]} == EXPERIMENTS[name]
    assert yaml.safe_load((run / "summary.json").read_text(encoding="utf-8"))["steps"] == 2


def _fleurs(folder: Path) -> list[str]:
    """FLEURS itself is not here: a toy of it, in a language that the toy model has."""
    fleurs = write_fleurs(folder / "fleurs", TOY_CONFIG, {"train": 8, "validation": 2, "test": 2})
    text = (FOLDER / "low-resource-language.yaml").read_text(encoding="utf-8")
    (mix,) = yaml.safe_load(text)["data"]["mix"]
    mixed = json.dumps(mix | {"path": str(fleurs), "config": TOY_CONFIG}).replace('"', "")
    splits = [f"data.{split}={split}" for split in ("train", "validation", "test")]
    place = [f"data.path={fleurs}", f"data.config={TOY_CONFIG}", f"data.mix=[{mixed}]"]
    return ["data=fleurs", *splits, *place]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_holds_nothing_that_train_has_without_it(name: str) -> None:
    given = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    groups = given.pop("defaults", [])
    usual = flat(train_values(*_typed(groups)))
    same = {key: value for key, value in flat(given).items() if usual[key] == value}
    assert not same
    composed = train_values(f"experiment={name}")
    assert composed["name"] == name
    assert composed["model"]["checkpoint"] == CHECKPOINTS.get(name, "openai/whisper-small")


def _typed(groups: list[dict[str, Any]]) -> list[str]:
    """The groups of a defaults list, as they are typed."""
    chosen = {
        key.removeprefix("override /"): value for group in groups for key, value in group.items()
    }
    return [f"{key}={value}".replace("'", "").replace(" ", "") for key, value in chosen.items()]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_head_says_how_to_type_it_and_what_it_takes(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    head = text.split("\n\n")[0]
    assert f"#   lora-whisper train experiment={name} " in head
    for word in ("Needs", "Costs", "Gave"):
        assert re.search(rf"^# {word}: \S", head, re.MULTILINE), word
    assert "memory: not measured" in head or re.search(r"memory: [\d.]+ GB", head)
