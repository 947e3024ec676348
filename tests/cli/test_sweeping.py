"""Sweeps: what is refused, what is run, what a failed point leaves, and the table at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from hydra.core.utils import JobReturn

from lora_whisper.cli import train
from lora_whisper.cli.compose import hydra_over
from lora_whisper.cli.sweep import (
    PointPlan,
    _combinations,
    _launched,
    _parsed,
    _Point,
    _with_params_of_files,
)
from lora_whisper.cli.workers import Workers
from lora_whisper.config import TrainConfig
from lora_whisper.data.speech import Inputs
from lora_whisper.errors import UserError
from lora_whisper.evaluation.run_summary import write_summary
from lora_whisper.locks import InUse
from lora_whisper.options import configuration_folder
from lora_whisper.run_folder import RunFolder
from tests.cli.conftest import Line, Refusal, World
from tests.cli.toy_run import toy_run

SWEEP = Path("outputs/sweeps/s")

READY = {  # experiments, and how many points they have
    "sweep-rank": 5,
    "sweep-rank-learning-rate": 9,
    "sweep-stack": 3,
    "sweep-kinds": 6,
    "sweep-quantization": 3,
}


def short_run(world: World, *more: str) -> list[str]:
    """One step, and no rank that goes before an experiment's."""
    given = {one.split("=")[0] for one in more} | {"adapter.rank"}
    usual = [
        *world.arguments("s", "training.max_steps=1"),
        "data.validation=null",
        "training.validate_every_steps=null",
    ]
    kept = {one.split("=")[0]: one for one in usual if one.split("=")[0] not in given}
    return [*kept.values(), *more]


@pytest.fixture
def ranks(tmp_path: Path) -> list[str]:
    """What to type for an experiment that sweeps over two ranks."""
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "ranks.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      adapter.rank: 2,3\n"
    )
    return ["--config-dir", str(folder.parent), "experiment=ranks"]


class Quick:
    """In place of a run: a result at once, unless the point is to meet with something."""

    meets: ClassVar[dict[int, Callable[[RunFolder], object]]] = {}  # by rank, when it is loaded
    begun: ClassVar[list[int]] = []  # ranks
    result: ClassVar[Path]  # what a training would have written

    def __init__(self, config: TrainConfig, folder: RunFolder, inputs: Inputs):
        self.folder = folder
        self.begun.append(config.adapter.rank)
        self.meets.get(config.adapter.rank, bool)(folder)

    def carry_out(self) -> None:
        shutil.copytree(
            self.result,
            self.folder.path,
            ignore=shutil.ignore_patterns("config.yaml"),
            dirs_exist_ok=True,
        )


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Quick]:
    made, summary = toy_run(tmp_path / "made")
    write_summary(made, summary)
    monkeypatch.setattr("lora_whisper.training.run.Run", Quick)
    monkeypatch.setattr(Quick, "result", made.path, raising=False)
    monkeypatch.setattr(Quick, "meets", {})
    monkeypatch.setattr(Quick, "begun", [])
    return Quick


def out_of_luck(folder: RunFolder) -> None:
    raise RuntimeError("out of luck")


def in_use(folder: RunFolder) -> None:
    raise InUse(f"{folder.path} is in use by another process.")


