"""A hand-counted example, and jiwer on the whole set as the authority."""

import random
import socket
from pathlib import Path

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_whisper.evaluation.evaluate_metrics import (
    CharacterErrorRate,
    SentenceErrorRate,
    WordErrorRate,
)
from lora_whisper.evaluation.metrics import (
    Counts,
    Stretch,
    align,
    character_error_counts,
    error_counts,
    separator,
    total,
)
from lora_whisper.evaluation.normalizers import normalizer_for


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


# ── What is marked as an error is what is counted as one ────────────────────────────────────────


TEXTS = st.lists(st.sampled_from(["a", "b", "Ça", "20", "!", "ไม่", "好"]), max_size=8).map(" ".join)


def errors(stretches: list[Stretch]) -> int:
    return sum(stretch.errors for stretch in stretches)


def test_each_edit_once() -> None:
    assert align("The cat sat right here today.", "the hat sat here today, Tom!", "sw") == [
        Stretch("equal", "the", "the", 0),
        Stretch("substitute", "cat", "hat", 1),
        Stretch("equal", "sat", "sat", 0),
        Stretch("delete", "right", "", 1),
        Stretch("equal", "here today", "here today", 0),
        Stretch("insert", "", "tom", 1),
    ]


@pytest.mark.parametrize("language", ["en", "sw", "th", None])
@given(reference=TEXTS, hypothesis=TEXTS)
def test_jiwer_counts_as_many(language: str | None, reference: str, hypothesis: str) -> None:
    normalize = normalizer_for(language)
    found = jiwer.process_words(normalize(reference), normalize(hypothesis))
    expected = found.substitutions + found.insertions + found.deletions
    assert errors(align(reference, hypothesis, language)) == expected


@given(reference=TEXTS, hypothesis=TEXTS)
def test_both_texts_come_out_whole(reference: str, hypothesis: str) -> None:
    normalize, found = normalizer_for("sw"), align(reference, hypothesis, "sw")
    for side, text in (("reference", reference), ("hypothesis", hypothesis)):
        parts = [part for stretch in found if (part := getattr(stretch, side))]
        assert separator("sw").join(parts) == normalize(text)


def test_scripts_without_spaces_are_compared_by_graphemes() -> None:
    """ไม่ is two graphemes, the second vowel and tone mark stay on their letter."""
    assert align("ไม่ดี", "ไม่มี", "th") == [
        Stretch("equal", "ไม่", "ไม่", 0),
        Stretch("substitute", "ดี", "มี", 1),
    ]
    assert align("你 好", "你们好", "zh")[1] == Stretch("insert", "", "们", 1)


def test_nothing_said_or_nothing_heard() -> None:
    assert align("", "", "sw") == []
    assert align("one two", "", "sw") == [Stretch("delete", "one two", "", 2)]
    assert align("", "one two", "sw") == [Stretch("insert", "", "one two", 2)]
