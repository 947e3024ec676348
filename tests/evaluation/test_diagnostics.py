"""Signs of hallucination: what loops, what no one can say in the time, what was said in silence."""

from __future__ import annotations

import json
import random

import jiwer
import pytest
from scipy import stats

from lora_whisper.evaluation.decoding.long_form import compression_ratio
from lora_whisper.evaluation.diagnostics import (
    ErrorAnalysis,
    analyse_errors,
    find_hallucination,
    loops,
    signs,
    wilson_interval,
    word_recall,
)
from lora_whisper.evaluation.results import (
    SEEN_AND_UNSEEN,
    ScoredUtterance,
    WordRecall,
    from_json,
    to_json,
)
from lora_whisper.evaluation.score import score_utterance
from tests.evaluation.toy_rows import rows_of

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


def row(
    reference: str, hypothesis: str, seconds: float = 10.0, language: str = "en"
) -> ScoredUtterance:
    return score_utterance("a.jsonl:1", language, reference, hypothesis, seconds=seconds)


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
        score_utterance(f"a.jsonl:{number}", "en", said, text, seconds=60.0)
        for number, (said, text) in enumerate(heard.items())
    ]
    found = find_hallucination(rows)
    assert (found.utterances, found.any) == (3, 2)
    assert (found.looping, found.on_silence, found.compression) == (2, 1, 1)
    assert [one.row for one in found.examples] == [rows[1].row, rows[2].row]
    assert found.examples[1].why == "looping"


# ── Recall counted by hand; Wilson's interval is SciPy's ────────────────────────────────────────


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
    result = word_recall(rows, DRUGS, 200, seed=0)
    assert result.words == (("Metformin", 3, 1), ("Aspirin", 2, 2), ("baby aspirin", 1, 1))
    assert (result.said, result.found, result.written) == (6, 4, 5)
    assert (result.recall, result.precision) == (4 / 6, 4 / 5)
    assert result.ci95 is not None
    assert result.ci95[0] < 4 / 6 < result.ci95[1]


def test_false_alarms_and_words_that_training_had_counted_by_hand() -> None:
    said = ["take metformin", "take aspirin now please", "nothing"]
    written = ["take metformin and aspirin", "take now", "metformin metformin"]
    result = word_recall(rows_of(said, written, "en"), DRUGS, 200, seed=0, seen={"Aspirin"})
    assert (result.said, result.found, result.written, result.false_alarms) == (2, 1, 4, 3)
    assert result.false_alarm_rate == 3 / 7
    assert result.false_alarm_ci95 is not None
    assert result.false_alarm_ci95[0] < 3 / 7 < result.false_alarm_ci95[1]
    seen, unseen = (result.parts[name] for name in SEEN_AND_UNSEEN)
    assert (seen.said, seen.found, seen.false_alarms) == (1, 0, 1)
    assert (unseen.said, unseen.found, unseen.false_alarms) == (1, 1, 2)
    assert unseen.words == (("Metformin", 1, 1),)
    assert from_json(WordRecall, json.loads(json.dumps(to_json(result)))) == result
    for known in ({*DRUGS}, set(), None):
        assert not word_recall(rows_of(said, written, "en"), DRUGS, 9, 0, known).parts


def test_more_written_than_said_are_found_no_more_often() -> None:
    result = word_recall(rows_of(["moja"], ["moja moja moja"]), ["moja"], 50, seed=0)
    assert (result.recall, result.precision) == (1.0, 1 / 3)


def test_keywords_are_normalized_by_the_language_of_the_row() -> None:
    english = rows_of(["The colour, it's twenty mg."], ["the color it is 20 milligrams"], "en")
    result = word_recall(english, ["colour", "it is", "20"], 50, seed=0)
    assert result.words == (("20", 1, 1), ("colour", 1, 1), ("it is", 1, 1))
    assert word_recall(english, ["Colour", "COLOR"], 50, seed=0).said == 1  # they are one


def test_keywords_of_scripts_without_spaces_are_runs_of_graphemes() -> None:
    rows = rows_of(["今天吃阿司匹林。", "阿司匹林"], ["今天吃阿司匹林", "阿斯匹林"], "zh")
    result = word_recall(rows, ["阿司匹林"], 50, seed=0)
    assert result.words == (("阿司匹林", 2, 1),)


def test_occurrences_of_one_keyword_do_not_overlap() -> None:
    result = word_recall(rows_of(["haya haya haya"], [""]), ["haya haya"], 50, seed=0)
    assert (result.said, result.found) == (1, 0)


