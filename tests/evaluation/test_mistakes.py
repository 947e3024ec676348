"""Mistakes counted by hand, and jiwer's counts as the authority."""

from __future__ import annotations

import json
import random

import jiwer

from lora_whisper.evaluation.mistakes import Mistakes, find_mistakes
from tests.evaluation.toy_rows import rows_of


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
    assert find_mistakes(rows, most=10) == Mistakes(
        confusions=(("dawa", "dua", 2),),
        lost=(("dawa", 3, 3), ("leo", 1, 1)),
        inserted=(("sana", 1),),
    )


def test_a_name_that_is_misheard_in_a_new_way_each_time_is_lost() -> None:
    rows = rows_of(["na metformin", "na metformin", "na wewe"], ["na meta", "na forming", "na we"])
    found = find_mistakes(rows, most=1)
    assert found.lost == (("metformin", 2, 2),)
    assert found.confusions == (("metformin", "forming", 1),)  # of equals, by the alphabet


def test_graphemes_where_there_are_no_spaces() -> None:
    found = find_mistakes(rows_of(["ไม่ดี", "น้ำดี"], ["ไม่มี", "นำดีครับ"], "th"), most=10)
    assert found.confusions == (("ดี", "มี", 1), ("น้ำ", "นำ", 1))
    assert found.inserted == (("ค", 1), ("บ", 1), ("รั", 1))


def test_no_words_at_all() -> None:
    assert find_mistakes(rows_of(["", "..."], ["", ""]), most=5) == Mistakes((), (), ())
    found = find_mistakes(rows_of(["", "moja"], ["asante", ""]), most=5)
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
    found = find_mistakes(rows, most=10_000)
    theirs = jiwer.process_words(references, [row.hypothesis_normalized for row in rows])
    assert sum(count for *_, count in found.confusions) == theirs.substitutions
    assert sum(count for _, count in found.inserted) == theirs.insertions
    lost = sum(lost for _, lost, _ in found.lost)
    assert lost == theirs.substitutions + theirs.deletions
    said = {word: sum(text.split().count(word) for text in references) for word in words}
    assert {word: count for word, _, count in found.lost} == said


def test_to_dict_is_plain_json() -> None:
    plain = find_mistakes(rows_of(["moja mbili"], ["mojo tatu nne"]), most=2).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["lost"] == [["mbili", 1, 1], ["moja", 1, 1]]
