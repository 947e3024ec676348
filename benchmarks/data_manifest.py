"""How long a manifest of a million rows takes to open, at first and after, and in what memory.

    python -m benchmarks.data_manifest

Each opening is a process of its own, as a run would be, without torch. Headers are those of the
package's own recordings, 3-second Ogg Opus files, asked for 20,000 times in turn. Takes a minute
and 0.7 GB of disk; results go to benchmarks/results/data_manifest.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

import lora_whisper
from lora_whisper.config import DataConfig
from lora_whisper.data.durations import measure
from lora_whisper.data.sources import read_split

ROOT = Path(__file__).parents[1]
RECORDINGS = Path(lora_whisper.__file__).parent / "quickstart" / "speech"
HEADERS = 20_000
SYLLABLES = "ha ba ri ya a su bu hi ra fi ki wa ka ri bu sa na le o mi mi ni na ta ka ku la".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), rows)
    from benchmarks.results import write_result  # which imports torch

    path = write_result(
        "data_manifest", f"python -m benchmarks.data_manifest --rows {rows}", figures
    )
    print(json.dumps(figures, indent=2))
    print(f"written to {path}")


def measured(folder: Path, rows: int) -> dict[str, Any]:
    manifest, headers = folder / "million.jsonl", folder / "headers.jsonl"
    manifest.write_text("".join(many_lines(rows)), encoding="utf-8")
    headers.write_text("".join(real_lines(HEADERS)), encoding="utf-8")
    first, second = (in_a_process("opened", manifest, folder) for _ in range(2))
    read, known = (in_a_process("headers_read", headers, folder) for _ in range(2))
    return {
        "rows": rows,
        "manifest_bytes": manifest.stat().st_size,
        "table_bytes": max(path.stat().st_size for path in folder.glob("tables/*.arrow")),
        "first": first | {"rows_per_second": round(rows / first["seconds"])},
        "second": second,
        "headers_per_second": round(HEADERS / read["seconds"]),
        "known_headers_per_second": round(HEADERS / known["seconds"]),
    }


def many_lines(rows: int) -> Iterator[str]:
    """Rows of four to sixteen words, of a thousand speakers."""
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(SYLLABLES, size)) for size in generator.integers(1, 5, 5_000)]
    lengths = generator.integers(4, 17, rows)
    chosen = generator.integers(0, len(words), int(lengths.sum())).tolist()
    ends = np.cumsum(lengths).tolist()
    for number, (length, end) in enumerate(zip(lengths.tolist(), ends, strict=True)):
        row = {
            "audio": f"clips/common_voice_sw_{number:08}.mp3",
            "text": " ".join(words[word] for word in chosen[end - length : end]),
            "language": "sw",
            "speaker": f"speaker{number % 1_000}",
            "duration": length / 2,
        }
        yield json.dumps(row) + "\n"


def real_lines(rows: int) -> Iterator[str]:
    """Rows in which no file follows itself, since it would be opened once for both."""
    for path in islice(cycle(sorted(RECORDINGS.rglob("*.opus"))), rows):
        yield json.dumps({"audio": str(path), "text": "a"}) + "\n"


def in_a_process(name: str, manifest: Path, cache: Path) -> dict[str, float]:
    """Run one of the functions below in a fresh process; return what it prints."""
    code = f"from benchmarks import data_manifest as b; b.{name}({str(manifest)!r})"
    environment = os.environ | {"LORA_WHISPER_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def opened(manifest: str) -> None:
    """Open the manifest and look at a row."""
    watch = Watch()
    utterances = read_split(data_config(manifest), "train")
    assert utterances is not None
    assert utterances[len(utterances) // 2].speaker
    watch.report()


def headers_read(manifest: str) -> None:
    utterances = read_split(data_config(manifest), "train")
    assert utterances is not None
    watch = Watch()
    assert not measure(utterances).problems
    watch.report()


def data_config(manifest: str) -> DataConfig:
    return DataConfig(train=manifest)


class Watch:
    """Time since it was made: of the clock, and of the processor, to which others do not add."""

    def __init__(self) -> None:
        self.started, self.worked = time.perf_counter(), time.process_time()

    def report(self) -> None:
        assert "torch" not in sys.modules
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        figures = {
            "seconds": round(time.perf_counter() - self.started, 3),
            "processor_seconds": round(time.process_time() - self.worked, 3),
            "peak_memory_bytes": 1024 * int(peak),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
