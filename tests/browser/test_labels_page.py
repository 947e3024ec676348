"""Deciding by keyboard on the page of `check labels=true`, and what is saved of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_whisper.config import DataConfig
from lora_whisper.data.decisions import read_decisions
from lora_whisper.data.quality import settings
from lora_whisper.reports import data_check
from lora_whisper.reports.charts import Chart
from lora_whisper.reports.labels import LabelSection, ShownLabel
from tests.browser.conftest import Browser, until
from tests.data.test_quality import split


def shown(number: int, kind: str, **more: str) -> ShownLabel:
    row = f"a.jsonl:{number}"
    texts = f'<b>"text" {number}\u2028</b> & co', f"heard {number}"
    return ShownLabel(
        kind, 0.9, "", "why", "train", row, f"{number}.wav", 2.0, *texts, f"{number:016x}", **more
    )


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Chart, "svg", lambda chart: "<svg></svg>")
    found = [
        shown(1, "other_clip", fits=f"{2:016x}"),
        shown(2, "other_clip", fits=f"{1:016x}"),
        shown(3, "cut_ends", decision="reject"),
        shown(4, "cut_ends"),
    ]
    labels = LabelSection(4, {}, "the base", {}, found)
    measured = {"train": split("train", {}, {})}
    report = data_check.CheckReport(
        format=1,
        name=tmp_path.name,  # what is kept in a browser is kept by name
        checkpoint="toy",
        revision=None,
        utterances=4,
        hours=0.1,
        speakers=1,
        problems=0,
        splits={},
        settings=settings(30.0, 448),
        data=DataConfig(train="a.jsonl"),
        cleaning=None,
        fix=None,
    )
    path = tmp_path / "check.html"
    path.write_text(data_check.page(report, measured, [], labels), encoding="utf-8")
    return path


def test_keys_decide_and_the_file_is_one_that_train_takes(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    browser.open(page.as_uri(), "#decide")
    assert "1 of 4 decided" in browser.text("#tally")
    assert "kinds of problems\n2" in browser.text("dl.key")
    body = browser.one("body")
    for key in "ja":  # the first one is wrong, and the second is next
        body.send_keys(key)
    for key in "rk":  # the second is right; and back to it
        body.send_keys(key)
    body.send_keys("a")
    assert "3 of 4 decided" in browser.text("#tally", "3 of")
    browser.driver.refresh()
    assert "3 of 4 decided" in browser.text("#tally", "3 of"), "they outlast the page"
    saved = browser.driver.downloads / "decisions.jsonl"
    browser.click("#save")
    until(saved.is_file, "the download")
    lines = [json.loads(line) for line in saved.read_text(encoding="utf-8").split("\n") if line]
    assert [line["decision"] for line in lines] == ["accept", "accept", "reject"]
    assert lines[0]["text"].startswith('<b>"text" 1')
    read = read_decisions(str(saved), "decisions")
    assert read.accepted == {f"{1:016x}": "other_clip", f"{2:016x}": "other_clip"}
    assert read.rejected == {f"{3:016x}"}
    assert read.fits == {f"{1:016x}": f"{2:016x}", f"{2:016x}": f"{1:016x}"}
    saved.unlink()
