"""Which speech is scored, how it is read, and what its scores are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.config import EvaluateConfig, EvaluationConfig, TrainConfig
from lora_whisper.data.dataset import Utterance
from lora_whisper.errors import UserError
from lora_whisper.evaluation import test_sets
from lora_whisper.evaluation.test_sets import TestSet, data_to_score, group_labels, read_test_sets
from lora_whisper.schema import from_values
from tests.cli.conftest import World
from tests.composed import train_values
from tests.evaluation.toy_decoder import utterance


def trained(world: World, *more: str) -> TrainConfig:
    return from_values(TrainConfig, train_values(*world.arguments("a", *more)))


def asked(*more: str) -> EvaluateConfig:
    return from_values(EvaluateConfig, train_values("run=outputs/a", *more, primary="evaluate"))


def sets(config: EvaluateConfig, run: TrainConfig | None) -> dict[str, TestSet]:
    settings = config.evaluation.applied_to(run.evaluation if run else EvaluationConfig())
    found = read_test_sets(config, run, settings, seed=1)
    return {one.name: one for one in found}


def manifest(world: World, name: str, **changes: Any) -> Path:
    """The toy's test set under another name, with other columns."""
    lines = (world.speech / "test.jsonl").read_text().splitlines()
    rows = [json.loads(each) | changes for each in lines]
    rows = [row | {"audio": str(world.speech / row["audio"])} for row in rows]
    path = world.speech / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_is_scored_on_its_test_set_and_a_sample_of_training(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_sets, "TRAINING_UTTERANCES", 5)
    found = sets(asked(), trained(world))
    assert {name: (one.role, len(one.rows)) for name, one in found.items()} == {
        "test": ("test", 4),
        "training": ("training", 5),
    }
    assert list(sets(asked("evaluation.diagnostics=false"), trained(world))) == ["test"]


@pytest.mark.parametrize("change", ["beams=2", "timestamps=true", "max_utterances=3"])
def test_scores_of_another_decoding_have_another_name(world: World, change: str) -> None:
    found = sets(asked(f"evaluation.{change}"), trained(world))
    key, value = change.split("=")
    assert f"test-{key}-{value.title() if value == 'true' else value}" in found


def test_one_set_more_several_and_some_that_must_not_get_worse(world: World) -> None:
    a, b, c = (manifest(world, f"{name}.jsonl") for name in "abc")
    run = trained(world)
    off = "evaluation.diagnostics=false"
    assert list(sets(asked(off, f"data.test={a}"), run)) == ["speech-a"]
    assert list(sets(asked(off, f"sets=[{a},{b}]"), run)) == ["speech-a", "speech-b"]
    found = sets(asked(off, f"data.test={a}", f"sets=[{b}]", f"evaluation.retention=[{c}]"), run)
    assert {name: one.role for name, one in found.items()} == {
        "speech-a": "test",
        "speech-b": "test",
        "speech-c": "retention",
    }


def test_a_further_set_has_its_own_language_and_columns(world: World) -> None:
    path = manifest(world, "german.jsonl", language=None, said="Guten Tag")
    run = trained(world, "data.language_token=en", "data.language=luo")
    entry = f"evaluation.retention=[{{test: {path}, language: de, columns: {{text: said}}}}]"
    (one,) = (s for s in sets(asked(entry), run).values() if s.role == "retention")
    assert {utterance.text for utterance in one.rows} == {"Guten Tag"}
    assert {(each.language, each.language_token) for each in one.rows} == {("de", None)}


def test_without_a_run_speech_is_described_as_for_training(world: World) -> None:
    config = asked(f"data.test={world.speech / 'test.jsonl'}", "data.language=sw")
    data = data_to_score(config.data, None)
    assert (data.source, data.language, data.task) == ("manifest", "sw", "transcribe")
    fleurs = asked("data=fleurs", "data.config=sw_ke")
    data = data_to_score(fleurs.data, None)
    assert (data.source, data.path, data.columns.text) == (
        "hub",
        "google/fleurs",
        "raw_transcription",
    )


def test_a_split_of_another_source_is_not_taken_for_the_runs_own(world: World) -> None:
    folder = world.speech / "parts"
    folder.mkdir(exist_ok=True)
    manifest(world, "parts/test.jsonl")
    found = sets(asked(f"data.path={folder}", "evaluation.diagnostics=false"), trained(world))
    assert list(found) == ["speech-parts"]


