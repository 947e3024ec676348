"""What dividing speech into windows costs, from an hour of it to a thousand.

    python -m benchmarks.data_windows

Clips of 2 to 8 seconds (simulated lengths, the real index of a manifest, a thousand speakers in
turn), in a process for each amount and kind of windows: the processor's seconds until the windows
are known, and for the order and widths of 100 steps of 16, and how much memory that takes beside
the opened manifest. Takes some minutes and 0.4 GB of disk; results go to
benchmarks/results/data_windows.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data_manifest import ROOT, data_config, many_lines

CLIPS_AN_HOUR = 720  # of 5 seconds
HOURS = (1, 10, 100, 1_000)
KINDS = ("padded", "packed", "trimmed")
STEPS = 100
WINDOW_SECONDS = 30.0  # whatever the model's are whose tokenizer is taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=int, nargs="+", default=HOURS)
    hours = parser.parse_args().hours
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for each in hours:
            manifest = Path(folder) / f"{each}.jsonl"
            manifest.write_text("".join(many_lines(each * CLIPS_AN_HOUR)), encoding="utf-8")
            in_a_process(manifest, "padded", folder)  # makes the index, which is not counted
            for kind in KINDS:
                figures = in_a_process(manifest, kind, folder)
                rows.append({"hours": each, "windows": kind, **figures})
    for row in rows:
        print(json.dumps(row))
    from benchmarks.results import write_result

    command = "python -m benchmarks.data_windows"
    print(f"written to {write_result('data_windows', command, {'rows': rows})}")


def in_a_process(manifest: Path, kind: str, cache: str) -> dict[str, Any]:
    code = f"from benchmarks import data_windows as b; b.divided({str(manifest)!r}, {kind!r})"
    environment = os.environ | {"LORA_WHISPER_CACHE": cache}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def divided(manifest: str, kind: str) -> None:
    """Divide it as a run of its own would, look at some steps, and print what that took."""
    from lora_whisper.config import TrainConfig
    from lora_whisper.data.corpus import Corpus
    from lora_whisper.data.loader import training_windows
    from lora_whisper.data.sources import read_split
    from lora_whisper.data.speech import DatasetSplits
    from lora_whisper.model.base import read_base
    from lora_whisper.options import configured

    settings = {"train": manifest, "windows": kind, "language": "sw"}
    config = configured(TrainConfig, {"name": "a", "model": "nano", "data": settings})
    utterances = read_split(data_config(manifest), "train")
    assert utterances is not None
    lengths = np.random.default_rng(1).uniform(2.0, 8.0, len(utterances))
    corpus = Corpus(utterances.with_durations(lengths), left_out={})
    base = replace(read_base(config.model), window_seconds=WINDOW_SECONDS)
    before_bytes, started = peak_bytes(), time.process_time()
    windows = training_windows(config, base, DatasetSplits(corpus, None, None))
    known = time.process_time()
    assert windows.dataset is not None
    for step in range(STEPS):
        windows.dataset.positions(step)
    figures = {
        "windows_an_epoch": windows.per_epoch,
        "seconds_to_windows": round(known - started, 3),
        "seconds_for_steps": round(time.process_time() - known, 3),
        "memory_megabytes": round((peak_bytes() - before_bytes) / 1e6, 1),
    }
    print(json.dumps(figures))


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
