"""What a run reads before it writes anything."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.config import (
    AugmentationConfig,
    DataConfig,
    MixConfig,
    ModelConfig,
    NoiseConfig,
    TrainConfig,
)
from lora_whisper.data.decisions import row_names
from lora_whisper.data.speech import read_inputs
from lora_whisper.errors import UserError
from lora_whisper.older_keys import earlier
from lora_whisper.options import configured
from lora_whisper.run_config import (
    config_hash,
    flat,
    free_to_change,
    read_config,
    with_absolute_paths,
    write_config,
)
from lora_whisper.run_folder import RunFolder
from lora_whisper.schema import from_values
from lora_whisper.training.resume import require_same
from tests.cli.conftest import World
from tests.composed import train_values
from tests.configs import data_config, model_config
from tests.toy_speech import toy_speech, write_clip, write_manifest


def model(world: World) -> ModelConfig:
    return model_config(world.checkpoint, dtype="float32")


def mix(**given: Any) -> MixConfig:
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(MixConfig))
    return MixConfig(**(nothing | {"weight": 0.5} | given))


def toy_data(world: World, **changes: Any) -> DataConfig:
    splits = {name: str(world.speech / f"{name}.jsonl") for name in ("train", "validation", "test")}
    return data_config(**(splits | changes))


def test_all_splits_and_what_is_mixed_in(world: World, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 1.0)
    write_clip(tmp_path / "long.wav", 3.0)
    rows = [{"audio": f"{name}.wav", "text": "hi", "language": "en"} for name in ("a", "long")]
    other = write_manifest(tmp_path / "other.jsonl", rows)
    again = toy_speech(tmp_path, 3, seed=9, name="again")
    mixes = (mix(train=str(other)), mix(train=str(again), task="translate", language="zh"))
    speech = read_inputs(model(world), toy_data(world, mix=mixes)).speech
    assert {name: len(one.utterances) for name, one in speech.parts.items()} == {
        "train": 20, "validation": 3, "test": 4, "mix 1": 1, "mix 2": 3
    }  # fmt: skip
    assert speech.left_out == {"mix 1": {"longer than the window of 2 s": 1}}
    assert {one.task for one in speech.mixes[1].utterances} == {"translate"}
    assert speech.train.utterances[0].language == "en"


def test_decisions_may_be_about_what_is_mixed_in(world: World, tmp_path: Path) -> None:
    """Those about no row at all are refused, wherever rows come from."""
    other = toy_speech(tmp_path, 3, seed=9, name="other")
    data = toy_data(world, mix=(mix(train=str(other)),), language="en")
    names = row_names(read_inputs(model(world), data).speech.mixes[0].utterances)
    file = tmp_path / "decisions.jsonl"
    write_manifest(file, [{"row": names[0], "decision": "accept"}])
    excluded = dataclasses.replace(data, exclude=str(file))
    speech = read_inputs(model(world), excluded).speech
    assert [len(one.utterances) for one in speech.training] == [20, 2]
    write_manifest(file, [{"row": "0" * 16, "decision": "accept"}])
    with pytest.raises(UserError, match="none of its 1 decisions is about one of the training"):
        read_inputs(model(world), excluded)


def test_one_file_with_all_splits(world: World, tmp_path: Path) -> None:
    names = ["train", "train", "dev", "train", "test"]
    rows = [
        {"audio": str(write_clip(tmp_path / f"{number}.wav", 1.0)), "text": "hi", "split": name}
        for number, name in enumerate(names)
    ]
    whole = str(write_manifest(tmp_path / "all.jsonl", rows))
    splits = {"train": None, "validation": None, "test": None, "language": "en"}
    speech = read_inputs(model(world), toy_data(world, path=whole, **splits)).speech
    assert [len(one.utterances) for one in speech.splits.values()] == [3, 1, 1]
    some = write_manifest(tmp_path / "some.jsonl", [row for row in rows if row["split"] != "dev"])
    speech = read_inputs(model(world), toy_data(world, path=str(some), **splits)).speech
    assert list(speech.splits) == ["train", "test"]


@pytest.mark.parametrize("part", ["train", "mix"])
def test_what_is_trained_on_is_not_scored(world: World, tmp_path: Path, part: str) -> None:
    leaking = toy_speech(tmp_path, 3, seed=9, name="leaking")
    test = [json.loads(line) for line in (world.speech / "test.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in leaking.read_text().splitlines()]
    rows.append(test[2] | {"audio": str(world.speech / test[2]["audio"]), "start": 0.1})
    write_manifest(leaking, rows)
    changes = {"train": str(leaking)} if part == "train" else {"mix": (mix(train=str(leaking)),)}
    with pytest.raises(UserError, match=r"1 recordings of data\.test are in data\.train .*\n.*:3:"):
        read_inputs(model(world), toy_data(world, **changes))


def test_texts_that_are_trained_on_are_warned_about(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = []
    for split, texts in {"train": ["One two", "three"], "test": ["four", "one TWO"]}.items():
        for number, text in enumerate(texts):
            clip = write_clip(tmp_path / f"{split}{number}.wav", 1.0)
            rows.append({"audio": clip.name, "text": text, "split": split, "language": "en"})
    whole = str(write_manifest(tmp_path / "all.jsonl", rows))
    with caplog.at_level(logging.WARNING, "lora_whisper"):
        read_inputs(model(world), data_config(path=whole, train=None))
    assert "test        1 rows have a text of training: all.jsonl:4" in caplog.text


# ── paths and resuming ───────────────────────────────────────────────────────────────────────


def train_config(data: DataConfig, **changes: Any) -> TrainConfig:
    values = train_values("data.train=a.jsonl", "name=a", "model=nano")
    return dataclasses.replace(from_values(TrainConfig, values), data=data, **changes)


def lasting(data: DataConfig) -> DataConfig:
    return with_absolute_paths(train_config(data)).data


def test_files_are_named_absolutely_and_splits_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "corpus" / "clips").mkdir(parents=True)
    (tmp_path / "a.jsonl").touch()
    noise = NoiseConfig(0.5, "noises", (0.0, 10.0))
    augmentation = AugmentationConfig(None, None, None, noise, None, None)
    data = data_config(
        path="corpus",
        train="train",  # a folder that is called as the split
        validation="a.jsonl",
        test="embedded:speech/dictation/test.jsonl",
        mix=(mix(path="google/fleurs", train="train[:10%]"), mix(train="a.jsonl")),
    )
    config = with_absolute_paths(train_config(data, augmentation=augmentation))
    assert config.data.path == str(tmp_path / "corpus")
    assert (config.data.train, config.data.validation) == ("train", str(tmp_path / "a.jsonl"))
    assert config.data.test == data.test
    hub, own = config.data.mix
    assert (hub.path, hub.train) == ("google/fleurs", "train[:10%]")
    assert own.train == str(tmp_path / "a.jsonl")
    assert config.augmentation.noise == dataclasses.replace(noise, folder=str(tmp_path / "noises"))
    assert with_absolute_paths(config) == config
    assert lasting(data_config(path="google/fleurs", train=None)).path == "google/fleurs"


def test_a_run_goes_on_only_with_what_changes_no_result(tmp_path: Path) -> None:
    noise = NoiseConfig(0.5, None, (0.0, 10.0))
    noisy = AugmentationConfig(None, None, None, noise, None, None)
    config = train_config(data_config(mix=(mix(train="b.jsonl"),)), augmentation=noisy)
    folder = RunFolder(tmp_path / "run")
    write_config(folder, config)
    require_same(folder, config)
    data = config.data
    require_same(
        folder, dataclasses.replace(config, data=dataclasses.replace(data, bad_audio="drop"))
    )
    quiet = AugmentationConfig(None, None, None, None, None, None)
    with pytest.raises(UserError, match=r"augmentation\.noise\.share: was 0\.5, is None"):
        require_same(folder, dataclasses.replace(config, augmentation=quiet))
    unmixed = dataclasses.replace(config, data=dataclasses.replace(data, mix=()))
    with pytest.raises(UserError, match=r"data\.mix: was "):
        require_same(folder, unmixed)


def test_a_run_of_an_older_version_has_todays_defaults_for_what_it_lacks(
    world: World, tmp_path: Path
) -> None:
    config = from_values(TrainConfig, train_values(*world.arguments("a", "evaluation.beams=3")))
    folder = RunFolder(tmp_path)
    write_config(folder, config)
    text = folder.config.read_text()
    older = text.replace("  timestamps: false\n", "").replace("group_by: []", "group_by: null")
    assert len(older) < len(text)
    folder.config.write_text(older)
    assert read_config(folder) == config


def test_a_run_of_an_older_version_was_trained_without_what_was_new_later(
    world: World, tmp_path: Path
) -> None:
    config = from_values(TrainConfig, train_values(*world.arguments("a")))
    folder = RunFolder(tmp_path)
    write_config(folder, config)
    lines = folder.config.read_text().splitlines(keepends=True)
    older = [line for line in lines if "log_mel_padding_share" not in line]
    assert len(older) < len(lines)
    folder.config.write_text("".join(older))
    assert read_config(folder).data.log_mel_padding_share == 0.0


def test_checkpoints_of_older_versions_are_of_the_same_configuration(tmp_path: Path) -> None:
    """They were hashed without the keys that did not exist yet."""
    typed = ("name=x", "data.train=a.csv", "data.language=sw", "data.log_mel_padding_share=0")
    config = from_values(TrainConfig, train_values(*typed))
    values = earlier(flat(dataclasses.asdict(config)))
    new = (
        *("data.quoted", "data.log_mel_padding_share", "evaluation.padding"),
        *("data.exclude", "data.words", "data.words_share", "training.global_batch_seconds"),
    )
    old = {key: values[key] for key in values if key not in {*free_to_change(config), *new}}
    text = json.dumps(old, sort_keys=True)
    assert config_hash(config) == hashlib.sha256(text.encode()).hexdigest()
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, quoted=False))
    assert config_hash(other) != config_hash(config)


def test_how_windows_are_trimmed_says_something_of_trimmed_windows_alone() -> None:
    typed = {"name": "x", "data.train": "a.csv", "data.language": "sw"}
    hashes = {
        (windows, share): config_hash(
            configured(
                TrainConfig,
                typed | {"data.windows": windows, "data.trimmed.whole_share": share},
            )
        )
        for windows in ("padded", "trimmed")
        for share in (0.1, 0.2)
    }
    assert len(set(hashes.values())) == 3
    assert hashes["padded", 0.1] == hashes["padded", 0.2]
