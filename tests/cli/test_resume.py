"""A run goes on to the same adapter, bit by bit, however it was ended."""

from __future__ import annotations

import json
import multiprocessing
import os
import pkgutil
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lora_whisper.config import TrainConfig
from lora_whisper.files import write_json
from lora_whisper.locks import locked
from lora_whisper.lora import adapter as adapter_module
from lora_whisper.lora import variants
from lora_whisper.run_config import with_absolute_paths, write_config
from lora_whisper.run_folder import MARKER, SUMMARY_KEYS, RunFolder
from lora_whisper.schema import from_values
from lora_whisper.training import loop
from lora_whisper.training import run as run_module
from lora_whisper.training.checkpoints import Checkpoints
from tests.cli.conftest import Line, Refusal, World
from tests.cli.processes import ended, last_step, signalled, started, wait_for_step
from tests.composed import train_values
from tests.test_run_folder import full_disk

STEPS, KILLS = 18, 3
UNSCORED = ("data.test=null", "data.validation=null")
OPEN_END = ["optimizer.schedule=constant", "optimizer.warmup=2"]


def adapter(name: str) -> dict[str, torch.Tensor]:
    return load_file(Path("outputs") / name / "adapter" / "adapter_model.safetensors")


def same(first: str, second: str) -> bool:
    one, two = adapter(first), adapter(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def metrics(name: str, *keys: str) -> list[list[Any]]:
    """The lines that have these keys, without what a clock says."""
    lines = Path("outputs", name, "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [[line[key] for key in ("step", *keys)] for line in found if line.keys() >= set(keys)]


def summary(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("outputs", name, "summary.json").read_text())
    return found


def renamed(arguments: list[str], name: str) -> list[str]:
    return [f"name={name}" if one.startswith("name=") else one for one in arguments]


def a_long_run(world: World, name: str) -> list[str]:
    """A checkpoint each step, so that one is being written at most moments, and validations."""
    return world.arguments(
        name,
        "data.test=null",
        f"training.max_steps={STEPS}",
        "training.checkpoint_every_steps=1",
        "training.validate_every_steps=6",
        "training.loader_workers=1",
        "adapter.dropout=0.2",
    )


# ── ended by force ───────────────────────────────────────────────────────────────────────────


def test_three_kills_at_random_moments_and_the_same_adapter(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL leaves a lock, orphaned loader workers, and now and then half a checkpoint.

    All are processes of the same kind: what other tests have done to this one changes no sum.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("one\nthree\n")
    arguments = [*a_long_run(world, "killed"), "data.words=words.txt"]
    run = tmp_path / "outputs/killed"
    chance, moments = random.Random(), []
    for kill in range(KILLS):
        process = started([*arguments, *(["resume=auto"] if kill else [])], tmp_path)
        wait_for_step(run, last_step(run) + chance.randint(1, STEPS // KILLS - 2), process)
        process.join(chance.uniform(0, 0.2))
        assert process.is_alive(), (tmp_path / "output.txt").read_text()
        assert signalled(process, signal.SIGKILL) == -signal.SIGKILL
        moments.append(last_step(run))
    for whole in ([*arguments, "resume=auto"], renamed(arguments, "through")):
        assert ended(started(whole, tmp_path)) == 0, (tmp_path / "output.txt").read_text()
    for keys in (("loss_per_token", "gradient_norm"), ("validation_wer",)):
        assert metrics("killed", *keys) == metrics("through", *keys), moments
    assert same("killed", "through"), moments
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
def test_a_signal_to_all_processes_of_a_run_leaves_a_checkpoint(
    world: World, tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    """Ctrl-C, systemd, Slurm and containers signal the loader workers as well."""
    arguments, run = a_long_run(world, "a"), tmp_path / "outputs/a"
    endless = [*arguments, "training.max_steps=2000", "training.checkpoint_every_steps=1000"]
    process = started(endless, tmp_path)
    while process.is_alive() and not (run / "metrics.jsonl").exists():
        process.join(0.05)
    assert signalled(process, number, group=True) == exit_code
    output = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in output
    assert "resume=auto goes on" in output
    assert last_step(run) > 0


# ── ended by a signal, where it must not wait ────────────────────────────────────────────────


def test_a_signal_breaks_off_a_validation_that_comes_again(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = world.arguments("a", "data.test=null", "training.max_steps=6")
    whole_validation = run_module.validation_wer
    with monkeypatch.context() as patch:

        def stopped(*given: Any) -> float:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the validation went on")

        patch.setattr(run_module, "validation_wer", stopped)
        assert line("train", *arguments) == 143
        assert "at step 2 of 6" in capsys.readouterr().err
        assert last_step(Path("outputs/a")) == 2
    assert run_module.validation_wer is whole_validation
    assert line("train", *arguments, "resume=auto") == 0
    assert line("train", *renamed(arguments, "through")) == 0
    assert same("a", "through")
    assert metrics("a", "validation_wer") == metrics("through", "validation_wer")


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_scoring_of_the_base_at_once(
    world: World,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    exit_code: int,
) -> None:
    arguments = world.arguments("a", "training.max_steps=1", "data.validation=null")
    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "_score_base", lambda run: os.kill(os.getpid(), number))
        assert line("train", *arguments) == exit_code
        assert "resume=auto goes on" in capsys.readouterr().err
    assert line("train", *arguments, "resume=auto") == 0


# ── a full disk ──────────────────────────────────────────────────────────────────────────────


def test_a_full_disk_says_where_the_run_goes_on(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = world.arguments("a", *UNSCORED, "training.checkpoint_every_steps=1")
    whole_save = Checkpoints.save

    def save_on_a_full_disk(checkpoints: Checkpoints, state: Any, *more: Any) -> None:
        with full_disk(20_000) if state.step == 3 else full_disk(resource.RLIM_INFINITY):
            whole_save(checkpoints, state, *more)
            checkpoints.finish()

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_on_a_full_disk)
        assert line("train", *arguments) == 2
    message = capsys.readouterr().err
    assert "optimizer.pt could not be written" in message
    assert "larger than this process may write" in message
    assert f"last good checkpoint is {Path('outputs/a/checkpoints/step-000002')}" in message
    assert "resume=auto" in message
    assert not list(Path("outputs/a/checkpoints").glob(".*"))
    assert line("train", *arguments, "resume=auto") == 0
    assert summary("a")["steps"] == 4


def test_a_full_disk_at_the_end_loses_no_step(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Libraries write the adapter and the report, and have their own ways to say it."""
    arguments = world.arguments("a", *UNSCORED, "training.max_steps=2")
    for part in ("training.run.save_adapter", "training.run.write_results"):
        with monkeypatch.context() as patch:
            patch.setattr(f"lora_whisper.{part}", on_a_full_disk(f"lora_whisper.{part}"))
            assert line("train", *arguments) == 2
        assert "The file is " in capsys.readouterr().err  # too large, or larger than is allowed
        assert not Path("outputs/a/summary.json").exists()
        arguments = [*arguments, "resume=auto"]
    assert line("train", *arguments) == 0
    assert summary("a")["steps"] == 2


def on_a_full_disk(function: str) -> Callable[..., Any]:
    whole: Callable[..., Any] = pkgutil.resolve_name(function)

    def called(*given: Any) -> Any:
        with full_disk(1000):
            return whole(*given)

    return called


# ── the same configuration, but for what does not matter ─────────────────────────────────────


def test_a_run_with_an_open_end_can_be_made_longer(
    world: World, line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a complete one; its merged model is of the adapter that it had."""
    arguments = world.arguments("a", "data.validation=null", *OPEN_END)
    assert line("train", *arguments) == 0
    shutil.copytree("outputs/a/adapter", "outputs/a/merged")
    first_base = Path("outputs/a/evaluation/base/test/score.json").stat().st_mtime_ns
    message = refusal("train", *arguments, "resume=auto", "training.max_steps=3")
    assert "has done 4 steps, and is now to have 3" in message
    assert "training.max_steps=4 or more" in message
    assert summary("a")["steps"] == 4, "a refusal leaves it as it was"
    assert line("train", *arguments, "resume=auto", "training.max_steps=7") == 0
    assert line("train", *renamed(arguments, "through"), "training.max_steps=7") == 0
    assert same("a", "through")
    assert summary("a")["steps"] == 7
    assert yaml.safe_load(Path("outputs/a/config.yaml").read_text())["training"]["max_steps"] == 7
    assert not Path("outputs/a/merged").exists()
    assert Path("outputs/a/evaluation/base/test/score.json").stat().st_mtime_ns == first_base
    assert line("train", *arguments, "resume=auto", "training.max_steps=7") == 0
    assert "is complete" in capsys.readouterr().out


def written_run(arguments: list[str], steps: int = 12) -> None:
    """The folder of a complete run with these settings, as far as `train` looks at it first."""
    folder = RunFolder(Path("outputs/a"))
    write_config(folder, with_absolute_paths(from_values(TrainConfig, train_values(*arguments))))
    write_json(folder.summary, dict.fromkeys(SUMMARY_KEYS) | {"steps": steps})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["optimizer.schedule=linear"], "the learning rate of each step depends on it"),
        (["optimizer.schedule=constant", "optimizer.warmup=0.1"], "a warm-up in steps"),
        (["adapter=adalora", *OPEN_END], "adalora's ranks fall by a plan for the whole run"),
    ],
)
def test_a_run_with_a_plan_for_all_its_steps_cannot(
    world: World, refusal: Refusal, settings: list[str], reason: str
) -> None:
    arguments = world.arguments("a", *settings)
    written_run(arguments)
    message = refusal("train", *arguments, "resume=auto", "training.max_steps=14")
    assert "training.max_steps: was 4, is 14" in message
    assert reason in message
    for more in (["resume=auto", "training.max_steps=14"], []):
        message = refusal("train", *arguments, *more)
        assert "Type adapter.init_from=outputs/a name=…" in message
        assert "resume=auto" not in message


def test_a_complete_run_without_checkpoints_is_not_begun_anew(
    world: World, line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = world.arguments("a", *OPEN_END)
    written_run(arguments)
    assert "resume=auto training.max_steps=… to make it longer" in refusal("train", *arguments)
    assert line("train", *arguments, "resume=auto", "training.max_steps=14") == 2
    assert "checkpoints were removed" in capsys.readouterr().err
    assert Path("outputs/a/summary.json").exists()


def test_what_changes_no_step_may_be_changed(world: World, refusal: Refusal) -> None:
    arguments = world.arguments("a")
    written_run(arguments)
    free = ["training.log_every_steps=1", "tracking.project=other"]
    message = refusal("train", *arguments, "resume=auto", "seed=2", *free)
    assert "seed: was 1, is 2" in message
    assert not any(key.partition("=")[0] in message for key in free)


def test_which_checkpoints_are_averaged_may_not_be_changed(world: World, refusal: Refusal) -> None:
    of_last = ["training.averaging=last-2"]
    of_best = ["training.averaging=best-2"]
    for averaging, is_free in ((of_last, False), (of_best, True)):
        arguments = world.arguments("a", *averaging)
        written_run(arguments)
        now = [*arguments, "resume=auto", "seed=2", "training.checkpoint_every_steps=7"]
        found = "training.checkpoint_every_steps" in refusal("train", *now)
        assert found != is_free


def stopped_run(line: Line, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train two steps, and end by Ctrl-C."""
    whole_step = loop.train_step

    def step_and_ctrl_c(trainer: loop.Trainer, step: int, *rest: Any) -> loop.StepResult:
        result = whole_step(trainer, step, *rest)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step_and_ctrl_c)
        assert line("train", *arguments) == 130


KINDS = {
    "pissa": ["data.windows=packed", "optimizer.lora_plus_ratio=4"],
    "eva": ["data.windows=trimmed", "data.trimmed.margin_seconds=[0,0.2]"],
    "adalora": [],
    "dora": ["quantization=nf4"],
}


def cut_off(run: str, name: str, step: int) -> None:
    """A copy of `run` that was killed at `step`: what was written later is not there."""
    folder = Path("outputs") / name
    shutil.copytree(Path("outputs") / run, folder)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "adapter")
    for checkpoint in (folder / "checkpoints").glob("*-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_goes_on_to_the_same_adapter(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What a start is computed from may give other bits on another machine: it is read instead."""
    monkeypatch.setattr(variants, "INTERVAL_STEPS", 1)
    more = [f"adapter={kind}", *KINDS[kind], *UNSCORED, "adapter.dropout=0.2"]
    arguments = world.arguments("a", *more, "training.checkpoint_every_steps=2")
    assert line("train", *renamed(arguments, "through")) == 0
    cut_off("through", "a", step=2)
    monkeypatch.setattr(adapter_module, "principal_components", None)
    monkeypatch.setattr(adapter_module, "input_directions", None)
    assert line("train", *arguments, "resume=auto") == 0
    assert metrics("a", "loss_per_token") == metrics("through", "loss_per_token")
    assert same("a", "through")


def test_what_the_checkpoint_was_made_with_is_what_counts(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not config.yaml, which can be edited, nor the folder, into which one can be copied."""
    arguments = world.arguments("a", *UNSCORED)
    stopped_run(line, arguments, monkeypatch)
    config = Path("outputs/a/config.yaml")
    values = yaml.safe_load(config.read_text())
    values["optimizer"]["learning_rate"] = 0.5
    config.write_text(MARKER + yaml.safe_dump(values))
    assert line("train", *arguments, "resume=auto", "optimizer.learning_rate=0.5") == 2
    assert "step-000002 is of another configuration" in capsys.readouterr().err


# ── speech that changed in between, and damage ───────────────────────────────────────────────


def manifests_of_ones_own(world: World) -> list[str]:
    """Copies that can be edited, as arguments."""
    for split in ("train", "validation", "test"):
        rows = [json.loads(row) for row in (world.speech / f"{split}.jsonl").open()]
        for row in rows:
            row["audio"] = str(world.speech / row["audio"])
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.{split}={split}.jsonl" for split in ("train", "validation", "test")]


def edited(name: str, change: Callable[[list[str]], list[str]]) -> None:
    file = Path(f"{name}.jsonl")
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


def references(model: str) -> list[str]:
    path = Path("outputs/a/evaluation", model, "test/hypotheses.jsonl")
    return [json.loads(line)["reference"] for line in path.read_text().splitlines()]


def test_speech_that_changed_is_named_and_scored_anew_where_asked_for(
    world: World, line: Line, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = world.arguments("a", *manifests_of_ones_own(world))
    stopped_run(line, arguments, monkeypatch)
    assert len(references("base")) == 4
    edited("train", lambda rows: rows[:-1])
    edited("validation", lambda rows: rows[::-1])
    edited("test", lambda rows: [*rows[:2], rows[2].replace('"text": "', '"text": "nine ')])
    message = refusal("train", *arguments, "resume=auto")
    assert "train: 20 rows before, 19 now: 1 not there any more" in message
    assert "validation: 3 rows before, 3 now: the same ones in another order" in message
    assert "test: 4 rows before, 3 now: 2 not there any more and 1 new (test.jsonl:3)" in message
    assert line("train", *arguments, "resume=anyway") == 0
    assert references("base") == references("adapter")
    assert references("base")[2].startswith("nine")
    assert [step for step, *_ in metrics("a", "validation_wer")] == [2, 4], "none of before"
    edited("test", lambda rows: rows)
    assert line("train", *arguments, "resume=auto") == 0


def test_a_complete_run_says_what_of_its_speech_has_changed_since(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = world.arguments("a", *manifests_of_ones_own(world), "training.max_steps=1")
    assert line("train", *arguments) == 0
    capsys.readouterr()

    def said(resume: str = "auto") -> str:
        assert line("train", *arguments, f"resume={resume}") == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "outputs/a is complete" in shown
        return shown

    assert "changed" not in said()
    before = summary("a")
    edited("train", lambda rows: rows[:-1])
    edited("test", lambda rows: [rows[0].replace('"text": "', '"text": "nine '), *rows[1:]])
    again = "evaluate run=outputs/a overwrite=true"
    for resume in ("auto", "anyway"):
        shown = said(resume)
        assert f"(test.jsonl:1): the scores are of what it was. Type lora-whisper {again}" in shown
        assert "1 not there any more: the adapter was trained on what it was. Type over" in shown
    assert summary("a") == before
    assert line(*again.split(), "evaluation.diagnostics=false") == 0, "as it is advised"
    capsys.readouterr()
    shown = said()
    assert "the scores are" not in shown
    assert "the adapter was trained on" in shown
    edited("train", lambda _: [])
    assert "not compared with the speech that is there now" in said()


def test_a_damaged_checkpoint_costs_its_steps_and_no_more(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The adapter is that of an uninterrupted run; also PiSSA's, whose start is damaged too."""
    arguments = world.arguments("a", "data.test=null", "adapter=pissa")
    frequent = [*arguments, "training.checkpoint_every_steps=1"]
    stopped_run(line, frequent, monkeypatch)
    checkpoints = Path("outputs/a/checkpoints")
    for file in ("step-000002/optimizer.pt", "initial.safetensors"):
        data = bytearray((checkpoints / file).read_bytes())
        data[-3] ^= 4
        (checkpoints / file).write_bytes(bytes(data))
    assert line("train", *frequent, "resume=auto") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "step-000002/optimizer.pt is not what was written" in shown
    assert "going back to step 1" in shown
    assert "initial.safetensors is not what was written" in shown
    assert line("train", *renamed(frequent, "through")) == 0
    assert same("a", "through")


@pytest.mark.parametrize("damage", ["model: [", "adapter:\n  rnak: 4\n", "\udcff", "- 1\n", ""])
def test_a_damaged_configuration_is_named(world: World, refusal: Refusal, damage: str) -> None:
    arguments = world.arguments("a")
    written_run(arguments)
    config = Path("outputs/a/config.yaml")
    config.write_bytes((MARKER + damage).encode("utf-8", "surrogateescape"))
    message = refusal("train", *arguments, "resume=auto")
    assert "outputs/a/config.yaml is damaged" in message
    assert "overwrite=true" in message


# ── two at a time ────────────────────────────────────────────────────────────────────────────


@contextmanager
def held_by_another(folder: Path) -> Iterator[None]:
    """Another process holds the folder, as one that trains in it does."""
    context = multiprocessing.get_context("fork")
    is_held, is_over = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(folder, is_held.set, is_over.wait))
    process.start()
    assert is_held.wait(30)
    try:
        yield
    finally:
        is_over.set()
        ended(process)


def _hold(folder: Path, say: Callable[[], None], wait: Callable[[], Any]) -> None:
    with locked(folder):
        say()
        wait()


def test_a_second_process_is_refused_in_a_sweep_as_well(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = world.arguments("a", *UNSCORED, "training.max_steps=1")
    with held_by_another(Path("outputs/a")):
        assert line("train", *arguments, "data.train=nowhere.jsonl") == 2, "before speech is read"
        assert "outputs/a is in use by another process" in capsys.readouterr().err
    sweep = Path("outputs/sweeps/a")
    with held_by_another(sweep / "adapter.rank-2"):
        assert line("train", "-m", *arguments, "adapter.rank=2,3") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "adapter.rank-2 is left to another process" in shown
    assert [path.parent.name for path in sweep.glob("*/summary.json")] == ["adapter.rank-3"]
