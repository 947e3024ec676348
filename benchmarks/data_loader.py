"""How fast training windows are loaded from Ogg Opus, on one core.

    python -m benchmarks.data_loader
    python -m benchmarks.data_loader --speech SPEECH/audio

Everything from the compressed file to the padded batch is counted: decoding, resampling, windowing,
tokenizing and collation, in one thread, and in the process that decodes for it. The processor time
of both is counted and not the clock's, so that other work on the machine does not count; the best
of several rounds stands for each. What the second process costs is seen beside "in_process", where
its decoder is called in the first one, which no training does. Without a folder of speech, the
package's own recordings are joined into clips of about ten seconds. They are encoded at 16 and at
48 kHz by libsndfile; results go to benchmarks/results/data_loader.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import soxr
import torch

import lora_whisper
from benchmarks.results import write_result
from lora_whisper.config import DataConfig, ModelConfig
from lora_whisper.data import audio
from lora_whisper.data.audio import read_audio
from lora_whisper.data.batches import StepDataset
from lora_whisper.data.corpus import keep_what_fits, load_corpus
from lora_whisper.data.sampler import pack
from lora_whisper.data.sources import read_split
from lora_whisper.data.windows import WindowMaker, WindowSource
from lora_whisper.model.base import Base, read_base
from lora_whisper.model.published import SAMPLING_RATE

ROOT = Path(__file__).parents[1]
RECORDINGS = Path(lora_whisper.__file__).parent / "quickstart" / "speech"
CLIP_SECONDS, CLIPS = 10.0, 60
TEXT = "habari ya asubuhi rafiki wa karibu sana leo mimi ninataka kula"
WINDOW_SECONDS = 30.0
GLOBAL_BATCH, MICRO_BATCH, ROUNDS = 16, 8, 3
TARGET = 200  # times real time, of one core


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, default=None, help="a folder of recordings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = read_base(ModelConfig("embedded:nano", None, "auto", "auto", False), with_weights=False)
    figures: dict[str, object] = {"speech": "real" if options.speech else "the package's own"}
    with tempfile.TemporaryDirectory() as folder:
        for rate in (16_000, 48_000):
            manifest = encoded(clips(options.speech), rate, Path(folder) / str(rate))
            for windows in ("padded", "packed"):
                dataset = loaded(manifest, windows, base)
                speed = times_real_time(dataset)
                with in_this_process():
                    alone = times_real_time(dataset)
                name = f"opus_{rate}_hz_{windows}"
                figures |= {name: round(speed), f"{name}_in_process": round(alone)}
                print(
                    f"Opus at {rate} Hz, {windows}: {speed:.0f} × real time a core "
                    f"({alone:.0f} in one process)"
                )
    command = "python -m benchmarks.data_loader" + (
        " --speech SPEECH/audio" if options.speech else ""
    )
    path = write_result("data_loader", command, figures | {"target": TARGET})
    print(f"written to {path}")


def clips(speech: Path | None) -> Iterator[np.ndarray]:
    """(samples,) at 16 kHz each."""
    if speech is not None:
        recordings = sorted(path for path in speech.iterdir() if path.is_file())
        yield from map(read_audio, islice(recordings, CLIPS))
        return
    waiting: list[np.ndarray] = []
    made = 0
    for path in sorted(RECORDINGS.rglob("*.opus")):
        waiting.append(read_audio(path))
        if sum(map(len, waiting)) >= CLIP_SECONDS * SAMPLING_RATE and made < CLIPS:
            made += 1
            yield np.concatenate(waiting)
            waiting = []


def encoded(recordings: Iterator[np.ndarray], rate: int, folder: Path) -> Path:
    """Ogg Opus files of that rate, and their manifest."""
    folder.mkdir()
    rows = []
    for number, samples in enumerate(recordings):
        path = folder / f"{number}.opus"
        changed = soxr.resample(samples, SAMPLING_RATE, rate, quality="HQ")
        soundfile.write(path, changed, rate, format="OGG", subtype="OPUS")
        rows.append({"audio": path.name, "text": TEXT, "language": "sw"})
    manifest = folder / "speech.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def loaded(manifest: Path, windows: str, base: Base) -> StepDataset:
    """The set as training would have it."""
    config = DataConfig(train=str(manifest))
    rows = read_split(config, "train")
    assert rows is not None
    tokenizer, special_tokens = base.processor.tokenizer, base.special_tokens
    corpus = load_corpus(rows, "train", config, WINDOW_SECONDS)
    spoken = keep_what_fits(corpus, tokenizer, special_tokens, config).utterances
    source = WindowSource(spoken, pack(spoken, tokenizer, special_tokens, WINDOW_SECONDS, windows))
    shares = (0.2, 0.2) if windows == "packed" else (0.0, 0.0)
    maker = WindowMaker(tokenizer, special_tokens, WINDOW_SECONDS, *shares)
    return StepDataset((source,), maker, 0.0, GLOBAL_BATCH, MICRO_BATCH, seed=0)


def times_real_time(dataset: StepDataset) -> float:
    """Seconds of audio a second of processor time, of the fastest epoch."""
    speeds = []
    for epoch in range(ROUNDS):
        first = epoch * dataset.steps_per_epoch
        started = processor_seconds()
        batches = [
            batch for step in range(dataset.steps_per_epoch) for batch in dataset[first + step]
        ]
        spent = processor_seconds() - started
        assert not any(batch.bad for batch in batches)
        speeds.append(sum(batch.audio_seconds for batch in batches) / spent)
    return max(speeds)


def processor_seconds() -> float:
    """Of this process and of those that it has started."""
    children = (one.cpu_times() for one in psutil.Process().children(recursive=True))
    return time.process_time() + sum(times.user + times.system for times in children)


def answered_here(request: dict[str, Any], source: audio.PathOrBytes) -> audio.Answer:
    content = source if isinstance(source, bytes) else b""
    path = None if isinstance(source, bytes) else str(source)
    return audio._answer(request | {"path": path}, content, lambda seconds, size_bytes: None)


@contextmanager
def in_this_process() -> Iterator[None]:
    """Decode here what is decoded elsewhere."""
    elsewhere = audio._asked
    audio._asked = answered_here
    try:
        yield
    finally:
        audio._asked = elsewhere


if __name__ == "__main__":
    main()
