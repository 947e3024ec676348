"""Seconds from the command to the first trained step.

    python -m benchmarks.start_time

`lora-whisper train` on the embedded model nano and the embedded speech, each time as a new process:
the interpreter, the libraries, the configuration, reading and checking the speech, loading the
model, attaching the adapter, and one step of 8 windows, whose line in metrics.jsonl ends the clock.
Once without a test set, and once with the quickstart's 100 test utterances, which the base decodes
before training begins. The fastest of several starts counts; the processor's time is told beside
it, which other work on the machine does not lengthen. Results go to
benchmarks/results/start_time.json, but for another model's, which are printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.commands import last_step, polls, require_success, training
from benchmarks.results import write_result

TARGET_SECONDS = 15
SETTINGS = ("experiment=quickstart", "name=start", "training.log_every_steps=1")
PUBLISHED = ("data.windows=auto",)  # the quickstart pads, for nano; this is the default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="nano", help="as model=… of train; whisper-base: base")
    options = parser.parse_args()
    figures = measured(options.rounds, options.model)
    print(json.dumps(figures, indent=2))
    if options.model == "nano":
        command = f"python -m benchmarks.start_time --rounds {options.rounds}"
        print(f"written to {write_result('start_time', command, figures)}")


def measured(rounds: int, model: str) -> dict[str, Any]:
    """All starts, and the fastest of each kind."""
    given = [f"model={model}", *([] if model == "nano" else PUBLISHED)]
    plain = [start(*given, "data.test=null") for _ in range(rounds)]
    scoring = [start(*given) for _ in range(rounds)]
    return {
        "model": model,
        **min(plain, key=lambda figures: figures["seconds"]),
        "seconds_of_all_rounds": [figures["seconds"] for figures in plain],
        "seconds_with_scoring_of_the_base": min(figures["seconds"] for figures in scoring),
        "target_seconds": TARGET_SECONDS,
    }


def start(*overrides: str) -> dict[str, float]:
    """Start a new process in an empty folder; end it after its first step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics = folder / "outputs" / "start" / "metrics.jsonl"
        started = time.monotonic()
        with training(folder, *SETTINGS, *overrides) as process:
            for _ in polls(process):
                if last_step(metrics):
                    used = process.cpu_times()
                    return {
                        "seconds": round(time.monotonic() - started, 2),
                        "processor_seconds": round(used.user + used.system, 2),
                    }
            require_success(process, folder)
    raise RuntimeError("the command ended before its first step")


if __name__ == "__main__":
    main()
