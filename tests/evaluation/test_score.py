"""Rates counted by hand, what is odd, and groups that are scored as the whole is."""

import json

import jiwer
import pytest

from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.rows import scored_row
from lora_whisper.evaluation.score import Score, score
from tests.evaluation.toy_rows import rows_of, with_errors


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
        scored_row("a:1", "sw", "moja", "moja", seconds=2.5),
        scored_row("a:2", "sw", "mbili", "", bad_audio="no such file"),
        scored_row("a:3", "sw", "tatu", "tatu", seconds=1.5),
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


def test_to_dict_is_plain_json() -> None:
    result = score(rows_of(["a b"], ["a"]), 10, seed=0, groups={"voice": ["one"]})
    plain = result.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["wer_ci95"] == [0.5, 0.5]
    assert plain["cer_ci95"] == pytest.approx([2 / 3, 2 / 3])
    group = plain["groups"]["voice"]["one"]
    assert group["wer"] == 0.5
    assert group.keys() == plain.keys() - {"groups"}
