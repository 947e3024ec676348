"""Which speech is scored, and where its scores are kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from lora_whisper.evaluation import estimate
from lora_whisper.evaluation.estimate import Pace
from tests.cli.conftest import QUICK, Line, Refusal, World
from tests.toy_speech import write_manifest


def test_a_source_with_all_splits_is_trained_merged_and_scored(
    world: World, line: Line, refusal: Refusal, tmp_path: Path
) -> None:
    rows = []
    for split in ("train", "validation", "test"):
        for each in (world.speech / f"{split}.jsonl").read_text().splitlines():
            row = json.loads(each)
            rows.append(row | {"audio": str(world.speech / row["audio"]), "split": split})
    write_manifest(tmp_path / "all.jsonl", rows)
    arguments = [one for one in world.arguments("a") if not one.startswith("data.")]
    assert line("train", *arguments, "data.path=all.jsonl", "training.max_steps=1") == 0
    assert line("merge", "run=outputs/a") == 0
    summary = json.loads(Path("outputs/a/summary.json").read_text())
    assert [summary[model]["utterances"] for model in ("base", "adapter", "merged")] == [4, 4, 4]

    assert line("evaluate", "run=outputs/a", "evaluation.group_by=[duration]", *QUICK) == 0
    again = ("evaluate", "run=outputs/a", *QUICK, "overwrite=true")
    assert line(*again, "data.test=validation") == 0
    score = json.loads(Path("outputs/a/evaluation/base/validation/score.json").read_text())
    assert score["utterances"] == 3
    other = world.speech / "test.jsonl"
    assert line(*again, f"data.test={other}") == 0
    assert Path("outputs/a/evaluation/base/speech-test/score.json").is_file()
    assert not Path("outputs/a/evaluation/base/validation").exists(), "no report is of it any more"
    assert Path("outputs/a/evaluation/base/test").is_dir(), "which is the run's own"
    assert json.loads(Path("outputs/a/summary.json").read_text())["base"]["utterances"] == 4

    assert "nowhere" in refusal(*again, "data.test=nowhere")


def test_another_test_set_may_have_other_columns_than_the_run(
    world: World, line: Line, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "validation", "test"):
        rows = map(json.loads, (world.speech / f"{split}.jsonl").read_text().splitlines())
        renamed = [{"audio": str(world.speech / row["audio"]), "said": row["text"]} for row in rows]
        write_manifest(Path(f"{split}.jsonl"), renamed)
    given = [one for one in world.arguments("a") if not one.startswith("data.")]
    splits = [f"data.{split}={split}.jsonl" for split in ("train", "validation", "test")]
    english = [*splits, "data.columns.text=said", "data.language=en"]
    short = ("training.max_steps=1", "training.validate_every_steps=null")
    assert line("train", *given, *english, *short) == 0
    other = f"data.test={world.speech / 'test.jsonl'}"
    capsys.readouterr()
    assert "data.columns.text=NAME" in refusal("evaluate", "run=outputs/a", other)
    assert line("evaluate", "run=outputs/a", other, "data.columns.text=text", *QUICK) == 0


def test_a_run_without_a_test_set_says_what_to_type(
    world: World, line: Line, refusal: Refusal
) -> None:
    few = ("training.max_steps=1", "data.validation=null", "data.test=null")
    assert line("train", *world.arguments("a", *few)) == 0
    assert "data.test=FILE.jsonl" in refusal("evaluate", "run=outputs/a")
    assert line("merge", "run=outputs/a") == 0


def test_a_card_says_of_each_capability_what_became_of_it(
    world: World, line: Line, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four clips, that they are too few; and it goes with the run."""
    assert line("evaluate", "run=outputs/a", *QUICK, "card=true") == 0
    found = json.loads(Path("outputs/a/evaluation.json").read_text())
    rows = {row["name"]: row for row in found["cards"]["adapter"]["rows"]}
    assert rows["words"]["why"] == "4 utterances are too few to tell"
    assert rows["words"]["base"] == found["scores"]["test"]["base"]["wer"]
    assert rows["timestamps"]["verdict"] == "not certain"
    assert rows["translation"]["why"] == "its speech is English already"
    assert rows["text in silence"]["counted"] == "32 clips"
    summary = json.loads(Path("outputs/a/summary.json").read_text())
    assert summary["card"] == found["cards"]["adapter"]
    assert "What adapter kept of base" in Path("outputs/a/adapter/README.md").read_text()
    shown = capsys.readouterr().out
    assert "What adapter kept of base" in shown
    assert max(map(len, shown.splitlines())) <= 80

    card = Path("outputs/a/summary.json").read_text()
    assert line("evaluate", "run=outputs/a", *QUICK, "overwrite=true") == 0
    again = json.loads(Path("outputs/a/summary.json").read_text())
    assert again["card"] == json.loads(card)["card"], "the same test set: it is still true"


def test_a_run_that_was_trained_with_flash_attention_is_scored_where_there_is_none(
    world: World, line: Line, finished: list[str]
) -> None:
    config = Path("outputs/a/config.yaml")
    config.write_text(config.read_text().replace("attention: auto", "attention: flash"))
    test = f"data.test={world.speech / 'test.jsonl'}"
    assert line("evaluate", "run=outputs/a", test, *QUICK) == 0


def test_a_word_list_is_scored_as_a_prompt_and_without(
    world: World, line: Line, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [json.loads(row)["text"] for row in (world.speech / "test.jsonl").open()]
    shortest = min(texts, key=len)  # of numbers, which the normalizer joins
    Path("words.txt").write_text(f"{shortest}\nx\n")
    typed = ("evaluate", "run=outputs/a", *QUICK, "evaluation.players=false")
    assert line(*typed, "evaluation.words=words.txt") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 words: each test utterance again with them as a prompt" in shown
    assert "adapter, prompted" in shown
    found = json.loads(Path("outputs/a/evaluation.json").read_text())
    assert found["prompt_words"] == [shortest, "x"]
    for model in ("base", "adapter"):
        without, prompted = found["keywords"]["test"][model], found["prompted"]["test"][model]
        assert without["said"] == prompted["recall"]["said"] > 0
        for recall in (without, prompted["recall"]):
            assert recall["parts"]["seen"]["said"] == recall["said"]
            assert recall["parts"]["unseen"]["recall"] is None, "nobody says it"
        decoding = prompted["score"]["of"]["decoding"]
        assert decoding["prompt"] == f"{shortest}, x"
        assert "prompt" not in found["scores"]["test"][model]["of"]["decoding"]
        assert Path(f"outputs/a/evaluation/{model}/test-prompted/hypotheses.jsonl").is_file()
    assert "prompted" in Path("outputs/a/evaluation.md").read_text()
    assert line(*typed, "overwrite=true") == 0
    assert not Path("outputs/a/evaluation/base/test-prompted").exists()


def test_how_long_it_takes_is_said_before_anything_is_decoded(
    world: World,
    line: Line,
    finished: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two models, each of which has four clips of a window, at a minute each."""
    pace = Pace(window_seconds=60.0, token_seconds=0.0)
    monkeypatch.setattr(estimate, "measured_pace", lambda *_: pace)
    monkeypatch.setattr(logging.getLogger("lora_whisper"), "propagate", True)
    typed = ("evaluate", "run=outputs/a", f"data.test={world.speech / 'test.jsonl'}", *QUICK)
    assert line(*typed, "evaluation.cache=false", "name=b") == 0
    (said,) = (one for one in caplog.messages if one.startswith("estimate"))
    assert said == "estimate    about 8 min at base's pace, less what was decoded before"
