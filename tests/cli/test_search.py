"""A search: what it tries, ends early, shares and goes on with, and what it never looks at."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lora_whisper.search.study as study_module
from lora_whisper.config import TrainConfig
from lora_whisper.data.speech import Inputs
from lora_whisper.errors import UserError
from lora_whisper.reports import run
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RunFolder
from lora_whisper.search import study
from lora_whisper.search import trial as trial_module
from lora_whisper.training import loop
from lora_whisper.training import run as run_module
from lora_whisper.training.loop import Diverged
from tests.cli.conftest import Line, Refusal, World
from tests.cli.processes import ended, signalled, started, wait_for_step
from tests.cli.test_resume import edited, manifests_of_ones_own

optuna = pytest.importorskip("optuna")
sqlalchemy = pytest.importorskip("sqlalchemy")


@pytest.fixture(autouse=True)
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing a trial's curves takes a third of its time, and nobody looks at them here."""
    monkeypatch.setattr(run, "write_report", lambda *given: None)


ONLY_RATE = [f"search.space.{key}=null" for key in ("rank", "alpha_per_rank", "dropout", "targets")]


def arguments_of(world: World, name: str, trials: int, *more: str) -> list[str]:
    return world.arguments(name, f"search.trials={trials}", *more)


def trials_of(name: str) -> list[Any]:
    path = Path("outputs/searches", name, "study.db").absolute()
    trials: list[Any] = optuna.load_study(study_name="search", storage=f"sqlite:///{path}").trials
    return trials


def states_of(name: str) -> list[str]:
    return [trial.state.name for trial in trials_of(name)]


def run_of(name: str, number: int) -> RunFolder:
    return RunFolder(Path("outputs/searches", name, f"trial-{number}"))


def adapter_of(name: str, number: int) -> dict[str, torch.Tensor]:
    return load_file(run_of(name, number).adapter / "adapter_model.safetensors")


def scored(name: str) -> list[int]:
    """The trials that have met the test set."""
    found = Path("outputs/searches", name).glob("trial-*/evaluation/*/test")
    return sorted({int(path.parents[2].name.removeprefix("trial-")) for path in found})


def wer_by_rate(*given: Any) -> float:
    """Best at 1e-3, worse by the distance from there."""
    (config,) = (one for one in given if isinstance(one, TrainConfig))
    rate = config.optimizer.learning_rate
    assert rate is not None
    return round(abs(math.log10(rate) + 3), 6)


def test_bad_trials_end_early_and_the_best_one_alone_meets_the_test_set(
    world: World,
    line: Line,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_module, "validation_wer", wer_by_rate)
    monkeypatch.setattr(study_module, "PRUNING_AFTER_TRIALS", 1)
    monkeypatch.setattr(study_module, "PRUNING_AFTER_SHARE", 0)
    arguments = arguments_of(world, "a", 3, *ONLY_RATE, "optimizer.learning_rate=1e-3")
    assert line("search", *arguments) == 0
    shown = capsys.readouterr().out
    first, *others = trials_of("a")
    assert first.params["learning_rate"] == first.value + 1e-3 == 1e-3, "as train would have it"
    assert [trial.state.name for trial in others] == ["PRUNED"] * 2
    for trial in others:
        run = run_of("a", trial.number)
        kept = read_config(run).optimizer.learning_rate
        assert kept == pytest.approx(trial.params["learning_rate"], rel=0.006)
        assert 2.5e-4 <= trial.params["learning_rate"] <= 4e-3
        pruned = json.loads(run.pruned.read_text())
        assert pruned == {"step": 2, "wer": trial.intermediate_values[2]}
        assert not run.is_complete()
        assert "ended early at step 2" in run.log.read_text()
        assert "Traceback" not in run.log.read_text()
    assert scored("a") == [0]
    summary = json.loads(run_of("a", 0).summary.read_text())
    assert summary["base"]["utterances"] == summary["adapter"]["utterances"] == 4
    assert not list(Path("outputs/searches/a").glob("trial-*/checkpoints"))
    assert "pruned at 2" in shown
    assert "optimizer.learning_rate=0.001" in shown
    table = shown.split("WER on the validation set")[1].split("on the test set")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "ended this run early" in refusal("merge", f"run={run_of('a', 1).path}")

    # Typed again, it is done; with more trials, it goes on.
    assert line("search", *arguments) == 0
    assert len(trials_of("a")) == 3
    assert line("search", *arguments, "search.trials=4") == 0
    assert len(trials_of("a")) == 4


