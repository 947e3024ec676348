"""How fast `lw.Transcriber` is beside Transformers' pipeline and faster-whisper, and what it takes.

    python -m benchmarks.transcription SPEECH/metadata.jsonl path/to/whisper-base

One model, in float32, greedily and without temperature fallback, one after the other on one
machine, every side with as many threads as the machine has cores:

    clips      short recordings as files. pipeline: Transformers', the best of several batch sizes;
               ours; faster-whisper, of the same model exported, in float32 and int8
    long       the same clips joined to recordings of some minutes. pipeline: its sequential
               algorithm (`generate` of the whole), and in chunks of 30 s in batches; ours, and with
               vad=true; faster-whisper, and its batched pipeline
    switching  from one adapter to another on the same base

Each side first transcribes something once, which is not timed. Texts of clips are compared letter
by letter with the pipeline's; those of recordings, which no two programs cut alike, by their word
error rate. In processes of their own: the time from the command to the first text, and the resident
memory on the way through `--hours` of sound. Sides are repeated and take turns; the median counts.
Results go to benchmarks/results/transcription.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import psutil
import soundfile
import torch

from benchmarks.results import write_result
from lora_whisper.config import AdapterConfig, ModelConfig, TranscriptionConfig
from lora_whisper.data.audio import read_audio
from lora_whisper.export.ctranslate2 import write as write_ctranslate2
from lora_whisper.lora.adapter import attach, save_adapter
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import locate
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.transcription.results import Transcript
from lora_whisper.transcription.sound import FileSound
from lora_whisper.transcription.transcriber import Transcriber

PIPELINE_BATCHES = (1, 2, 4, 8)
TRIED_CLIPS = 8  # to find the pipeline's best batch size
PAUSE_SECONDS = 0.5  # between clips that are joined
WARMING_CLIPS = 2


@dataclass(frozen=True)
class Recording:
    """A file, its text and length."""

    path: Path
    text: str
    language: str
    seconds: float


Side = Callable[[Sequence[Recording]], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="JSON lines, as audiofolder's metadata")
    parser.add_argument("model", type=Path, help="folder of a checkpoint")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--recordings", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=3.0, help="of each of these recordings")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hours", type=float, default=2.0, help="0: memory is not measured")
    options = parser.parse_args()
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    clips = read_clips(options.manifest, options.clips)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        exported = {dtype: place / dtype for dtype in ("float32", "int8")}
        for dtype, target in exported.items():
            write_ctranslate2(options.model, target, dtype)
        recordings = [
            joined(clips[index :: options.recordings], place / f"{index}.wav", options.minutes)
            for index in range(options.recordings)
        ]
        typed = [options.manifest.name, options.model.name, *sys.argv[3:]]
        command = " ".join(["python -m benchmarks.transcription", *typed])
        figures: dict[str, Any] = {
            "model": options.model.name,
            "threads": torch.get_num_threads(),
        }
        model, repeats = options.model, options.repeats
        parts: dict[str, Callable[[], Any]] = {
            "clips": lambda: on_clips(model, exported, clips, repeats),
            "long": lambda: on_recordings(model, exported, recordings, repeats),
            "switching": lambda: switching(model, place),
            "start_seconds": lambda: start_seconds(model, exported["float32"], clips[0]),
        }
        if options.hours:
            whole = joined(clips, place / "hours.wav", 60 * options.hours)
            parts["memory"] = lambda: memory(model, whole)
        for name, measured in parts.items():
            figures[name] = measured()
            print(name, json.dumps(figures[name], indent=2), flush=True)
            path = write_result("transcription", command, figures)
    print(f"written to {path}")


def read_clips(manifest: Path, count: int) -> list[Recording]:
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    fitting = [row for row in rows if row["duration"] <= 30.0][:count]
    return [
        Recording(
            manifest.parent / row["file_name"],
            row["transcription"],
            row["language"],
            row["duration"],
        )
        for row in fitting
    ]


def joined(clips: Sequence[Recording], path: Path, minutes: float) -> Recording:
    """One recording of these clips, again and again, with pauses, and silence up to the minute.

    The pipeline takes several recordings at once only where they are equally long.
    """
    sounds = [read_audio(clip.path) for clip in clips]
    pause = round(PAUSE_SECONDS * SAMPLING_RATE)
    whole, texts, used = np.zeros(round(60 * minutes * SAMPLING_RATE), np.float32), [], 0
    for clip, sound in itertools.cycle(zip(clips, sounds, strict=True)):
        if used + len(sound) > len(whole):
            break
        whole[used : used + len(sound)] = sound
        texts.append(clip.text)
        used += len(sound) + pause
    soundfile.write(path, whole, SAMPLING_RATE, subtype="PCM_16")
    return Recording(path, " ".join(texts), clips[0].language, len(whole) / SAMPLING_RATE)


# ── the sides ────────────────────────────────────────────────────────────────────────────────


def ours(transcriber: Transcriber, *, timestamps: bool, vad: bool = False) -> Side:
    def side(recordings: Sequence[Recording]) -> list[str]:
        options = TranscriptionConfig(
            language=recordings[0].language,
            temperature_fallback=False,
            timestamps=timestamps,
            vad=vad,
        )
        sounds = [FileSound(one.path) for one in recordings]
        order = sorted(range(len(sounds)), key=lambda index: -recordings[index].seconds)
        found: dict[int, str] = {}
        for index, result in transcriber.transcribe_all([sounds[one] for one in order], options):
            assert isinstance(result, Transcript), result
            found[order[index]] = result.text
        return [found[index] for index in range(len(sounds))]

    return side


def piped(model: Path, batch_size: int, *, timestamps: bool, chunked: bool = False) -> Side:
    from transformers import pipeline

    recognize: Any = pipeline(
        "automatic-speech-recognition",
        model=str(model),
        batch_size=batch_size,
        dtype=torch.float32,
        **({"chunk_length_s": 30} if chunked else {}),
    )

    def side(recordings: Sequence[Recording]) -> list[str]:
        audio = (
            {"raw": read_audio(one.path), "sampling_rate": SAMPLING_RATE} for one in recordings
        )
        asked = {"language": recordings[0].language, "task": "transcribe", "num_beams": 1}
        found = recognize(
            audio, generate_kwargs=asked, **({"return_timestamps": True} if timestamps else {})
        )
        return [one["text"].strip() for one in found]

    return side


def faster(folder: Path, dtype: str, *, timestamps: bool, batch_size: int = 0) -> Side:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(folder), "cpu", compute_type=dtype, cpu_threads=cores())
    asked: dict[str, Any] = {
        "beam_size": 1,
        "temperature": 0.0,
        "without_timestamps": not timestamps,
        "condition_on_previous_text": False,
    }
    transcribe: Any = model.transcribe
    if batch_size:
        transcribe = BatchedInferencePipeline(model).transcribe
        asked["batch_size"] = batch_size

    def side(recordings: Sequence[Recording]) -> list[str]:
        texts = []
        for one in recordings:
            segments, _ = transcribe(read_audio(one.path), language=one.language, **asked)
            texts.append("".join(segment.text for segment in segments).strip())
        return texts

    return side


def cores() -> int:
    return torch.get_num_threads()


# ── what is measured ─────────────────────────────────────────────────────────────────────────


def on_clips(
    model: Path, exported: dict[str, Path], clips: Sequence[Recording], repeats: int
) -> dict[str, Any]:
    tried = {size: piped(model, size, timestamps=False) for size in PIPELINE_BATCHES}
    seconds = {size: timed(side, clips[:TRIED_CLIPS])[0] for size, side in tried.items()}
    best = min(seconds, key=lambda size: seconds[size])
    sides = {
        "pipeline": tried[best],
        "ours": ours(Transcriber.from_model(model), timestamps=False),
        **{
            f"faster-whisper {dtype}": faster(folder, dtype, timestamps=False)
            for dtype, folder in exported.items()
        },
    }
    found = compared(sides, clips, repeats)
    return {"pipeline_batch_size": best, **found}


def on_recordings(
    model: Path, exported: dict[str, Path], recordings: Sequence[Recording], repeats: int
) -> dict[str, Any]:
    transcriber = Transcriber.from_model(model)
    sides = {
        "pipeline": piped(model, len(recordings), timestamps=True),
        "pipeline in chunks": piped(model, 8, timestamps=False, chunked=True),
        "ours": ours(transcriber, timestamps=True),
        "ours, vad=true": ours(transcriber, timestamps=True, vad=True),
        "faster-whisper float32": faster(exported["float32"], "float32", timestamps=True),
        "faster-whisper float32 in batches": faster(
            exported["float32"], "float32", timestamps=False, batch_size=8
        ),
    }
    return compared(sides, recordings, repeats)


def compared(
    sides: dict[str, Side], recordings: Sequence[Recording], repeats: int
) -> dict[str, Any]:
    """Sides take turns; the median of each."""
    for side in sides.values():
        side(recordings[: min(WARMING_CLIPS, len(recordings))])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {}
    for _ in range(repeats):
        for name, side in sides.items():
            taken, texts[name] = timed(side, recordings)
            seconds[name].append(taken)
    audio = sum(one.seconds for one in recordings)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    references = [plain(one.text) for one in recordings]
    return {
        "recordings": len(recordings),
        "audio_seconds": round(audio, 1),
        "audio_seconds_a_second": {name: round(audio / one, 2) for name, one in median.items()},
        "times_the_pipeline": {
            name: round(median["pipeline"] / one, 2) for name, one in median.items()
        },
        "same_text_as_the_pipeline": {
            name: sum(a == b for a, b in zip(found, texts["pipeline"], strict=True))
            for name, found in texts.items()
        },
        "wer": {
            name: round(jiwer.wer(references, [plain(one) or "-" for one in found]), 4)
            for name, found in texts.items()
        },
    }


def timed(side: Side, recordings: Sequence[Recording]) -> tuple[float, list[str]]:
    began = time.perf_counter()
    texts = side(recordings)
    return time.perf_counter() - began, texts


def plain(text: str) -> str:
    kept = "".join(one if one.isalnum() or one.isspace() else " " for one in text.lower())
    return " ".join(kept.split())


def switching(model: Path, folder: Path) -> dict[str, Any]:
    """Seconds until another adapter (of all linear layers) is in the weights of the base."""
    names = [folder / name for name in ("a", "b")]
    checkpoint = locate(ModelConfig(str(model)))
    for seed, place in enumerate(names):
        whisper = load_base(checkpoint, "none", torch.float32, torch.device("cpu"))
        save_adapter(attach(whisper, AdapterConfig(), "none", False, seed), place, checkpoint)
    transcriber = Transcriber.from_model(model, [str(name) for name in names])
    first, again = [], []
    for taken in (first, again):
        for name in ("b", None, "a", None):
            began = time.perf_counter()
            transcriber.use(name)
            taken.append(time.perf_counter() - began)
    return {
        "rank": AdapterConfig().rank,
        "first_seconds": round(first[0], 4),  # the merge is computed
        "again_seconds": round(max(again), 6),
        "to_the_base_seconds": round(max(first[1], again[1]), 6),
    }


STARTS = {
    "ours": """
