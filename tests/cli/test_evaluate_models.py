"""`evaluate` over several models and sets: what is found out, written and shown."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from ctranslate2.converters import TransformersConverter
from safetensors.numpy import load_file, save_file

from lora_whisper.__main__ import carry_out
from lora_whisper.evaluation import evaluate, test_sets
from lora_whisper.evaluation.decoding import transcribe
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from tests.cli.conftest import QUICK, STRONG, Line, Refusal, World, working_in
from tests.evaluation.toy_decoder import NANO
from tests.launched import command_line, together
from tests.toy_speech import write_manifest


@pytest.fixture(scope="module")
def runs(world: World, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs a and b were trained, and a was merged."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, folder / "outputs/a")
    few = (
        "training.max_steps=2",
        "data.validation=null",
        "adapter.rank=4",
        "adapter.layers=decoder",
    )
    with working_in(folder):
        assert carry_out("train", world.arguments("b", *few, *STRONG)) == 0
        assert carry_out("merge", ["run=outputs/a"]) == 0
    return folder


@pytest.fixture
def here(runs: Path, line: Line, tmp_path: Path) -> Path:
    """A copy of the runs, in the current folder."""
    shutil.copytree(runs / "outputs", tmp_path / "outputs")
    return tmp_path


def results(path: str = "outputs/evaluation") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path, "evaluation.json").read_text())
    return found


def other_speech(world: World, folder: Path, name: str, count: int = 3) -> Path:
    """Clips of the training set under another name, so that they are known to leak."""
    lines = (world.speech / "train.jsonl").read_text().splitlines()[:count]
    rows = [json.loads(each) for each in lines]
    rows = [row | {"audio": str(world.speech / row["audio"]), "speaker": "ada"} for row in rows]
    return write_manifest(folder / f"{name}.jsonl", rows)


def test_models_side_by_side(
    world: World, line: Line, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = Counter[bytes](), WhisperDecoder._encode

    def counted(decoder: WhisperDecoder, windows: list[Any]) -> Any:
        if decoder._shared is not None:  # else its pace is measured
            encoded[decoder._shared[1]] += len(windows)
        return encode(decoder, windows)

    monkeypatch.setattr(WhisperDecoder, "_encode", counted)
    models = f"models=[base,outputs/a,outputs/b,outputs/a/merged,{world.checkpoint}]"
    test = f"data.test={world.speech / 'test.jsonl'}"
    assert line("evaluate", models, test, *QUICK) == 0
    found = results()
    assert list(encoded.values()) == [4, 4, 4], "by the encoders of base and b, a, and merged"
    names = ["base", "a", "b", "merged", "toy"]
    assert [one["name"] for one in found["models"]] == names
    assert [one["kind"] for one in found["models"]] == [
        "base", "adapter", "adapter", "merged", "checkpoint"
    ]  # fmt: skip
    scores = found["scores"]["speech-test"]
    assert list(scores) == names
    assert scores["base"]["wer"] == scores["toy"]["wer"]
    assert scores["a"]["wer"] == scores["merged"]["wer"]
    for name in names:
        path = Path("outputs/evaluation/evaluation", name, "speech-test", "hypotheses.jsonl")
        rows = [json.loads(each) for each in path.read_text().splitlines()]
        assert sum(row["errors"] for row in rows) == scores[name]["wer"] * sum(
            row["reference_words"] for row in rows
        )
    assert list(found["comparisons"]["speech-test"]) == names[1:]
    assert found["comparisons"]["speech-test"]["toy"]["verdict"] == "too few to tell"
    assert found["comparisons"]["speech-test"]["toy"]["p_value"] == 1


def test_a_run_says_what_was_forgotten_learnt_by_heart_and_heard_in_silence(
    world: World,
    line: Line,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "NO_SPEECH_CLIPS", 2)
    monkeypatch.setattr(test_sets, "TRAINING_UTTERANCES", 4)
    leaking = other_speech(world, here, "other")
    more = (
        f"evaluation.retention=[{leaking}]",
        "evaluation.conditions=[noise-10db,speed-0.9]",
        "evaluation.adapter_scales=[0,0.5,1]",
    )
    assert line("evaluate", "run=outputs/a", *more) == 0
    found = results("outputs/a")
    assert [(one["name"], one["role"]) for one in found["sets"]] == [
        ("test", "test"),
        ("other", "retention"),
        ("training", "training"),
    ]
    assert found["sets"][1]["leaks"] == [{"run": "a", "recordings": 3, "texts": 3, "speakers": 0}]
    assert list(found["conditions"]["test"]) == ["clean", "noise-10db", "speed-0.9"]
    clean = found["conditions"]["test"]["clean"]
    assert clean["adapter"]["wer"] == found["scores"]["test"]["adapter"]["wer"]
    points = found["scales"]["adapter"]
    assert [point["scale"] for point in points] == [0, 0.5, 1]
    ends = [points[0]["scores"]["test"]["wer"], points[2]["scores"]["test"]["wer"]]
    assert ends == [found["scores"]["test"][name]["wer"] for name in ("base", "adapter")]
    assert {kind: one["clips"] for kind, one in found["probes"]["adapter"].items()} == {
        "silence": 2, "white": 2, "tones": 2, "breathing": 2
    }  # fmt: skip
    assert found["hallucination"]["test"]["base"]["utterances"] == 4
    summary = json.loads(Path("outputs/a/summary.json").read_text())
    assert summary["adapter"] == found["scores"]["test"]["adapter"]
    shown = capsys.readouterr().out
    for said in ("noise-10db", "other", "recordings", "nobody speaks", "evaluation.html"):
        assert said in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_page_and_the_table_for_a_card_are_written(line: Line, here: Path) -> None:
    assert line("evaluate", "run=outputs/a", *QUICK) == 0
    page = Path("outputs/a/evaluation.html").read_text()
    HTMLParser().feed(page)
    assert page.count("<audio") == 4
    assert "data:audio/mpeg;base64," in page
    table = Path("outputs/a/evaluation.md").read_text()
    assert "| adapter |" in table


def test_what_was_decoded_before_is_not_decoded_again(
    line: Line, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert line("evaluate", "run=outputs/a", *QUICK) == 0
    first = results("outputs/a")["scores"]

    def not_again(*_: object, **__: object) -> None:
        raise AssertionError("it was decoded before")

    monkeypatch.setattr(transcribe, "transcribe", not_again)
    assert line("evaluate", "run=outputs/a", *QUICK) == 0
    again = results("outputs/a")["scores"]
    assert {one["cached"] for one in again["test"].values()} == {True}
    assert {name: score | {"cached": False} for name, score in again["test"].items()} == first[
        "test"
    ]
    with pytest.raises(AssertionError, match="decoded before"):
        line("evaluate", "run=outputs/a", *QUICK, "evaluation.cache=false")
    with pytest.raises(AssertionError, match="decoded before"):
        line("evaluate", "run=outputs/a", *QUICK, "evaluation.beams=2", "overwrite=true")


def test_a_model_that_gives_no_numbers_is_named_and_the_others_are_scored(
    world: World, line: Line, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = here / "broken"
    shutil.copytree(world.checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.encoder.layer_norm.weight"][:] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    test = f"data.test={world.speech / 'test.jsonl'}"
    assert line("evaluate", f"models=[{world.checkpoint},{broken}]", test, *QUICK) == 1
    found = results()
    assert found["scores"]["speech-test"]["broken"] is None
    assert found["scores"]["speech-test"]["toy"]["utterances"] == 4
    assert "finite" in found["models"][1]["failed"]
    assert "broken" in capsys.readouterr().out


def test_recordings_over_the_window_are_heard_and_counted(
    line: Line, here: Path, world: World
) -> None:
    time = np.arange(5 * 16_000) / 16_000
    soundfile.write(here / "long.wav", 0.3 * np.sin(2 * np.pi * 440 * time), 16_000)
    rows = [{"audio": "long.wav", "text": "one two three", "language": "en"}]
    test = write_manifest(here / "long.jsonl", rows)
    assert line("evaluate", f"models=[{world.checkpoint}]", f"data.test={test}", *QUICK) == 0
    (one,) = results()["sets"]
    assert (one["utterances"], one["left_out"]) == (1, {})
    (score,) = results()["scores"][one["name"]].values()
    assert score["audio_seconds"] == pytest.approx(5.0)


def test_two_processes_find_out_the_same(
    runs: Path, world: World, line: Line, tmp_path: Path
) -> None:
    arguments = (
        "evaluate",
        f"models=[base,{runs}/outputs/a]",
        f"data.test={world.speech / 'test.jsonl'}",
        "evaluation.cache=false",
        "evaluation.conditions=[noise-0db]",
        *QUICK,
    )
    two = tmp_path / "two"
    two.mkdir()
    assert line(*arguments) == 0
    assert together(2, command_line, two, *arguments) == [0, 0]
    found = []
    for folder in (tmp_path, two):
        scores = results(str(folder / "outputs/evaluation"))["scores"]["speech-test"]
        found.append({name: one | {"decode_seconds": 0} for name, one in scores.items()})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["run=outputs/nowhere"], "no such folder"),
        (["models=[outputs/nowhere,outputs/never]"], "outputs/never: no run, no adapter"),
        (["models=[outputs]"], "an adapter lies below it. Type models=[outputs/a/adapter]"),
        (["models=[base]"], "expected a run or an adapter beside it"),
        (["run=outputs/a", "evaluation.group_by=shoe_size"], "shoe_size"),
        (["run=outputs/a", "evaluation.words=nowhere.txt"], "nowhere.txt"),
        (["run=outputs/a", "evaluation.retention=[nowhere.jsonl]"], "nowhere.jsonl"),
        (["run=outputs/a", "evaluation.beams=0"], "evaluation.beams"),
        (["run=outputs/a", "data.language=klingon", "data.test=plain.jsonl"], "klingon"),
        ([], "run=… or models"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_written(
    world: World, refusal: Refusal, here: Path, given: list[str], message: str
) -> None:
    rows = (world.speech / "test.jsonl").read_text().replace(', "language": "en"', "")
    (here / "plain.jsonl").write_text(rows.replace('"test/', f'"{world.speech}/test/'))
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
    assert message in refusal("evaluate", *given)
    after = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
    assert {path for path in after if ".lock" not in path.name} == before.keys()


def test_a_folder_that_is_no_report_is_left_alone(
    world: World, line: Line, refusal: Refusal, here: Path
) -> None:
    Path("outputs/mine").mkdir()
    Path("outputs/mine/thesis.tex").touch()
    arguments = (f"models=[{world.checkpoint}]", f"data.test={world.speech / 'test.jsonl'}")
    for name in ("mine", "a"):
        assert "left alone" in refusal("evaluate", *arguments, *QUICK, f"name={name}")
    assert line("evaluate", *arguments, *QUICK) == 0
    assert line("evaluate", *arguments, *QUICK) == 0  # a report is made anew


def test_an_exported_model_beside_the_checkpoint_it_was_made_from(
    line: Line, refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "NO_SPEECH_CLIPS", 1)
    folder = tmp_path / "exported"
    converter = TransformersConverter(str(NANO), copy_files=["tokenizer.json"])
    converter.convert(str(folder), quantization="int8")
    models = f"models=[embedded:nano,{folder}]"
    more = ("evaluation.max_utterances=6", "data.language=en")
    test = "data.test=embedded:speech/general/test.jsonl"
    assert "Type card=false" in refusal("evaluate", models, test, *more, "card=true")
    assert line("evaluate", models, test, *more) == 0
    found = results()
    assert [one["kind"] for one in found["models"]] == ["checkpoint", "ctranslate2"]
    checkpoint, exported = found["scores"]["general-test"].values()
    assert checkpoint["utterances"] == exported["utterances"] == 6
    assert abs(exported["wer"] - checkpoint["wer"]) < 0.1 < 0.5 - checkpoint["wer"]
    assert set(found["probes"]["exported"]) == {"silence", "white", "tones", "breathing"}


def test_an_adapter_that_cannot_be_scaled_is_refused_before_anything_is_decoded(
    world: World, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = world.arguments("d", "adapter=dora", "training.max_steps=1")
    assert line("train", *arguments, "training.validate_every_steps=1") == 0
    capsys.readouterr()
    assert line("evaluate", "run=outputs/d", "evaluation.adapter_scales=[0.5]") == 2
    assert "is no sum with the weights" in capsys.readouterr().err
    assert not Path("outputs/d/evaluation.json").exists()


def test_an_adapter_that_is_unsound_is_named_and_the_others_are_scored(
    world: World, line: Line, here: Path
) -> None:
    shutil.copytree("outputs/a/adapter", "other")
    config = Path("other/adapter_config.json")
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    test = f"data.test={world.speech / 'test.jsonl'}"
    assert line("evaluate", f"models=[{world.checkpoint},other]", test, *QUICK) == 1
    assert "rank 2, where r and rank_pattern say 3" in results()["models"][1]["failed"]
    assert results()["scores"]["speech-test"]["toy"]["utterances"] == 4
    assert line("evaluate", "models=[other]", test, *QUICK, "name=alone") == 2
    assert not Path("outputs/alone").exists()


def test_a_report_that_was_broken_off_can_be_made_again(world: World, line: Line) -> None:
    Path("outputs/evaluation/evaluation/base").mkdir(parents=True)
    test = f"data.test={world.speech / 'test.jsonl'}"
    assert line("evaluate", f"models=[{world.checkpoint}]", test, *QUICK) == 0
