"""Whether a run that is killed again and again ends in the adapter of one that is left alone.

    python -m benchmarks.kill_and_resume

`lora-whisper train` on the embedded model and speech, with two loader workers, dropout, validations
and a checkpoint each step, so that one is being written at most moments. First to its end, then
again under SIGKILL at 20 random moments: one in four at any time before the first step, the others
after it, so long after that on average a like share of the steps is done in each life; the next one
is started with resume=auto the moment after. Where each kill fell is counted. A run that completes
before all kills are spent is compared, and another one is begun. Results go to
benchmarks/results/kill_and_resume.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.commands import last_step, polls, require_success, training
from benchmarks.results import write_result
from lora_whisper.run_folder import RunFolder, step_of

STEPS = 120
EARLY_SHARE = 0.25  # of the kills: before the first step of a life
SETTINGS = (
    "experiment=quickstart",
    f"training.max_steps={STEPS}",
    "training.global_batch=4",
    "training.checkpoint_every_steps=1",
    "training.log_every_steps=1",
    "training.validate_every_steps=10",
    "training.loader_workers=2",
    "adapter.dropout=0.1",
    "evaluation.max_validation_utterances=8",
    "evaluation.max_utterances=8",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1000))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), options.kills, random.Random(options.seed))
    print(json.dumps(figures, indent=2))
    command = f"python -m benchmarks.kill_and_resume --kills {options.kills} --seed {options.seed}"
    print(f"written to {write_result('kill_and_resume', command, figures)}")


def measured(folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Run once to the end, then under `kills` kills; compare each adapter with the first."""
    expected, start_seconds, train_seconds = left_alone(folder)
    longest = 2 * train_seconds / (kills * (1 - EARLY_SHARE) + 1)
    moments: list[dict[str, Any]] = []
    identical, completed = [], 0
    while len(moments) < kills or completed == 0:
        run = RunFolder(folder / "outputs" / f"killed-{completed}")
        for moment in lives(folder, run, kills - len(moments), start_seconds, longest, chance):
            moments.append(moment)
            print(f"kill {len(moments)}: {moment}", flush=True)
        identical.append(adapter_of(run) == expected)
        completed += 1
    return {
        "kills": len(moments),
        "completed_runs": completed,
        "bit_identical": all(identical),
        "killed_in": dict(Counter(moment["in"] for moment in moments)),
        "with_half_a_checkpoint_on_disk": sum(moment["half"] for moment in moments),
        "steps_of_the_run": STEPS,
        "moments": moments,
    }


def left_alone(folder: Path) -> tuple[bytes, float, float]:
    """The adapter, and the seconds before and from the first step."""
    run = RunFolder(folder / "outputs" / "through")
    started, first = time.monotonic(), math.inf
    with training(folder, *SETTINGS, "name=through") as process:
        for _ in polls(process):
            if first == math.inf and last_step(run.metrics):
                first = time.monotonic()
        require_success(process, folder)
    return adapter_of(run), first - started, time.monotonic() - first


def lives(
    folder: Path,
    run: RunFolder,
    kills: int,
    start_seconds: float,
    longest: float,
    chance: random.Random,
) -> Iterator[dict[str, Any]]:
    """Kill the run so often at most, and let it then come to its end; where each kill fell."""
    settings = (*SETTINGS, f"name={run.path.name}", "resume=auto")
    for _ in range(kills):
        before = steps_done(run)
        with training(folder, *settings) as process:
            if chance.random() < EARLY_SHARE:
                seconds = chance.uniform(0, start_seconds)
            else:
                wait_for_step(process, run, before + 1)
                seconds = chance.uniform(0, longest)
            try:
                process.wait(seconds)
                break  # it came to its end by itself
            except psutil.TimeoutExpired:
                process.kill()  # and its loader workers are orphans from here on
                process.wait()
        yield where(run, before)
    if not run.is_complete():
        with training(folder, *settings) as process:
            require_success(process, folder)


def wait_for_step(process: psutil.Popen, run: RunFolder, step: int) -> None:
    """Until the checkpoint of `step` is there, or the process has ended."""
    for _ in polls(process):
        if steps_done(run) >= step:
            return


def where(run: RunFolder, before: int) -> dict[str, Any]:
    """What a kill has left behind of a life that began after `before` steps."""
    half = list(run.checkpoints.glob(".*"))
    return {"in": part_of(run, before), "step": steps_done(run), "half": bool(half)}


def part_of(run: RunFolder, before: int) -> str:
    """The part of a run that was being carried out, by what there is of it."""
    step = steps_done(run)
    if step == before < STEPS:
        return "loading, or scoring the base"
    return "training" if step < STEPS else "scoring the adapter"


def steps_done(run: RunFolder) -> int:
    last = run.last_checkpoint()
    return step_of(last) if last else 0


def adapter_of(run: RunFolder) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


if __name__ == "__main__":
    main()
