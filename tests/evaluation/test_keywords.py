"""Recall counted by hand; Wilson's interval is SciPy's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from lora_whisper.errors import UserError
from lora_whisper.evaluation.keywords import keyword_recall, read_keywords, wilson_interval
from tests.evaluation.toy_rows import rows_of

DRUGS = ["Aspirin", "baby aspirin", "Metformin"]


def test_recall_counted_by_hand() -> None:
    rows = rows_of(
        [
            "Take baby aspirin, then aspirin.",  # both heard: baby aspirin once, aspirin twice
            "No metformin today.",  # missed
            "Metformin and metformin again.",  # one of two
            "Nothing at all.",  # written where nobody said it
        ],
        ["take baby aspirin then aspirin", "no met forming today", "metformin again", "aspirin"],
        "en",
    )
    result = keyword_recall(rows, DRUGS, 200, seed=0)
    assert result.words == (("Metformin", 3, 1), ("Aspirin", 2, 2), ("baby aspirin", 1, 1))
    assert (result.said, result.found, result.written) == (6, 4, 5)
    assert (result.recall, result.precision) == (4 / 6, 4 / 5)
    assert result.ci95 is not None
    assert result.ci95[0] < 4 / 6 < result.ci95[1]


def test_more_written_than_said_are_found_no_more_often() -> None:
    result = keyword_recall(rows_of(["moja"], ["moja moja moja"]), ["moja"], 50, seed=0)
    assert (result.recall, result.precision) == (1.0, 1 / 3)


def test_keywords_are_normalized_by_the_language_of_the_row() -> None:
    english = rows_of(["The colour, it's twenty mg."], ["the color it is 20 milligrams"], "en")
    result = keyword_recall(english, ["colour", "it is", "20"], 50, seed=0)
    assert result.words == (("20", 1, 1), ("colour", 1, 1), ("it is", 1, 1))
    assert keyword_recall(english, ["Colour", "COLOR"], 50, seed=0).said == 1  # they are one


def test_keywords_of_scripts_without_spaces_are_runs_of_graphemes() -> None:
    rows = rows_of(["今天吃阿司匹林。", "阿司匹林"], ["今天吃阿司匹林", "阿斯匹林"], "zh")
    result = keyword_recall(rows, ["阿司匹林"], 50, seed=0)
    assert result.words == (("阿司匹林", 2, 1),)


def test_occurrences_of_one_keyword_do_not_overlap() -> None:
    result = keyword_recall(rows_of(["haya haya haya"], [""]), ["haya haya"], 50, seed=0)
    assert (result.said, result.found) == (1, 0)


def test_keywords_that_nobody_says_or_nothing_is_left_of() -> None:
    result = keyword_recall(rows_of(["moja"], ["mbili"]), ["!!!", "mbili"], 50, seed=0)
    assert (result.recall, result.ci95, result.words) == (None, None, ())
    assert result.precision == 0.0
    silent = keyword_recall(rows_of(["moja"], [""]), ["mbili"], 50, seed=0)
    assert silent.precision is None
    assert json.loads(json.dumps(silent.to_dict())) == silent.to_dict()


@pytest.mark.parametrize(("found", "said"), [(0, 4), (4, 4), (7, 12), (499, 500)])
def test_wilson_equals_scipys(found: int, said: int) -> None:
    theirs = stats.binomtest(found, said).proportion_ci(method="wilson")
    assert wilson_interval(found, said) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_three_of_three_do_not_prove_a_recall_of_100_percent() -> None:
    result = keyword_recall(rows_of(["moja"] * 3, ["moja"] * 3), ["moja"], 100, seed=0)
    assert result.ci95 == pytest.approx((0.4385, 1.0), abs=1e-4)


def test_words_that_are_missed_together_make_the_interval_wider() -> None:
    """Ten speakers say the word ten times each; half of them are never understood."""
    said, heard = ["moja"] * 100, ["moja"] * 50 + [""] * 50
    names = [f"s{number // 10}" for number in range(100)]
    together = keyword_recall(rows_of(said, heard, speakers=names), ["moja"], 1_000, seed=0)
    apart = keyword_recall(rows_of(said, heard), ["moja"], 1_000, seed=0)
    assert (together.resampled, apart.resampled) == ("speakers", "utterances")
    assert together.ci95 is not None
    assert apart.ci95 is not None
    assert together.ci95[1] - together.ci95[0] > 2 * (apart.ci95[1] - apart.ci95[0])


# ── the file ─────────────────────────────────────────────────────────────────────────────────


def test_a_word_or_a_phrase_a_line(tmp_path: Path) -> None:
    path = tmp_path / "drugs.txt"
    path.write_text("\ufeffAspirin\n\n  baby aspirin \r\nAspirin\n阿司匹林\n", encoding="utf-8")
    assert read_keywords(path) == ("Aspirin", "baby aspirin", "阿司匹林")


@pytest.mark.parametrize(
    ("content", "found"),
    [(None, "no such file"), (b"", "found no word"), (b" \n\n", "no word"), (b"a\n\xff", "UTF-8")],
)
def test_no_keywords(tmp_path: Path, content: bytes | None, found: str) -> None:
    path = tmp_path / "drugs.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=found) as raised:
        read_keywords(path)
    assert f"evaluation.keywords={path}" in str(raised.value)
    assert "a word or a phrase a line" in str(raised.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.keywords="):
        read_keywords(tmp_path)
