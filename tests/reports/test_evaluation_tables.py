"""What an evaluation prints, and its Markdown: whole on 80 columns, and read as it was meant."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console

from lora_whisper.evaluation.results import Comparison, from_json
from lora_whisper.reports import evaluation_tables
from lora_whisper.reports.evaluation_tables import SHOWN_GROUPS, markdown, show_evaluation
from lora_whisper.reports.evaluation_text import p_value, verdict
from tests.reports.toy_evaluation import (
    asked_for,
    compared,
    model,
    score,
    speech_set,
    toy_card,
    toy_results,
    typed,
)

LONG = "outputs/experiments/whisper-large-v3-turbo-on-everything/merged"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Show results; the lines on a console of 80 columns."""

    def show(results: dict[str, Any]) -> list[str]:
        written = io.StringIO()
        monkeypatch.setattr(evaluation_tables, "console", Console(file=written, width=80))
        show_evaluation(typed(results))
        return written.getvalue().splitlines()

    return show


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]


def test_a_row_a_model_with_its_verdict(printed: Any) -> None:
    lines = printed(toy_results())
    tables = [cells(line) for line in lines if line.startswith(("┃", "│"))]
    assert tables == [
        ["", "WER", "95 % interval", "CER", "against base"],
        ["base", "90.0 %", "72.0 – 99.0 %", "45.0 %", ""],
        ["adapter", "20.0 %", "16.0 – 22.0 %", "10.0 %", "better (p < 0.001)"],
    ]
    text = " ".join(line.strip() for line in lines)
    assert "test: 3 utterances, 15 words, 0.25 h, normalizer whisper-english" in text
    assert "RTFx: base 15.0, adapter 15.0" in text


def test_cer_comes_first_where_it_leads(printed: Any) -> None:
    both = {name: score(0.4, leading="cer") for name in ("base", "adapter")}
    lines = printed(toy_results(scores={"test": both}))
    tables = [cells(line) for line in lines if line.startswith(("┃", "│"))]
    assert tables[0][1:4] == ["CER", "95 % interval", "WER"]
    assert tables[1][1:4] == ["20.0 %", "16.0 – 24.0 %", "40.0 %"]
    assert "15 graphemes" in "".join(lines)


def test_what_was_not_asked_for_is_not_shown(printed: Any) -> None:
    text = "\n".join(printed(toy_results()))
    shown = ("condition", "scale", "by accent", "wrong most often", "list", "Signs", "nobody")
    assert not [word for word in shown if word in text]
    assert text.count("┏") == 1
    assert not re.search("warning|note", text)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("Kept and lost", ["timestamps", "lost", "98 %", "12 %", "-86 (-97 to -70)"]),
        ("Kept and lost", ["translation", "not measured", "–", "–", "it is English already"]),
        ("Conditions", ["noise-0db", "180.0 %", "40.0 %"]),
        ("Adapter scale", ["0.5", "55.0 %"]),
        ("Groups", ["scots", "180.0 %", "40.0 %", "3"]),
        ("Word list", ["adapter", "62.5 %", "40.0 – 80.0 %", "5 of 8", "1", "20.0 %"]),
        ("Word list", ["adapter, prompted", "87.5 %", "40.0 – 80.0 %", "7 of 8", "12.5 %"]),
        ("Hallucination", ["adapter, test", "1", "1", "1", "1", "33.3 %"]),
        ("Hallucination", ["adapter", "1 of 4"]),
        ("Overfitting", ["adapter", "1.0 %", "0.8 – 1.1 %", "0.5 %"]),
    ],
)
def test_what_was_asked_for_is(printed: Any, part: str, expected: list[str]) -> None:
    lines = printed(toy_results(**asked_for()[part]))
    assert expected in [cells(line)[: len(expected)] for line in lines if "│" in line]


def test_what_is_lost_for_certain_is_a_warning_and_goes_with_the_scores(printed: Any) -> None:
    results = toy_results(**asked_for()["Kept and lost"])
    text = " ".join(line.strip() for line in printed(results))
    assert "lost for certain by adapter: timestamps 98 % → 12 %" in text
    assert "| timestamps | lost | 98 % | 12 % | -86 (-97 to -70) |" in markdown(typed(results))


