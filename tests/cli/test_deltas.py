"""Runs that start from an adapter, and runs that average some: what ships is what was scored."""

from __future__ import annotations

import json
import shutil
from gc import get_objects
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from lora_whisper.lora.delta_weights import read_delta_weights
from lora_whisper.training import run
from tests.cli.conftest import Line, Refusal, World

RUNS = Path("outputs")
UNSCORED = ("data.test=null", "data.validation=null")


def summary(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RUNS / name / "summary.json").read_text())
    return found


def hypotheses(name: str) -> list[str]:
    path = RUNS / name / "evaluation/adapter/test/hypotheses.jsonl"
    return [json.loads(line)["hypothesis"] for line in path.read_text().splitlines()]


def deltas(name: str) -> dict[str, Tensor]:
    matrices = read_delta_weights(RUNS / name / "adapter").matrices
    return {path: b @ a for path, (a, b) in matrices.items()}


def averaging(of: str, rank: int | None = None) -> list[str]:
    rank_is = f"training.averaging_rank={'null' if rank is None else rank}"
    return [f"training.averaging={of}-2", rank_is, "optimizer.learning_rate=0.003"]


def test_a_run_starts_from_another_one(world: World, line: Line, finished: list[str]) -> None:
    started = ["adapter.init_from=outputs/a", "optimizer.learning_rate=1e-12"]
    arguments = world.arguments("warm", "adapter.rank=3", *started)
    assert line("train", *arguments) == 0
    before, after = deltas("a"), deltas("warm")
    assert before.keys() == after.keys()
    for path, delta in before.items():
        torch.testing.assert_close(after[path], delta, atol=1e-7, rtol=1e-5)
        assert delta.any()
    assert hypotheses("warm") == hypotheses("a")
    assert summary("warm")["adapter"]["wer"] == summary("a")["adapter"]["wer"]
    assert "start: the adapter a, the speech" in (RUNS / "warm/adapter/README.md").read_text()


