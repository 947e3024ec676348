"""What a run says of itself when it ends."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lora_whisper.evaluation.results import CapabilityCard, ScoredUtterance, from_json
from lora_whisper.evaluation.run_summary import write_summary
from lora_whisper.evaluation.score import score
from lora_whisper.reports import summary as shown
from lora_whisper.reports.capabilities import nothing_lost
from lora_whisper.reports.summary import figures, remarks, score_table, show_summary
from tests.cli.toy_run import toy_run, toy_summary
from tests.evaluation.toy_rows import rows_of
from tests.reports.toy_evaluation import capability, toy_card

COSTS = {
    "train_seconds": 110.0,
    "validation_seconds": 10.0,
    "train_audio_seconds_seen": 2000.0,
    "resident_memory_bytes": 900_000_000,
}


@pytest.mark.parametrize(
    ("more", "memory"),
    [
        ({}, "0.9 GB at most"),
        ({"gpu_memory_bytes": 10_300_000_000}, "10.3 GB at most of the GPU"),
    ],
)
def test_speed_is_of_training_and_memory_of_what_runs_out(
    more: dict[str, Any], memory: str
) -> None:
    lines = figures(toy_summary(**COSTS | more))[4:]
    assert lines == [
        ("speed", "20.0 audio s/s in training; validation took 0:10 of the time"),
        ("memory", memory),
    ]
    assert max(map(len, lines)) <= 80


def cells(*sets: tuple[list[ScoredUtterance], dict[str, list[str]]]) -> tuple[list[str], list[str]]:
    """Headings of the table, and its first column."""
    scores = {
        f"model {number}": score(rows, 10, seed=0, groups=groups)
        for number, (rows, groups) in enumerate(sets, start=1)
    }
    table = score_table("test", {"none": None, **scores}, "none")
    return [column.title for column in table.columns], [row.cells[0].text for row in table.rows]


def test_the_wer_stands_first_and_groups_below_it_the_worst_first() -> None:
    rows = rows_of(["moja", "mbili", "tatu"], ["moja", "x", "tatu"])
    headings, first = cells((rows, {"voice": ["f", "m", "f"]}))
    assert headings == ["", "WER", "95 % interval", "CER", "utterances"]
    assert first == ["model 1", "  m", "  f"]
    _, first = cells((rows, {"voice": ["f", "m", "f"], "accent": ["x", "x", "y"]}))
    assert first == ["model 1", "  voice: m", "  voice: f", "  accent: x", "  accent: y"]


def test_without_spaces_the_cer_stands_first_and_no_wer_is_named() -> None:
    headings, _ = cells((rows_of(["你好"], ["您好"], "zh"), {}))
    assert headings == ["", "CER", "95 % interval", "error rate of graphemes", "utterances"]
    mixed = rows_of(["你好"], ["您好"], "zh") + rows_of(["moja"], ["moja"])
    assert cells((mixed, {}))[0][3] == "error rate of graphemes and words"
    headings, _ = cells((rows_of(["བོད་པ།"], ["བོད།"], "bo"), {}))
    assert headings[1] == "error rate of syllables"


def test_which_is_better_is_told_by_the_rate_that_leads() -> None:
    """By grapheme the adapter is better, by character it is no better than its base."""
    # water, one grapheme of three characters, and three letters: the base misses these, it that
    base = score(rows_of(["น้ำกขค"], ["น้ำ"], "th"), 10, seed=0)
    adapter = score(rows_of(["น้ำกขค"], ["กขค"], "th"), 10, seed=0)
    assert (adapter.wer, base.wer) == (1 / 4, 3 / 4)
    assert adapter.cer == base.cer == 3 / 6
    summary = toy_summary().with_scores({"base": base, "adapter": adapter})
    assert ("warning", "the adapter is no better than its base on this test set") in remarks(
        summary
    )


def test_a_merged_model_that_is_not_just_the_adapter_in_its_base_says_so() -> None:
    base = {"name": "x", "fingerprint": f"sha256:{'a' * 64}"}
    usual = {"adapters": [{"weight": 1.0}], "base": base, "into": "full"}
    trained = {"checkpoint": "x", "checkpoint_sha256": "a" * 64}
    assert remarks(toy_summary(**trained, merge=usual)) == [], "the same weights, from a folder"
    another = {"name": "y", "fingerprint": f"sha256:{'b' * 64}"}
    changes = {"adapters": [{"weight": 0.5}], "into": "nf4-dequantized", "base": another}
    assert [text for _, text in remarks(toy_summary(**trained, merge=usual | changes))] == [
        "the merged model has 0.5 times what the adapter adds",
        "the merged model's base is the weights as nf4 had them",
        f"the merged model's base is y (sha256 {'b' * 64})",
    ]


def test_summaries_of_older_runs_say_less() -> None:
    names = [name for name, _ in figures(toy_summary(train_seconds=110.0, validation_seconds=None))]
    assert names == ["size", "parameters", "speech", "time"]


def test_it_is_said_where_nothing_is_lost_and_what_scoring_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [capability("punctuation", "gained"), capability("language found", "not certain")]
    card = from_json(CapabilityCard, toy_card() | {"rows": rows})
    folder, summary = toy_run(tmp_path / "toy", card=card, scoring_seconds=279.0)
    write_summary(folder, summary)
    written = io.StringIO()
    monkeypatch.setattr(shown, "console", Console(file=written, width=80))
    show_summary(folder)
    said = "note no capability is lost for certain: 1 gained, 1 not certain; the report names them"
    assert said in " ".join(written.getvalue().split())
    assert ("scoring", "4:39 more, with the card of base and adapter") in figures(summary)
    assert not nothing_lost(from_json(CapabilityCard, toy_card()))


def test_a_text_that_goes_round_is_said_beside_the_rate_that_it_makes() -> None:
    """Ten words, of which one was misheard, and one text with 30 words that nobody said."""
    references = ["one two three four five", "six seven eight nine ten"]
    heard = ["one two three four six", "six seven eight nine ten" + " ten" * 30]
    looping = score(rows_of(references, heard), 20, 1)
    assert looping.wer == pytest.approx(3.1)
    (text,) = (
        text for _, text in remarks(replace(toy_summary(), base=looping)) if "nobody said" in text
    )
    assert text.startswith("base wrote 30 words that nobody said, beside 10 that were")
    assert text.endswith("Without them its WER is 10.0 %")


def test_remarks_go_on_below_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, summary = toy_run(tmp_path / "toy", checkpoint="embedded:nano")
    write_summary(folder, summary)
    written = io.StringIO()
    monkeypatch.setattr(shown, "console", Console(file=written, width=60))
    show_summary(folder)
    *_, note = re.findall(r"^note .*\n.*$", written.getvalue(), re.M)
    first, second = note.splitlines()
    assert max(len(first), len(second)) <= 60
    assert re.match(r" {12}\S", second)
