"""Models that hear: a toy whose texts mean nothing, but end, and differ with what is said; and the
embedded nano, whose texts have words.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

import lora_whisper
from lora_whisper.config import EvaluationConfig
from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.evaluation.decoding.transcribe import Transcriptions, transcribe
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.model.base import window_seconds
from lora_whisper.model.features import LogMel
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import SpecialTokens, read_special_tokens
from tests.toy_tokenizers import toy_generation_config, toy_tokenizer
from tests.toys import MEL_BINS, WINDOW_SECONDS, toy_config

GREEDY = EvaluationConfig(
    batch_size=1,
    beams=1,
    max_utterances=None,
    max_validation_utterances=None,
    temperature_fallback=False,
    timestamps=False,
    previous_text=False,
    padding="sound",
    group_by=(),
    words=None,
)
IN_BATCHES = dataclasses.replace(GREEDY, batch_size=2)


@dataclasses.dataclass(frozen=True)
class Toy:
    """All that decoding needs, and the shortest call of it."""

    model: WhisperForConditionalGeneration
    processor: WhisperProcessor
    special_tokens: SpecialTokens
    features: LogMel

    def transcribe(
        self,
        utterances: list[Utterance],
        settings: EvaluationConfig = GREEDY,
        seed: int = 0,
        prompt: str = "",
    ) -> Transcriptions:
        return transcribe(self.decoder, utterances, settings, seed, prompt=prompt)

    @property
    def decoder(self) -> WhisperDecoder:
        return WhisperDecoder(self.model, self.processor, self.special_tokens, self.features)


def prefer(model: WhisperForConditionalGeneration, tokens: Iterable[int], logits: float) -> None:
    """Add `logits` to those of `tokens`, at every place."""
    projection = model.proj_out
    if projection.bias is None:
        bias = torch.zeros(projection.out_features)
        projection.bias = torch.nn.Parameter(bias, requires_grad=False)
    projection.bias[list(tokens)] += logits


def with_own_model(toy: Toy) -> Toy:
    """A copy whose weights and generation config can be changed."""
    return dataclasses.replace(toy, model=copy.deepcopy(toy.model))


def make_toy(multilingual: bool = True) -> Toy:
    return with_own_model(_toy(multilingual))


@functools.cache
def _toy(multilingual: bool) -> Toy:
    tokenizer = toy_tokenizer(multilingual, window_seconds=WINDOW_SECONDS)
    config = toy_config(multilingual)
    config.init_std = 0.4  # strong enough to tell languages apart
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = WhisperForConditionalGeneration(config).requires_grad_(False).eval()
    model.generation_config = toy_generation_config(tokenizer, multilingual)
    special_tokens = read_special_tokens(tokenizer, model.generation_config, config)
    prefer(model, [special_tokens.eot], 4.0)  # texts of 3 to 18 tokens
    prefer(model, range(special_tokens.timestamp_begin, special_tokens.size), -1000.0)
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=WINDOW_SECONDS)
    return Toy(
        model,
        WhisperProcessor(extractor, tokenizer),
        special_tokens,
        LogMel(MEL_BINS, WINDOW_SECONDS),
    )


def utterance(audio: Path, seconds: float, **values: object) -> Utterance:
    plain = {"language": "en", "task": "transcribe", "start_seconds": None, "end_seconds": None}
    common = {"text": "", "speaker": None, "row": f"{audio.name}:1", "columns": {}}
    return Utterance(audio=audio, duration_seconds=seconds, **(plain | common | values))  # type: ignore[arg-type]


NANO = Path(lora_whisper.__file__).parent / "quickstart" / "nano"
GENERAL = NANO.parent / "speech" / "general"


def nano() -> Toy:
    return with_own_model(_nano())


@functools.cache
def _nano() -> Toy:
    model = WhisperForConditionalGeneration.from_pretrained(NANO).requires_grad_(False).eval()
    processor = WhisperProcessor.from_pretrained(NANO)
    special_tokens = read_special_tokens(processor.tokenizer, model.generation_config, model.config)
    features = LogMel(model.config.num_mel_bins, window_seconds(model.config))
    return Toy(model, processor, special_tokens, features)


PROMPT = "seven, eighteen o'clock, Wednesday"  # which changes what nano makes of general speech


def general_speech(count: int) -> list[Utterance]:
    """The first embedded test clips of general speech, 1 to 4 s long."""
    lines = (GENERAL / "test.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [
        utterance(GENERAL / row["audio"], row["duration"], text=row["text"], row=row["audio"])
        for row in map(json.loads, lines)
    ]


def joined(clips: Sequence[Utterance], path: Path) -> Utterance:
    """One recording of several clips."""
    samples = np.concatenate([read_audio(clip.audio) for clip in clips])
    soundfile.write(path, samples, SAMPLING_RATE)
    text = " ".join(clip.text for clip in clips)
    return utterance(path, len(samples) / SAMPLING_RATE, text=text)
