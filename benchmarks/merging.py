"""How long merging takes beside copying the same bytes, and how much memory.

    python -m benchmarks.merging --tokenizer path/to/whisper-large-v3

A random model of large-v3's shape in float16, and an adapter of rank 16 on each of its linear
layers. A copy reads the base's weights and writes them to the disk, synced; a merge is
`lora-whisper merge` in a process of its own, to float16. They take turns. Of the merge two times
are kept: of the work itself, from the first look at the base to the last synced byte, and of the
whole process, most of whose rest is importing torch and Transformers. Memory is what the system
says the process had resident at most, libraries included. About 10 GB of disk are needed for the
time. Results go to benchmarks/results/merging.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_checkpoint import write_random_checkpoint
from benchmarks.results import write_result
from lora_whisper.cli.merge import write_merged
from lora_whisper.config import MergeConfig, PartConfig
from lora_whisper.lora.delta_weights import DeltaWeights, write_delta_weights
from lora_whisper.lora.merge import is_linear
from lora_whisper.lora.recipe import read_recipe
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.model.weights import read_shapes

RANK = 16
TARGET_RATIO, TARGET_MEMORY = 3.0, 1.3  # of a copy's time; of the weights' bytes
REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, help="folder with the files of one")
    parser.add_argument("--shape", default="large-v3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to write to")
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.merge is not None:
        print(json.dumps({"seconds": merge_here(options.merge)}))
        return
    if options.tokenizer is None:
        parser.error("--tokenizer is needed: a folder with the files of a tokenizer")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measured(Path(folder), options.shape, options.tokenizer, options.rounds)
    print(json.dumps(figures, indent=2))
    command = "python -m benchmarks.merging --tokenizer path/to/whisper-large-v3"
    print(f"written to {write_result('merging', command, figures)}")


def measured(folder: Path, shape: str, tokenizer: Path, rounds: int) -> dict[str, Any]:
    """Copies and merges by turns, in `folder`, which has to be empty."""
    base = folder / "base"
    write_random_checkpoint(base, shape, tokenizer, seed=1, dtype=torch.float16)
    write_adapter(folder / "adapter", base)
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    os.sync()
    copies, merges, wholes, memory, loads = [], [], [], [], []
    for _ in range(rounds):
        loads.append(round(os.getloadavg()[0], 2))
        copies.append(copied(base, folder / "copy"))
        work, whole, peak = merged(folder)
        merges.append(work)
        wholes.append(whole)
        memory.append(peak)
    copy, merge = statistics.median(copies), statistics.median(merges)
    return {
        "shape": shape,
        "rank": RANK,
        "threads": torch.get_num_threads(),
        "weights_bytes": size,
        "copy_seconds": rounded(copies),
        "merge_seconds": rounded(merges),
        "merge_process_seconds": rounded(wholes),
        "merge_over_copy": round(merge / copy, 2),
        "merge_process_over_copy": round(statistics.median(wholes) / copy, 2),
        "peak_memory_bytes": max(memory),
        "peak_memory_over_weights": round(max(memory) / size, 3),
        "load_before_each_round": loads,  # of the machine's other programs and of this one
        "target_merge_over_copy": TARGET_RATIO,
        "target_peak_memory_over_weights": TARGET_MEMORY,
    }


def write_adapter(folder: Path, base: Path) -> None:
    """Random matrices on every linear layer."""
    generator = torch.Generator().manual_seed(0)
    shapes = read_shapes(sorted(base.glob("*.safetensors")))
    matrices = {
        name.removesuffix(".weight"): (
            torch.randn(RANK, shape[1], generator=generator),
            1e-3 * torch.randn(shape[0], RANK, generator=generator),
        )
        for name, shape in shapes.items()
        if is_linear(name)
    }
    write_delta_weights(DeltaWeights(matrices, {}), folder, Checkpoint(str(base), None, str(base)))


def copied(base: Path, place: Path) -> float:
    """Seconds until a copy of the weights is on the disk; it is taken away again."""
    place.mkdir()
    started = time.monotonic()
    for path in sorted(base.glob("*.safetensors")):
        shutil.copyfile(path, place / path.name)
        sync(place / path.name)
    seconds = time.monotonic() - started
    shutil.rmtree(place)
    os.sync()
    return seconds


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def merged(folder: Path) -> tuple[float, float, int]:
    """Seconds of the work and of the whole process, and the bytes that it had resident at most."""
    command = [sys.executable, "-m", "benchmarks.merging", "--merge", str(folder)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as the command itself sets it
    started = time.monotonic()
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    whole = time.monotonic() - started
    if process.returncode != 0:
        raise SystemExit(f"merging failed with {process.returncode}")
    shutil.rmtree(folder / "outputs")
    os.sync()
    return json.loads(said.splitlines()[-1])["seconds"], whole, 1024 * usage.ru_maxrss


def merge_here(folder: Path) -> float:
    """What the command does once its configuration is read; seconds."""
    os.chdir(folder)
    config = MergeConfig(
        run=None,
        adapters=(PartConfig("adapter", None),),
        name="merged",
        base=None,
        dtype="float16",
        scale=1.0,
        into="full",
        force=False,
        allow_pickle=False,
        overwrite=False,
    )
    started = time.monotonic()
    write_merged(read_recipe(config))
    return time.monotonic() - started


def rounded(seconds: list[float]) -> list[float]:
    return [round(one, 2) for one in seconds]


if __name__ == "__main__":
    main()
