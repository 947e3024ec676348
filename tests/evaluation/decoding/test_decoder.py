"""A loop is cut where nobody can have said so much; what ends by itself is left alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lora_whisper.evaluation.decoding.decoder import (
    LOOKS_EVERY_TOKENS,
    DecodingOptions,
    DecodingTask,
    ends_in_loop,
    letters_of,
    most_letters,
    without_endless_loop,
)
from tests.evaluation.toy_decoder import Toy, make_toy, prefer
from tests.toy_tokenizers import toy_tokenizer
from tests.toys import toy_inputs

GREEDY = DecodingOptions(beams=1)
ONE_LETTER = torch.ones(100, dtype=torch.long)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([7] * 4, True),
        ([7] * 3, False),
        ([1, 2, 3, *[4, 5] * 4], True),
        ([*[4, 5] * 4, 6], False),  # over, and the text goes on
        ([*[4, 5] * 3, 4, 6], False),
        ([*range(10)] * 4, True),
        ([*range(61)] * 4, False),
        ([], False),
    ],
)
def test_a_loop_is_what_stands_four_times_at_the_end(tokens: list[int], expected: bool) -> None:
    assert ends_in_loop(tokens) is expected


def test_a_loop_is_cut_only_where_it_is_too_long() -> None:
    loop = [*range(10), *[3, 4] * 100]
    assert len(without_endless_loop(loop, ONE_LETTER, 30.0)) == 32
    assert without_endless_loop(loop, ONE_LETTER, 1_000.0) == loop
    assert without_endless_loop(loop, ONE_LETTER, math.inf) == loop


def test_a_long_text_without_a_loop_stays_whole() -> None:
    text = [*range(100)]
    assert without_endless_loop(text, ONE_LETTER, 5.0) == text
    repeats = [3, 4] * 20  # as long as may be: who says it, says it
    assert without_endless_loop(repeats, ONE_LETTER, 40.0) == repeats


@pytest.mark.parametrize(
    "text",
    ["Hello, world 123!", "Привет, мир", "你好世界", "ስለ ኢትዮጵያ", "Wagonjwa wawili", "שלום", "ไทย"],
)
def test_letters_are_counted_in_pieces_of_characters(text: str) -> None:
    tokenizer = toy_tokenizer()
    letters = letters_of(tokenizer, len(tokenizer))
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    assert int(letters[tokens].sum()) == sum(map(str.isalnum, text))
    assert not letters[tokenizer.all_special_ids].any()


def test_scripts_without_spaces_have_fewer_letters_a_second() -> None:
    assert most_letters(10.0, "sw") == most_letters(10.0, None) == 310
    assert most_letters(10.0, "zh") == 160


# ── in the search ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def looping() -> Toy:
    """Writes one word for ever, which the room for tokens ends."""
    toy = make_toy()
    (word,) = toy.decoder.tokenizer("a", add_special_tokens=False).input_ids[:1]
    prefer(toy.model, [word], 1000.0)
    return toy


def tasks(toy: Toy, limits: list[float]) -> list[DecodingTask]:
    windows = toy_inputs(batch=len(limits))["input_features"]
    prompt = tuple(toy.special_tokens.start("en", "transcribe"))
    return [
        DecodingTask(window, prompt, 40, (7, index), limit)
        for index, (window, limit) in enumerate(zip(windows, limits, strict=True))
    ]


def test_each_row_is_cut_by_its_own_time_and_the_others_go_on(looping: Toy) -> None:
    asked = tasks(looping, [10.0, math.inf, 20.0])
    with looping.decoder.inference():
        found = looping.decoder.decode(asked, GREEDY)
        whole = looping.decoder.decode(
            [replace(one, most_letters=math.inf) for one in asked], GREEDY
        )
    assert [len(one.tokens) for one in whole] == [40, 40, 40]
    letters = looping.decoder.letters
    for one, task, uncut in zip(found, asked, whole, strict=True):
        assert one.tokens == tuple(without_endless_loop(uncut.tokens, letters, task.most_letters))
    assert [len(one.tokens) for one in found] == [16, 40, 24]
    assert LOOKS_EVERY_TOKENS == 8


def test_texts_of_another_search_are_not_cut(looping: Toy) -> None:
    """Those that beams found are only gone through for their probabilities."""
    asked = tasks(looping, [10.0])
    options = DecodingOptions(beams=2, probabilities=True)
    with looping.decoder.inference():
        (found,) = looping.decoder.decode(asked, options)
    assert len(found.tokens) == 40
