"""Steps of so many seconds beside steps of so many windows, at equal speech a step on the mean.

    python -m benchmarks.batch_seconds MODEL TRAIN --test TEST --language en --folder runs \\
        -- training.max_epochs=2 training.global_batch=8 training.precision=bf16

One to four recordings of TRAIN are joined to a clip, so that clips are of unequal lengths, and
trained on in trimmed windows: once with the global batch behind `--`, once with as many seconds as
its steps have on the mean. Of each step: what it takes the processor, which other work on the
machine hardly changes, how many seconds the encoder computes and how many tokens the loss is of.
Of each run: the most memory by the end of training, and, with `--test`, the WER on it in whole
windows. What is in the folder is not computed again. Results go to
benchmarks/results/batch_seconds.json, or to --result NAME.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.results import write_result
from lora_whisper.__main__ import carry_out
from lora_whisper.data.audio import read_sound
from lora_whisper.files import read_json, read_jsonl, write_json
from lora_whisper.model.published import SAMPLING_RATE, SECONDS_PER_TIMESTAMP

MOST_JOINED = 4
PAUSE_SECONDS = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--result", default="batch_seconds")
    typed, _, given_settings = " ".join(sys.argv[1:]).partition(" -- ")
    given = parser.parse_args(typed.split())
    if given.model.exists():
        given.model = given.model.absolute()
    for name in ("train", "folder"):
        setattr(given, name, getattr(given, name).absolute())
    test = "null" if given.test is None else given.test.absolute()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(given.folder)
    manifest = joined(given.train, given.folder / "clips")
    settings = [
        *(f"model={given.model}", f"data.train={manifest}", f"data.test={test}"),
        *(f"data.language={given.language}", "data.windows=trimmed", "overwrite=true"),
        *given_settings.split(),
    ]
    rows = []
    for seed in given.seeds:
        by_windows = trained(f"windows-{seed}", [*settings, f"seed={seed}"])
        seconds = by_windows["computed_seconds_a_step"]["mean"]
        by_seconds = [f"training.global_batch_seconds={seconds}", "training.global_batch=null"]
        rows += [by_windows, trained(f"seconds-{seed}", [*settings, f"seed={seed}", *by_seconds])]
        names = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        command = " ".join(["python -m benchmarks.batch_seconds", *names])
        path = write_result(given.result, command, {"runs": rows})  # what there is so far
    print(table(rows))
    print(f"written to {path}")


def joined(manifest: Path, folder: Path) -> Path:
    """Clips of one to four recordings each, with a short pause between them, and their manifest."""
    folder.mkdir(exist_ok=True)
    pause, count = np.zeros(round(PAUSE_SECONDS * SAMPLING_RATE), np.float32), 1
    rows, sounds, texts = list[dict[str, str]](), list[np.ndarray](), list[str]()
    for row in read_jsonl(manifest):
        if row.get("split", "train") != "train":
            continue
        sounds += [read_sound(manifest.parent / (row.get("audio") or row["file_name"])).samples]
        texts.append(row.get("text") or row["transcription"])
        if len(texts) == count:
            name = f"{len(rows):04d}.wav"
            sound = np.concatenate([part for one in sounds for part in (one, pause)])
            soundfile.write(folder / name, sound, SAMPLING_RATE)
            rows.append({"audio": name, "text": " ".join(texts)})
            sounds, texts, count = [], [], count % MOST_JOINED + 1
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def trained(name: str, settings: list[str]) -> dict[str, Any]:
    """What a run took and gave, unless it is there; in a process of its own, for its memory."""
    path = Path(f"{name}.json")
    if not path.exists():
        process = multiprocessing.get_context("spawn").Process(
            target=train, args=(name, [*settings, f"name={name}"], path)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} ended with {process.exitcode}")
    found: dict[str, Any] = read_json(path)
    print(json.dumps(found), flush=True)
    return found


def train(name: str, overrides: list[str], path: Path) -> None:
    """Train, and write what its steps took and had; the loader's processes are not counted."""
    from lora_whisper.training import loop
    from lora_whisper.training import run as run_module

    steps, windows = list[tuple[float, int]](), list[Any]()
    step, training_windows = loop.train_step, run_module.training_windows

    def timed(*given: Any) -> Any:
        before = time.process_time()
        result = step(*given)
        steps.append((time.process_time() - before, result.target_tokens))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return result

    def noted(*given: Any) -> Any:
        windows.append(training_windows(*given))
        return windows[-1]

    memory = list[int]()
    loop.train_step, run_module.training_windows = timed, noted  # type: ignore[assignment]
    if code := carry_out("train", overrides):
        raise SystemExit(code)
    dataset = windows[-1].dataset
    computed = [
        float(dataset.positions(number).sum() * SECONDS_PER_TIMESTAMP)
        for number in range(len(steps))
    ]
    unit_bytes = 1 if sys.platform == "darwin" else 1_024
    figures = {
        "run": name,
        "steps": len(steps),
        "windows_a_step": spread([float(len(dataset.positions(n))) for n in range(len(steps))]),
        "processor_seconds_a_step": spread([seconds for seconds, _ in steps]),
        "computed_seconds_a_step": spread(computed),
        "tokens_a_step": spread([float(tokens) for _, tokens in steps]),
        "training_processor_seconds": round(sum(seconds for seconds, _ in steps), 1),
        "peak_memory_gigabytes": round(memory[-1] * unit_bytes / 1e9, 2),
    }
    score = read_json(Path("outputs", name, "summary.json"))["adapter"] or {}
    rates = {rate: round(100 * score[rate], 2) for rate in ("wer", "cer") if rate in score}
    write_json(path, figures | rates)


def spread(values: list[float]) -> dict[str, float]:
    """Mean, relative standard deviation, and what one step in twenty is below or above."""
    low, high = np.percentile(values, [5, 95])
    mean = statistics.fmean(values)
    figures = {"mean": mean, "p5": low, "p95": high, "deviation": statistics.pstdev(values) / mean}
    return {key: round(float(value), 3) for key, value in figures.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over the seeds."""
    lines = [
        "| by | steps | processor s a step | tokens a step | memory | training | WER (each) |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ("windows", "seconds"):
        runs = [row for row in rows if row["run"].startswith(kind)]
        wer = ", ".join(f"{row['wer']:.1f} %" for row in runs if "wer" in row)
        cells = [
            kind,
            f"{mean(runs, lambda row: row['steps']):.0f}",
            *(
                f"{mean(runs, part(key, 'mean')):.3g} ± {mean(runs, part(key, 'deviation')):.0%}"
                for key in ("processor_seconds_a_step", "tokens_a_step")
            ),
            f"{mean(runs, lambda row: row['peak_memory_gigabytes']):.1f} GB",
            f"{mean(runs, lambda row: row['training_processor_seconds']):.0f} s",
            wer or "not measured",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean(rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return statistics.fmean(map(value, rows))


def part(key: str, name: str) -> Callable[[dict[str, Any]], float]:
    return lambda row: float(row[key][name])


if __name__ == "__main__":
    main()
