"""The words that are scored against those that are spoken, and the rate that bears the score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lora_whisper.data.quality import scored_words
from lora_whisper.data.quality_measures import RECORD, Categories, Measured
from lora_whisper.evaluation.results import Score, from_json, to_json
from lora_whisper.evaluation.score import score
from lora_whisper.evaluation.scored_words import bearing_rates, caution, cautions, words_of
from lora_whisper.reports.evaluation_text import remarks as evaluation_remarks
from tests.configs import data_config
from tests.evaluation.toy_rows import rows_of
from tests.reports.toy_evaluation import speech_set, toy_results, typed
from tests.toy_utterances import manifest_utterances

DIGITS = ["two eight five seven", "nine nine one", "four oh six two", "one two three four"]


def scored(
    references: Sequence[str], hypotheses: Sequence[str] | None = None, language: str | None = "en"
) -> Score:
    rows = rows_of(references, hypotheses or references, language)
    return score(rows, 10, seed=0)


def test_connected_digits_count_as_one_word_and_are_said_to() -> None:
    """Heard with other spaces, three of four numbers are "wrong"; no digit of them is."""
    heard = ["two eight five seven", "nine 91", "40 six two", "12 34"]
    found = scored(DIGITS, heard)
    assert (found.written_words, found.reference_words) == (15, 4)
    assert found.wer > 0.7
    assert found.cer_unspaced == pytest.approx(0.0, abs=0.1)
    assert "15 words of 4 utterances are scored as 4" in caution(found)
    assert "whisper-english" in caution(found)
    said = cautions({"base": found, "adapter": scored(DIGITS)})
    assert "CER without spaces base" in said
    assert "WER as written base" in said
    assert "adapter 0.0 %" in said


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", ["He paid twenty five dollars for it, and didn't ask.", "So did I, at nine."]),
        ("sw", ["Habari ya asubuhi, ndugu zangu wote.", "Nimefika salama - asante sana leo."]),
        ("th", ["สวัสดีครับ วันนี้อากาศดี"]),
        ("de", ["Donaudampfschifffahrtsgesellschaftskapitäne trinken an jedem Tag viel Tee"]),
    ],
)  # fmt: skip
def test_ordinary_sentences_are_scored_as_they_are_spoken(language: str, texts: list[str]) -> None:
    found = scored(texts, language=language)
    assert caution(found) == ""
    assert found.cer_unspaced is None


@pytest.mark.parametrize(
    ("language", "texts", "expected"),
    [
        ("xx", ["สวัสดีครับวันนี้อากาศดีมาก", "ขอบคุณมากครับพบกันใหม่พรุ่งนี้"], "whole sentences"),
        ("sw", ["thisisonesentencewithoutspaces"] * 9, "whole sentences"),
        ("sw", ["...", "[kicheko]", "habari ya leo"], "2 of 3 references nothing is left"),
        ("en", ["— ! ?", "(laughs)"], "2 of 2 references nothing is left"),
        ("en", ["five dollars and ten cents", "one pound and twenty pence"] * 3, "are scored as"),
    ],
)
def test_other_ways_to_lose_words(language: str, texts: list[str], expected: str) -> None:
    assert expected in caution(scored(texts, language=language))


def test_older_scores_say_nothing() -> None:
    values = to_json(scored(DIGITS))
    for name in ("written_words", "emptied", "cer_unspaced"):
        del values[name]
    found = from_json(Score, values)
    assert caution(found) == bearing_rates({"base": found, "adapter": None}) == ""
    assert cautions({"base": None}) == ""


def test_an_evaluation_says_it_of_each_set() -> None:
    digits = {"base": to_json(scored(DIGITS))}
    results = toy_results(sets=[speech_set("digits")], scores={"digits": digits})
    (said,) = evaluation_remarks(typed(results))
    assert said[0] == "warning"
    assert said[1].startswith("digits: 15 words of 4 utterances are scored as 4")


def measured(split: str, texts: Sequence[str], language: str) -> Measured:
    config = data_config(language=language)
    rows = [{"audio": f"/{number}.wav", "text": text} for number, text in enumerate(texts)]
    records = np.zeros(len(rows), RECORD)
    for record, text in zip(records, texts, strict=True):
        record["characters"] = len(text)
        record["written_words"], record["scored_words"] = words_of(text, language)
    names = Categories(), Categories(), Categories()
    return Measured(split, manifest_utterances(Path("/"), rows, config), records, {}, *names)


def test_check_names_the_rows_of_held_out_splits() -> None:
    usual = ["he paid twenty five of them", "so he did that evening too", "..."]
    splits = {
        "train": measured("train", DIGITS, "en"),
        "validation": measured("validation", usual, "en"),
        "test": measured("test", DIGITS, "en"),
    }
    finding = scored_words(splits)
    assert {split: rows.tolist() for split, rows in finding.numbers.items()} == {
        "train": [],
        "validation": [2],
        "test": [0, 1, 2, 3],
    }
    assert finding.detail(splits["test"], 0) == "4 words are scored as 1"