def test_the_folder_that_one_works_in_names_no_set(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where the file's name alone would be taken for a run's own set."""
    manifest(world, "another.jsonl")
    monkeypatch.chdir(world.speech)
    assert list(sets(asked("data.test=another.jsonl"), None)) == ["another"]
    assert list(sets(asked("data.test=test.jsonl"), None)) == ["speech-test"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.test=nowhere.jsonl"], "nowhere.jsonl"),
        (["sets=[{language: de}]"], "expected a test=… or a path=…"),
        (["evaluation.conditions=[fog]"], "noise-20db"),
        (["evaluation.adapter_scales=[0,-1]"], "expected 0 … 2, found -1"),
        (["evaluation.adapter_scales=[half]"], "expected a number"),
        (["models=[base]"], "one of them"),
    ],
)
def test_what_cannot_be_scored_is_named(world: World, given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sets(asked(*given), trained(world))


def test_a_set_given_twice_is_named(world: World) -> None:
    path = world.speech / "test.jsonl"
    with pytest.raises(UserError, match=r"test.jsonl is given twice"):
        sets(asked(f"sets=[{path},{path}]"), trained(world))
    with pytest.raises(UserError, match="given twice"):
        sets(asked(f"evaluation.retention=[{path}]"), trained(world))


def test_sets_of_one_name_are_told_apart(world: World) -> None:
    folders = [world.speech / name / "x" for name in ("p1", "p2")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        manifest(world, str((folder / "test.jsonl").relative_to(world.speech)))
    given = ",".join(str(folder / "test.jsonl") for folder in folders)
    assert list(sets(asked(f"sets=[{given}]"), None)) == ["x-test", "x-test-2"]


def test_a_set_given_by_its_folder_alone_is_not_the_runs_own(world: World) -> None:
    folder = world.speech / "corpus"
    folder.mkdir(exist_ok=True)
    manifest(world, "corpus/test.jsonl", text="one")
    found = sets(asked(f"evaluation.retention=[{{path: {folder}}}]"), trained(world))
    assert {one.text for one in found["speech-corpus"].rows} == {"one"}


@pytest.mark.parametrize(
    "change",
    ["data.task=translate", "data.language=zh", "dtype=bfloat16", "data.columns.text=text"],
)
def test_what_is_not_scored_as_the_run_was_does_not_pass_for_it(world: World, change: str) -> None:
    found = sets(asked(change, "evaluation.diagnostics=false"), trained(world))
    assert list(found) != ["test"]


def test_another_split_is_not_called_as_the_runs_own(world: World) -> None:
    folder = world.speech / "splits"
    folder.mkdir(exist_ok=True)
    for name in ("train", "dev", "test"):
        manifest(world, f"splits/{name}.jsonl")
    splits = ("data.train=train", "data.validation=null", "data.test=dev")
    given = [one for one in world.arguments("a") if not one.startswith("data.")]
    values = train_values(*given, f"data.path={folder}", *splits)
    run = from_values(TrainConfig, values)
    off = "evaluation.diagnostics=false"
    assert list(sets(asked(off), run)) == ["test"]
    assert list(sets(asked(off, "data.test=test"), run)) == ["speech-splits-test"]


# ── Columns of the manifest first, then what is known without one; no audio is read ─────────────


def row(seconds: float = 1.0, **values: object) -> Utterance:
    return utterance(Path("not-there.wav"), seconds, **values)


def test_a_column_of_the_manifest() -> None:
    rows = [row(columns={"voice": "heard"}), row(columns={"voice": 7}), row()]
    rows += [row(columns={"voice": None}), row(columns={"voice": ""}), row(columns={"voice": 0})]
    assert group_labels(rows, ["voice"]) == {"voice": ["heard", "7", "none", "none", "none", "0"]}


def test_several_columns_and_none() -> None:
    rows = [row(columns={"voice": "f", "accent": "x"}), row(columns={"voice": "m"})]
    found = group_labels(rows, ["accent", "voice"])
    assert found == {"accent": ["x", "none"], "voice": ["f", "m"]}
    assert group_labels(rows, []) == {}


@pytest.mark.parametrize(
    ("seconds", "label"),
    [
        *((0.4, "up to 2 s"), (2.0, "up to 2 s"), (2.1, "2 to 5 s"), (10.0, "5 to 10 s")),
        *((12.0, "10 to 20 s"), (30.0, "20 to 30 s"), (30.1, "over 30 s"), (0.0, "none")),
    ],
)
def test_durations_come_in_ranges(seconds: float, label: str) -> None:
    assert group_labels([row(seconds), row(4.0)], ["duration"])["duration"] == [label, "2 to 5 s"]


def test_speakers_and_languages_by_whatever_name_the_manifest_has() -> None:
    rows = [row(speaker="amina", columns={"client_id": "amina"}), row(language="sw")]
    found = group_labels(rows, ["speaker", "language"])
    assert found == {"speaker": ["amina", "none"], "language": ["en", "sw"]}


def test_a_real_column_goes_first() -> None:
    rows = [row(language="sw", columns={"language": "Swahili", "duration": "long"})]
    found = group_labels(rows, ["language", "duration"])
    assert found == {"language": ["Swahili"], "duration": ["long"]}


@pytest.mark.parametrize("given", [3.2, "3.2"])
def test_a_column_of_seconds_is_no_column_of_groups(given: object) -> None:
    """NeMo's manifests have one; every utterance would be its own group."""
    rows = [row(3.2, columns={"duration": given}), row(7.0, columns={})]
    assert group_labels(rows, ["duration"]) == {"duration": ["2 to 5 s", "5 to 10 s"]}


def test_a_column_that_no_row_has() -> None:
    rows = [row(columns={"voice": 1, "text": "one"})]
    with pytest.raises(UserError, match=r"evaluation\.group_by=accent") as raised:
        group_labels(rows, ["voice", "accent"])
    assert "they have text, voice, duration, language" in str(raised.value)
    assert "speaker" not in str(raised.value)  # nobody is named
    with pytest.raises(UserError, match=r"evaluation\.group_by=speaker"):
        group_labels(rows, ["speaker"])
