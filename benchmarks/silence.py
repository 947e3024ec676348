"""What models write about sound in which nobody speaks, and what speech they take for silence.

    python -m benchmarks.silence --base MODEL --language sw --test C.jsonl outputs/a outputs/b …

Each run has been merged, and exported to CTranslate2. Heard are generated silence, white noise,
tones and breathing, and the test set, greedily and without timestamps. A decoder that looks at
<|nospeech|> (openai-whisper, faster-whisper) drops a text where that is more probable than 0.6 and
the text less than e^-1 a token: both are counted beside the texts, and faster-whisper is run with
its own defaults as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import FOLDER, write_result
from lora_whisper.config import Padding, QuantizationConfig, in_own_dtype
from lora_whisper.data.audio import read_audio
from lora_whisper.evaluation.decoding.decoder import (
    Decoder,
    DecodingOptions,
    DecodingTask,
    most_letters,
    text_of,
)
from lora_whisper.evaluation.decoding.long_form import SILENCE_PROBABILITY, is_silence, token_limit
from lora_whisper.evaluation.loading import decoder_of, load_whisper
from lora_whisper.evaluation.robustness import no_speech_clips
from lora_whisper.export.parity import PUBLISHED_SECONDS
from lora_whisper.files import read_json
from lora_whisper.model.base import read_base
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.run_folder import RunFolder

CLIPS, BATCH, SEED = 4, 8, 1  # of each kind of sound; windows at once; of the sounds
OPTIONS = DecodingOptions(beams=1, probabilities=True)


@dataclass(frozen=True)
class Heard:
    """Of some clips, in how many there was a text, and in how many after the thresholds."""

    clips: int
    with_text: int
    with_text_behind_thresholds: int
    no_speech_above_threshold: int
    median_no_speech: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--base", required=True)
    parser.add_argument("--language", required=True)
    parser.add_argument("--test", required=True, type=Path)
    parser.add_argument("--utterances", type=int, default=24)
    given = parser.parse_intermixed_args()
    folders = {"base": Path(given.base)} | {run.name: RunFolder(run).merged for run in given.runs}
    speech = spoken(given.test, given.utterances)
    rows = []
    for name, folder in folders.items():
        found = heard_by(folder, given.language, speech)
        exported = folder.parent / "export" / "ctranslate2"
        if exported.is_dir():
            found["faster_whisper_with_text"] = by_faster_whisper(exported, given.language)
        rows.append({"model": name} | found)
    rows = together(rows)
    print(table(rows))
    command = "python -m benchmarks.silence --base MODEL --language … --test … RUN…"
    print(write_result("silence", command, {"clips_of_each_kind": CLIPS, "rows": rows}))


def together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows behind those of models that an earlier call has heard."""
    path = FOLDER / "silence.json"
    known = read_json(path)["rows"] if path.is_file() else []
    now = {row["model"] for row in rows}
    return [row for row in known if row["model"] not in now] + rows


def heard_by(folder: Path, language: str, speech: Sequence[np.ndarray]) -> dict[str, Any]:
    """Of a checkpoint: the clips without speech with either padding, and the speech."""
    config = in_own_dtype(str(folder.absolute()))
    base = read_base(config)
    plain = QuantizationConfig("none")
    whisper = load_whisper(base, config, plain, "fp32", torch.device("cpu"))
    decoder = decoder_of(whisper, base)
    start = base.special_tokens.start(language, "transcribe")
    silent = silence(base.window_seconds)
    return {
        "silence": asdict(decoded(decoder, silent, start, "sound")),
        "silence_log_mel": asdict(decoded(decoder, silent, start, "log-mel")),
        "speech": asdict(decoded(decoder, speech, start, "sound")),
    }


def silence(window_seconds: float) -> list[np.ndarray]:
    probes = no_speech_clips(CLIPS, window_seconds, None, "transcribe", SEED)
    return [read_audio(one.audio) for one in probes]


def spoken(manifest: Path, count: int) -> list[np.ndarray]:
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()[:count]]
    return [read_audio(manifest.parent / row["audio"]) for row in rows]


def decoded(
    decoder: Decoder, clips: Sequence[np.ndarray], start: Sequence[int], padding: Padding
) -> Heard:
    """Decode clips with their probabilities, and count."""
    results = []
    for first in range(0, len(clips), BATCH):
        tasks = [
            DecodingTask(
                decoder.features.clip(torch.from_numpy(samples), padding),
                tuple(start),
                token_limit(decoder.special_tokens, len(samples), len(start)),
                (0, 0),
                most_letters(len(samples) / SAMPLING_RATE, None),
            )
            for samples in clips[first : first + BATCH]
        ]
        with decoder.inference():
            results += decoder.decode(tasks, OPTIONS)
    texts = [text_of(decoder, one.tokens) for one in results]
    is_text = [any(map(str.isalnum, text)) for text in texts]
    chances = [one.no_speech_probability or 0.0 for one in results]
    return Heard(
        clips=len(clips),
        with_text=sum(is_text),
        with_text_behind_thresholds=sum(
            written and not is_silence(one) for written, one in zip(is_text, results, strict=True)
        ),
        no_speech_above_threshold=sum(one > SILENCE_PROBABILITY for one in chances),
        median_no_speech=statistics.median(chances),
    )


def by_faster_whisper(folder: Path, language: str) -> int:
    """In how many clips without speech faster-whisper hears a text, with its own defaults."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="default")
    with_text = 0
    for samples in silence(PUBLISHED_SECONDS):
        segments, _ = model.transcribe(samples, language=language)
        with_text += any(map(str.isalnum, " ".join(one.text for one in segments)))
    return with_text


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| | text in silence | behind thresholds | log-mel padded | faster-whisper "
        "| speech with a text | behind thresholds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        quiet, loud, speech = row["silence"], row["silence_log_mel"], row["speech"]
        cells = (
            row["model"],
            f"{quiet['with_text']} of {quiet['clips']}",
            quiet["with_text_behind_thresholds"],
            loud["with_text"],
            row.get("faster_whisper_with_text", ""),
            f"{speech['with_text']} of {speech['clips']}",
            speech["with_text_behind_thresholds"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
