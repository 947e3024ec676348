"""The page of an evaluation: marks are errors, nothing is fetched, and nothing is empty."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest

from lora_whisper.evaluation.results import ScoredUtterance
from lora_whisper.reports import utterances
from lora_whisper.reports.evaluation_page import page
from lora_whisper.reports.utterances import PLAYERS, SHOWN_UTTERANCES, badness
from tests.reports.read_page import Page
from tests.reports.toy_evaluation import (
    asked_for,
    compared,
    model,
    row,
    rows,
    score,
    speech_set,
    toy_results,
    typed,
)

ODD = '</dd><script>alert(1)</script> &amp; {{ 7 * 7 }} " onload="x'


def html_of(
    results: Mapping[str, Any] | None = None,
    hypotheses: Mapping[str, Any] | None = None,
    audio: bytes | None = None,
) -> str:
    heard = {"test": rows()} if hypotheses is None else hypotheses
    return page(typed(results or toy_results()), heard, lambda name, row: audio)


COUNTS = ((1, 1), (4, 100), (5, 25), (2, 0))  # errors, reference words


def everything() -> dict[str, Any]:
    parts = asked_for()
    results = toy_results()
    for part in parts.values():
        results |= part
    return results | {"scores": results["scores"] | parts["Groups"]["scores"]}


class Tables(HTMLParser):
    """The cells of every table's rows."""

    def __init__(self, html: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True
        elif tag == "small":
            self.tables[-1][-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] += data


def titles(html: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", html)


def shown_rows(html: str) -> list[str]:
    return re.findall(r'<dt class="file">(.*?)</dt>', html)


# ── it needs nothing but itself ──────────────────────────────────────────────────────────────


def test_nothing_is_fetched_and_only_its_own_script_runs() -> None:
    html = html_of(everything(), audio=b"sound")
    found = Page(html)
    assert found.foreign == ["script"]
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", html)
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(given["content"] for tag, given in found.tags if "http-equiv" in given)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_it_is_whole_without_its_script() -> None:
    found = Page(html_of(everything()))
    hidden = [given["class"] for _, given in found.tags if "hidden" in given]
    assert hidden == ["controls"]


@pytest.mark.parametrize("place", ["name", "models", "sets", "groups", "examples", "warnings"])
def test_whatever_comes_from_data_is_taken_as_it_is(place: str) -> None:
    results = everything()
    heard = {"test": rows()}
    if place == "name":
        results["name"] = ODD
    elif place == "models":
        results["models"].append(model(ODD, failed=ODD))
        results["scores"]["test"][ODD] = None
    elif place == "sets":
        results["sets"].append(speech_set(ODD, left_out={ODD: 2}))
        results["scores"][ODD] = {"base": score(0.5, normalizer=ODD)}
        heard[ODD] = rows({"base": [ODD]}, [ODD])
    elif place == "groups":
        results["scores"]["test"]["adapter"]["groups"] = {ODD: {ODD: score(0.1)}}
    elif place == "examples":
        results["hallucination"]["test"]["base"]["examples"][0]["hypothesis"] = ODD
    else:
        results["warnings"] = [ODD]
    html = html_of(results, heard)
    found = Page(html)
    assert found.foreign == ["script"]
    assert ODD in found.text


def test_texts_are_taken_as_they_are() -> None:
    one = row(1, ODD, "x", bad_audio=ODD, columns={ODD: "<b>"}, row=ODD)
    found = Page(html_of(hypotheses={"test": {"base": [one], "adapter": [one]}}))
    assert found.foreign == ["script"]
    assert found.find(ODD) == [ODD]
    assert found.find("not decoded") == [ODD]
    assert f"{ODD} <b>" in " ".join(found.text.split())


# ── what was heard ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("language", "references", "heard"),
    [
        ("en", None, None),
        ("th", ["ไม่ดี"], ["ไม่มีนะ"]),
        ("ar", ["صباح الخير يا صديقي"], ["صباح النور"]),
    ],
)
def test_as_much_is_marked_as_is_wrong(language: str, references: Any, heard: Any) -> None:
    both = rows() if heard is None else rows({"base": heard}, references, language)
    found = Page(html_of(hypotheses={"test": both}))
    lines = [
        (int(term.split()[-2]), edits, given)
        for (term, _, given), edits in zip(found.definitions, found.edits, strict=True)
        if term.endswith(" wrong")
    ]
    counted = sorted(one.errors for each in both.values() for one in each)
    assert sorted(wrong for wrong, *_ in lines) == counted
    assert sum(counted) > 0
    assert all(given == {"lang": language, "dir": "auto"} for *_, given in lines)
    if language != "th":  # whose graphemes stand without spaces
        assert all(wrong == edits for wrong, edits, _ in lines)


def test_a_wrong_word_says_what_was_said() -> None:
    html = html_of(hypotheses={"test": rows({"base": ["refill tramadol"]}, ["Refill ibuprofen"])})
    assert '<mark title="ibuprofen">tramadol</mark>' in html


def test_models_that_heard_the_same_share_a_line() -> None:
    heard = {"base": ["good"], "adapter": ["good morning"], "merged": ["good morning"]}
    found = Page(html_of(hypotheses={"test": rows(heard, ["Good morning"])}))
    terms = [term for term, *_ in found.definitions if term.endswith(" wrong")]
    assert terms == ["base, 1 wrong", "adapter, merged, 0 wrong"]


def test_nothing_heard_where_nothing_was_said() -> None:
    found = Page(html_of(hypotheses={"test": rows({"base": [""]}, ["[laughs]"])}))
    assert found.find("base, 0 wrong") == ["nothing"]


def test_the_worst_of_the_last_model_come_first() -> None:
    assert shown_rows(html_of()) == ["test.jsonl:2", "test.jsonl:3", "test.jsonl:1"]
    errors = [row(1, "", "", errors=n, reference_words=words) for n, words in COUNTS]
    assert [badness(one) for one in errors] == [1.0, 0.4, 1.0, 2.0]


def test_the_script_has_what_it_sorts_by() -> None:
    found = Page(html_of())
    given = {tag["data-place"]: tag for name, tag in found.tags if name == "article"}
    one = rows()
    brought = one["adapter"][1].errors - one["base"][1].errors
    assert given["-1"]["data-brought"] == str(brought)
    assert given["-1"]["data-taken"] == str(-brought)
    keys = [tag["value"] for name, tag in found.tags if name == "option"]
    assert keys == ["model1", "model0", "brought", "taken", "place"]
    assert all(f"data-{key}" in tag for key in keys for tag in given.values())


def test_only_the_worst_of_a_long_set_are_shown() -> None:
    count = SHOWN_UTTERANCES + 70
    texts = ["good" if number % 7 else "good morning" for number in range(count)]
    heard = rows({"base": texts}, ["good morning"] * count)
    html = html_of(hypotheses={"test": heard})
    assert len(shown_rows(html)) == SHOWN_UTTERANCES
    assert f"The {SHOWN_UTTERANCES} worst of {count} utterances" in html
    assert "evaluation/*/test/hypotheses.jsonl" in html
    left_out = [one.errors for one in heard["base"] if one.row not in shown_rows(html)]
    assert left_out == [0] * 70


def test_recordings_of_an_hour_do_not_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utterances, "SHOWN_CHARACTERS", 1000)
    heard = rows({"base": ["word " * 60] * 9}, ["word " * 60] * 9)
    assert "The 1 worst of 9 utterances" in html_of(hypotheses={"test": heard})
    one = rows({"base": ["word " * 600]}, ["word " * 600])
    assert "All 1 utterances" in html_of(hypotheses={"test": one}), "one there must be"


