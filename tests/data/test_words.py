"""Lists of words: what is said of them, and the tokens that other programs make of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import WhisperTokenizer

from lora_whisper.data.words import (
    ABSENT_SHARE,
    WordPrompts,
    as_text,
    before_text,
    first_that_fit,
    parts_of,
    prompt_tokens,
    read_words,
    spoken_in,
)
from lora_whisper.errors import UserError
from tests.evaluation.toy_decoder import NANO
from tests.model.test_tokenizer import GENUINE, needs_genuine

DRUGS = read_words(NANO.parent / "speech" / "dictation" / "drugs.txt", "data.words")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return WhisperTokenizer.from_pretrained(NANO)


# ── the file ─────────────────────────────────────────────────────────────────────────────────


def test_a_word_or_a_phrase_a_line(tmp_path: Path) -> None:
    path = tmp_path / "drugs.txt"
    path.write_text("\ufeffAspirin\n\n  baby  aspirin \r\nAspirin\n阿司匹林\n", encoding="utf-8")
    assert read_words(path, "words") == ("Aspirin", "baby aspirin", "阿司匹林")


@pytest.mark.parametrize(
    ("content", "found"),
    [(None, "no such file"), (b"", "found no word"), (b" \n\n", "no word"), (b"a\n\xff", "UTF-8")],
)
def test_no_words(tmp_path: Path, content: bytes | None, found: str) -> None:
    path = tmp_path / "drugs.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=found) as raised:
        read_words(path, "data.words")
    assert f"data.words={path}" in str(raised.value)
    assert "a word or a phrase a line" in str(raised.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.words="):
        read_words(tmp_path, "evaluation.words")


# ── where they are said ──────────────────────────────────────────────────────────────────────


def test_said_counted_by_hand() -> None:
    texts = ["Take Aspirin, baby-aspirin.", "No aspirins; VITAMIN B-12!", "", "今天吃阿司匹林。"]
    found = spoken_in(["aspirin", "baby aspirin", "vitamin b12", "Vitamin B 12", "阿司匹林"], texts)
    assert found.times == {"aspirin": 2, "baby aspirin": 1, "Vitamin B 12": 1, "阿司匹林": 1}
    assert (found.texts, found.of_texts) == (3, 4)


def test_letters_keep_their_marks() -> None:
    assert parts_of("Cafe\u0301 İzmir हिन्दी ภาษาไทย") == [
        *("café", "i̇zmir", "हिन्दी"),
        *("ภ", "า", "ษ", "า", "ไ", "ท", "ย"),
    ]


# ── as a prompt ──────────────────────────────────────────────────────────────────────────────


@needs_genuine
@pytest.mark.parametrize("words", [DRUGS[:5], ("O'Neill", "B-12", "Zürich"), ("阿司匹林", "東京")])
def test_other_programs_make_the_same_tokens(words: tuple[str, ...]) -> None:
    """Transformers, openai-whisper and faster-whisper, each by its own functions."""
    import tokenizers
    import whisper.tokenizer
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

    folder = GENUINE / "whisper-tiny"
    ours = WhisperTokenizer.from_pretrained(folder)
    text = as_text(words)
    tokens = prompt_tokens(ours, text)
    assert ours.get_prompt_ids(text).tolist()[1:] == tokens
    openais = whisper.tokenizer.get_tokenizer(multilingual=True)
    assert openais.encode(" " + text.strip()) == tokens
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = Tokenizer(backend, True, "transcribe", "en")
    model, has_words = SimpleNamespace(max_length=448), {"hotwords": text}
    hotwords = WhisperModel.get_prompt(model, theirs, [], **has_words)
    assert hotwords == [theirs.sot_prev, *tokens, *theirs.sot_sequence]


def test_nothing_in_a_word_is_a_special_token(tokenizer: Any) -> None:
    tokens = prompt_tokens(tokenizer, "<|endoftext|>, <|startoftranscript|>, <|2.00|>")
    assert max(tokens) < tokenizer.convert_tokens_to_ids("<|endoftext|>")


@pytest.mark.parametrize("room", [0, 4, 5, 40, 63, 1000])
def test_as_many_of_the_first_words_as_fit(tokenizer: Any, room: int) -> None:
    found = first_that_fit(DRUGS, tokenizer, room)
    assert found == list(DRUGS[: len(found)])
    assert len(prompt_tokens(tokenizer, as_text(found))) <= room
    one_more = DRUGS[: len(found) + 1]
    assert len(found) == len(DRUGS) or len(prompt_tokens(tokenizer, as_text(one_more))) > room


def test_a_previous_text_has_the_room_that_words_leave() -> None:
    assert before_text([1, 2], [3, 4, 5], 4) == [1, 2, 4, 5]
    assert before_text([1, 2], [3, 4, 5], 9) == [1, 2, 3, 4, 5]
    assert before_text([1, 2], [3, 4, 5], 2) == before_text([1, 2], [], 9) == [1, 2]


# ── drawn for training windows ───────────────────────────────────────────────────────────────

SAID = ("warfarin", "metformin")
DRAWS = 600


def drawn(prompts: WordPrompts, text: str, room: int = 222) -> list[list[str]]:
    """The words of many prompts."""
    found = []
    for seed in range(DRAWS):
        tokens = prompts.tokens(np.random.default_rng(seed), [text], room)
        assert len(tokens) <= room
        words = prompts.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        found.append([word for word in words.strip().split(", ") if word])
    return found


def test_what_is_said_stands_among_what_is_not(tokenizer: Any) -> None:
    prompts = WordPrompts(DRUGS, DRUGS, 0.5, tokenizer)
    found = drawn(prompts, "Give Metformin, then warfarin.")
    with_said = [words for words in found if {*SAID} & {*words}]
    assert all({*SAID} <= {*words} for words in with_said), "both, or none of them"
    error = 3 * np.sqrt(ABSENT_SHARE * (1 - ABSENT_SHARE) / DRAWS)
    assert abs(1 - len(with_said) / DRAWS - ABSENT_SHARE) < error
    for words in found:
        assert {*words} <= {*DRUGS}
        assert len({*words}) == len(words)
    places = [words.index("warfarin") / (len(words) - 1) for words in with_said if len(words) > 9]
    assert abs(np.mean(places) - 0.5) < 0.1, "in no order"
    lengths = Counter(len(words) for words in found)
    assert min(lengths) == 1, "of words that are not said"
    assert max(lengths) > 20


def test_words_that_are_not_said_in_training_are_never_named(tokenizer: Any) -> None:
    prompts = WordPrompts(DRUGS, SAID, 0.5, tokenizer)
    found = drawn(prompts, "Nothing of the kind.")
    assert {word for words in found for word in words} == {*SAID}
    assert drawn(prompts, "Give metformin and warfarin.")[0] in ([], [*SAID], [*SAID[::-1]])


def test_where_there_is_little_room_said_words_have_it(tokenizer: Any) -> None:
    prompts = WordPrompts(DRUGS, DRUGS, 0.5, tokenizer)
    room = prompts.costs_tokens["metformin"]
    found = drawn(prompts, "Give metformin.", room)
    assert sum(words == ["metformin"] for words in found) > 0.7 * DRAWS
    assert not any(drawn(prompts, "Give metformin.", 0))


def test_lengths_are_told_before(tokenizer: Any) -> None:
    prompts = WordPrompts(DRUGS, DRUGS, 0.5, tokenizer)
    mean, longest = prompts.lengths_tokens(62)
    found = [1 + len(prompts.tokens(np.random.default_rng(seed), [], 62)) for seed in range(DRAWS)]
    assert max(found) <= longest <= 63
    assert np.mean(found) == pytest.approx(mean, rel=0.15)
