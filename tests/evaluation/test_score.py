"""Rates counted by hand, what is odd, and groups that are scored as the whole is."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jiwer
import pytest

from lora_whisper.data.dataset import Utterance
from lora_whisper.data.windows import BadAudio
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.transcribe import Transcriptions
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.results import ScoredUtterance
from lora_whisper.evaluation.score import (
    Score,
    hypotheses_jsonl,
    score,
    score_transcriptions,
    score_utterance,
)
from tests.evaluation.toy_decoder import GREEDY, IN_BATCHES, Toy, make_toy, utterance
from tests.evaluation.toy_rows import rows_of, with_errors
from tests.toy_speech import write_clip


def scored(references: list[str], hypotheses: list[str], language: str | None) -> Score:
    return score(rows_of(references, hypotheses, language), 10, seed=0)


def test_normalized_and_orthographic_rates_hand_counted() -> None:
    result = scored(["Habari, ya asubuhi!"], ["habari ya jioni"], "sw")
    assert result.wer == 1 / 3  # asubuhi → jioni
    assert result.wer_orthographic == 2 / 3  # and "Habari," is not "habari"
    assert result.cer == pytest.approx(6 / 17)  # asubuhi → jioni: 2 deletions, 4 substitutions
    assert result.cer_orthographic == pytest.approx(9 / 19)  # and capital, comma, exclamation mark
    assert (result.utterances, result.reference_words) == (1, 3)
    assert (result.leading, result.units, result.normalizer) == ("wer", "words", "multilingual")


def test_edits_and_sentences_hand_counted() -> None:
    result = scored(
        ["moja mbili tatu", "nne tano", "Sita!", "saba nane"],
        ["moja mbili mbili tatu", "nne", "sita", "saba tisa"],
        "sw",
    )
    assert (result.substitutions, result.insertions, result.deletions) == (1, 1, 1)
    assert result.wer == 3 / 8
    assert result.sentence_error_rate == 3 / 4  # all but "Sita!"


def test_rates_are_jiwers_of_the_normalized_texts() -> None:
    references = ["It's two o'clock.", "Colour, please!", "He won't (sighs) come."]
    hypotheses = ["it is 2 clock", "color please please", "he will come"]
    normalize = normalizer_for("en")
    expected, heard = list(map(normalize, references)), list(map(normalize, hypotheses))
    result = scored(references, hypotheses, "en")
    assert result.wer == jiwer.wer(expected, heard)
    assert result.cer == jiwer.cer(expected, heard)
    assert result.wer_orthographic == jiwer.wer(references, hypotheses)
    assert result.cer_orthographic == jiwer.cer(references, hypotheses)


def test_spaces_and_unicode_encoding_are_no_orthographic_error() -> None:
    result = scored(["kopi  ya\nbia"], [" kopi ya bia"], "sw")
    assert result.wer_orthographic == result.cer_orthographic == 0
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    assert scored([decomposed], [composed], "fr").wer_orthographic == 0


def test_marks_make_a_difference() -> None:
    # "kal" and "kāl", yesterday and time: without the vowel sign they would be the same word
    result = scored(["कल"], ["काल"], "hi")
    assert (result.wer, result.cer) == (1.0, 1 / 2)


def test_spaceless_scripts_are_scored_by_grapheme() -> None:
    result = scored(["今天天气很好。"], ["今天 天气不好"], "zh")
    assert result.wer == result.cer == 1 / 6
    assert result.wer_orthographic == result.cer_orthographic == 2 / 7  # and the full stop
    assert (result.leading, result.units) == ("cer", "graphemes")


# ── what is odd ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("silence", ["", "  ", "...", "(laughs)", "[music]"])
def test_a_reference_without_words(silence: str) -> None:
    """It adds no word below the line, and what was heard there is inserted."""
    result = scored([silence, "moja mbili"], ["asante sana", "moja mbili"], "sw")
    assert (result.wer, result.insertions, result.reference_words) == (2 / 2, 2, 2)
    assert (result.no_reference, result.sentence_error_rate) == (1, 1 / 2)
    quiet = scored([silence, "moja mbili"], ["", "moja mbili"], "sw")
    assert (quiet.wer, quiet.cer, quiet.sentence_error_rate, quiet.no_reference) == (0, 0, 0, 1)


@pytest.mark.parametrize("language", ["sw", "en", "th"])
def test_all_references_without_words(language: str) -> None:
    silent = scored(["", "..."], ["", "!"], language)
    assert (silent.wer, silent.cer, silent.reference_words) == (0.0, 0.0, 0)
    assert silent.wer_ci95 == silent.cer_ci95 == (0.0, 0.0)
    assert (silent.no_reference, silent.sentence_error_rate) == (2, 0.0)


def test_words_heard_where_no_reference_has_any() -> None:
    result = scored(["..."], ["thank you"], "fr")
    assert (result.wer, result.cer, result.insertions) == (2.0, 9.0, 2)
    assert result.wer_ci95 == (2.0, 2.0)


@pytest.mark.parametrize("language", ["sw", "en", "th"])
def test_a_model_that_generates_nothing(language: str) -> None:
    result = scored(["moja mbili", "", "tatu"], ["", "", ""], language)
    assert (result.wer, result.cer, result.wer_orthographic, result.cer_orthographic) == (1,) * 4
    assert (result.deletions, result.insertions) == (result.reference_words, 0)
    assert result.wer_ci95 == result.cer_ci95 == (1.0, 1.0)
    assert result.sentence_error_rate == 2 / 3  # the empty sentence is right


def test_bad_audio_and_hours_are_counted_in_groups_too() -> None:
    rows = [
        score_utterance("a:1", "sw", "moja", "moja", seconds=2.5),
        score_utterance("a:2", "sw", "mbili", "", bad_audio="no such file"),
        score_utterance("a:3", "sw", "tatu", "tatu", seconds=1.5),
    ]
    result = score(rows, 10, seed=0, groups={"voice": ["f", "f", "m"]})
    assert (result.wer, result.bad_audio, result.audio_seconds) == (1 / 3, 1, 4.0)
    female, male = result.groups["voice"]["f"], result.groups["voice"]["m"]
    assert (female.wer, female.bad_audio, female.audio_seconds) == (1 / 2, 1, 2.5)
    assert (male.bad_audio, male.audio_seconds) == (0, 1.5)


# ── groups, languages, units ─────────────────────────────────────────────────────────────────


def test_groups_are_scored_apart_the_worst_first() -> None:
    references, hypotheses = ["a b", "c d", "e f", "g h"], ["a b", "c x", "e f", "y z"]
    rows = rows_of(references, hypotheses)
    labels = {"voice": ["f", "m", "f", "m"], "accent": ["x", "y", "y", "z"]}
    result = score(rows, 10, seed=0, groups=labels)
    assert result.wer == 3 / 8
    assert {label: group.wer for label, group in result.groups["voice"].items()} == {
        "m": 3 / 4,
        "f": 0.0,
    }
    assert list(result.groups["voice"]) == ["m", "f"]
    assert list(result.groups["accent"]) == ["z", "y", "x"]  # groups of one, two and one
    assert result.groups["voice"]["m"] == score(rows[1::2], 10, seed=0)


def test_groups_are_ordered_by_the_rate_that_leads() -> None:
    # the word for water is one grapheme of three characters
    rows = rows_of(["กน้ำ", "น้ำกขค"], ["น้ำ", "กขค"], "th")
    groups = score(rows, 10, seed=0, groups={"clip": ["a", "b"]}).groups["clip"]
    assert (groups["a"].wer, groups["b"].wer) == (1 / 2, 1 / 4)
    assert (groups["a"].cer, groups["b"].cer) == (1 / 4, 3 / 6)
    assert list(groups) == ["b", "a"]


def test_each_utterance_is_normalized_in_its_own_language() -> None:
    rows = [*rows_of(["KIZ"], ["kız"], "tr"), *rows_of(["KIZ"], ["kiz"], "sw")]  # noqa: RUF001
    result = score(rows, 10, seed=0)
    assert result.wer == 0
    assert result.normalizer == "multilingual+multilingual-turkic"


def test_words_and_graphemes_together_are_no_word_error_rate() -> None:
    rows = [*rows_of(["你好"], ["你好"], "zh"), *rows_of(["good day"], ["good"], "en")]
    result = score(rows, 10, seed=0, groups={"language": ["zh", "en"]})
    assert (result.leading, result.units) == ("cer", "graphemes and words")
    assert result.groups["language"]["en"].leading == "wer"


def test_speakers_are_drawn_where_there_are_enough() -> None:
    errors = [wrong for speaker in range(8) for wrong in [5 * (speaker % 2)] * 10]
    by_speaker = score(with_errors(errors, words=10, speakers=8), 500, seed=0)
    by_utterance = score(with_errors(errors, words=10), 500, seed=0)
    assert (by_speaker.resampled, by_utterance.resampled) == ("speakers", "utterances")
    width = [high - low for low, high in (by_speaker.wer_ci95, by_utterance.wer_ci95)]
    assert width[0] > 2 * width[1], "a speaker's ten utterances are as good as one"
    assert by_speaker.wer == by_utterance.wer == 1 / 4


# ── Decoding is replaced where the score is the subject; one test goes the whole way ────────────


Judged = Callable[..., tuple[Score, list[ScoredUtterance]]]


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
    ) -> tuple[Score, list[ScoredUtterance]]:
        settings = dataclasses.replace(GREEDY, group_by=group_by)
        return score_transcriptions(rows, heard(texts, bad), toy.special_tokens, settings, seed=0)

    return judge_texts


def heard(texts: Sequence[str], bad: Sequence[BadAudio] = ()) -> Transcriptions:
    return Transcriptions(
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
    assert scored[1] == ScoredUtterance(
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


def test_every_word_of_an_utterance_without_text_is_deleted(judged: Judged) -> None:
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
    result, scored = score_transcriptions(
        rows, toy.transcribe(rows, IN_BATCHES), toy.special_tokens, IN_BATCHES, seed=0
    )
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
