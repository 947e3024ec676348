"""How much speech a training run goes through in a second, beside the usual recipe.

    python -m benchmarks.throughput MODEL MANIFEST --language sw --clip-seconds 2 5 10 20 30

Clips of each length are cut from the recordings of MANIFEST, or joined from them, and written as
WAV; `real` takes them as they are. `benchmarks.reference_recipe` and `lora-whisper train` then take
turns (A B A B), a process each, on the same model, data, adapter (rank 32 on query and value
projections), global batch and precision; with `--defaults`, each also with its own settings. Said
is the speech a second, padding not counted; the ratio of each pair; and the peak memory. Further
arguments go to `train` as they are: `data.windows=trimmed`. On a quiet machine the seconds are
those from the first step to the last, the first of which warms up. With `--processor-time` they
are the processor's, on one thread, so that other work on the machine does not count: what a run of
twice the steps takes more than one of `--steps`, the start of both left out. Results go to
benchmarks/results/throughput.json, or to --result NAME.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.results import write_result
from lora_whisper.data.audio import read_sound
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.run_folder import RunFolder

CLIPS = 64  # of each length; an epoch of a short run
SAME = (
    "adapter.rank=32",
    "adapter.alpha=64",
    "adapter.dropout=0.05",
    "adapter.targets=attention-qv",
    "optimizer.learning_rate=1e-3",
)
UNSCORED = ("data.validation_share=0", "data.test_share=0", "overwrite=true")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--clip-seconds", nargs="+", default=["2", "5", "10", "20", "30"])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument(
        "--times-the-steps", type=int, default=1, help="that ours does, where its steps are short"
    )
    parser.add_argument("--global-batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--clips", type=int, default=CLIPS, help="of each length")
    parser.add_argument(
        "--defaults", action="store_true", help="and once more as each is by itself"
    )
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--result", default="throughput")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    if given.processor_time:
        os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        recordings = list(read_recordings(given.manifest))
        for length in given.clip_seconds:
            manifest = write_clips(recordings, length, Path(folder) / length, given.clips)
            for settings in ("same", "own")[: 1 + given.defaults]:
                rows.append(compared(given, length, manifest, settings))
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    named = Path(given.model).name, given.manifest.name
    command = " ".join(["python -m benchmarks.throughput", *named, *sys.argv[3:]])
    print(f"written to {write_result(given.result, command, {'rows': rows})}")


def compared(
    given: argparse.Namespace, length: str, manifest: Path, settings: str
) -> dict[str, Any]:
    """Both sides in turn, and what one is to the other."""
    side = by_processor if given.processor_time else by_clock
    pairs = [
        tuple(side(carry_out, given, manifest, settings) for carry_out in (recipe, ours))
        for _ in range(given.pairs)
    ]
    speeds = [[each["speech_seconds"] / each["train_seconds"] for each in pair] for pair in pairs]
    ratios = [own / theirs for theirs, own in speeds]
    memory = [max(each["peak_memory_bytes"] for each in side) for side in zip(*pairs, strict=True)]
    return {
        "clip_seconds": length,
        "settings": settings,
        "recipe_speech_seconds_per_second": [round(theirs, 3) for theirs, _ in speeds],
        "ours_speech_seconds_per_second": [round(own, 3) for _, own in speeds],
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "recipe_peak_memory_gigabytes": round(memory[0] / 1e9, 2),
        "ours_peak_memory_gigabytes": round(memory[1] / 1e9, 2),
        "losses": [[each["loss"] for each in pair] for pair in pairs],
    }


# ── the two sides ────────────────────────────────────────────────────────────────────────────

Side = Callable[[argparse.Namespace, Path, str, int], dict[str, Any]]  # of so many steps


def by_clock(
    side: Side, given: argparse.Namespace, manifest: Path, settings: str
) -> dict[str, Any]:
    return side(given, manifest, settings, given.steps)


def by_processor(
    side: Side, given: argparse.Namespace, manifest: Path, settings: str
) -> dict[str, Any]:
    """What the second half of a run takes of the processor, all processes of it together."""
    if any(override.startswith("adapter.layers=") for override in given.overrides):
        side(given, manifest, settings, given.steps)  # a frozen encoder's work is kept
    spent, runs = [processor_seconds()], []
    for steps in (given.steps, 2 * given.steps):
        runs.append(side(given, manifest, settings, steps))
        spent.append(processor_seconds())
    short, long = spent[1] - spent[0], spent[2] - spent[1]
    speech = runs[1]["speech_seconds"] - runs[0]["speech_seconds"]
    return runs[1] | {"speech_seconds": speech, "train_seconds": long - short}


def processor_seconds() -> float:
    """Of the processes that have ended."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


