"""Temperature fallback: what a model seems to have failed on is decoded again, by drawing.

Radford et al. 2022, https://arxiv.org/abs/2212.04356, section 4.5, and openai/whisper's
`transcribe`, whose thresholds these are.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

from lora_whisper.evaluation.recognizer import (
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    Recognizer,
    text_of,
)

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # after 0
LARGEST_COMPRESSION_RATIO = 2.4  # a text that compresses better repeats itself
LOWEST_LOG_PROBABILITY = -1.0  # mean of a token's
SILENCE_PROBABILITY = 0.6  # of <|nospeech|>


def decode_with_fallback(
    recognizer: Recognizer, tasks: Sequence[DecodingTask], options: DecodingOptions
) -> list[DecodingResult]:
    """Decode all tasks; those that fail again at rising temperatures, until they do not.

    The text at the last temperature stands, as in openai/whisper.
    """
    results = dict(enumerate(recognizer.decode(tasks, options)))
    for temperature in TEMPERATURES:
        failed = [index for index, result in results.items() if _has_failed(recognizer, result)]
        if not failed:
            break
        again = [tasks[index] for index in failed]
        drawn = recognizer.decode(again, replace(options, temperature=temperature))
        results |= zip(failed, drawn, strict=True)
    return [results[index] for index in range(len(tasks))]


def is_silence(result: DecodingResult) -> bool:
    """Whether nobody speaks: <|nospeech|> is probable, and what was heard instead is not."""
    assert result.no_speech_probability is not None
    return result.no_speech_probability > SILENCE_PROBABILITY and not _is_probable(result)


def compression_ratio(text: str) -> float:
    """How many times its compressed form a text takes, in UTF-8; high where it repeats itself."""
    written = text.encode()
    return len(written) / len(zlib.compress(written))


def _has_failed(recognizer: Recognizer, result: DecodingResult) -> bool:
    if is_silence(result):
        return False
    repeats = compression_ratio(text_of(recognizer, result.tokens)) > LARGEST_COMPRESSION_RATIO
    return repeats or not _is_probable(result)


def _is_probable(result: DecodingResult) -> bool:
    assert result.mean_log_probability is not None
    return result.mean_log_probability >= LOWEST_LOG_PROBABILITY