def test_keywords_that_nobody_says_or_nothing_is_left_of() -> None:
    result = word_recall(rows_of(["moja"], ["mbili"]), ["!!!", "mbili"], 50, seed=0)
    assert (result.recall, result.ci95, result.words) == (None, None, ())
    assert result.precision == 0.0
    silent = word_recall(rows_of(["moja"], [""]), ["mbili"], 50, seed=0)
    assert silent.precision is None
    assert from_json(WordRecall, json.loads(json.dumps(to_json(silent)))) == silent


@pytest.mark.parametrize(("found", "said"), [(0, 4), (4, 4), (7, 12), (499, 500)])
def test_wilson_equals_scipys(found: int, said: int) -> None:
    theirs = stats.binomtest(found, said).proportion_ci(method="wilson")
    assert wilson_interval(found, said) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_three_of_three_do_not_prove_a_recall_of_100_percent() -> None:
    result = word_recall(rows_of(["moja"] * 3, ["moja"] * 3), ["moja"], 100, seed=0)
    assert result.ci95 == pytest.approx((0.4385, 1.0), abs=1e-4)


def test_words_that_are_missed_together_make_the_interval_wider() -> None:
    """Ten speakers say the word ten times each; half of them are never understood."""
    said, heard = ["moja"] * 100, ["moja"] * 50 + [""] * 50
    names = [f"s{number // 10}" for number in range(100)]
    together = word_recall(rows_of(said, heard, speakers=names), ["moja"], 1_000, seed=0)
    apart = word_recall(rows_of(said, heard), ["moja"], 1_000, seed=0)
    assert (together.resampled, apart.resampled) == ("speakers", "utterances")
    assert together.ci95 is not None
    assert apart.ci95 is not None
    assert together.ci95[1] - together.ci95[0] > 2 * (apart.ci95[1] - apart.ci95[0])


# ── errors counted by hand, and jiwer's counts as the authority ──────────────────────────────────


def test_mistakes_counted_by_hand() -> None:
    rows = rows_of(
        [
            "Chukua dawa mbili leo.",  # dawa → dua; leo is missed
            "Dawa hii ni kali.",  # dawa → dua
            "Dawa zangu zimeisha!",  # dawa is missed
            "Ndiyo.",  # sana is made up
        ],
        ["chukua dua mbili", "dua hii ni kali", "zangu zimeisha", "ndiyo sana"],
    )
    assert analyse_errors(rows, most=10) == ErrorAnalysis(
        confusions=(("dawa", "dua", 2),),
        lost=(("dawa", 3, 3), ("leo", 1, 1)),
        inserted=(("sana", 1),),
    )


def test_a_name_that_is_misheard_in_a_new_way_each_time_is_lost() -> None:
    rows = rows_of(["na metformin", "na metformin", "na wewe"], ["na meta", "na forming", "na we"])
    found = analyse_errors(rows, most=1)
    assert found.lost == (("metformin", 2, 2),)
    assert found.confusions == (("metformin", "forming", 1),)  # of equals, by the alphabet


def test_graphemes_where_there_are_no_spaces() -> None:
    found = analyse_errors(rows_of(["ไม่ดี", "น้ำดี"], ["ไม่มี", "นำดีครับ"], "th"), most=10)
    assert found.confusions == (("ดี", "มี", 1), ("น้ำ", "นำ", 1))
    assert found.inserted == (("ค", 1), ("บ", 1), ("รั", 1))


def test_no_words_at_all() -> None:
    assert analyse_errors(rows_of(["", "..."], ["", ""]), most=5) == ErrorAnalysis((), (), ())
    found = analyse_errors(rows_of(["", "moja"], ["asante", ""]), most=5)
    assert (found.lost, found.inserted) == ((("moja", 1, 1),), (("asante", 1),))


def test_as_many_as_jiwer_counts() -> None:
    rng = random.Random(0)
    words = "moja mbili tatu nne tano".split()
    references = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(100)]
    hypotheses = [
        " ".join(rng.choice([word, word, "sita", "", "saba nane"]) for word in text.split())
        for text in references
    ]
    rows = rows_of(references, hypotheses)
    found = analyse_errors(rows, most=10_000)
    theirs = jiwer.process_words(references, [row.hypothesis_normalized for row in rows])
    assert sum(count for *_, count in found.confusions) == theirs.substitutions
    assert sum(count for _, count in found.inserted) == theirs.insertions
    lost = sum(lost for _, lost, _ in found.lost)
    assert lost == theirs.substitutions + theirs.deletions
    said = {word: sum(text.split().count(word) for text in references) for word in words}
    assert {word: count for word, _, count in found.lost} == said
