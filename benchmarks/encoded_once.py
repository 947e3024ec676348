"""What a second model takes whose encoder is the first one's, as `evaluate` decodes the two.

    python -m benchmarks.encoded_once MODEL MANIFEST --language sw --clips 12

The first clips are decoded by MODEL, and again by it with another last layer in its decoder; the
second once more without sharing. Processor time, one thread; the texts with and without are
compared. Results go to benchmarks/results/encoded_once.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.results import write_result
from lora_whisper.config import EvaluationConfig, ModelConfig, QuantizationConfig
from lora_whisper.data.dataset import Utterance
from lora_whisper.evaluation.decoding.decoder import Decoder
from lora_whisper.evaluation.decoding.encoded import EncodedOnce
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.evaluation.loading import decoder_of, load_whisper, with_batch_size
from lora_whisper.files import read_jsonl
from lora_whisper.model.base import read_base

CHANGE = 1.01  # of the last layer's weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--clips", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = ModelConfig(given.model)
    base, device = read_base(model), torch.device("cpu")
    whisper = load_whisper(base, model, QuantizationConfig(), "fp32", device)
    decoder = decoder_of(whisper, base)
    clips = utterances(given.manifest, given.language)[: given.clips]
    settings = with_batch_size(EvaluationConfig(), decoder)

    def heard(decoder: Decoder) -> tuple[tuple[str, ...], float]:
        before = time.process_time()
        texts = transcribe(decoder, clips, settings).texts
        return texts, time.process_time() - before

    encoded = EncodedOnce()
    decoder.share(encoded)
    _, first = heard(decoder)
    with torch.no_grad():
        whisper.model.decoder.layers[-1].fc2.weight *= CHANGE
    decoder.share(encoded)
    texts, second = heard(decoder)
    texts_alone, without = heard(decoder_of(whisper, base))
    figures = {
        "clips": len(clips),
        "first_processor_seconds": round(first, 1),
        "second_processor_seconds": round(second, 1),
        "second_without_sharing_processor_seconds": round(without, 1),
        "same_texts": texts == texts_alone,
    }
    print(figures)
    command = f"python -m benchmarks.encoded_once {Path(given.model).name} {given.manifest.name}"
    print(write_result("encoded_once", f"{command} --language {given.language}", figures))


def utterances(manifest: Path, language: str) -> list[Utterance]:
    """Of the rows of a manifest, which has its durations, those that one window holds."""
    rows = enumerate(read_jsonl(manifest), 1)
    return [
        Utterance(
            audio=manifest.parent / (row.get("audio") or row["file_name"]),
            text=row.get("text") or row["transcription"],
            language=language,
            task="transcribe",
            speaker=None,
            row=f"{manifest.name}:{number}",
            columns={},
            start_seconds=None,
            end_seconds=None,
            duration_seconds=row["duration"],
        )
        for number, row in rows
        if row["duration"] <= 30
    ]


if __name__ == "__main__":
    main()