def test_a_resumed_run_needs_its_start_no_longer(
    world: World, line: Line, finished: list[str]
) -> None:
    """Its checkpoint has all; and what it starts from is not put over what it has learnt."""
    started = [
        "adapter.init_from=outputs/a",
        "training.checkpoint_every_steps=2",
        *UNSCORED,
    ]
    assert line("train", *world.arguments("whole", *started)) == 0
    half = RUNS / "half"
    shutil.copytree(RUNS / "whole", half)
    (half / "summary.json").unlink()
    shutil.rmtree(half / "adapter")
    for path in half.glob("checkpoints/step-000004"):
        path.rename(half / path.name)
    (RUNS / "a").rename(RUNS / "gone")
    assert line("train", *world.arguments("half", *started, "resume=auto")) == 0
    one, two = (
        load_file(RUNS / name / "adapter/adapter_model.safetensors") for name in ("whole", "half")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_start_that_does_not_fit_is_refused_before_anything_is_written(
    world: World,
    line: Line,
    refusal: Refusal,
    finished: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = {
        "there is no such folder": ["adapter.init_from=outputs/far"],
        "Type adapter.rank=2": ["adapter.init_from=outputs/a", "adapter.rank=1"],
        "has a start of its own": ["adapter.init_from=outputs/a", "adapter=dora"],
    }
    for message, given in refused.items():
        capsys.readouterr()
        assert message in refusal("train", *world.arguments("next", *given))
        assert not (RUNS / "next").exists()
    before = (RUNS / "a/summary.json").read_text()
    assert line("train", *finished, "adapter.init_from=outputs/a", "overwrite=true") == 2
    assert "is of the run that overwrite=true replaces" in capsys.readouterr().err
    assert (RUNS / "a/summary.json").read_text() == before


def test_a_start_that_has_heard_the_test_set_is_refused(
    world: World, line: Line, refusal: Refusal
) -> None:
    """Also where another run lies between: its start's start has heard it."""
    few = ["training.max_steps=1", *UNSCORED]
    speech = {name: f"data.train={world.speech / name}.jsonl" for name in ("train", "test")}
    assert line("train", *world.arguments("first", *few, speech["test"])) == 0
    between = [*few, "adapter.init_from=outputs/first", speech["train"]]
    assert line("train", *world.arguments("second", *between)) == 0
    message = refusal("train", *world.arguments("third", "adapter.init_from=outputs/second"))
    assert "4 recordings of data.test are in what" in message
    assert "outputs/second was trained on too" in message
    assert not (RUNS / "third").exists()


def test_what_nobody_knows_of_a_start_is_said(
    world: World, line: Line, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["training.max_steps=1", "data.validation=null"]
    (RUNS / "a/adapter").rename("found")
    assert line("train", *world.arguments("second", *few, "adapter.init_from=found")) == 0
    assert "nobody can look for test speech in what it has learnt" in capsys.readouterr().out


@pytest.mark.parametrize("rank", [None, 1])
def test_the_mean_ships_where_nothing_was_validated(
    rank: int | None, world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["data.validation=null", "training.checkpoint_every_steps=1", *averaging("last", rank)]
    assert line("train", *world.arguments("mean", *kept)) == 0
    found = summary("mean")["averaging"]
    assert (found["steps"], found["ships"], found["validation_wer"]) == ([3, 4], True, None)
    assert found["rank"] == (rank or 4)
    assert (found["svd_error"] > 0) == (rank is not None)
    out = capsys.readouterr()
    assert "adapter of the mean of steps 3, 4" in out.out
    assert "average     of steps 3, 4" in (RUNS / "mean/train.log").read_text()
    config = json.loads((RUNS / "mean/adapter/adapter_config.json").read_text())
    assert config["r"] == (rank or 4)
    assert (
        summary("mean")["adapter_bytes"]
        == (RUNS / "mean/adapter/adapter_model.safetensors").stat().st_size
    )
    assert line("merge", "run=outputs/mean") == 0
    assert summary("mean")["merged"]["wer"] == summary("mean")["adapter"]["wer"]


@pytest.mark.parametrize(("wer", "ships"), [(0.5, True), (0.6, False)])
def test_the_mean_ships_unless_a_single_adapter_was_better(
    wer: float, ships: bool, world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both validations in training give 0.5, that of the mean another figure."""
    figures = iter([0.5, 0.5, wer])
    monkeypatch.setattr(run, "validation_wer", lambda *_: next(figures))
    assert line("train", *world.arguments("mean", "data.test=null", *averaging("best"))) == 0
    found = summary("mean")["averaging"]
    assert (found["steps"], found["validation_wer"], found["ships"]) == ([2, 4], wer, ships)
    assert found["validation_wer_of_best"] == 0.5
    ranks = {len(a) for a, _ in read_delta_weights(RUNS / "mean/adapter").matrices.values()}
    assert ranks == {4 if ships else 2}
    assert not (RUNS / "mean/checkpoints/average").exists()


def test_averaging_that_cannot_be_is_refused(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("train", *world.arguments("x", "data.validation=null", *averaging("best"))) == 2
    assert "Type data.validation=…, or training.averaging=last-2" in capsys.readouterr().err
    assert line("train", *world.arguments("x", "adapter=dora", *averaging("last"))) == 2
    assert "averaging" in capsys.readouterr().err
    assert not RUNS.exists()


def test_a_single_checkpoint_is_not_averaged(world: World, line: Line) -> None:
    assert line("train", *world.arguments("short", *UNSCORED, *averaging("last"))) == 0
    assert summary("short")["averaging"] is None
    said = (RUNS / "short/train.log").read_text()
    assert "1 of 2 checkpoints are there" in said
    assert "training.checkpoint_every_steps" in said


def test_one_model_at_a_time_is_in_memory(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training model is gone before what ships is loaded, and so is each candidate."""
    alive: list[int] = []
    load = run.load_whisper

    def counting(*given: Any) -> Any:
        alive.append(sum(type(one) is WhisperForConditionalGeneration for one in get_objects()))
        return load(*given)

    monkeypatch.setattr(run, "load_whisper", counting)
    assert line("train", *world.arguments("mean", *averaging("best"))) == 0
    assert alive[1:] == [alive[0]] * 2  # other tests' may be alive before the first