# ── players ──────────────────────────────────────────────────────────────────────────────────


def test_the_worst_are_to_be_heard() -> None:
    asked: list[tuple[str, str]] = []

    def sound(name: str, row: ScoredUtterance) -> bytes | None:
        asked.append((name, row.row))
        return None if row.row == "test.jsonl:2" else b"mp3 of " + row.row.encode()

    count = PLAYERS + 5
    heard = {"test": rows({"base": ["good"] * count}, ["good morning"] * count)}
    html = page(typed(toy_results()), heard, sound)
    assert asked == [("test", f"test.jsonl:{number}") for number in range(1, PLAYERS + 1)]
    players = [given["src"] for tag, given in Page(html).tags if tag == "audio"]
    assert len(players) == PLAYERS - 1
    first = players[0]
    assert first is not None
    assert base64.b64decode(first.removeprefix("data:audio/mpeg;base64,")) == b"mp3 of test.jsonl:1"


def test_a_page_without_sound() -> None:
    html = html_of()
    assert "<audio" not in html
    assert ">Transcriptions<" in html


# ── sections ─────────────────────────────────────────────────────────────────────────────────

ALWAYS = ["Scores", "Transcriptions", "How it was made"]


def test_nothing_is_shown_that_was_not_asked_for() -> None:
    html = html_of()
    assert titles(html) == ALWAYS
    assert titles(html_of(hypotheses={})) == [ALWAYS[0], ALWAYS[2]]
    assert "remark" not in html.split("</style>")[1]


