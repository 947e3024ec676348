"""The project's error rates as classes of `evaluate`, for training loops and reports of others.

`evaluate.load("wer")` fetches a script from a hub at run time; these need no network. The
project's own scores are made of the same counts without them: each call takes 6 ms, and importing
`evaluate` some seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import evaluate

from lora_whisper.evaluation.metrics import (
    Counts,
    character_error_counts,
    error_counts,
    sentence_error_counts,
    total,
)


class ErrorRate(evaluate.Metric):
    """Total errors over total reference length.

    `compute(references=…, predictions=…)` returns {name: rate, "counts": a `Counts` an utterance}.
    An empty reference adds nothing below the line, what was inserted there counts above it; when
    all references are empty, the rate is the number of insertions. No case divides by zero. (Of
    sentences every one counts below the line, an empty one too.)
    """

    rate_name: str
    align: Callable[[str, str], Counts]

    def __init__(self, **settings: Any):
        super().__init__(**{"keep_in_memory": True, **settings})

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description=ErrorRate.__doc__ or "",
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/jitsi/jiwer"],
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        pairs = zip(references, predictions, strict=True)
        counts = [type(self).align(reference, hypothesis) for reference, hypothesis in pairs]
        return {self.rate_name: total(counts).rate, "counts": counts}


class WordErrorRate(ErrorRate):
    """Word error rate: substituted, inserted and deleted words over reference words."""

    rate_name = "wer"
    align = staticmethod(error_counts)


class CharacterErrorRate(ErrorRate):
    """Character error rate: the same over Unicode code points, spaces included."""

    rate_name = "cer"
    align = staticmethod(character_error_counts)


class SentenceErrorRate(ErrorRate):
    """Sentence error rate: the share of utterances that are not right to the last word."""

    rate_name = "ser"
    align = staticmethod(sentence_error_counts)
