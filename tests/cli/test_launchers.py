"""Sweeps whose points run in other processes: joblib's, submitit's, and SLURM's by a stand-in."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import time
from pathlib import Path

import pytest

from lora_whisper.cli.workers import Workers
from lora_whisper.evaluation.decoding.cache import (
    decoded_by_one,
    read_transcriptions,
    write_transcriptions,
)
from lora_whisper.evaluation.decoding.transcribe import Transcriptions
from tests.cli.conftest import World
from tests.cli.light_command import light, real
from tests.cli.test_sweeping import short_run

SWEEP = Path("outputs/sweeps/s")
SLURM = {  # programs that do what a scheduler does, in the background
    "sbatch": """cp "$1" submitted.sh
export SLURM_JOB_ID=7 SLURM_ARRAY_JOB_ID=7 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=here
(for task in 0 1; do SLURM_ARRAY_TASK_ID=$task bash "$1"; done) >slurm.txt 2>&1 &
echo Submitted batch job 7""",
    "srun": """while [ "${1#-}" != "$1" ]; do case "$1" in
  --output|--error) shift 2;; *) shift;; esac; done
exec "$@" """,
    "sacct": "echo 'JobID|State|NodeList'; for n in 0 1; do echo \"7_$n|RUNNING|here\"; done",
    "scancel": "true",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, from which workers find the tests' own modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")  # names are passed on as they are
    return tmp_path


SEEDS = ["-m", "name=s", "data.train=a.jsonl", "seed=1,2"]


def require_seeds() -> list[dict[str, str | int]]:
    """See that seed 1 ran and seed 2 failed, each in a process of its own; return what they saw."""
    failure = json.loads((SWEEP / "seed-2" / "failure.json").read_text())
    assert failure["reason"] == "seed 2 is unlucky"
    assert not (SWEEP / "seed-1" / "failure.json").exists()
    seen = [json.loads((SWEEP / f"seed-{seed}.json").read_text()) for seed in (1, 2)]
    assert len({os.getpid(), *(one["process"] for one in seen)}) == 3
    return seen


@pytest.mark.slow
def test_joblib_gives_each_worker_a_gpu_and_notes_what_failed(
    world: World, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    given = short_run(
        world, "hydra/launcher=joblib", "seed=1,2", "adapter.rank=1", "data.test=null"
    )
    assert real("-m", *given) == 1
    assert sorted(str(one["gpu"]) for one in require_seeds()) == ["4", "5"]
    assert (SWEEP / "seed-1" / "summary.json").is_file()
    shown = capfd.readouterr()
    gpus = re.findall(r"begins \(process \d+, GPU (\d)\)", shown.err)
    assert sorted(gpus) == ["4", "5"]
    assert "failed: seed-2: seed 2 is unlucky" in shown.out
    assert "first batch" not in shown.out, "workers leave the terminal to the table"


def test_submitit_runs_points_as_processes_of_this_machine(here: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    assert light(*SEEDS, "hydra/launcher=submitit_local") == 1
    assert {str(one["gpu"]) for one in require_seeds()} <= {"4", "5"}
    assert list(SWEEP.glob(".submitit/*/*_log.out")), "what each printed is kept"


def test_slurm_is_asked_for_what_the_configuration_says(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    programs = here / "bin"
    programs.mkdir()
    for name, script in SLURM.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    given = ["submitit_slurm", "partition=gpu", "timeout_min=90"]
    launcher = [f"hydra/launcher={given[0]}", *(f"hydra.launcher.{one}" for one in given[1:])]
    assert light(*SEEDS, *launcher) == 1
    assert {str(one["gpu"]) for one in require_seeds()} == {"4,5"}, "SLURM's business"
    asked = (here / "submitted.sh").read_text()
    for setting in ("partition=gpu", "time=90", "gpus-per-node=1", "cpus-per-task=8", "mem=32GB"):
        assert f"#SBATCH --{setting}" in asked
    assert "#SBATCH --array=0-1%" in asked


def test_a_gpu_is_free_again_when_its_worker_has_ended(tmp_path: Path) -> None:
    workers = Workers("joblib", os.getpid(), tmp_path, ("0", "1"), None)
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        claimed, is_over = context.Queue(), context.Event()
        processes = [
            context.Process(target=_claim, args=(workers, claimed.put, is_over.wait))
            for _ in range(2)
        ]
        for process in processes:
            process.start()
        assert sorted(claimed.get(timeout=30) for _ in processes) == ["0", "1"]
        is_over.set()
        for process in processes:
            process.join()


def _claim(workers: Workers, say, wait) -> None:  # type: ignore[no-untyped-def]
    with workers.at_work("point"):
        say(os.environ["CUDA_VISIBLE_DEVICES"])
        wait()


def test_what_two_processes_want_decoded_is_decoded_by_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "decoded"
    processes = [context.Process(target=_decode, args=(log,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "decoded\n"


def _decode(log: Path) -> None:
    with decoded_by_one("key"):
        if read_transcriptions("key") is not None:
            return
        with log.open("a") as file:
            file.write("decoded\n")
        time.sleep(0.5)
        write_transcriptions("key", Transcriptions((), (), (), (), 0.0))


def test_whoever_decodes_next_does_it_when_the_first_one_was_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    is_held = context.Event()
    process = context.Process(target=_hold, args=(is_held.set,))
    process.start()
    assert is_held.wait(30)
    process.kill()
    process.join()
    _decode(tmp_path / "decoded")
    assert (tmp_path / "decoded").exists()


def _hold(say) -> None:  # type: ignore[no-untyped-def]
    with decoded_by_one("key"):
        say()
        time.sleep(60)
