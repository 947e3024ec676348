"""What is marked as an error is what is counted as one."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_whisper.evaluation.alignment import Stretch, align, separator
from lora_whisper.evaluation.normalizers import normalizer_for

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