def test_long_names_leave_a_card_in_80_columns_with_every_verdict(printed: Any) -> None:
    results = toy_results(**asked_for()["Kept and lost"])
    card = toy_card() | {"against": "whisper-large-v3-turbo"}
    card["rows"][0]["name"] = "left out of them, english-retention"
    card["rows"][0] |= {"unit": "seconds", "ci95": [-1.25, -0.75]}
    lines = printed(results | {"cards": {"an-adapter-of-swahili-notes": card}})
    assert all(line[-1] in "┃│" for line in lines if "┃" in line or "│" in line)
    verdicts = {cells(line)[1] for line in lines if line.startswith("│")}
    assert verdicts >= {"lost", "kept", "not measured"}


def test_the_most_frequent_mistakes(printed: Any) -> None:
    text = "\n".join(printed(toy_results(**asked_for()["Mistakes"])))
    for line in ("confused  two → too 7×", "lost      well 3 of 5", "inserted  um 4×"):
        assert line in text


def test_worst_groups_come_first_and_the_rest_are_counted(printed: Any) -> None:
    count = SHOWN_GROUPS + 4
    groups = {"speaker": {f"s{number}": score(1 / (number + 1)) for number in range(count)}}
    scores = {"test": {"adapter": score(0.5, groups=groups)}}
    lines = printed(toy_results(scores=scores, comparisons={}))
    names = [cells(line)[0] for line in lines if line.startswith("│ s")]
    assert names == [f"s{number}" for number in range(SHOWN_GROUPS)]
    assert f"by speaker, the worst {SHOWN_GROUPS} of {count}" in " ".join(" ".join(lines).split())


def test_what_has_to_be_said_comes_last(printed: Any) -> None:
    leaks = {"recordings": 0, "texts": 3, "speakers": 1, "run": "a"}
    results = toy_results(
        models=[model("base"), model("adapter"), model("broken", failed="gives NaN")],
        sets=[
            speech_set("test", leaks=[leaks]),
            speech_set("old", "retention", left_out={"too long": 2}),
        ],
        scores={
            "test": {"base": score(0.5), "adapter": score(0.2), "broken": None},
            "old": {
                "base": score(0.2, bad_audio=1, no_reference=2),
                "adapter": score(0.8),
                "broken": None,
            },
        },
        comparisons={
            "test": {"adapter": compared("better", 0.0)},
            "old": {"adapter": compared("worse", 0.0, 0.6)},
        },
        warnings=["few utterances"],
    )
    lines = printed(results)
    said = " ".join(" ".join(lines[len(lines) - lines[::-1].index("") :]).split())
    for text in (
        "warning forgetting: adapter on old, 80.0 % WER against 20.0 % of base: worse (p < 0.001)",
        "warning the model broken failed: gives NaN",
        "warning few utterances",
        "warning 3 texts and 1 speaker of test occur in what a learnt from",
        "note 1 utterance of old did not decode: scored as an empty text",
        "note 2 references of old without a word: what is written there counts as inserted",
        "note left out of old: 2 too long",
    ):
        assert text in said
    assert "recording" not in said
    assert next(cells(line)[:2] for line in lines if "failed" in line) == ["broken", "failed"]


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The same with other names, as keys and as values."""
    if isinstance(value, dict):
        return {renamed(key, names): renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("part", list(asked_for()))
def test_no_line_is_longer_than_the_terminal(printed: Any, part: str) -> None:
    names = {"adapter": LONG, "base": "openai/whisper-large-v3", "scots": LONG, "well": "ว่าดี" * 30}
    results = renamed(toy_results(**asked_for()[part], warnings=[LONG * 3]), names)
    assert max(map(cell_len, printed(results))) <= 80


def test_what_to_type_for_a_broken_model_is_not_broken_into_columns(printed: Any) -> None:
    """The log has it, as a line that can be copied."""
    failed = (
        "The adapter cannot be used:\n  - conv1: found (4, 80)\nPEFT can:\npython -c 'import …'"
    )
    results = toy_results(
        models=[model("base"), model("a", failed=failed)],
        scores={"test": {"base": score(0.4), "a": None}},
        comparisons={},
    )
    text = "\n".join(printed(results))
    assert "conv1: found (4, 80)" in text
    assert "python" not in text


def test_a_name_is_no_markup(printed: Any) -> None:
    name = "[red]a[/red]"
    results = toy_results(
        models=[model(name), model("b", failed=name)],
        sets=[speech_set("test", left_out={name: 2})],
        scores={"test": {name: score(0.4), "b": None}},
        comparisons={},
    )
    text = "\n".join(printed(results))
    assert text.count(name) == 4  # its row, its RTFx, the reason, what was left out


# ── wording ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "p < 0.001"),
        (0.0009, "p < 0.001"),
        (0.001, "p = 0.001"),
        (0.043, "p = 0.043"),
        (0.618, "p = 0.62"),
        (1.0, "p = 1.00"),
    ],
)
def test_p_values_are_as_exact_as_they_are_of_use(probability: float, text: str) -> None:
    assert p_value(probability) == text


def test_verdicts_in_words() -> None:
    assert verdict(from_json(Comparison, compared("better", 0.0))) == "better (p < 0.001)"
    assert (
        verdict(from_json(Comparison, compared("no difference shown", 0.62)))
        == "no difference shown (p = 0.62)"
    )


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────


def table_of(text: str) -> list[list[str]]:
    """The table as another program reads it: all cells of all rows."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert [token.type for token in tokens].count("table_open") == 1
    lines: list[list[str]] = []
    for token in tokens[: [token.type for token in tokens].index("table_close")]:
        if token.type == "tr_open":
            lines.append([])
        elif token.type == "inline":
            lines[-1].append("".join(child.content for child in token.children or ()))
            assert {child.type for child in token.children or ()} <= {"text", "text_special"}
    return lines


