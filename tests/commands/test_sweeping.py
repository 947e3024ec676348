"""Sweeps: what is refused, what is run, what a failed point leaves, and the table at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn

from lora_whisper.commands import train
from lora_whisper.commands._composition import hydra_over
from lora_whisper.commands._sweeping import (
    PointPlan,
    _combinations,
    _launched,
    _parsed,
    _Point,
    _with_params_of_files,
)
from lora_whisper.commands._workers import Workers
from tests.commands.conftest import Line, World

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


def test_a_failed_point_says_why_and_the_same_command_goes_on(
    world: World,
    line: Line,
    ranks: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[int] = []
    real = train.Run.__init__

    def fail_at_rank_2(run: train.Run, config: train.TrainConfig, folder: train.RunFolder) -> None:
        begun.append(config.adapter.rank)
        if config.adapter.rank == 2:
            raise RuntimeError("out of luck")
        real(run, config, folder)

    monkeypatch.setattr(train.Run, "__init__", fail_at_rank_2)
    command = ["-m", *ranks, *short_run(world)]
    assert line("train", *command) == 1
    sweep = Path("outputs/sweeps/s")
    failure = sweep / "adapter.rank-2" / "failure.json"
    assert json.loads(failure.read_text()) == {"reason": "RuntimeError: out of luck"}
    assert (sweep / "adapter.rank-3" / "summary.json").is_file()
    shown = capsys.readouterr().out
    assert "failed: adapter.rank-2: RuntimeError: out of luck" in shown
    assert shown.count("base: WER 100.0 %") == 1

    monkeypatch.setattr(
        train.Run,
        "__init__",
        lambda run, *more: begun.append(more[0].adapter.rank) or real(run, *more),
    )
    assert line("train", *command) == 0
    assert begun == [2, 3, 2]
    assert not failure.exists()
    assert "finished    1 of 2 points" in capsys.readouterr().out

    script = (
        "import sys; from lora_whisper.commands.train import main\n"
        f"print(main({command!r}), 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert "2 of 2 points" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "0 False", "nothing heavy is loaded"


def test_what_is_typed_goes_before_what_an_experiment_sweeps(
    world: World, line: Line, ranks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = short_run(world, "adapter.rank=0", "optimizer.learning_rate=1e-3,0")
    assert line("train", "-m", *ranks, *given) == 2
    message = capsys.readouterr().err
    assert message.count("adapter.rank: expected 1 or more, found 0") == 2  # by learning rate
    assert "adapter.rank-" not in message


def test_a_sweep_needs_an_m(
    world: World, line: Line, ranks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("train", *ranks, *short_run(world)) == 2
    message = capsys.readouterr().err
    assert "sweep over adapter.rank" in message
    assert "train -m experiment=ranks" in message
    assert not Path("outputs").exists()


def test_what_is_impossible_is_named_of_every_point_before_a_weight_is_loaded(
    world: World,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train, "Run", None)
    given = [
        "adapter=eva,pissa,adalora",
        "adapter.rank=9,17",  # of layers of width 16
        "training.precision=fp16",
        "evaluation.group_by=[shoe_size]",
    ]
    assert line("train", "-m", *short_run(world, *given)) == 2
    message = " ".join(capsys.readouterr().err.split())
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
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    given = short_run(world, "adapter.encoder_layers=0-1,7-", "adapter.alpha=1,2")
    assert line("train", "-m", *given) == 2
    message = capsys.readouterr().err
    assert message.count("the encoder has the layers 0 to 1") == 1
    for point in ("_adapter.alpha-1, ", "_adapter.alpha-2: "):  # that have it, and no others
        assert point in message
    assert "layers-0-1" not in message
    assert line("train", "-m", *short_run(world, "adapter.rnak=1,2", "sede=1")) == 2
    message = capsys.readouterr().err
    assert message.count("adapter.rnak: there is no such key") == 1
    assert "every point" in message
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
    world: World,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr("lora_whisper.commands._workers.visible_gpus", lambda: ())
    monkeypatch.setattr("lora_whisper.commands._workers._require_package", lambda *_: None)
    assert line("train", "-m", *short_run(world, *given)) == 2
    assert expected in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_a_launcher_without_its_package_says_what_to_install(
    world: World,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = short_run(world, "hydra/launcher=submitit_slurm", "adapter.rank=1,2")
    assert line("train", "-m", *given) == 2
    assert "pip install 'lora-whisper[submitit]'" in capsys.readouterr().err
    assert not Path("outputs").exists()


@pytest.mark.parametrize("experiment", READY)
def test_ready_sweeps_have_their_points_on_any_speech(experiment: str) -> None:
    with hydra_over("train", None) as hydra:
        typed = [f"experiment=[quickstart,{experiment}]"]
        overrides = _with_params_of_files(hydra, "train", typed)
        assert len(_combinations(_parsed(hydra, overrides))) == READY[experiment]


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
    points = [PointPlan(tmp_path / name, (f"name={name}",), False) for name in ("a", "b", "c")]
    launcher = Launcher(killed="name=b")
    task = _Point(train.COMMAND, Workers("joblib", 0, tmp_path, (), None))
    assert _launched(task, launcher, points) == [points[1]]  # type: ignore[arg-type]
    assert launcher.launched == [3, 1, 1, 1]
    failure = json.loads((tmp_path / "b" / "failure.json").read_text())
    assert failure["reason"] == "its process ended: A worker process was terminated"
    assert not (tmp_path / "a").exists()
