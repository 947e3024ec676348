"""What becomes of mutated sound files: neither a crash, nor a hang, nor memory that grows.

    python -m benchmarks.sound_mutations
    python -m benchmarks.sound_mutations --mutations 200 --seed 7

The same files as in `tests/toy_mutations.py`: each format of it is written once, and mutated from
its seed (SEED, number of the format, number of the mutation), so that any of them can be made
again. Header and sound of each are read as a training set's would be, whole and a slice. Counted
are those that were read and refused, and the decoders that crashed or were given up: these cost
one file each, are named, and their mutations are listed. Memory is the resident set of this
process and of the decoders it started, when the first tenth is done and at the end. Results go to
benchmarks/results/sound_mutations.json.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import av
import numpy as np
import psutil
import soundfile

from benchmarks.results import write_result
from lora_whisper.data.audio import AudioError, EncodedAudio, read_audio, read_header
from lora_whisper.model.published import SAMPLING_RATE
from tests.toy_mutations import FORMATS, mutated, written

MUTATIONS = 5_000
SLOW_SECONDS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=MUTATIONS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole = [written(name, Path(folder)) for name in FORMATS]
    outcomes: Counter[str] = Counter()
    failures, slowest, early_bytes = [], (0.0, ""), 0
    for number in range(options.mutations):
        kind, which = number % len(FORMATS), number // len(FORMATS)
        seed = (options.seed, kind, which)
        started = time.monotonic()
        outcome = outcome_of(mutated(whole[kind], seed))
        taken = time.monotonic() - started
        outcomes[outcome if outcome in ("read", "refused") else "decoder failed"] += 1
        if outcome not in ("read", "refused") or taken > SLOW_SECONDS:
            failures.append(f"{FORMATS[kind]} {seed}: {outcome}, {taken:.1f} s")
            print(failures[-1], flush=True)
        slowest = max(slowest, (taken, f"{FORMATS[kind]} {seed}"))
        if number == options.mutations // 10:
            early_bytes = resident_bytes()
        if number % 500 == 499:
            print(f"{number + 1}: {dict(outcomes)}, {resident_bytes() / 1e6:.0f} MB", flush=True)
    figures = {
        "mutations": options.mutations,
        "formats": list(FORMATS),
        "seed": options.seed,
        "outcomes": dict(outcomes),
        "crashes_of_this_process": 0,  # or it would not have come here
        "failures": failures,
        "slowest_seconds": round(slowest[0], 2),
        "slowest": slowest[1],
        "resident_mb_after_a_tenth": round(early_bytes / 1e6),
        "resident_mb_at_the_end": round(resident_bytes() / 1e6),
        "libsndfile": soundfile.__libsndfile_version__,
        "pyav": av.__version__,
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
    }
    command = (
        f"python -m benchmarks.sound_mutations --mutations {options.mutations} "
        f"--seed {options.seed}"
    )
    print(f"written to {write_result('sound_mutations', command, figures)}")


def outcome_of(content: bytes) -> str:
    """ "read", "refused", or what the decoder did. What is read is as long as its header says."""
    audio = EncodedAudio("mutation", partial(bytes, content))
    try:
        header = read_header(audio)
        samples = read_audio(audio)
        assert np.isfinite(samples).all()
        assert abs(len(samples) / SAMPLING_RATE - header.seconds) < 0.11
        if header.seconds > 0.4:
            read_audio(audio, 0.2, 0.4)
    except AudioError as error:
        found = re.search(r"crashed on it.*|took its decoder.*", str(error))
        return found[0] if found else "refused"
    return "read"


def resident_bytes() -> int:
    """Of this process and of those that it started."""
    this = psutil.Process()
    return sum(one.memory_info().rss for one in (this, *this.children(recursive=True)))


if __name__ == "__main__":
    main()