def test_a_failed_point_says_why_and_the_same_command_goes_on(
    world: World,
    line: Line,
    ranks: list[str],
    quick: type[Quick],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick.meets[2] = out_of_luck
    command = ["-m", *ranks, *short_run(world)]
    assert line("train", *command) == 1
    failure = SWEEP / "adapter.rank-2" / "failure.json"
    assert json.loads(failure.read_text()) == {"reason": "RuntimeError: out of luck"}
    assert (SWEEP / "adapter.rank-3" / "summary.json").is_file()
    shown = capsys.readouterr().out
    assert "failed: adapter.rank-2: RuntimeError: out of luck" in shown
    assert shown.count("base: WER") == 1

    quick.meets.clear()
    assert line("train", *command) == 0
    assert quick.begun == [2, 3, 2]
    assert not failure.exists()
    assert "finished    1 of 2 points" in capsys.readouterr().out

    script = (
        "import sys; from lora_whisper.__main__ import carry_out\n"
        f"print(carry_out('train', {command!r}), 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert "2 of 2 points" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "0 False", "nothing heavy is loaded"


def test_a_point_that_fails_to_be_overwritten_is_not_shown_with_its_older_result(
    world: World, line: Line, quick: type[Quick], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", *short_run(world, "adapter.rank=2,3")]
    assert line("train", *command) == 0
    quick.meets[2] = out_of_luck
    capsys.readouterr()
    assert line("train", *command, "overwrite=true") == 1
    assert "failed: adapter.rank-2: RuntimeError: out of luck" in capsys.readouterr().out
    assert line("train", *command) == 0, "what was there is as it was, and all that is asked for"
    assert "failed" not in capsys.readouterr().out
    assert quick.begun == [2, 3, 2, 3]


def test_who_stops_a_sweep_is_told_to_type_it_again(
    world: World, line: Line, quick: type[Quick], capsys: pytest.CaptureFixture[str]
) -> None:
    quick.meets[3] = lambda folder: os.kill(os.getpid(), signal.SIGTERM)
    command = ["-m", *short_run(world, "adapter.rank=2,3")]
    assert line("train", *command) == 143
    assert "stopped: in adapter.rank-3; the same command goes on" in capsys.readouterr().err
    assert not list(SWEEP.glob("*/failure.json"))
    quick.meets.clear()
    assert line("train", *command) == 0
    assert quick.begun == [2, 3, 3]


def test_a_point_of_another_process_is_left_to_it(
    world: World, line: Line, quick: type[Quick], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", *short_run(world, "adapter.rank=2,3")]
    quick.meets[3] = in_use
    assert line("train", *command) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "adapter.rank-3 is left to another process" in shown
    assert "failed" not in shown

    def done_meanwhile(folder: RunFolder) -> None:
        shutil.copytree(SWEEP / "adapter.rank-2", folder.path, dirs_exist_ok=True)
        in_use(folder)

    quick.meets[3] = done_meanwhile
    assert line("train", *command) == 0, "all points have a result"


def test_a_change_that_no_point_can_take_up_is_said_once(
    world: World,
    line: Line,
    refusal: Refusal,
    quick: type[Quick],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert line("train", "-m", *short_run(world, "adapter.rank=2,3")) == 0
    message = refusal("train", "-m", *short_run(world, "adapter.rank=2,3,4", "seed=9"))
    assert message.count("seed: was 1, is 9") == 1
    assert "adapter.rank-2, adapter.rank-3: The run outputs/sweeps/s/… has another" in message
    assert line("train", "-m", *short_run(world, "adapter.rank=2,4", "seed=9")) == 2
    alone = "adapter.rank-2: The run outputs/sweeps/s/adapter.rank-2 has another"
    assert alone in capsys.readouterr().err, "its path can be pasted"


@pytest.mark.parametrize("command", [["train"], ["train", "-m"], ["search"]])
def test_a_folder_that_cannot_be_written_to_is_said(
    world: World, refusal: Refusal, quick: type[Quick], command: list[str]
) -> None:
    if command == ["search"]:
        pytest.importorskip("optuna")
    Path("outputs").touch()
    message = refusal(*command, *world.arguments("s"))
    assert "outputs" in message
    assert "cannot be written to" in message
    assert len(message.splitlines()) == 2


def test_parts_of_options_are_no_points(tmp_path: Path) -> None:
    """Such as somebody's own, in a folder that is typed."""
    (tmp_path / "adapter").mkdir()
    for name in ("_common_", "mine"):
        (tmp_path / "adapter" / f"{name}.yaml").touch()
    with hydra_over("train", str(tmp_path)) as hydra:
        kinds = _combinations(_parsed(hydra, "train", ["adapter=glob(*)"]))
        options = [path.stem for path in (configuration_folder() / "adapter").glob("*.yaml")]
        assert {kind for (kind,) in kinds} == {f"adapter={name}" for name in [*options, "mine"]}
        with pytest.raises(UserError, match="adapter has no values"):
            _combinations(_parsed(hydra, "train", ["adapter=glob(x*)"]))


def test_what_is_typed_goes_before_what_an_experiment_sweeps(
    world: World, refusal: Refusal, ranks: list[str]
) -> None:
    given = short_run(world, "adapter.rank=0", "optimizer.learning_rate=1e-3,0")
    message = refusal("train", "-m", *ranks, *given)
    assert message.count("adapter.rank: expected 1 or more, found 0") == 2  # by learning rate
    assert "adapter.rank-" not in message


def test_a_sweep_needs_an_m(world: World, refusal: Refusal, ranks: list[str]) -> None:
    message = refusal("train", *ranks, *short_run(world))
    assert "sweep over adapter.rank" in message
    assert "train -m experiment=ranks" in message
    assert not Path("outputs").exists()


def test_what_is_impossible_is_named_of_every_point_before_a_weight_is_loaded(
    world: World, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_whisper.training.run.Run", None)
    given = [
        "adapter=eva,pissa,adalora",
        "adapter.rank=9,17",  # of layers of width 16
        "training.precision=fp16",
        "evaluation.group_by=[shoe_size]",
    ]
    message = " ".join(refusal("train", "-m", *short_run(world, *given)).split())
    for part in (
        "adapter=eva finds up to 8 directions in layers of width 16, but the rank is 9",
        "but the rank is 17. Type a smaller adapter.rank=…, or adapter=lora",
        "has 16 components, but the rank is 17",
        "cannot give out ranks in 1 steps",
        "shoe_size",
        "fp16 needs a GPU",
    ):
        assert part in message, part
    assert "16 components, but the rank is 9" not in message
    assert not Path("outputs").exists()


def test_layers_that_are_not_there_and_unknown_keys_are_refused(
    world: World, refusal: Refusal
) -> None:
    given = short_run(world, "adapter.layers=encoder.0-1,encoder.7-", "adapter.alpha=1,2")
    message = refusal("train", "-m", *given)
    assert message.count("the encoder has the layers 0 to 1") == 1
    for point in ("_adapter.alpha-1, ", "_adapter.alpha-2: "):  # that have it, and no others
        assert point in message
    assert "layers-encoder.0-1" not in message
    given = ["adapter.rnak=1", "sede=1", "adapter.rank=0,2"]
    message = refusal("train", "-m", *short_run(world, *given))
    assert message.count("adapter.rnak: there is no such key") == 1
    assert "every point" in message
    assert "adapter.rank-0: The configuration cannot be used" in message, "not hidden by the typo"
    assert "sede" in message
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["optimizer.learning_rate=interval(0,1)"], "does not support sweep type"),
        (["hydra/launcher=joblib", "adapter.rank=1,2"], "hydra.launcher.n_jobs=2"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0", "adapter.rank=1,2"], "found 0"),
    ],
)
def test_sweeps_that_cannot_be_launched_are_refused(
    world: World, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: str
) -> None:
    monkeypatch.setattr("lora_whisper.cli.workers.visible_gpus", lambda: ())
    monkeypatch.setattr("lora_whisper.cli.workers._require_package", lambda *_: None)
    assert expected in refusal("train", "-m", *short_run(world, *given))
    assert not Path("outputs").exists()


def test_a_launcher_without_its_package_says_what_to_install(
    world: World, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = short_run(world, "hydra/launcher=submitit_slurm", "adapter.rank=1,2")
    assert "pip install 'lora-whisper[submitit]'" in refusal("train", "-m", *given)
    assert not Path("outputs").exists()


@pytest.mark.parametrize("experiment", READY)
def test_ready_sweeps_have_their_points_on_any_speech(experiment: str) -> None:
    with hydra_over("train", None) as hydra:
        typed = [f"experiment=[quickstart,{experiment}]"]
        overrides = _with_params_of_files(hydra, "train", typed)
        assert len(_combinations(_parsed(hydra, "train", overrides))) == READY[experiment]


class Launcher:
    """Of a kind that loses all points of a batch when one of them is killed, as joblib does."""

    def __init__(self, killed: str):
        self.killed, self.launched = killed, list[int]()

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched.append(len(overrides))
        if any(self.killed in one for one in overrides):
            raise RuntimeError("A worker process was terminated")
        return [JobReturn() for _ in overrides]


def test_a_point_whose_process_is_killed_takes_no_other_along(tmp_path: Path) -> None:
    points = [
        PointPlan(tmp_path / name, (f"name={name}",), False, tmp_path) for name in ("a", "b", "c")
    ]
    launcher = Launcher(killed="name=b")
    task = _Point(train.COMMAND, Workers("joblib", 0, tmp_path, (), None))
    assert _launched(task, launcher, points) == [points[1]]  # type: ignore[arg-type]
    assert launcher.launched == [3, 1, 1, 1]
    failure = json.loads((tmp_path / "b" / "failure.json").read_text())
    assert failure["reason"] == "its process ended: A worker process was terminated"
    assert not (tmp_path / "a").exists()
