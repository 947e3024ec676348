"""How well `data.long_audio=split` cuts long clips in pauses: real sentences, joined and cut again.

    python -m benchmarks.data_long_audio SPEECH/metadata.jsonl

Three to five neighbours of the manifest become one clip, whose joints are known. Measured are the
precision (the share of the pieces that hold whole sentences and exactly their text) and the recall
(the share of the clips over 30 s that are cut at all; of a clip with a sentence over 30 s that is
impossible). `joined` keeps the silence in which each recording begins and ends, mostly seconds;
`fluent` trims it to 0.25 … 1 s; `commas` has in each sentence a comma where nobody may have paused;
`noisy` lies in white noise 15 dB below the speech. The constants of lora_whisper.data.segmentation
were chosen by looking at this speaker. Writes benchmarks/results/data_long_audio.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.results import write_result
from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.data.segmentation import find_pauses, split_long
from lora_whisper.model.published import SAMPLING_RATE

WINDOW_SECONDS = 30.0
VARIANTS = ("joined", "fluent", "commas", "noisy")
FLUENT_PAUSE_SECONDS = (0.25, 1.0)
SIGNAL_TO_NOISE_DB = 15.0
TOLERANCE_SECONDS = 0.15  # of where speech begins and ends


@dataclass(frozen=True)
class Sentence:
    """A recording, and when somebody speaks in it (in seconds)."""

    samples: np.ndarray
    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Clip:
    """Sentences in a row: their samples, and the sentences placed in them."""

    samples: np.ndarray
    sentences: tuple[Sentence, ...]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLING_RATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--clips", type=int, default=200, help="of each variant")
    options = parser.parse_args()
    sentences = read_sentences(options.manifest)
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            variant: measured(sentences, variant, options.clips, Path(folder) / "clip.wav")
            for variant in VARIANTS
        }
    command = f"python -m benchmarks.data_long_audio SPEECH/metadata.jsonl --clips {options.clips}"
    print(json.dumps(figures, indent=2))
    print(f"written to {write_result('data_long_audio', command, figures)}")


def read_sentences(manifest: Path) -> list[Sentence]:
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return [
        sentence(read_audio(manifest.parent / row["file_name"]), row["transcription"].strip())
        for row in rows
    ]


def sentence(samples: np.ndarray, text: str) -> Sentence:
    """The silence around the speech is what `find_pauses` finds at both ends."""
    pauses = find_pauses(samples)
    seconds = len(samples) / SAMPLING_RATE
    begins, ends = 0.0, seconds
    if len(pauses) and pauses[0, 0] == 0:
        begins = float(pauses[0, 1])
    if len(pauses) and pauses[-1, 1] > seconds - TOLERANCE_SECONDS:
        ends = float(pauses[-1, 0])
    return Sentence(samples, text, begins, ends)


def measured(sentences: list[Sentence], variant: str, clips: int, path: Path) -> dict[str, object]:
    """Precision and recall over `clips` clips that are longer than the window."""
    made = cut = possible = pieces = right = 0
    rng = np.random.default_rng(0)
    while made < clips:
        clip = joined(sentences, variant, rng)
        if clip.seconds <= WINDOW_SECONDS:
            continue
        made += 1
        possible += all(one.end_seconds - one.start_seconds < 30 for one in clip.sentences)
        found = split(clip, path)
        cut += found is not None
        pieces += len(found or [])
        right += sum(is_right(piece, clip) for piece in found or [])
    return {
        "clips": clips,
        "pieces": pieces,
        "precision": right / pieces if pieces else None,
        "recall": cut / clips,
        "recall_of_possible": cut / possible,
    }


def joined(sentences: list[Sentence], variant: str, rng: np.random.Generator) -> Clip:
    count = int(rng.integers(3, 6))
    first = int(rng.integers(len(sentences) - count))
    chosen = [changed(one, variant, rng) for one in sentences[first : first + count]]
    lengths = np.cumsum([0, *(len(one.samples) for one in chosen)]) / SAMPLING_RATE
    placed = tuple(
        Sentence(one.samples, one.text, begin + one.start_seconds, begin + one.end_seconds)
        for one, begin in zip(chosen, lengths, strict=False)
    )
    samples = np.concatenate([one.samples for one in chosen])
    return Clip(with_noise(samples, rng) if variant == "noisy" else samples, placed)


def changed(one: Sentence, variant: str, rng: np.random.Generator) -> Sentence:
    """The sentence as the variant has it; the floor of its own noise fills what is put between."""
    text = one.text
    if variant == "commas":
        words = text.split()
        words[int(rng.integers(len(words)))] += ","
        text = " ".join(words)
    if variant == "joined":
        return Sentence(one.samples, text, one.start_seconds, one.end_seconds)
    first, last = (round(at * SAMPLING_RATE) for at in (one.start_seconds, one.end_seconds))
    silence = rng.normal(size=round(rng.uniform(*FLUENT_PAUSE_SECONDS) * SAMPLING_RATE))
    floor = np.percentile(np.abs(one.samples), 5)
    samples = np.concatenate([one.samples[first:last], (floor * silence).astype(np.float32)])
    return Sentence(samples, text, 0.0, (last - first) / SAMPLING_RATE)


def with_noise(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    power = np.percentile(samples.reshape(-1)[: len(samples) // 160 * 160] ** 2, 90)
    scale = np.sqrt(power * 10 ** (-SIGNAL_TO_NOISE_DB / 10))
    return (samples + rng.normal(scale=scale, size=len(samples))).astype(np.float32)


def split(clip: Clip, path: Path) -> list[Utterance] | None:
    soundfile.write(path, clip.samples, SAMPLING_RATE, subtype="FLOAT")
    text = " ".join(one.text for one in clip.sentences)
    whole = Utterance(path, text, "sw", "transcribe", None, None, None, "clip", {}, clip.seconds)
    return split_long(whole, WINDOW_SECONDS)


def is_right(piece: Utterance, clip: Clip) -> bool:
    """Whole sentences, all of what is heard in the piece, and nothing but them in its text."""
    start, end = piece.start_seconds or 0.0, piece.end_seconds or clip.seconds
    heard = [
        one
        for one in clip.sentences
        if one.end_seconds > start + TOLERANCE_SECONDS
        and one.start_seconds < end - TOLERANCE_SECONDS
    ]
    whole = all(
        start - TOLERANCE_SECONDS <= one.start_seconds
        and one.end_seconds <= end + TOLERANCE_SECONDS
        for one in heard
    )
    return whole and piece.text == " ".join(one.text for one in heard)


if __name__ == "__main__":
    main()
