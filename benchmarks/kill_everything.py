"""Whether SIGKILL at any moment of any command leaves a run that is whole, and goes on.

    python -m benchmarks.kill_everything

`train`, `merge`, `merge` over an older one, `export`, `evaluate` and a sweep on the embedded model
and speech, 12 steps each, under 100 seeded SIGKILLs: half of them at any time, the others within a
tenth of a second after something in the folder has changed, where files are being written. What is
on the disk is looked at after each kill, and the same command is typed again, as its own messages
say. Required is, after each kill: every file can be read whole; the models that were there are
there; no score that is read from summary.json is of other weights than those beside it. And when
the command has come to its end: exit code 0, a summary whose scores are of one test set, hypotheses
as many as their score says, and nothing hidden left in any folder. Processes are forks of one that
has imported everything: a start costs nothing, and kills fall where something happens, but never
into an import. The first thing that is wrong ends it with an error, so that a result says that all
of this held. It goes to benchmarks/results/kill_everything.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CI": "true", "HF_HUB_OFFLINE": "1"}

from benchmarks.results import write_result
from lora_whisper.__main__ import carry_out
from lora_whisper.files import leftover_of, read_json
from lora_whisper.run_folder import RunFolder

SMALL = (
    "experiment=quickstart",
    "training.max_steps=12",
    "training.global_batch=4",
    "training.checkpoint_every_steps=2",
    "training.log_every_steps=1",
    "training.validate_every_steps=6",
    "adapter.rank=4",
    "evaluation.max_validation_utterances=4",
    "evaluation.max_utterances=8",
)
POLL_SECONDS = 0.002
AT_A_CHANGE = 0.5  # share of the kills
SOON_SECONDS = 0.1
CHANGES = 24  # of names in a folder, after so many of which such a kill falls at most
LASTED: dict[str, float] = {}  # seconds of the last life of each task that came to its end


@dataclass
class Task:
    """A command, what it is typed as after a kill, and the folder that it writes to."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    again: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()  # in the folder: must be there after every kill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORA_WHISPER_CACHE"] = str(Path(folder) / "cache")
        os.chdir(folder)
        figures = measured(options.kills, random.Random(options.seed))
    print(json.dumps(figures, indent=2))
    command = f"python -m benchmarks.kill_everything --kills {options.kills} --seed {options.seed}"
    print(f"written to {write_result('kill_everything', command, figures)}")