@pytest.mark.parametrize("title", list(asked_for()))
def test_each_part_has_its_section(title: str) -> None:
    html = html_of(toy_results(**asked_for()[title]))
    assert titles(html) == [ALWAYS[0], title, *ALWAYS[1:]]
    assert f'<a href="#{title.lower().replace(" ", "-")}">{title}</a>' in html


@functools.cache
def cells(title: str) -> list[list[str]]:
    """Of the section's tables, in a row."""
    html = html_of(toy_results(**asked_for()[title]), {})
    section = html.split(f">{title}</h2>")[1].split("<h2")[0]
    return [line for table in Tables(section).tables for line in table]


def test_the_card_says_how_each_row_was_measured() -> None:
    headings, lost, _, unmeasured = cells("Kept and lost")
    assert headings == ["", "", "base", "adapter", "difference (95 %)", "measured"]
    assert lost[:5] == ["timestamps", "lost", "98 %", "12 %", "-86 (-97 to -70)"]
    assert lost[5].endswith("32 clips; kept: at most 10 points lost")
    assert [unmeasured[1], unmeasured[4]] == ["not measured", "it is English already"]


def test_conditions_stand_beside_each_other() -> None:
    assert cells("Conditions") == [
        ["", "base", "adapter"],
        ["clean", "90.0 % 72.0 – 99.0 %", "20.0 % 16.0 – 22.0 %"],
        ["noise-0db", "180.0 % 144.0 – 198.0 %", "40.0 % 32.0 – 44.0 %"],
    ]


def test_scales_and_groups_and_words() -> None:
    assert [line[0] for line in cells("Adapter scale")] == ["scale", "0", "0.5", "1"]
    assert [line[0] for line in cells("Groups")] == ["", "scots", "welsh"]
    assert cells("Groups")[1][1:] == [
        "180.0 % 144.0 – 198.0 %",
        "40.0 % 32.0 – 44.0 %",
        "3 15 words",
    ]
    rates = [f"{wer:.1f} % {0.8 * wer:.1f} – {1.1 * wer:.1f} %" for wer in (90, 20, 10)]
    found = "62.5 % 40.0 – 80.0 %"
    assert cells("Word list")[1:5] == [
        ["base", found, "5 of 8", "1", rates[0]],
        ["adapter", found, "5 of 8", "1", rates[1]],
        ["adapter, prompted", "87.5 % 40.0 – 80.0 %", "7 of 8", "12.5 % 5.0 – 20.0 %", rates[2]],
        ["· seen", "50.0 % 40.0 – 80.0 %", "4 of 8", "1", ""],
    ]
    assert cells("Word list")[-2:] == [
        ["tramadol", "2 of 5", "2 of 5", "4 of 5"],
        ["ibuprofen", "3 of 3", "3 of 3", "3 of 3"],
    ]
    assert [line for line in cells("Mistakes") if "times" not in line][:3] == [
        ["two", "too", "7"],
        ["well", "3", "5"],
        ["um", "4"],
    ]


def test_hallucination_and_overfitting() -> None:
    assert cells("Hallucination")[1] == ["base", "33.3 % 1 of 3", "1", "1", "1", "0"]
    assert cells("Hallucination")[-1] == ["adapter", "1 of 4"]
    assert cells("Overfitting")[0] == ["", "seen", "test"]
    assert cells("Overfitting")[2] == ["adapter", "1.0 % 0.8 – 1.1 %", "20.0 % 16.0 – 22.0 %"]