def recipe(given: argparse.Namespace, manifest: Path, settings: str, steps: int) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "benchmarks.reference_recipe", given.model, str(manifest)),
        *("--language", given.language, "--steps", str(steps)),
        *("--precision", given.precision),
    ]
    if settings == "same":
        command += ["--global-batch", str(given.global_batch)]
        command += ["--micro-batch", str(given.micro_batch)]
    lines = run(command).splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def ours(given: argparse.Namespace, manifest: Path, settings: str, steps: int) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "lora_whisper", "train", "name=throughput"),
        *(f"model={given.model}", f"data.path={manifest}", f"data.language={given.language}"),
        *(
            f"training.max_steps={given.times_the_steps * steps}",
            f"training.precision={given.precision}",
            *UNSCORED,
        ),
    ]
    if settings == "same":
        command += [*SAME, f"training.global_batch={given.global_batch}"]
        command += [f"training.micro_batch={given.micro_batch}"]
    run([*command, *given.overrides], manifest.parent)
    folder = RunFolder(manifest.parent / "outputs" / "throughput")
    summary = json.loads(folder.summary.read_text())
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    begun, last = {"audio_seconds": 0.0, "train_seconds": 0.0}, lines[-1]
    if not given.processor_time and len(lines) > 1:
        begun = lines[0]  # when the loader's processes, which the recipe has not, have begun
    memory = summary.get("gpu_memory_bytes", summary["resident_memory_bytes"])
    return {
        "speech_seconds": last["audio_seconds"] - begun["audio_seconds"],
        "train_seconds": last["train_seconds"] - begun["train_seconds"],
        "peak_memory_bytes": memory,
        "loss": last["loss_per_token"],
    }


def run(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"CI": "true"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


# ── clips of a length ────────────────────────────────────────────────────────────────────────


def read_recordings(manifest: Path) -> Iterator[tuple[np.ndarray, str]]:
    """Training recordings of a manifest, 16 kHz, with their texts."""
    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        if row.get("split", "train") == "train":
            audio = row.get("audio") or row["file_name"]
            text = row.get("text") or row["transcription"]
            yield read_sound(manifest.parent / audio).samples, text


def write_clips(
    recordings: list[tuple[np.ndarray, str]], length: str, folder: Path, most: int = CLIPS
) -> Path:
    """WAV files and their manifest; a part of a recording has so much of its words.

    Args:
        length: seconds of each clip; "real": as they are, up to 30 s.
    """
    folder.mkdir(parents=True)
    seconds = None if length == "real" else float(length)
    rows = []
    for samples, text in clips_of(recordings, seconds):
        path = folder / f"{len(rows):03d}.wav"
        soundfile.write(path, samples, SAMPLING_RATE)
        rows.append({"audio": str(path), "text": text})
        if len(rows) == most:
            break
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return manifest


def clips_of(
    recordings: list[tuple[np.ndarray, str]], seconds: float | None
) -> Iterator[tuple[np.ndarray, str]]:
    if seconds is None:
        yield from (each for each in recordings if len(each[0]) <= 30 * SAMPLING_RATE)
        return
    wanted = round(seconds * SAMPLING_RATE)
    sound, words = np.zeros(0, np.float32), list[str]()
    for samples, text in recordings:
        sound, words = np.concatenate([sound, samples]), words + text.split()
        while len(sound) >= wanted:
            taken = max(1, round(len(words) * wanted / len(sound)))
            yield sound[:wanted], " ".join(words[:taken])
            sound, words = sound[wanted:], words[taken:]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| clips | settings | recipe, speech s/s | ours | ratio | recipe, GB | ours, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sides = [row[f"{side}_speech_seconds_per_second"] for side in ("recipe", "ours")]
        speeds = [f"{statistics.median(side):.2f}" for side in sides]
        memory = [f"{row[f'{side}_peak_memory_gigabytes']:.1f}" for side in ("recipe", "ours")]
        ratios = f"{row['ratio']:.2f} × ({min(row['ratios']):.2f} – {max(row['ratios']):.2f})"
        cells = (row["clip_seconds"], row["settings"], *speeds, ratios, *memory)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
