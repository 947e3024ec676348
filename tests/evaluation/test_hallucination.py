"""Signs of hallucination: what loops, what no one can say in the time, what was said in silence."""

from __future__ import annotations

import pytest

from lora_whisper.evaluation.fallback import compression_ratio
from lora_whisper.evaluation.hallucination import find_runaways, loops, signs
from lora_whisper.evaluation.rows import ScoredRow, scored_row

FLUENT = (
    "The committee will meet again on Thursday to discuss the budget of the northern clinics, "
    "and every pharmacist who wants to speak has to write to the secretary before that."
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no no no no", True),
        ("no no no", False),
        ("thank you for watching " * 4, True),
        ("thank you for watching " * 3, False),
        ("we said yes yes yes and then no no no", False),
        (FLUENT, False),
        ("", False),
        (" ".join("好好好好"), True),
    ],
)
def test_the_same_words_four_times_in_a_row_are_a_loop(text: str, expected: bool) -> None:
    assert loops(text) is expected


def row(reference: str, hypothesis: str, seconds: float = 10.0, language: str = "en") -> ScoredRow:
    return scored_row("a.jsonl:1", language, reference, hypothesis, seconds=seconds)


def test_whispers_own_threshold_finds_what_repeats_itself() -> None:
    """openai/whisper, transcribe.py: compression_ratio_threshold = 2.4."""
    assert compression_ratio(FLUENT) < 2.4 < compression_ratio("I am here. " * 12)
    assert "compression" in signs(row("I am here.", "I am here. " * 12))


def test_a_reference_that_repeats_itself_may_be_heard_so() -> None:
    said = "la la la la lo"
    assert signs(row(said, said)) == []
    assert signs(row("la lo", said)) == ["looping"]


@pytest.mark.parametrize(
    ("language", "letters", "expected"),
    [("en", 39, False), ("en", 41, True), ("zh", 24, False), ("zh", 26, True)],
)
def test_more_letters_than_a_second_has_time_for(
    language: str, letters: int, expected: bool
) -> None:
    text = "".join(chr((0x4E00 if language == "zh" else 0x61) + 7 * n % 26) for n in range(letters))
    found = signs(row("a", text, seconds=1.0, language=language))
    assert ("too_long" in found) is expected


def test_text_where_nobody_speaks() -> None:
    assert signs(row("", "Thank you.")) == ["on_silence"]
    assert signs(row("", " ...")) == []  # punctuation is nothing
    assert signs(row("", "")) == []


def test_utterances_are_counted_once_whatever_they_show() -> None:
    heard = {"one": "one", "": "so " * 60, "two words": "two words words words words"}
    rows = [
        scored_row(f"a.jsonl:{number}", "en", said, text, seconds=60.0)
        for number, (said, text) in enumerate(heard.items())
    ]
    found = find_runaways(rows)
    assert (found.utterances, found.any) == (3, 2)
    assert (found.looping, found.on_silence, found.compression) == (2, 1, 1)
    assert [one["row"] for one in found.examples] == [rows[1].row, rows[2].row]
    assert found.examples[1]["why"] == "looping"