def test_many_groups_are_cut_and_counted() -> None:
    groups = {"speaker": {f"s{number}": score(1 / (number + 1)) for number in range(25)}}
    scores = {"test": {"base": score(0.5, groups=groups)}}
    html = html_of(toy_results(scores=scores, comparisons={}), {})
    assert "… and 5 better ones" in html
    assert "s19" in html
    assert "s20" not in html


def test_the_verdicts_stand_first() -> None:
    results = toy_results(
        sets=[speech_set("test"), speech_set("old", "retention"), speech_set("seen", "training")],
        scores={
            name: {"base": score(0.5), "adapter": score(0.2)} for name in ("test", "old", "seen")
        },
        comparisons={
            "test": {"adapter": compared("better", 0.0)},
            "old": {"adapter": compared("worse", 0.012, 0.1)},
            "seen": {"adapter": compared("better", 0.0)},
        },
    )
    listed = html_of(results).split('class="verdicts"')[1].split("</ul>")[0]
    found = re.findall(r'<li class="(\w+)">(.*?)</li>', listed, re.DOTALL)
    assert [kind for kind, _ in found] == ["better", "worse"], "of what was trained on, none"
    text = re.sub(r"<[^>]+>", "", found[1][1])
    assert " ".join(text.split()) == (
        "adapter on old, which must not get worse: 20.0 % WER against 50.0 % of base: "
        "worse (p = 0.012) +10.0 points (+0.0 to +20.0)"
    )


def test_a_model_that_failed_says_why() -> None:
    results = toy_results(models=[model("base"), model("adapter", failed="gives NaN")])
    results["scores"]["test"]["adapter"] = None
    results["comparisons"] = {}
    found = html_of(results, {"test": {"base": rows()["base"]}})
    assert "The model adapter failed: gives NaN." in found
    assert ["adapter", "failed"] in [line[:2] for line in Tables(found).tables[0]]
    results["scores"]["test"]["base"] = None
    assert titles(html_of(results, {"test": {}})) == ["Scores", "How it was made"]


def test_cer_comes_first_where_it_leads() -> None:
    both = {"base": score(0.9, leading="cer"), "adapter": score(0.2, leading="cer")}
    found = html_of(toy_results(scores={"test": both}), {})
    headings = Tables(found).tables[0][0]
    assert headings[1:3] == ["CER", "WER"]
    assert Page(found).find("CER on test, base → adapter") == ["45.0 % → 10.0 %"]
    assert "10.0 % CER against 45.0 % of base" in found


@pytest.mark.drawn
def test_a_part_of_the_plots() -> None:
    svgs = re.findall("<svg.*?</svg>", html_of(everything()), re.DOTALL)
    assert len(svgs) == 4  # models and sets, conditions, scale, accents: no set must not get worse
    assert [name in svgs[1] for name in ("clean", "noise-0db", "base", "adapter")] == [True] * 4
    results = toy_results(
        sets=[speech_set("test"), speech_set("old", "retention")],
        scores={name: {"adapter": score(0.2)} for name in ("test", "old")},
        comparisons={},
        scales={
            "adapter": [
                {"scale": scale, "scores": {"test": rated_, "old": rated_}}
                for scale, rated_ in ((0.0, score(0.5)), (1.0, score(0.2)))
            ]
        },
    )
    assert html_of(results, {}).count("<svg") == 3  # and the old speech over the new
    alone = toy_results(scores={"test": {"base": score(0.1)}}, comparisons={})
    assert "<svg" not in html_of(alone, {})


def test_how_it_was_made() -> None:
    found = Page(html_of())
    facts = {name: found.find(name) for name in ("beams", "timestamps", "cuda")}
    assert facts == {"beams": ["1"], "timestamps": ["no"], "cuda": ["none"]}
    assert found.find("adapter") == ["outputs/adapter, adapter, float32, sha256:abc"]
    assert "| adapter | test | 20.0 %" in found.text


def test_a_word_list_that_nobody_said() -> None:
    part = asked_for()["Word list"]
    for one in part["keywords"]["test"].values():
        one |= {"recall": None, "ci95": None, "said": 0, "found": 0, "written": 0, "words": []}
    del part["prompted"]
    section = html_of(toy_results(**part), {}).split(">Word list</h2>")[1]
    assert Tables(section).tables[0][1][:4] == ["base", "–", "0 of 0", "0"]
    assert "by word" not in section