def measured(kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill each task in turn until all kills are spent; raise at the first thing that is wrong."""
    import_everything()
    run = Path("outputs/a")
    require_zero(("train", *SMALL, "name=a"))
    makers: list[Callable[[int], Task]] = [
        lambda n: Task("train", ("train", *SMALL, f"name=t{n}"), Path(f"outputs/t{n}"), RESUME),
        lambda n: Task("merge", ("merge", f"run={first_run(n)}"), Path(f"outputs/m{n}"), ()),
        lambda n: Task(
            "merge over a merge",
            ("merge", f"run={run}", f"scale={0.5 + n / 100}", "overwrite=true"),
            run,
            kept=("merged/model.safetensors", "merged/config.json"),
        ),
        lambda n: Task(
            "export",
            (
                "export",
                f"run={run}",
                "format=ctranslate2",
                "parity.utterances=4",
                *OVERWRITE[: n > 0],
            ),
            run,
            kept=("merged/model.safetensors",),
        ),
        lambda n: Task(
            "evaluate",
            (
                "evaluate",
                f"run={run}",
                "evaluation.cache=false",
                "evaluation.diagnostics=false",
                f"evaluation.beams={1 + n % 2}",
                "overwrite=true",
            ),
            run,
        ),
        lambda n: Task(
            "sweep",
            ("train", "-m", *SMALL, f"seed={n + 1},{n + 2}", f"name=s{n}"),
            Path(f"outputs/sweeps/s{n}"),
        ),
    ]
    require_zero(("merge", f"run={run}"))
    counts: dict[str, int] = {}
    lives: list[dict[str, Any]] = []
    number = 0
    while len(lives) < kills:
        for make in makers:
            task = make(number)
            share = max(1, kills // (4 * len(makers)))
            lives += killed(task, min(share, kills - len(lives)), chance)
            counts[task.name] = counts.get(task.name, 0) + 1
            print(f"{len(lives)} kills, {task.name} {number} came to its end", flush=True)
            if len(lives) >= kills:
                break
        number += 1
    return {
        "kills": len(lives),
        "commands_that_came_to_their_end": counts,
        "killed_in": dict(Counter(f"{one['task']}: {one['state']}" for one in lives)),
        "with_something_half_written_on_disk": sum(one["half"] for one in lives),
        "at_a_change": sum(one["at_a_change"] for one in lives),
    }


RESUME, OVERWRITE = ("resume=auto",), ("overwrite=true",)


def first_run(number: int) -> Path:
    """A run that was never merged: a copy of the trained one."""
    import shutil

    folder = Path(f"outputs/m{number}")
    if not folder.exists():
        shutil.copytree("outputs/a", folder)
        for name in ("merged", "export"):
            shutil.rmtree(folder / name, ignore_errors=True)
        summary = read_json(folder / "summary.json") | {"merged": None, "merge": None}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


# ── lives and deaths ─────────────────────────────────────────────────────────────────────────


def killed(task: Task, kills: int, chance: random.Random) -> list[dict[str, Any]]:
    """Kill the command so often at most, looking at the disk each time; then let it end."""
    lives: list[dict[str, Any]] = []
    arguments = task.arguments
    for _ in range(kills):
        pid, started = begin(arguments), time.monotonic()
        at_a_change = chance.random() < AT_A_CHANGE
        wait = chance.uniform(0, LASTED.get(task.name, 5.0))
        if at_a_change:
            changed = wait_for_change(pid, task.folder, chance.randrange(CHANGES))
            wait = chance.uniform(0, SOON_SECONDS) if changed else 0.0
        if ended(pid, wait) is not None:
            LASTED[task.name] = time.monotonic() - started
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        lives.append(
            {
                "task": task.name,
                "state": state_of(task),
                "half": bool(leftovers(Path("outputs"))),
                "at_a_change": at_a_change,
            }
        )
        require_whole(task)
        arguments = (*task.arguments, *task.again)
    else:
        started = time.monotonic()
        require_end(arguments)
        LASTED[task.name] = time.monotonic() - started
    require_finished(task)
    return lives


def import_everything() -> None:
    """What a command loads before it does anything."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import lora_whisper.cli.evaluate
    import lora_whisper.cli.export
    import lora_whisper.cli.merge
    import lora_whisper.cli.train
    import lora_whisper.training.loop
    import lora_whisper.training.recorder  # noqa: F401


def begin(arguments: Sequence[str]) -> int:
    """Type a command; return the process."""
    pid = os.fork()
    if pid:
        return pid

    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.setsid()
    code = 70
    try:
        code = carry_out(arguments[0], arguments[1:])
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code, if it ends within this time."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(POLL_SECONDS)


def require_zero(arguments: Sequence[str]) -> None:
    code = ended(begin(arguments), 600)
    if code != 0:
        said = Path("output.txt").read_text()
        raise RuntimeError(f"{shlex.join(arguments)}: exit code {code}\n{said}")


def require_end(arguments: Sequence[str]) -> None:
    """To its end; where it had come there already, it says so, and what to type."""
    code, said = ended(begin(arguments), 600), Path("output.txt").read_text()
    if code == 2 and "exists. Type overwrite=true" in said:
        require_zero((*arguments, "overwrite=true"))
    elif code != 0:
        raise RuntimeError(f"{shlex.join(arguments)}: exit code {code}\n{said}")


def wait_for_change(pid: int, folder: Path, count: int) -> bool:
    """Until names in the folder have changed so often; False: the process ends before."""
    before, seen = names(folder), 0
    while seen <= count:
        now = names(folder)
        seen += now != before
        before = now
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(POLL_SECONDS)
    return True


def names(folder: Path) -> set[str]:
    return {os.path.join(root, one) for root, _, files in os.walk(folder.parent) for one in files}


# ── what is on the disk ──────────────────────────────────────────────────────────────────────


def state_of(task: Task) -> str:
    """How far the command's folder is."""
    run = RunFolder(task.folder)
    if not run.is_run():
        return "not a run yet, or the points of a sweep"
    return "complete" if run.is_complete() else "unfinished"


def leftovers(folder: Path) -> list[Path]:
    return [one for one in folder.rglob(".*") if leftover_of(one) is not None]


def visible(folder: Path) -> list[Path]:
    """Files that a reader looks at: not below what a killed process left."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(leftover_of(one) for one in (path, *path.relative_to(folder).parents))
    ]


def require_whole(task: Task) -> None:
    """Every file can be read; models that were there are there; scores are of these weights."""
    from safetensors import safe_open

    for path in visible(Path("outputs")):
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                file.keys()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
    for name in task.kept:
        assert (task.folder / name).is_file(), f"{task.name}: {name} is gone"
    require_true_scores(task)


def require_true_scores(task: Task) -> None:
    """What the project reads of a run's summary is of the weights that lie there."""
    from lora_whisper.evaluation.run_summary import read_summary
    from lora_whisper.model.checkpoint import sha256

    for summary_file in Path("outputs").rglob("summary.json"):
        run = RunFolder(summary_file.parent)
        if leftover_of(run.path) or not run.is_complete():
            continue
        summary = read_summary(run)
        files = {
            "adapter": run.adapter / "adapter_model.safetensors",
            "merged": run.merged / "model.safetensors",
        }
        for model, file in files.items():
            if score := summary.scores[model]:
                kind = "adapter" if model == "adapter" else "checkpoint"
                assert score.of is not None
                assert score.of.weights[kind] == sha256(file), (task.name, model)


def require_finished(task: Task) -> None:
    """The end of a command: whole, true, of one test set, and nothing left behind."""
    require_whole(task)
    runs = [task.folder] if RunFolder(task.folder).is_run() else [*task.folder.glob("seed-*")]
    assert runs, task
    for path in runs:
        run = RunFolder(path)
        assert run.is_complete(), f"{task.name}: {path} is not complete"
        summary = read_json(run.summary)
        scores = [summary[model] for model in ("base", "adapter", "merged") if summary[model]]
        assert len(scores) >= 2, f"{task.name}: only {len(scores)} scores"
        sets = {json.dumps([one["of"][key] for key in ("rows", "texts")]) for one in scores}
        assert len(sets) == 1, f"{task.name}: scores of different sets"
        for folder in run.evaluation.glob("*/test"):
            score = read_json(folder / "score.json")
            lines = (folder / "hypotheses.jsonl").read_text().splitlines()
            assert len(lines) == score["utterances"], folder
    left = leftovers(Path("outputs"))
    assert not left, f"{task.name}: {left}"
    locks = [*Path("outputs").rglob(".*.lock")]
    assert not locks, f"{task.name}: {locks}"


if __name__ == "__main__":
    main()
