"""How long until a run is as good as the usual recipe is after its three epochs.

    python -m benchmarks.time_to_wer MODEL TRAIN VALIDATION --language sw data.windows=trimmed

`benchmarks.reference_recipe` trains for three epochs, and its merged model is scored on VALIDATION.
`lora-whisper train` then trains on the same clips with its own defaults and what is typed behind,
and is validated every few steps; the first validation whose WER is no higher ends the count. Both
are scored by this project, in whole windows, greedily. Counted is the time of training alone, from
the first step, without validations, features that are made beforehand and what it takes to begin;
these stand beside it. The recipe reads WAV, into which the clips of up to 30 s of TRAIN are
written. Results go to benchmarks/results/time_to_wer.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lora_whisper as lw
from benchmarks.results import write_result
from benchmarks.throughput import read_recordings, write_clips
from lora_whisper.files import read_jsonl

EVERYTHING = 1_000_000  # clips that are written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--steps", type=int, default=-1, help="of the recipe; -1: three epochs")
    parser.add_argument("--validate-every-steps", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    given.model, given.validation = os.path.abspath(given.model), given.validation.resolve()
    recordings = list(read_recordings(given.train))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        clips = write_clips(recordings, "real", Path(folder) / "clips", EVERYTHING)
        recipe = trained_recipe(given, clips)
        ours = trained(given, clips)
    figures = {"recipe": recipe, "ours": ours} | reached(recipe, ours["validations"])
    print(json.dumps(figures, indent=2))
    names = [Path(name).name for name in (given.model, str(given.train), str(given.validation))]
    command = " ".join(["python -m benchmarks.time_to_wer", *names, *sys.argv[4:]])
    print(f"written to {write_result('time_to_wer', command, figures)}")


def trained_recipe(given: argparse.Namespace, clips: Path) -> dict[str, Any]:
    """What the recipe printed, and the WER of its merged model."""
    command = [
        *(sys.executable, "-m", "benchmarks.reference_recipe", given.model, str(clips)),
        *("--language", given.language, "--steps", str(given.steps), "--merged", "recipe"),
    ]
    checkout = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": checkout}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    results = lw.evaluate(
        models=["recipe"],
        sets=[str(given.validation)],
        data={"language": given.language},
        name="recipe-scored",
    )
    ((_, scores),) = results.scores.items()
    (score,) = scores.values()
    assert score is not None
    return json.loads(done.stdout.splitlines()[-1]) | {"wer": score.wer}


def trained(given: argparse.Namespace, clips: Path) -> dict[str, Any]:
    """Its validations, each with the seconds of training up to it."""
    typed = [
        *("name=ours", f"model={given.model}", f"data.train={clips}"),
        *(f"data.validation={given.validation}", f"data.language={given.language}"),
        f"training.validate_every_steps={given.validate_every_steps}",
        *given.overrides,
    ]
    subprocess.run(
        [sys.executable, "-m", "lora_whisper", "train", *typed],
        env=os.environ | {"CI": "true"},
        check=True,
    )
    lines = read_jsonl(Path("outputs/ours/metrics.jsonl"))
    return {"validations": timed_validations(lines), "steps": lines[-1]["step"]}


def timed_validations(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """`train_seconds` of a line count the validations before it, which are taken off."""
    found, seconds, validating = list[dict[str, float]](), 0.0, 0.0
    for line in lines:
        if "validation_wer" in line:
            wer, step = line["validation_wer"], line["step"]
            found.append({"step": step, "train_seconds": seconds - validating, "wer": wer})
            validating += line["validation_seconds"]
        else:
            seconds = line["train_seconds"]
    return found


def reached(recipe: dict[str, Any], validations: list[dict[str, float]]) -> dict[str, Any]:
    """The first validation that is no worse; None where there is none."""
    first = next((one for one in validations if one["wer"] <= recipe["wer"]), None)
    share = None if first is None else round(first["train_seconds"] / recipe["train_seconds"], 3)
    return {"as_good_at": first, "share_of_the_recipes_time": share}


if __name__ == "__main__":
    main()
