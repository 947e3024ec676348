"""A hand-counted example, and jiwer on the whole set as the authority."""

import random
import socket
from pathlib import Path

import jiwer
import pytest

from lora_whisper.evaluation.metrics import (
    CharacterErrorRate,
    Counts,
    SentenceErrorRate,
    WordErrorRate,
    character_error_counts,
    error_counts,
    total,
)


def random_texts(seed: int, count: int = 200) -> tuple[list[str], list[str]]:
    """References, and hypotheses that share some of their words; none is empty."""
    rng = random.Random(seed)
    words = ["habari", "ya", "asubuhi", "leo", "mvua", "kubwa"]
    references = [" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(count)]
    hypotheses = [
        " ".join(rng.choice([word, word, word, "x", "ya leo", ""]) for word in text.split())
        for text in references
    ]
    return references, hypotheses


def test_a_hand_counted_example() -> None:
    # one two  three four five six        "two" was misheard, "four" missed, "seven" made up
    # one zwei three      five six seven
    counts = error_counts("one two three four five six", "one zwei three five six seven")
    assert counts == Counts(substitutions=1, insertions=1, deletions=1, hits=4)
    assert counts.rate == 3 / 6
    # cat → cart: one letter inserted to three
    assert character_error_counts("cat", "cart") == Counts(insertions=1, hits=3)


def test_micro_average_weighs_words_not_utterances() -> None:
    rate = WordErrorRate().compute(
        references=["one two three four five six seven eight nine", "ten"],
        predictions=["one two three four five six seven eight nine", "eleven"],
    )
    assert rate["wer"] == 1 / 10  # the mean over utterances would be 1 / 2


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_jiwer(seed: int) -> None:
    references, hypotheses = random_texts(seed)
    words = WordErrorRate().compute(references=references, predictions=hypotheses)
    characters = CharacterErrorRate().compute(references=references, predictions=hypotheses)
    assert words["wer"] == jiwer.wer(references, hypotheses)
    folded = [" ".join(text.split()) for text in hypotheses]
    assert characters["cer"] == jiwer.cer(references, folded)
    assert len(words["counts"]) == len(references)


def test_empty_references_count_what_was_inserted() -> None:
    assert error_counts("", "") == Counts()
    assert error_counts("", "two words").rate == 2.0
    assert error_counts("two words", "").rate == 1.0
    rate = WordErrorRate().compute(
        references=["", "one two three four"], predictions=["noise", "one two three four"]
    )
    assert rate["wer"] == 1 / 4
    assert total([]) == Counts()


def test_sentences_are_right_or_wrong_as_a_whole() -> None:
    found = SentenceErrorRate().compute(
        references=["one two three", "four  five", "", "", "six"],
        predictions=["one two tree", " four five", "", "hm", ""],
    )
    assert found["ser"] == 3 / 5  # a word wrong, one made up where nobody spoke, and one missed
    assert found["counts"][0] == Counts(substitutions=1)


@pytest.mark.parametrize("seed", range(3))
def test_a_sentence_is_wrong_where_jiwer_finds_an_error(seed: int) -> None:
    references, hypotheses = random_texts(seed)
    pairs = zip(references, hypotheses, strict=True)
    wrong = sum(jiwer.wer(reference, hypothesis) > 0 for reference, hypothesis in pairs)
    found = SentenceErrorRate().compute(references=references, predictions=hypotheses)
    assert found["ser"] == wrong / len(references)


def test_computes_offline_and_leaves_no_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric = WordErrorRate(cache_dir=str(tmp_path))
    assert metric.compute(references=["a b"], predictions=["a c"])["wer"] == 0.5
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_texts_added_in_batches() -> None:
    metric = WordErrorRate()
    metric.add_batch(references=["a b"], predictions=["a b"])
    metric.add_batch(references=["c d"], predictions=["c"])
    assert metric.compute()["wer"] == 1 / 4
