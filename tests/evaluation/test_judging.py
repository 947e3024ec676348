"""Decoding is replaced where the score is the subject; one test goes the whole way."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lora_whisper.data.dataset import Utterance
from lora_whisper.data.windows import BadAudio
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding import Hypotheses
from lora_whisper.evaluation.judging import hypotheses_jsonl, judge
from lora_whisper.evaluation.rows import ScoredRow
from lora_whisper.evaluation.score import Score
from tests.evaluation.toy_listener import GREEDY, IN_BATCHES, Toy, make_toy, utterance
from tests.toy_speech import write_clip

Judged = Callable[..., tuple[Score, list[ScoredRow]]]


@pytest.fixture
def toy() -> Toy:
    return make_toy()


@pytest.fixture
def judged(toy: Toy) -> Judged:
    """Judge a model that hears the given texts, each in two seconds of audio."""

    def judge_texts(
        rows: Sequence[Utterance],
        texts: Sequence[str],
        bad: Sequence[BadAudio] = (),
        group_by: tuple[str, ...] = (),
    ) -> tuple[Score, list[ScoredRow]]:
        settings = dataclasses.replace(GREEDY, group_by=group_by)
        return judge(rows, heard(texts, bad), toy.vocabulary, settings, seed=0)

    return judge_texts


def heard(texts: Sequence[str], bad: Sequence[BadAudio] = ()) -> Hypotheses:
    return Hypotheses(
        texts=tuple(texts),
        seconds=(2.0,) * len(texts),
        segments=((),) * len(texts),
        bad=tuple(bad),
        decode_seconds=0.5,
    )


def row(text: str, number: int = 1, **values: object) -> Utterance:
    return utterance(Path("a.wav"), 1.0, text=text, row=f"a.jsonl:{number}", **values)


def test_score_and_rows(judged: Judged) -> None:
    rows = [row("Take two tablets."), row("Daily, with water!", number=2)]
    result, scored = judged(rows, ["take 2 tablets", "daily water water"])
    assert (result.wer, result.reference_words, result.utterances) == (1 / 6, 6, 2)
    assert (result.audio_seconds, result.decode_seconds, result.bad_audio) == (4.0, 0.5, 0)
    assert scored[1] == ScoredRow(
        row="a.jsonl:2",
        language="en",
        speaker=None,
        reference="Daily, with water!",
        hypothesis="daily water water",
        reference_normalized="daily with water",
        hypothesis_normalized="daily water water",
        errors=1,
        substitutions=1,
        insertions=0,
        deletions=0,
        reference_words=3,
        wer=1 / 3,
        seconds=2.0,
        bad_audio=None,
        columns={},
    )
    assert sum(one.errors for one in scored) / result.reference_words == result.wer


def test_bad_audio_counts_as_nothing_heard(judged: Judged) -> None:
    rows = [row("one two"), row("three four", number=2)]
    result, scored = judged(rows, ["one two", ""], bad=[BadAudio("a.jsonl:2", "no such file")])
    assert (result.wer, result.bad_audio) == (2 / 4, 1)
    assert [one.bad_audio for one in scored] == [None, "no such file"]


def test_groups_by_columns_of_the_manifest(judged: Judged) -> None:
    rows = [
        row("one", columns={"voice": "heard"}),
        row("two", number=2, columns={"voice": 7}),
        row("three", number=3),
    ]
    result, _ = judged(rows, ["one", "ten", "three"], group_by=("voice", "duration"))
    rates = {name: group.wer for name, group in result.groups["voice"].items()}
    assert rates == {"7": 1.0, "heard": 0.0, "none": 0.0}
    assert next(iter(rates)) == "7"
    assert result.groups["duration"]["up to 2 s"].wer == result.wer


def test_a_column_that_no_row_has(judged: Judged) -> None:
    rows = [row("one", columns={"voice": 1, "text": "one"})]
    with pytest.raises(UserError, match=r"evaluation\.group_by=accent.*they have text, voice"):
        judged(rows, ["one"], group_by=("voice", "accent"))


def test_rows_keep_their_columns_but_for_audio_and_text(judged: Judged) -> None:
    columns = {
        "audio_filepath": "x/b.wav",
        "clip": "/data/a.wav",
        "sentence": "One!",
        "said": "one",
    }
    known = {"accent": "Kenyan", "age": 34, "offset": None}
    rows = [row("one", speaker="amina", columns=columns | known)]
    _, scored = judged(rows, ["one"])
    assert scored[0].columns == known
    assert scored[0].speaker == "amina"


def test_the_same_hypotheses_give_the_same_score(judged: Judged) -> None:
    rows = [row(text, number) for number, text in enumerate("one two three four".split())]
    assert judged(rows, ["one", "two", "tree", ""]) == judged(rows, ["one", "two", "tree", ""])


def test_a_model_that_generates_nothing(judged: Judged) -> None:
    result, scored = judged([row("go home"), row("now", 2)], ["", ""])
    assert (result.wer, result.cer, result.sentence_error_rate, result.deletions) == (1, 1, 1, 3)
    assert [one.wer for one in scored] == [1, 1]


def test_translations_are_normalized_as_english(judged: Judged) -> None:
    rows = [row("I'm here", language="de", task="translate"), row("ich bin da", 2, language="de")]
    result, _ = judged(rows, ["i am here", "ich bin da"])
    assert result.wer == 0
    assert result.normalizer == "multilingual+whisper-english"


def test_hypotheses_file_has_a_line_a_row(judged: Judged) -> None:
    _, scored = judged(
        [row("größe\u2028zwei", language="de"), row("", 2, language="de")], ["", "x"]
    )
    content = hypotheses_jsonl(scored).decode()
    lines = [json.loads(line) for line in content.split("\n")[:-1]]
    assert [line["reference"] for line in lines] == ["größe\u2028zwei", ""]
    assert [(line["errors"], line["wer"]) for line in lines] == [(2, 1.0), (1, 1.0)]
    assert "größe" in content


def test_the_whole_way(toy: Toy, tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{index}.wav", 0.4 + index / 10) for index in range(3)]
    rows = [utterance(clip, 0.4, text="Hello there.", row=clip.name) for clip in clips]
    result, scored = judge(rows, toy.hear(rows, IN_BATCHES), toy.vocabulary, IN_BATCHES, seed=0)
    assert [one.row for one in scored] == ["0.wav", "1.wav", "2.wav"]
    assert result.reference_words == 6
    assert result.audio_seconds == pytest.approx(0.4 + 0.5 + 0.6)
    assert result.decode_seconds is not None
    assert result.decode_seconds > 0


def test_a_language_under_a_borrowed_token_is_normalized_as_itself(judged: Judged) -> None:
    """English's normalizer would write 2 for "two"; Whisper has never heard of Luo."""
    _, scored = judged([row("two", language="luo", language_token="en")], ["2"])
    assert scored[0].wer == 1
    _, scored = judged([row("two", language="en")], ["2"])
    assert scored[0].wer == 0