from lora_whisper.transcription.transcriber import Transcriber
print(Transcriber.from_model({model!r}).transcribe({audio!r}, language={language!r}).text)
""",
    "pipeline": """
import soundfile
from transformers import pipeline
samples, rate = soundfile.read({audio!r})
recognize = pipeline("automatic-speech-recognition", model={model!r})
asked = {{"language": {language!r}, "task": "transcribe", "num_beams": 1}}
print(recognize({{"raw": samples, "sampling_rate": rate}}, generate_kwargs=asked)["text"])
""",
    "faster-whisper": """
from faster_whisper import WhisperModel
segments, _ = WhisperModel({exported!r}, "cpu", compute_type="float32", cpu_threads={threads}) \\
    .transcribe({audio!r}, language={language!r}, beam_size=1)
print("".join(segment.text for segment in segments))
""",
}


def start_seconds(model: Path, exported: Path, clip: Recording) -> dict[str, float]:
    """From the start of the process to the end of it, with the text of one clip in between."""
    given = {
        "model": str(model),
        "exported": str(exported),
        "audio": str(clip.path),
        "language": clip.language,
        "threads": cores(),
    }
    found = {}
    for name, script in STARTS.items():
        began = time.perf_counter()
        in_process(script.format(**given))
        found[name] = round(time.perf_counter() - began, 2)
    return found


WATCHED = """
import json, psutil, torch
from lora_whisper.transcription.transcriber import Transcriber
torch.set_num_threads({threads})
transcriber, seen = Transcriber.from_model({model!r}), []
def note(done):
    seen.append((done, psutil.Process().memory_info().rss / 1e6))
found = transcriber.transcribe(
    {audio!r}, language={language!r}, temperature_fallback=False, on_progress=note
)
print(json.dumps([found.seconds, len(found.text.split()), seen]))
"""


def memory(model: Path, whole: Recording) -> dict[str, Any]:
    """Resident megabytes on the way through one long recording."""
    given = {
        "model": str(model),
        "audio": str(whole.path),
        "language": whole.language,
        "threads": cores(),
    }
    began = time.perf_counter()
    seconds, words, seen = json.loads(in_process(WATCHED.format(**given)).splitlines()[-1])
    taken = time.perf_counter() - began
    at = {share: seen[min(int(share * len(seen)), len(seen) - 1)][1] for share in (0, 0.25, 0.5, 1)}
    return {
        "audio_seconds": round(seconds, 1),
        "words": words,
        "seconds": round(taken, 1),
        "resident_megabytes_at": {str(share): round(one) for share, one in at.items()},
        "most_resident_megabytes": round(max(one for _, one in seen)),
    }


def in_process(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


if __name__ == "__main__":
    main()
