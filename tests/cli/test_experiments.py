"""Experiments for real work: each composes, says what it needs, and trains on a toy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lora_whisper.__main__ import carry_out
from lora_whisper.options import configuration_folder
from lora_whisper.run_config import flat
from tests.cli.conftest import Line, World
from tests.composed import train_values
from tests.data.sources.test_common_voice import release, row
from tests.toy_hub import write_fleurs
from tests.toy_speech import write_clip

FOLDER = configuration_folder() / "experiment"
CV_TABLES = {"train": "train", "validation": "dev", "test": "test"}
# What each is about, as its run has it.
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "large-v3-8gb": {"quantization.kind": "nf4", "training.micro_batch": "auto"},
    "large-v3-12gb": {"quantization.kind": "none", "training.gradient_checkpointing": True},
    "large-v3-24gb": {"quantization.kind": "none", "training.gradient_checkpointing": False},
    "turbo-6gb": {"quantization.kind": "none", "training.gradient_checkpointing": True},
    "small-cpu": {"adapter.layers": "decoder", "quantization.kind": "none"},
    "low-resource-language": {"adapter.layers": "all", "training.patience": 4},
    "domain-vocabulary": {"augmentation.speed.share": 0.5, "training.patience": 4},
    "accent": {"adapter.layers": "encoder", "augmentation.spec_augment.share": 1.0},
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
        "evaluation.max_utterances=1",
        "evaluation.max_validation_utterances=1",
    ]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_trains_two_steps(name: str, line: Line, toys: list[str], tmp_path: Path) -> None:
    arguments = [f"experiment={name}", *toys]
    if name == "low-resource-language":
        arguments += _common_voice_and_fleurs(tmp_path)
    if name == "domain-vocabulary":
        arguments.append("evaluation.words=words.txt")
    assert line("train", *arguments) == 0
    run = Path("outputs") / name
    kept = flat(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
    assert {key: kept[key] for key in EXPERIMENTS[name]} == EXPERIMENTS[name]
    assert yaml.safe_load((run / "summary.json").read_text(encoding="utf-8"))["steps"] == 2


def _common_voice_and_fleurs(folder: Path) -> list[str]:
    """Neither is here: a toy release, and a toy of FLEURS beside it as the experiment has English.

    Both in a language that the toy model has.
    """
    rows = [row(f"{number}.wav", "一二", f"c{number}", "zh-CN") for number in range(4)]
    spoken = release(folder / "cv/zh-CN", train=rows[:2], dev=rows[2:3], test=rows[3:])
    for number in range(4):
        write_clip(spoken / "clips" / f"{number}.wav", 0.5 + number / 10)
    fleurs = write_fleurs(folder / "fleurs", "cmn_hans_cn", {"train": 4})
    text = (FOLDER / "low-resource-language.yaml").read_text(encoding="utf-8")
    (mix,) = yaml.safe_load(text)["data"]["mix"]
    mixed = json.dumps(mix | {"path": str(fleurs), "config": "cmn_hans_cn"}).replace('"', "")
    splits = [f"data.{split}={name}" for split, name in CV_TABLES.items()]
    return ["data=common_voice", *splits, f"data.path={spoken}", f"data.mix=[{mixed}]"]


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


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "small-cpu"])
def test_its_head_has_an_estimate_that_fits_its_card(name: str) -> None:
    card = re.search(r"(\d+)gb", name)
    told, _ = estimate(name)
    assert told < float(card[1] if card else 8)


@pytest.mark.slow
def test_the_estimate_is_that_of_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_whisper.training.memory_estimator.step_flops", lambda *_: 0)
    given = ["experiment=large-v3-8gb", "gpu_memory=8GB", "json=true"]
    assert carry_out("plan", given) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["fits"] is True
    told, windows = estimate("large-v3-8gb")
    assert answer["micro_batch"] == windows
    assert answer["memory_bytes"]["total"] / 1e9 == pytest.approx(told, abs=0.15)


def estimate(name: str) -> tuple[float, int]:
    """Gigabytes and windows that the head tells."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    told = re.search(r"estimates ([\d.]+) GB\n# \(micro-batches of (\d+) windows", text)
    assert told is not None
    return float(told[1]), int(told[2])
