"""Whether training takes more memory from step to step.

    python -m benchmarks.loop_memory

`lora-whisper train` on the embedded model and speech for 2,000 steps, in a process of its own, with
two loader workers, validations by decoding and checkpoints. Its resident memory is read from
outside, twice a second; the median of every 100 steps counts, since it goes up and down
within a step. What is needed once (libraries, the first validation's caches) is there after 500
steps. Results go to benchmarks/results/loop_memory.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.commands import last_step, polls, require_success, training
from benchmarks.results import write_result

SETTLED_SHARE = 0.25  # of the steps
SECTIONS = 20  # that the run is cut into
POLL_SECONDS = 0.5  # reading which pages are shared takes 20 ms of the machine
TARGET_PERCENT = 2.0  # of growth from when it has settled to the end; the rest is called flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), options.steps)
    print(json.dumps(figures, indent=2))
    command = f"python -m benchmarks.loop_memory --steps {options.steps}"
    print(f"written to {write_result('loop_memory', command, figures)}")


def measured(folder: Path, steps: int, *overrides: str) -> dict[str, Any]:
    """Train in `folder`, and see how far the memory has grown since it settled."""
    section = max(1, steps // SECTIONS)
    resident, everything = watched(folder, steps, section, *overrides)
    settled = round(SETTLED_SHARE * len(resident))
    return {
        "steps": steps,
        "steps_in_a_section": section,
        "megabytes_of_the_training_process": resident,
        "megabytes_with_loader_workers": everything,
        "grown_since_settled_megabytes": round(resident[-1] - resident[settled], 1),
        "grown_since_settled_percent": round(100 * (resident[-1] / resident[settled] - 1), 2),
        "target_percent": TARGET_PERCENT,
    }


def watched(
    folder: Path, steps: int, section: int, *overrides: str
) -> tuple[list[float], list[float]]:
    """Medians of each section, in megabytes: the training process alone, and with its workers."""
    resident, everything = defaultdict(list), defaultdict(list)
    metrics = folder / "outputs" / "memory" / "metrics.jsonl"
    with training(folder, *settings(steps, section), *overrides) as process:
        for _ in polls(process, POLL_SECONDS):
            step = last_step(metrics)
            if 0 < step < steps:
                resident[step // section].append(process.memory_info().rss / 1e6)
                everything[step // section].append(proportional_megabytes(process))
        require_success(process, folder)
    return medians(resident), medians(everything)


def settings(steps: int, section: int) -> list[str]:
    """Small steps, and everything that a long run does besides, several times a section or two."""
    return [
        "experiment=quickstart",
        "name=memory",
        "data.test=null",
        "training.max_epochs=null",
        f"training.max_steps={steps}",
        "training.global_batch=2",
        f"training.log_every_steps={max(1, section // 10)}",
        f"training.checkpoint_every_steps={section}",
        f"training.validate_every_steps={2 * section}",
        "training.loader_workers=2",
        "evaluation.max_validation_utterances=8",
    ]


def proportional_megabytes(process: psutil.Process) -> float:
    """Of the process and its children; pages that they share count once."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss / 1e6
        except psutil.NoSuchProcess:  # a worker that has ended since it was listed
            continue
    return total


def medians(sections: dict[int, list[float]]) -> list[float]:
    return [round(statistics.median(sections[number]), 1) for number in sorted(sections)]


if __name__ == "__main__":
    main()
