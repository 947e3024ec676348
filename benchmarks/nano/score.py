"""WER of a nano-sized Whisper, with full padded windows and greedy decoding.

python -m benchmarks.nano.score lora_whisper/quickstart/nano
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch
from transformers import WhisperForConditionalGeneration, WhisperTokenizer
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from benchmarks.nano import QUICKSTART
from benchmarks.nano.windows import WINDOW_SAMPLES, Corpus, log_mel

SPEECH = QUICKSTART / "speech"
BATCH = 25
normalize = EnglishTextNormalizer({})


def wer(references: list[str], hypotheses: list[str]) -> float:
    """Word errors over reference words, both normalised, as a fraction."""
    pairs = [(normalize(r), normalize(h)) for r, h in zip(references, hypotheses, strict=True)]
    return float(jiwer.wer([r for r, _ in pairs], [h for _, h in pairs]))


@torch.no_grad()
def transcribe(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, clips: list[np.ndarray]
) -> list[str]:
    """Texts of clips (samples,), each padded to the whole window, decoded greedily in batches."""
    texts: list[str] = []
    for start in range(0, len(clips), BATCH):
        waveforms = np.zeros((len(clips[start : start + BATCH]), WINDOW_SAMPLES), np.float32)
        for row, clip in zip(waveforms, clips[start : start + BATCH], strict=True):
            row[: len(clip)] = clip
        features = log_mel(WINDOW_SAMPLES)(torch.from_numpy(waveforms))
        tokens = model.generate(features, language="en", task="transcribe", max_new_tokens=60)
        texts += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return texts


def score_corpus(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, corpus: Corpus
) -> float:
    """WER on a part of the cache."""
    clips = [corpus.samples(index) for index in range(len(corpus.rows))]
    return wer([row["text"] for row in corpus.rows], transcribe(model, tokenizer, clips))


def manifest_rows(manifest: Path) -> Iterator[dict]:
    for line in manifest.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def score_manifest(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, manifest: Path
) -> dict[str, float]:
    """WER over all utterances, and over each half where the rows say whose voices are known."""
    rows = list(manifest_rows(manifest))
    clips = [soundfile.read(manifest.parent / row["audio"], dtype="float32")[0] for row in rows]
    texts = transcribe(model, tokenizer, clips)
    scores = {"all": wer([row["text"] for row in rows], texts)}
    for half in sorted({row["voices"] for row in rows if "voices" in row}):
        pairs = [(r["text"], t) for r, t in zip(rows, texts, strict=True) if r["voices"] == half]
        scores[half] = wer([reference for reference, _ in pairs], [text for _, text in pairs])
    return {name: round(score, 4) for name, score in scores.items()}


def dev_scores(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, cache: Path
) -> dict[str, float]:
    """WER on the two dev sets of the cache: voices of the pre-training, and others."""
    names = ("heard", "unheard")
    corpora = {name: Corpus(cache, f"dev_{name}") for name in names}
    return {name: round(score_corpus(model, tokenizer, corpora[name]), 4) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--cache", type=Path, help="score the dev sets of this cache, too")
    parser.add_argument("--run", type=Path, help="write all scores and this run's log beside MODEL")
    options = parser.parse_args()
    model = WhisperForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
    tokenizer = WhisperTokenizer.from_pretrained(options.model)
    scores = {
        name: score_manifest(model.eval(), tokenizer, SPEECH / f"{name}.jsonl")
        for name in ("general/test", "dictation/test")
    }
    if options.cache:
        scores["cache/dev"] = dev_scores(model, tokenizer, options.cache)
    print(json.dumps(scores, indent=2))
    if options.run:
        log = list(manifest_rows(options.run / "log.jsonl"))
        facts = {"word_error_rates": scores, "parameters": model.num_parameters(), "curve": log}
        (options.model / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
