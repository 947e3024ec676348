"""Scored rows without a model: of given texts, or with errors by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lora_whisper.evaluation.results import ScoredUtterance
from lora_whisper.evaluation.score import score_utterance


def rows_of(
    references: Sequence[str],
    hypotheses: Sequence[str],
    language: str | None = "sw",
    speakers: Sequence[str | None] | None = None,
) -> list[ScoredUtterance]:
    return [
        score_utterance(f"a.jsonl:{number}", language, reference, hypothesis, speaker=speaker)
        for number, (reference, hypothesis, speaker) in enumerate(
            zip(references, hypotheses, speakers or [None] * len(references), strict=True), start=1
        )
    ]


def with_errors(
    errors: Sequence[int], words: int, speakers: int | None = None
) -> list[ScoredUtterance]:
    """An utterance of `words` words for each number of wrong ones; each speaker's come in a row."""
    texts = [" ".join(["no"] * wrong + ["yes"] * (words - wrong)) for wrong in errors]
    names = None
    if speakers is not None:
        names = [f"s{number * speakers // len(errors)}" for number in range(len(errors))]
    return rows_of([" ".join(["yes"] * words)] * len(errors), texts, speakers=names)


def chance_errors(
    utterances: int, words: int, rate: float, generator: np.random.Generator
) -> list[int]:
    return generator.binomial(words, rate, utterances).tolist()
