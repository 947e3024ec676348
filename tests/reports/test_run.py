"""The page of a run: marks are errors, texts are taken as they are, nothing has to be fetched."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.evaluation.results import CapabilityCard, from_json
from lora_whisper.reports.charts import LIGHT
from lora_whisper.reports.run import SHOWN_SAMPLES, chosen, curves, write_report
from lora_whisper.reports.utterances import Sample
from tests.cli.toy_run import Heard, toy_run
from tests.reports.read_page import Page
from tests.reports.toy_evaluation import row, toy_card


def page_of(folder: Path, *overrides: str, **settings: Any) -> Page:
    run, summary = toy_run(folder, *overrides, **settings)
    write_report(run, summary)
    return Page(run.report.read_text(encoding="utf-8"))


def training(step: int, loss: float = 1.0, norm: float | None = 0.5) -> dict[str, Any]:
    return {"step": step, "loss_per_token": loss, "learning_rate": 1e-3, "gradient_norm": norm}


def validation(step: int, wer: float = 0.5) -> dict[str, Any]:
    return {"step": step, "validation_wer": wer, "validation_loss_per_token": 1.1}


LINES = [training(25), training(50), validation(50, 0.4), training(75), validation(75, 0.25)]


def test_as_many_words_are_marked_as_are_wrong(tmp_path: Path) -> None:
    page = page_of(tmp_path / "toy")
    counted = [
        (int(term.split()[-2]), edits)
        for (term, _, _), edits in zip(page.definitions, page.edits, strict=True)
        if term.endswith(" wrong")
    ]
    assert {(3, 3), (0, 0), (1, 1)} <= set(counted)
    assert all(wrong == marked for wrong, marked in counted)


def test_metrics_that_were_damaged_lose_their_lines_and_not_the_page(tmp_path: Path) -> None:
    run, summary = toy_run(tmp_path / "toy", lines=LINES)
    run.metrics.write_bytes(b"\xff\xfe{\n[1]\n" + run.metrics.read_bytes()[:-7])
    write_report(run, summary)
    assert run.report.read_text(encoding="utf-8").count("<svg") == 4


@pytest.mark.drawn
def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    run, summary = toy_run(tmp_path / "toy", lines=LINES)
    write_report(run, summary)
    html = run.report.read_text(encoding="utf-8")
    assert Page(html).foreign == []
    assert not re.search(r"@import|url\((?!#)", html)
    drawn = html.count("<svg")
    assert drawn == 4
    assert [name for name, light in LIGHT.items() if light in html.split("</style>", 1)[1]] == [], (
        "plots take the page's colours, on dark ground too"
    )


def test_a_card_is_styled_as_on_the_page_of_an_evaluation(tmp_path: Path) -> None:
    """A remark stands below its figure, and the table has its class."""
    run, summary = toy_run(tmp_path / "toy", card=from_json(CapabilityCard, toy_card()))
    write_report(run, summary)
    html = run.report.read_text(encoding="utf-8")
    assert "td small { display: block" in html
    assert '<table class="kept">' in html


def test_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    odd = "</dd><script>alert(1)</script> &amp; {{ 7 * 7 }}"
    heard = [Heard(odd, odd, "x", bad_audio="<b>no</b> such file")]
    page = page_of(tmp_path / "toy", heard=heard, name=odd)
    assert page.find("test.jsonl:1")[0] == odd
    assert page.find("not decoded")[0] == "<b>no</b> such file"
    assert page.text.count(odd) >= 3  # title, heading and reference


def test_scripts_without_spaces_and_from_right_to_left(tmp_path: Path) -> None:
    heard = [
        Heard("ไม่ดี", "ไม่มี", "ไม่ดี", language="th"),
        Heard("صباح الخير", "صباح خير", "صباح الخير", language="ar"),
    ]
    page = page_of(tmp_path / "toy", heard=heard)
    lines = {(term, text): given for term, text, given in page.definitions}
    assert lines["base, 1 wrong", "ไม่มี"] == {"lang": "th", "dir": "auto"}
    assert lines["base, 1 wrong", "صباح خير"] == {"lang": "ar", "dir": "auto"}


def test_the_rate_that_leads_is_shown_first(tmp_path: Path) -> None:
    words = page_of(tmp_path / "sw").text.split("Scores on the test set")[1]
    assert words.split()[:5] == ["WER", "95", "%", "interval", "CER"]
    assert "WER as written" in words
    thai = page_of(tmp_path / "th", heard=[Heard("ไม่ดี", "ไม่มี", "ไม่ดี", language="th")])
    assert thai.find("character error rate") == ["20.0 % → 0.0 %"]
    graphemes = thai.text.split("Scores on the test set")[1].split("How it was trained")[0]
    assert graphemes.split()[:5] == ["CER", "95", "%", "interval", "error"]
    assert "CER as written" in graphemes
    assert "WER" not in graphemes


def test_groups_stand_below_their_model_the_worst_first(tmp_path: Path) -> None:
    heard = [Heard("moja", "moja", "moja", voice="f"), Heard("mbili", "x", "y", voice="m")]
    page = page_of(tmp_path / "toy", heard=heard)
    base = page.text.split("Scores on the test set")[1].split("base")[1].split("adapter")[0]
    assert re.findall(r"^\s*([mf])$", base, flags=re.MULTILINE) == ["m", "f"]


def test_the_merged_model_is_quoted_where_it_heard_something_else(tmp_path: Path) -> None:
    heard = [Heard("moja", "mbili", "moja", merged="moja"), Heard("tatu", "nne", "tatu", "mbili")]
    terms = [term for term, _, _ in page_of(tmp_path / "toy", heard=heard).definitions]
    assert "merged, 1 wrong" in terms
    assert "merged, 0 wrong" not in terms


def test_a_run_without_test_set_and_without_lines(tmp_path: Path) -> None:
    page = page_of(tmp_path / "toy", heard=())
    assert "Nothing was scored" in page.text
    assert "Transcriptions" not in page.text
    assert page.find("hours of speech") == ["1.00"]


def test_what_is_said_of_the_speech(tmp_path: Path) -> None:
    page = page_of(tmp_path / "toy")
    assert page.find("left out of train") == ["7 longer than the window of 30 s"]
    assert page.find("speakers") == ["1 of the test set's 3 speakers are seen in training"]
    assert page.find("word error rate") == ["80.0 % → 20.0 %"]


def test_what_happened_in_training(tmp_path: Path) -> None:
    page = page_of(tmp_path / "toy")
    assert not {"skipped steps", "ended"} & {term for term, _, _ in page.definitions}
    page = page_of(tmp_path / "second", skipped_steps=2, ended_early=True)
    assert page.find("skipped steps") == ["2, whose loss or gradient was not finite"]
    assert len(page.find("ended")) == 1


def test_the_configuration_and_what_is_changed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    page = page_of(tmp_path / "toy", "adapter.rank=32", f"data.train={tmp_path}/speech.jsonl")
    table, yaml = page.text.split("config.yaml")
    assert re.search(r"adapter\.rank\s*32\s*16\s", table)
    assert "adapter.alpha" not in table
    assert "~/speech.jsonl" in table
    assert "rank: 32" in yaml
    assert str(tmp_path) not in page.text


# ── which samples ────────────────────────────────────────────────────────────────────────────


def sample(base: int, adapter: int) -> Sample:
    errors = {"base": base, "adapter": adapter}
    return Sample({model: row(1, "", "", errors=count) for model, count in errors.items()})


def test_samples_are_the_extremes_and_some_of_the_rest() -> None:
    generator = random.Random(0)
    samples = [sample(generator.randrange(9), generator.randrange(9)) for _ in range(100)]
    found = dict(chosen(samples, seed=3))
    worst, brought, took, others = found.values()
    assert all(len(some) == SHOWN_SAMPLES for some in found.values())
    shown = {id(one) for one in (*worst, *brought, *took)}
    rest = [one for one in samples if id(one) not in shown]
    assert min(one.errors for one in worst) >= max(one.errors for one in rest)
    assert max(one.gain for one in brought) <= min(one.gain for one in rest)
    assert min(one.gain for one in took) >= max(one.gain for one in rest)
    assert not shown & {id(one) for one in others}
    assert others == dict(chosen(samples, seed=3))[list(found)[3]]
    assert others != dict(chosen(samples, seed=4))[list(found)[3]]


def test_kinds_without_any_sample_are_left_out() -> None:
    assert [title for title, _ in chosen([sample(1, 0)] * 3, seed=0)] == [
        "Most errors that the adapter took away"
    ]
    assert chosen([], seed=0) == []


# ── curves ───────────────────────────────────────────────────────────────────────────────────


def drawn(lines: list[dict[str, Any]], kept: int | None = 75) -> Mapping[str, str]:
    return dict(curves(lines, kept))


def test_the_step_that_was_kept_is_named() -> None:
    assert "WER of the validation sample, 25.0 % at the step that was kept" in drawn(LINES)
    assert "WER of the validation sample" in drawn(LINES, kept=None)


def test_no_step_is_marked_where_a_mean_of_several_ships(tmp_path: Path) -> None:
    averaging = {"steps": [50, 75], "ships": True}
    page = page_of(tmp_path / "toy", lines=LINES, averaging=averaging)
    assert "at the step that was kept" not in page.text
    assert page.find("time") == ["1:05 for 100 steps, adapter of the mean of steps 50, 75"]


def test_what_there_is_not_is_not_drawn() -> None:
    assert list(drawn([training(25)])) == [
        "Loss per token",
        "Learning rate",
        "Gradient norm before clipping",
    ]
    assert drawn([]) == {}


@pytest.mark.drawn
def test_one_point_is_seen() -> None:
    """A run of a few steps has no more, and a line of one point is none."""
    for svg in drawn([training(25)]).values():
        assert 'style="fill: var(--blue); stroke: var(--blue)"' in svg


@pytest.mark.drawn
def test_norms_that_were_not_finite_leave_no_gap() -> None:
    without = drawn([training(1), training(3)])
    gap = drawn([training(1), training(2, norm=None), training(3)])
    assert gap["Gradient norm before clipping"] == without["Gradient norm before clipping"]
    none = drawn([training(1, norm=None)])
    assert list(none) == ["Loss per token", "Learning rate"]


@pytest.mark.drawn
def test_a_run_of_days_makes_no_page_of_megabytes() -> None:
    generator = random.Random(0)
    lines = [training(step, generator.random(), generator.random()) for step in range(1, 20_000)]
    assert sum(map(len, drawn(lines).values())) < 100_000
