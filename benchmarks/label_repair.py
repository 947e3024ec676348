"""What an adapter is worth that was trained on dirty, on repaired and on clean transcripts.

    python -m benchmarks.label_repair --share 0.2 --folder runs -- experiment=quickstart

Plants errors of several kinds, in turn, in a share of the training rows (the embedded dictation's,
or those of --manifest) and lets `check labels=true` find them. All that it finds is accepted,
without a person, and mended by `fix`; so what it finds wrongly is lost to the training. Then it
trains the settings behind `--` on each of the three manifests, and scores them on the test set,
which nobody touched. What is in the folder is not computed again. Results go to
benchmarks/results/label_repair.json, or to --result NAME.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.label_doctor import Row, planted, read_rows, typed
from benchmarks.results import write_result
from lora_whisper.files import read_json

MANIFEST = "embedded:speech/dictation/train.jsonl"
MIXED = ("swapped", "misses_beginning", "misses_end", "says_more", "noise", "cut_end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--model", default="nano", help="that listens, and is trained")
    parser.add_argument("--labels", default="true", help="of check: true, or {folds: 2, epochs: 5}")
    parser.add_argument("--manifest", default=MANIFEST)
    parser.add_argument("--language", default="en")
    parser.add_argument("--test-clips", type=int, help="of the manifest's own test split: so many")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--result", default="label_repair")
    words, _, settings = " ".join(sys.argv[1:]).partition(" -- ")
    given = parser.parse_args(words.split())
    given.folder = given.folder.absolute()
    rows = absolute(read_rows(given.manifest, "train", given.language, None))
    speech = [f"model={given.model}", f"data.language={given.language}"]
    scored = list[str]()
    if given.test_clips:
        test = read_rows(given.manifest, "test", given.language, given.test_clips)
        write(given.folder / "test.jsonl", absolute(test))
        scored = [f"data.test={given.folder / 'test.jsonl'}"]
    runs: list[dict[str, Any]] = []
    for seed in given.seeds:
        folder = given.folder / f"seed-{seed}"
        chosen = np.random.default_rng(seed).permutation(len(rows))
        wrong = chosen[: round(given.share * len(rows))].tolist()
        write(folder / "clean.jsonl", rows)
        write(folder / "dirty.jsonl", dirty(rows, wrong, folder))
        found = repaired(folder, speech, given.labels)
        for kind in ("dirty", "repaired", "clean"):
            manifest = folder / ("repaired/train.jsonl" if kind == "repaired" else f"{kind}.jsonl")
            scores = trained(folder, kind, manifest, seed, [*settings.split(), *speech, *scored])
            runs.append(
                {"seed": seed, "training": kind, **scores, **(found if kind == "repaired" else {})}
            )
            print(json.dumps(runs[-1]), flush=True)
            write_result(given.result, typed("label_repair"), {"share": given.share, "runs": runs})


def absolute(rows: list[Row]) -> list[Row]:
    """Commands are typed in another folder."""
    return [dataclasses.replace(row, audio=str(Path(row.audio).absolute())) for row in rows]


def dirty(rows: list[Row], wrong: list[int], folder: Path) -> list[Row]:
    """Each kind in its part of the wrong rows; transcripts are exchanged among its own."""
    found = list(rows)
    for number, kind in enumerate(MIXED):
        part = sorted(wrong[number :: len(MIXED)])
        changed = planted(kind, rows, part, folder / "sound")
        for row in part:
            found[row] = changed[row]
    return found


def write(manifest: Path, rows: list[Row]) -> None:
    manifest.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in rows]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")


def repaired(folder: Path, speech: list[str], labels: str) -> dict[str, Any]:
    """Let `check` find what is wrong, accept all of it, and have it mended."""
    speech = [f"data.train={folder / 'dirty.jsonl'}", *speech]
    report = folder / "outputs/dirty-check/check.json"
    if not report.exists():
        command(folder, "check", "name=dirty-check", f"labels={labels}", *speech)
    findings = read_json(report)["labels"]["findings"]
    lines = [
        {"row": one["name"], "finding": one["kind"], "fits": one["fits"], "decision": "accept"}
        for one in findings
    ]
    decisions = folder / "decisions.jsonl"
    decisions.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    fix = [f"fix={folder / 'repaired'}", f"decisions={decisions}", "overwrite=true"]
    command(folder, "check", "name=repaired-check", *fix, *speech)
    told = read_json(folder / "outputs/repaired-check/check.json")["fix"]
    return {"kept": told["kept"]["train"], "mended": told["mended"].get("train", 0)}


def trained(
    folder: Path, kind: str, manifest: Path, seed: int, settings: list[str]
) -> dict[str, Any]:
    summary = folder / f"outputs/{kind}/summary.json"
    if not summary.exists():
        more = [f"name={kind}", f"seed={seed}", f"data.train={manifest}", "overwrite=true"]
        command(folder, "train", *settings, *more)
    score = read_json(summary)["adapter"]
    interval = [round(100 * end, 1) for end in score["wer_ci95"]]
    return {"wer": round(100 * score["wer"], 2), "wer_ci95": interval}


def command(folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "lora_whisper", *words], check=True, cwd=folder)


if __name__ == "__main__":
    main()
