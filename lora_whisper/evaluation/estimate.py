"""How long it takes on this machine to decode speech, told before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lora_whisper import processes
from lora_whisper.data.corpus import sample
from lora_whisper.data.dataset import Utterances, written_language
from lora_whisper.evaluation.decoding.whisper import Pace, WhisperDecoder, measured_pace
from lora_whisper.model.base import Base
from lora_whisper.model.tokenizer import text_tokens

SAMPLE_UTTERANCES = 100  # that texts are measured on, and that are advised to be scored


@dataclass(frozen=True)
class Texts:
    """How long they are, in tokens."""

    mean: float
    longest: int


def decoding_seconds(utterances: Utterances, base: Base, beams: int, pace: Pace) -> float:
    """Of texts as long as those that they should be; a base that repeats itself takes longer."""
    tokens = len(utterances) * (1 + texts_of(utterances, base).mean)
    return pace.seconds(windows_of(utterances, base), beams * tokens)


def windows_of(utterances: Utterances, base: Base) -> int:
    """That they are decoded in."""
    return int(np.ceil(utterances.durations_seconds / base.window_seconds).clip(min=1).sum())


def texts_of(utterances: Utterances, base: Base) -> Texts:
    """Of a sample, which is the same in every process."""
    tokenizer, special_tokens = base.processor.tokenizer, base.special_tokens
    lengths = [
        len(text_tokens(tokenizer, utterance.text, written_language(special_tokens, utterance)))
        for utterance in sample(utterances, SAMPLE_UTTERANCES, seed=0)
    ]
    return Texts(float(np.mean(lengths)), max(lengths))


def pace_of_all(decoder: WhisperDecoder, batch_size: int) -> Pace:
    """Of all processes at once, as slow as the slowest."""
    paces = processes.gather([measured_pace(decoder, batch_size)])
    slowest = (max(getattr(pace, name) for pace in paces) for name in vars(paces[0]))
    return Pace(*(seconds / len(paces) for seconds in slowest))