def test_the_table_for_a_model_card() -> None:
    results = toy_results()
    results["scores"]["test"]["broken"] = None
    lines = table_of(markdown(typed(results)))
    assert lines == [
        ["model", "set", "WER (95 %)", "CER (95 %)", "utterances", "against base"],
        ["base", "test", "90.0 % (72.0 – 99.0 %)", "45.0 % (36.0 – 54.0 %)", "3", ""],
        [
            "adapter",
            "test",
            "20.0 % (16.0 – 22.0 %)",
            "10.0 % (8.0 – 12.0 %)",
            "3",
            "better (p < 0.001)",
        ],
        ["broken", "test", "", "", "", "failed"],
    ]


def test_its_line_says_how_it_was_made() -> None:
    results = toy_results()
    results["scores"]["zh"] = {"base": score(0.4, normalizer="graphemes", resampled="speakers")}
    assert markdown(typed(results)).splitlines()[-1] == (
        "Text is normalized by whisper-english and graphemes; clips are padded as in Transformers "
        "and whisper.cpp. 95 % intervals are by drawing utterances and speakers anew. Verdicts "
        "and the intervals of differences are by approximate randomization, paired and "
        "two-sided, at 5 %."
    )
    assert markdown(typed(toy_results(comparisons={}))).endswith("by drawing utterances anew.\n")
    results["scores"]["zh"]["base"]["leading"] = "cer"
    assert markdown(typed(results)).endswith(
        "Where CER comes first, WER and verdicts are of graphemes.\n"
    )


def test_names_stay_in_their_cell() -> None:
    odd = "a|b <b>*x*</b> [y](z) `c`_d_\\"
    results = toy_results(against=odd, scores={odd: {odd: score(0.1)}})
    assert [len(line) for line in table_of(markdown(typed(results)))] == [6, 6]
    assert table_of(markdown(typed(results)))[1][:2] == [odd, odd]


def test_seen_and_unseen_words_stand_apart() -> None:
    part = asked_for()["Word list"]
    parts = part["prompted"]["test"]["adapter"]["recall"]["parts"]
    part["keywords"]["test"]["adapter"]["parts"] = parts
    shown = markdown(typed(toy_results(**part)))
    assert "· seen | 50.0 % (40.0 – 80.0 %) | 4 of 8 | 1 |" in shown
    assert "· unseen | 37.5 % (40.0 – 80.0 %) | 3 of 8 | 1 |" in shown
    assert "unseen ones not" in shown