def losses_of(name: str) -> list[tuple[int, float | None]]:
    """By step; where two runs part tells what parted them."""
    lines = map(json.loads, run_of(name, 0).metrics.read_text().splitlines())
    return [(line["step"], line.get("loss_per_token")) for line in lines]


@pytest.mark.slow
def test_a_killed_search_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of the same kind: what other tests have done to this one changes no sum."""
    monkeypatch.chdir(tmp_path)
    each_step = ["training.checkpoint_every_steps=1", "training.log_every_steps=1"]
    more = [*each_step, "training.max_steps=8", "training.validate_every_steps=4", "data.test=null"]
    killed, through = (arguments_of(world, name, 1, *more) for name in ("killed", "through"))
    process, output = started(killed, tmp_path, "search"), tmp_path / "output.txt"
    wait_for_step(run_of("killed", 0).path, 1, process)
    assert process.is_alive(), output.read_text()
    assert signalled(process, signal.SIGKILL) == -signal.SIGKILL
    assert states_of("killed") == ["RUNNING"]
    for arguments in (killed, through):
        assert ended(started(arguments, tmp_path, "search")) == 0, output.read_text()
    assert states_of("killed") == states_of("through") == ["COMPLETE"]
    (one,), (two,) = trials_of("killed"), trials_of("through")
    assert (one.params, one.value) == (two.params, two.value)
    assert one.intermediate_values == two.intermediate_values
    assert losses_of("killed") == losses_of("through")
    first, second = adapter_of("killed", 0), adapter_of("through", 0)
    assert first.keys() == second.keys()
    apart = {key: float((first[key] - second[key]).abs().max()) for key in first}
    assert not any(apart.values()), apart
    assert "going on from step" in run_of("killed", 0).log.read_text()


def test_a_corrected_test_text_costs_no_trial_and_other_speech_is_refused(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = arguments_of(world, "a", 2, *manifests_of_ones_own(world), *ONLY_RATE)
    whole_step = loop.train_step

    def step_or_ctrl_c(trainer: loop.Trainer, step: int, *rest: Any) -> loop.StepResult:
        if step == 3 and states_of("a") == ["COMPLETE", "RUNNING"]:
            raise KeyboardInterrupt
        return whole_step(trainer, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step_or_ctrl_c)
        assert line("search", *arguments) == 130
    assert scored("a") == []
    first = run_of("a", 0).summary.read_bytes()

    def correct(word: str) -> None:
        edited("test", lambda rows: [rows[0].replace('"text": "', f'"text": "{word} '), *rows[1:]])

    correct("nine")
    capsys.readouterr()
    assert line("search", *arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "changed data.test: its rows, texts or sound." in said
    assert "trial-1 was left behind; going on with it" in said
    assert states_of("a") == ["COMPLETE"] * 2
    ((best,),) = (scored("a"),)
    if best == 1:
        assert run_of("a", 0).summary.read_bytes() == first
    assert references_of(best)[0].startswith("nine")

    assert line("search", *arguments) == 0
    assert "changed" not in capsys.readouterr().out, "it has been said"
    correct("six")
    assert line("search", *arguments) == 0
    assert references_of(best)[0].startswith("six nine"), "no older score is shown as its own"
    for split in ("validation", "train"):
        edited(split, lambda rows: rows[::-1])
        assert line("search", *arguments) == 2
        assert f"data.{split}: its rows, texts or sound have changed" in capsys.readouterr().err


def references_of(number: int) -> list[str]:
    lines = (run_of("a", number).evaluation / "adapter/test/hypotheses.jsonl").read_text()
    return [json.loads(row)["reference"] for row in lines.splitlines()]


@pytest.mark.slow
def test_two_processes_share_one_search(world: World, line: Line, tmp_path: Path) -> None:
    arguments = arguments_of(world, "shared", 3, "training.max_steps=2")
    both = [started(arguments, tmp_path, "search") for _ in range(2)]
    output = tmp_path / "output.txt"
    assert [ended(process) for process in both] == [0, 0], output.read_text()
    assert states_of("shared") == ["COMPLETE"] * 3
    assert len({str(trial.params) for trial in trials_of("shared")}) == 3
    assert len(scored("shared")) == 1
    heads = output.read_text().count("search      outputs/searches/shared")
    assert heads == 2
    assert not list(Path("outputs/searches").rglob(".*.lock"))


def test_a_signal_leaves_a_trial_that_is_finished_although_the_time_is_up(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = arguments_of(world, "a", 3, "data.test=null")
    with monkeypatch.context() as patch:
        patch.setattr(
            run_module, "validation_wer", lambda *given: os.kill(os.getpid(), signal.SIGTERM)
        )
        assert line("search", *arguments) == 143
    assert "in trial-0; the same command goes on" in capsys.readouterr().err
    assert states_of("a") == ["RUNNING"]
    assert line("search", *arguments, "search.timeout_hours=1e-9") == 0
    assert states_of("a") == ["COMPLETE"]


def test_a_failed_trial_stops_no_other_and_one_that_diverged_is_a_bad_one(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def carry_out(config: TrainConfig, claim: study.Claim, inputs: Inputs) -> float:
        if claim.trial.number == 2:
            raise Diverged("Step 3 is the third in a row\nLikely causes")
        if claim.trial.number != 1:
            raise UserError(f"no room for rank {config.adapter.rank}")
        return 0.25

    monkeypatch.setattr(trial_module, "carry_out", carry_out)
    monkeypatch.setattr(trial_module, "is_whole", lambda folder: True)
    arguments = arguments_of(world, "a", 4, "data.test=null")
    assert line("search", *arguments) == 0
    assert states_of("a") == ["FAIL", "COMPLETE", "PRUNED", "FAIL"]
    shown = capsys.readouterr().out
    assert "trial-0: no room for rank" in shown
    assert "search.trials=6" in shown, "two failed"
    assert "25.0 %" in shown
    monkeypatch.setattr(trial_module, "carry_out", lambda *given: 1 / 0)
    assert line("search", *arguments_of(world, "b", 1, "data.test=null")) == 1
    assert states_of("b") == ["FAIL"]
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_the_best_trial_is_carried_out_again_where_it_lost_something(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    one_step = ("training.max_steps=1", "training.validate_every_steps=1")
    arguments = arguments_of(world, "a", 1, *one_step)
    assert line("search", *arguments) == 0
    trial = Path("outputs/searches/a/trial-0")
    weights = (trial / "adapter/adapter_model.safetensors").read_bytes()
    for lost, text in (("summary.json", "{}"), ("config.yaml", ""), ("metrics.jsonl", "")):
        (trial / lost).write_text(text)
        assert line("search", *arguments) == 0
        assert "trial-0, the best one, lost something" in capsys.readouterr().out
        assert (trial / "adapter/adapter_model.safetensors").read_bytes() == weights
        assert json.loads((trial / "summary.json").read_text())["adapter"], "it is scored"


# ── bad input ────────────────────────────────────────────────────────────────────────────────


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(
    world: World, line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ["search.space.rank=[0]", "search.space.dropout=[0.1]", "search.trials=0", "seed=-1"]
    said = refusal("search", *world.arguments("a", *bad))
    for key in ("space.rank", "space.dropout", "search.trials", "seed"):
        assert f"{key}: expected" in said
    assert line("search", *world.arguments("a", "search.spcae.rank=[2]")) == 2
    assert "Did you mean search.space.rank" in capsys.readouterr().err
    assert line("search", *world.arguments("a", "data.validation=null")) == 2
    assert "data.validation, which is missing" in capsys.readouterr().err
    both = ["adapter.encoder_rank=2", "adapter.decoder_rank=2"]
    assert line("search", *world.arguments("a", *both)) == 2
    assert "search.space.rank: it would change nothing" in capsys.readouterr().err
    assert line("search", *world.arguments("a", "adapter=adalora")) == 2
    assert "search.space.alpha_per_rank: adalora's alpha" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_without_optuna_it_says_what_to_install(
    world: World, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study.importlib.util, "find_spec", lambda name: None)
    said = refusal("search", *world.arguments("a"))
    assert "pip install 'lora-whisper[search]'" in said
    assert len(said.splitlines()) == 1


def test_a_folder_is_another_searchs_or_nobodys(
    world: World, line: Line, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "carry_out", lambda *given: 0.5)
    arguments = arguments_of(world, "a", 1, "data.test=null")
    assert line("search", *arguments) == 0
    said = refusal("search", *arguments, "search.space.rank=[2]", "adapter.dropout=0")
    assert "search.space.rank: was [4, 8, 16, 32, 64], is [2]" in said
    assert "adapter.dropout: was 0.05, is 0" in said
    assert line("search", *arguments, "search.space.rank=[2]", "overwrite=true") == 0
    assert [trial.params["rank"] for trial in trials_of("a")] == [2]
    Path("outputs/searches/b").mkdir()
    Path("outputs/searches/b/notes.txt").touch()
    for more in ([], ["overwrite=true"]):
        assert "is not a search" in refusal("search", *arguments_of(world, "b", 1, *more))


def test_files_of_another_program_are_named_and_overwrite_begins_anew(
    world: World, line: Line, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "carry_out", lambda *given: 0.5)
    arguments = arguments_of(world, "a", 1, "data.test=null", *ONLY_RATE)
    assert line("search", *arguments) == 0
    for file in ("study.db", "search.json"):
        broken = Path("outputs/searches/a", file)
        broken.write_text("{ no database, and no JSON")
        said = refusal("search", *arguments)
        assert file in said
        assert "overwrite=true" in said
        assert "Traceback" not in said
        assert broken.read_text() == "{ no database, and no JSON", "it is left alone"
    assert line("search", *arguments, "overwrite=true") == 0
    assert states_of("a") == ["COMPLETE"]


def test_a_disk_that_is_full_for_the_study_is_said_and_the_trial_goes_on(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite's own limit of a file's size stands for the disk's."""

    def limit(connection: Any, record: Any) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    def report_much(config: TrainConfig, claim: study.Claim, inputs: Inputs) -> float:
        claim.trial.set_user_attr("much", "x" * 1_000_000)
        return 0.5

    monkeypatch.setattr(trial_module, "carry_out", lambda *given: 0.25)
    assert line("search", *arguments_of(world, "a", 1, "data.test=null", *ONLY_RATE)) == 0
    arguments = arguments_of(world, "a", 2, "data.test=null", *ONLY_RATE)
    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "carry_out", report_much)
        sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", limit)
        try:
            assert line("search", *arguments) == 2
        finally:
            sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", limit)
    said = capsys.readouterr().err
    assert "The disk is full" in said
    assert "the same command goes on from here" in said
    assert states_of("a")[0] == "COMPLETE"
    assert line("search", *arguments) == 0
    assert states_of("a") == ["COMPLETE"] * 2
