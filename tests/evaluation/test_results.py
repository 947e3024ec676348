"""What is written is read again as it was, whatever an older version did not write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.evaluation.diagnostics import analyse_errors, find_hallucination, word_recall
from lora_whisper.evaluation.results import (
    Comparison,
    EvaluationResults,
    Provenance,
    Score,
    ScoredUtterance,
    from_json,
    to_json,
)
from lora_whisper.evaluation.run_summary import Averaging, RunSummary
from lora_whisper.evaluation.score import score
from lora_whisper.evaluation.significance import compare
from tests.cli.toy_run import toy_summary
from tests.evaluation.toy_rows import rows_of
from tests.reports.toy_evaluation import asked_for, toy_results

OLDER = Path(__file__).parents[1] / "older_runs/done"
ROWS = rows_of(["moja mbili", "tatu"], ["mojo tatu nne", "tatu"])
OF = Provenance({"checkpoint": "a"}, "r", "t", "n", {"beams": 1, "padding": "log-mel"})
SCORE = score(ROWS, 10, seed=0, groups={"voice": ["one", "two"]})


def again(result: Any) -> Any:
    return from_json(type(result), json.loads(json.dumps(to_json(result))))


@pytest.mark.parametrize(
    "result",
    [
        SCORE,
        replace(SCORE, of=OF, cached=True),
        replace(SCORE, of=OF).brief(),
        ROWS[0],
        compare(ROWS, ROWS, seed=0),
        find_hallucination(ROWS),
        word_recall(ROWS, ["tatu"], 10, seed=0),
        analyse_errors(ROWS, most=2),
    ],
    ids=lambda result: type(result).__name__,
)
def test_a_result_is_read_as_it_was_written(result: Any) -> None:
    assert again(result) == result


def test_an_evaluation_is_read_as_it_was_written() -> None:
    values = toy_results()
    for part in asked_for().values():
        values |= part
    results = from_json(EvaluationResults, values)
    assert again(results) == results
    older = (OLDER / "evaluation.json").read_text()
    values = to_json(from_json(EvaluationResults, json.loads(older)))
    assert f"{json.dumps(values, indent=2, ensure_ascii=False)}\n" == older


def test_a_group_has_no_groups_and_what_is_not_known_is_not_written() -> None:
    values = to_json(SCORE)
    (group, _) = values["groups"]["voice"].values()
    assert values.keys() - group.keys() == {"groups"}
    assert not values.keys() & {"of", "cached"}
    assert set(to_json(replace(SCORE, of=OF).brief())) == {
        *("wer", "wer_ci95", "cer", "cer_ci95", "leading", "utterances", "of")
    }


def test_what_older_versions_did_not_write_is_as_it_was_then() -> None:
    values = to_json(SCORE)
    for key in ("leading", "units", "resampled", "written_words", "emptied", "cer_unspaced"):
        del values[key]
    found = from_json(Score, values)
    assert (found.leading, found.units, found.resampled) == ("wer", "words", "utterances")
    assert (found.written_words, found.of, found.padding) == (None, None, "sound")
    assert replace(found, of=replace(OF, decoding={})).padding == "sound"
    assert replace(found, of=OF).padded_as.endswith("openai-whisper and faster-whisper")


@pytest.mark.parametrize("values", [{}, {"wer": "low"}, {"wer": 0.5}], ids=str)
def test_what_is_no_result_is_an_error(values: dict[str, Any]) -> None:
    for kind in (Score, ScoredUtterance, Comparison, RunSummary):
        with pytest.raises(ValueError, match=kind.__name__):
            from_json(kind, values)


def test_a_summary_is_read_as_it_was_written_with_keys_of_other_versions() -> None:
    averaging = Averaging((3, 4), ships=True, rank=2, validation_wer=0.5)
    summary = replace(toy_summary(), base=SCORE, averaging=averaging)
    values = json.loads(json.dumps(summary.to_json()))
    assert values["merged"] is None
    assert not values.keys() & {"more", "merge", "checkpoint_sha256", "gpu_memory_bytes"}
    assert RunSummary.from_json(values) == summary
    later = values | {"mood": {"of": ["the", "loss"]}}
    assert RunSummary.from_json(later).to_json()["mood"] == later["mood"]
    older = (OLDER / "summary.json").read_text()
    again = RunSummary.from_json(json.loads(older)).to_json()
    assert f"{json.dumps(again, indent=2, ensure_ascii=False)}\n" == older
