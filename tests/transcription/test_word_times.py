"""Alignment against Transformers' own, words by their rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.whisper.generation_whisper import (
    _dynamic_time_warping,
    _median_filter,
)

from lora_whisper.transcription.results import Word
from lora_whisper.transcription.word_times import (
    median_filtered,
    time_warping,
    within,
    without_pauses,
    word_parts,
)
from tests.evaluation.toy_decoder import nano


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (12, 40), (40, 12)])
def test_the_way_is_that_of_transformers(shape: tuple[int, int]) -> None:
    costs = np.random.default_rng(sum(shape)).normal(size=shape)
    for found, expected in zip(time_warping(costs), _dynamic_time_warping(costs), strict=True):
        assert np.array_equal(found, expected)


def test_the_median_is_that_of_transformers() -> None:
    values = torch.randn(2, 5, 30, generator=torch.manual_seed(0))
    assert torch.equal(median_filtered(values, 7), _median_filter(values[None], 7)[0])
    assert torch.equal(median_filtered(values[..., :3], 7), values[..., :3])


class Bytes:
    """A tokenizer of single bytes."""

    def decode(self, tokens: list[int], **_: object) -> str:
        return bytes(tokens).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        (" Habari, dunia.", "sw", ["Habari,", "dunia."]),
        (' She said "no" - (really)!', "en", ["She", "said", '"no"', "-", "(really)!"]),
        (" café Łódź", "pl", ["café", "Łódź"]),
        ("東京へ。", "ja", ["東", "京", "へ。"]),
        ("", "en", []),
    ],
)
def test_words_have_their_punctuation(text: str, language: str, words: list[str]) -> None:
    parts = word_parts(Bytes(), list(text.encode()), language)
    assert [word for word, _ in parts] == words
    assert sum(count for _, count in parts) == len(text.encode())


def test_bytes_that_are_no_character_stay_a_word() -> None:
    assert word_parts(Bytes(), [*b" ab", 0xE6, 0x9D], "en") == [("ab\ufffd", 5)]


def test_the_words_of_a_real_tokenizer_are_those_of_its_text() -> None:
    tokenizer, text = nano().processor.tokenizer, " The doctor sold 26 clever newspapers."
    parts = word_parts(tokenizer, tokenizer.encode(text, add_special_tokens=False), "en")
    assert [word for word, _ in parts] == text.split()


def word(start: float, end: float, text: str = "a") -> Word:
    return Word(start, end, text, 0.5)


def test_a_pause_is_no_part_of_a_word() -> None:
    words = [word(0.0, 3.0), word(3.0, 3.2), word(3.2, 3.4, "b."), word(3.4, 6.0), word(6.0, 6.2)]
    spans = [
        round(one, 2) for w in without_pauses(words) for one in (w.start_seconds, w.end_seconds)
    ]
    assert spans == [2.6, 3.0, 3.0, 3.2, 3.2, 3.4, 5.6, 6.0, 6.0, 6.2]


def test_words_stay_within_their_segment_and_go_forward() -> None:
    words = [word(0.9, 1.5), word(1.4, 1.2), word(2.0, 9.0), word(9.0, 9.5)]
    spans = [(one.start_seconds, one.end_seconds) for one in within(words, 1.0, 3.0)]
    assert spans == [(1.0, 1.5), (1.5, 1.5), (2.0, 3.0), (3.0, 3.0)]
