"""Decoding is replaced where the score is the subject; one test goes the whole way."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lora_whisper.data.utterance import Utterance
from lora_whisper.data.windows import BadAudio
from lora_whisper.errors import UserError
from lora_whisper.evaluation import evaluate
from lora_whisper.evaluation.decoding import Hypotheses
from lora_whisper.evaluation.evaluate import ScoredRow, evaluate_model, write_hypotheses
from lora_whisper.evaluation.score import Score
from tests.evaluation.toy_listener import GREEDY, IN_BATCHES, Toy, make_toy, utterance
from tests.toy_speech import write_clip

Judge = Callable[..., tuple[Score, list[ScoredRow]]]


@pytest.fixture
def toy() -> Toy:
    return make_toy()


@pytest.fixture
def judge(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Evaluate a model that hears the given texts."""

    def evaluated(
        rows: Sequence[Utterance],
        heard: Sequence[str],
        bad: Sequence[BadAudio] = (),
        group_by: str | None = None,
    ) -> tuple[Score, list[ScoredRow]]:
        found = Hypotheses(
            tuple(heard),
            seconds=(12.5 / len(rows),) * len(rows),
            segments=((),) * len(rows),
            bad=tuple(bad),
            decode_seconds=0.5,
        )
        monkeypatch.setattr(evaluate, "transcribe", lambda *_, **__: found)
        settings = dataclasses.replace(GREEDY, group_by=(group_by,) if group_by else ())
        return evaluate_model(
            toy.model, rows, toy.processor, toy.vocabulary, toy.features, settings, seed=0
        )

    return evaluated


def row(text: str, number: int = 1, **values: object) -> Utterance:
    return utterance(Path("a.wav"), 1.0, text=text, row=f"a.jsonl:{number}", **values)


def test_score_and_rows(judge: Judge) -> None:
    rows = [row("Take two tablets."), row("Daily, with water!", number=2)]
    result, scored = judge(rows, ["take 2 tablets", "daily water water"])
    assert (result.wer, result.reference_words, result.utterances) == (1 / 6, 6, 2)
    assert (result.audio_seconds, result.decode_seconds, result.bad_audio) == (12.5, 0.5, 0)
    assert scored[1] == ScoredRow(
        row="a.jsonl:2",
        language="en",
        reference="Daily, with water!",
        hypothesis="daily water water",
        errors=1,
        reference_words=3,
        wer=1 / 3,
        bad_audio=None,
    )
    assert sum(one.errors for one in scored) / result.reference_words == result.wer


def test_bad_audio_counts_as_nothing_heard(judge: Judge) -> None:
    rows = [row("one two"), row("three four", number=2)]
    result, scored = judge(rows, ["one two", ""], bad=[BadAudio("a.jsonl:2", "no such file")])
    assert (result.wer, result.bad_audio) == (2 / 4, 1)
    assert [one.bad_audio for one in scored] == [None, "no such file"]


def test_groups_by_a_column_of_the_manifest(judge: Judge) -> None:
    rows = [
        row("one", columns={"voice": "heard"}),
        row("two", number=2, columns={"voice": 7}),
        row("three", number=3),
    ]
    result, _ = judge(rows, ["one", "ten", "three"], group_by="voice")
    rates = {name: group.wer for name, group in result.groups.items()}
    assert rates == {"heard": 0.0, "7": 1.0, "none": 0.0}


def test_a_column_that_no_row_has(judge: Judge) -> None:
    with pytest.raises(UserError, match=r"evaluation\.group_by=accent.*they have text, voice"):
        judge([row("one", columns={"voice": 1, "text": "one"})], ["one"], group_by="accent")


def test_translations_are_normalized_as_english(judge: Judge) -> None:
    rows = [row("I'm here", language="de", task="translate"), row("ich bin da", 2, language="de")]
    result, _ = judge(rows, ["i am here", "ich bin da"])
    assert result.wer == 0
    assert result.normalizer == "multilingual+whisper-english"


def test_hypotheses_file_has_a_line_a_row(judge: Judge, tmp_path: Path) -> None:
    _, scored = judge([row("größe\u2028zwei", language="de"), row("", 2, language="de")], ["", "x"])
    write_hypotheses(tmp_path / "hypotheses.jsonl", scored)
    content = (tmp_path / "hypotheses.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in content.split("\n")[:-1]]
    assert [line["reference"] for line in lines] == ["größe\u2028zwei", ""]
    assert [(line["errors"], line["wer"]) for line in lines] == [(2, 1.0), (1, 1.0)]
    assert "größe" in content


def test_the_whole_way(toy: Toy, tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{index}.wav", 0.4 + index / 10) for index in range(3)]
    rows = [utterance(clip, 0.4, text="Hello there.", row=clip.name) for clip in clips]
    result, scored = evaluate_model(
        toy.model, rows, toy.processor, toy.vocabulary, toy.features, IN_BATCHES, seed=0
    )
    assert [one.row for one in scored] == ["0.wav", "1.wav", "2.wav"]
    assert result.reference_words == 6
    assert result.audio_seconds == pytest.approx(0.4 + 0.5 + 0.6)
    assert result.decode_seconds is not None
    assert result.decode_seconds > 0


def test_a_language_under_a_borrowed_token_is_normalized_as_itself(judge: Judge) -> None:
    """English's normalizer would write 2 for "two"; Whisper has never heard of Luo."""
    _, scored = judge([row("two", language="luo", language_token="en")], ["2"])
    assert scored[0].wer == 1
    _, scored = judge([row("two", language="en")], ["2"])
    assert scored[0].wer == 0
