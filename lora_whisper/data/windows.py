"""One utterance as the model meets it: the samples, and the tokens that the decoder learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_whisper.data.audio import AudioError, read_audio
from lora_whisper.data.utterance import Utterance
from lora_whisper.data.vocabulary import Vocabulary, language_code, text_tokens

IGNORED = -100  # a label that PyTorch's cross-entropy leaves out


@dataclass(frozen=True)
class Window:
    """Samples and tokens of one utterance; `labels[i]` is what follows `decoder_input[i]`."""

    row: str
    samples: np.ndarray  # (samples,) float32 at 16 kHz, not padded
    decoder_input: list[int]
    labels: list[int]


@dataclass(frozen=True)
class BadAudio:
    """Audio that does not decode: a value and no exception, so that it outlives a worker."""

    row: str
    reason: str


def make_window(utterance: Utterance, tokenizer: Any, vocabulary: Vocabulary) -> Window | BadAudio:
    """Decode the audio and lay out the tokens.

    Every token after <|startoftranscript|> is learnt, language and task among them, as in
    Whisper's own training; nothing in the sequence is masked.
    """
    try:
        samples = read_audio(utterance.audio, utterance.start_seconds, utterance.end_seconds)
    except AudioError as error:
        return BadAudio(utterance.row, str(error))
    tokens = window_tokens(utterance, tokenizer, vocabulary)
    return Window(utterance.row, samples, decoder_input=tokens[:-1], labels=tokens[1:])


def window_tokens(utterance: Utterance, tokenizer: Any, vocabulary: Vocabulary) -> list[int]:
    """Tokenize the text and put it into Whisper's sequence."""
    language = language_code(vocabulary, utterance.language)
    # A translation is English text, whatever was spoken.
    written = "en" if utterance.task == "translate" else language
    text_ids = text_tokens(tokenizer, utterance.text, written)
    return token_sequence(vocabulary, text_ids, language, utterance.task)


def token_sequence(
    vocabulary: Vocabulary, text_ids: list[int], language: str | None, task: str
) -> list[int]:
    """sot · language · task · no-timestamps · text · eot; without language and task for `.en`."""
    return [*vocabulary.start(language, task), *text_ids, vocabulary.eot]
