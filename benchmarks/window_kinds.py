"""What each kind of training windows gives, scored in whole windows as everybody uses them.

    python -m benchmarks.window_kinds MODEL TRAIN TEST --language sw --folder runs \\
        --kinds padded packed trimmed mixed --seeds 0 1 2 -- training.max_epochs=2

Trains a run for each kind and seed with the settings behind `--`, then scores them all beside the
base: WER and CER on TEST, on recordings of a minute or two joined from it, and what is written
where nobody speaks. `mixed` is trimmed windows with a part of the speech packed once more. An epoch
of packed windows has few steps, so `--packed-batch` gives them less. `--as-long-as padded` trains
each kind again, for so many steps as take the processor what those of `padded` took. Times are the
processor's, so that other work on the machine hardly counts. What is in the folder is not computed
again. Results go to benchmarks/results/window_kinds.json, or to --result NAME.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import lora_whisper as lw
from benchmarks.results import write_result
from lora_whisper.data.audio import read_sound
from lora_whisper.evaluation.results import EvaluationResults
from lora_whisper.files import read_json, read_jsonl, write_json
from lora_whisper.model.published import SAMPLING_RATE

KINDS = {
    "padded": ["data.windows=padded"],
    "packed": ["data.windows=packed"],
    "trimmed": ["data.windows=trimmed", "data.trimmed.packed_share=0"],
    "mixed": ["data.windows=trimmed"],
}
BATCHES = ("global_batch", "micro_batch")
LONG_SECONDS = 90.0
PAUSE_SECONDS = 0.5
LONG_RECORDINGS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--packed-batch", type=int, help="windows in a step of packed ones, which are fewer"
    )
    parser.add_argument("--as-long-as", choices=KINDS)
    parser.add_argument("--result", default="window_kinds")
    typed, _, given_settings = " ".join(sys.argv[1:]).partition(" -- ")
    given = parser.parse_args(typed.split())
    given.overrides = given_settings.split()
    for name in ("model", "train", "test", "folder"):
        setattr(given, name, Path(given.__dict__[name]).absolute())
    given.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(given.folder)
    long = joined(given.test, given.folder / "long")
    names = []
    for seed in given.seeds:
        for kind in given.kinds:
            names.append(trained(given, kind, seed, f"{kind}-{seed}"))
            if given.as_long_as and kind != given.as_long_as:
                steps = equal_steps(kind, given.as_long_as, seed)
                more = [f"training.max_steps={steps}"]
                names.append(trained(given, kind, seed, f"{kind}-{seed}-long", more))
    rows = [scored(given, name, long) for name in names]
    print(table(rows))
    names = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    command = " ".join(["python -m benchmarks.window_kinds", *names])
    print(f"written to {write_result(given.result, command, {'runs': rows})}")


def trained(
    given: argparse.Namespace, kind: str, seed: int, name: str, more: list[str] | None = None
) -> str:
    """Train a run, unless it is there; beside it stands what it took the processor."""
    cost = given.folder / f"{name}.json"
    if not cost.exists():
        before = processor_seconds()
        command = [
            *(sys.executable, "-m", "lora_whisper", "train", f"name={name}", f"seed={seed}"),
            *(f"model={given.model}", f"data.train={given.train}"),
            *(f"data.language={given.language}", "data.validation_share=0", "data.test_share=0"),
            *("overwrite=true", *KINDS[kind], *given.overrides, *(more or [])),
        ]
        if kind == "packed" and given.packed_batch:
            command += [f"training.{key}={given.packed_batch}" for key in BATCHES]
        subprocess.run(command, check=True, env=os.environ | {"CI": "true"})
        write_json(cost, {"processor_seconds": round(processor_seconds() - before, 1)})
    return name


def equal_steps(kind: str, other: str, seed: int) -> int:
    """How many steps of a kind take what the other kind took, the start of both left out."""
    steps = summary(f"{kind}-{seed}")["steps"]
    own, theirs = (
        summary(f"{each}-{seed}")["train_seconds"] / summary(f"{each}-{seed}")["steps"]
        for each in (kind, other)
    )
    return max(steps, round(steps * theirs / own))


def scored(given: argparse.Namespace, name: str, long: Path) -> dict[str, Any]:
    """A run on the test set, on long recordings and without speech, and the base beside it.

    What was decoded of the base for one run is there for the next.
    """
    results = lw.evaluate(
        models=["base", f"outputs/{name}"],
        base=str(given.model),
        data={"language": given.language, "test": str(given.test)},
        sets=[str(long)],
        name=f"scored-{name}",
        overwrite=True,
        evaluation={"players": False},
    )
    found, (short, joint) = summary(name), [s.name for s in results.sets if s.role == "test"]
    base, adapted = results.scores[short]
    return {
        "run": name,
        **{f"base_{key}": value for key, value in figures(results, base, short, joint).items()},
        **figures(results, adapted, short, joint),
        "steps": found["steps"],
        "speech_seconds": round(found["train_audio_seconds_seen"], 1),
        "train_seconds": found["train_seconds"],
        "processor_seconds": read_json(Path(f"{name}.json"))["processor_seconds"],
        "memory_gigabytes": round(found["resident_memory_bytes"] / 1e9, 2),
    }


def figures(results: EvaluationResults, model: str, short: str, joint: str) -> dict[str, Any]:
    """In per cent; of sound without speech, in how many clips of all something was written."""
    one, long = results.scores[short][model], results.scores[joint][model]
    assert one is not None
    assert long is not None
    silent = results.probes[model].values()
    return {
        "wer": round(100 * one.wer, 2),
        "wer_ci95": [round(100 * end, 1) for end in one.wer_ci95],
        "cer": round(100 * one.cer, 2),
        "insertions": one.insertions,
        "long_wer": round(100 * long.wer, 2),
        "long_insertions": long.insertions,
        "invented": sum(each.with_text for each in silent),
        "without_speech": sum(each.clips for each in silent),
    }


def joined(manifest: Path, folder: Path) -> Path:
    """Recordings of about LONG_SECONDS from utterances in a row, and their manifest."""
    folder.mkdir(exist_ok=True)
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLING_RATE), np.float32)
    rows, sounds, texts = list[dict[str, str]](), list[np.ndarray](), list[str]()
    for row in read_jsonl(manifest):
        if row.get("split", "test") != "test":
            continue
        audio = row.get("audio") or row["file_name"]
        sounds += [read_sound(manifest.parent / audio).samples, pause]
        texts.append(row.get("text") or row["transcription"])
        if sum(map(len, sounds)) >= LONG_SECONDS * SAMPLING_RATE:
            name = f"{len(rows)}.wav"
            soundfile.write(folder / name, np.concatenate(sounds), SAMPLING_RATE)
            rows.append({"audio": name, "text": " ".join(texts)})
            sounds, texts = [], []
        if len(rows) == LONG_RECORDINGS:
            break
    path = folder / "long.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over the seeds, and the lowest and highest WER."""
    base = rows[0]
    lines = [
        "| windows | WER | CER | long WER | text without speech | steps | processor | memory |",
        "|---|---|---|---|---|---|---|---|",
        f"| (base) | {base['base_wer']:.1f} % | {base['base_cer']:.1f} % | "
        f"{base['base_long_wer']:.1f} % | {base['base_invented']} of "
        f"{base['base_without_speech']} | | | |",
    ]
    for kind in dict.fromkeys(kind_of(row) for row in rows):
        runs = [row for row in rows if kind_of(row) == kind]
        mean = {key: statistics.fmean(run[key] for run in runs) for key in MEANS}
        spread = f"{min(run['wer'] for run in runs):.1f} – {max(run['wer'] for run in runs):.1f}"
        lines.append(
            f"| {kind} | {mean['wer']:.1f} % ({spread}) | {mean['cer']:.1f} % | "
            f"{mean['long_wer']:.1f} % | {mean['invented']:.1f} of {runs[0]['without_speech']} | "
            f"{mean['steps']:.0f} | {mean['processor_seconds']:.0f} s | "
            f"{mean['memory_gigabytes']:.1f} GB |"
        )
    return "\n".join(lines)


MEANS = ("wer", "cer", "long_wer", "invented", "steps", "processor_seconds", "memory_gigabytes")


def kind_of(row: dict[str, Any]) -> str:
    """`mixed` of the run mixed-0, and `mixed, as long` of mixed-0-long."""
    name = row["run"].removesuffix("-long")
    kind = name.rpartition("-")[0]
    return kind if name == row["run"] else f"{kind}, as long"


def summary(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"outputs/{name}/summary.json").read_text())
    return found


def processor_seconds() -> float:
    """Of the processes that have ended."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


if __name__ == "__main__":
    main()
