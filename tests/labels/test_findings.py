"""What follows from evidence: made up here, so that what is true of it is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.labels.comparison import compare, knows
from lora_whisper.labels.evidence import Edit, Evidence, Hypothesis, Levels
from lora_whisper.labels.findings import find, wanted
from lora_whisper.labels.folds import divide
from lora_whisper.labels.listening import Clip
from tests.toy_utterances import toy_utterances

ROWS, TOKENS, USUAL_GAIN = 40, 12, 3.0


def sentence(number: int) -> str:
    """Six words of six letters each, which no other sentence has."""
    letters = np.random.default_rng(number).choice(list("abcdefghijklmnopqrstuvwxyz"), (6, 6))
    return " ".join("".join(word) for word in letters)


def clips(texts: list[str]) -> list[Clip]:
    rows = toy_utterances([{"text": text} for text in texts])
    return [
        Clip("train", number, rows[number], number + 1, 3.0, (0, 1), tuple(map(ord, text)), "en")
        for number, text in enumerate(texts)
    ]


def evidence(number: int, text: str, gain: float = USUAL_GAIN, hardness: float = 0.0) -> Evidence:
    """A clip of which `text` is heard; `hardness`: nats a token that everything costs more."""
    noise = np.random.default_rng(number).normal(0, 0.3, (3, TOKENS + 1))
    own = 1.0 + hardness + noise[0]
    others = 1.0 + hardness + gain + noise[1:]
    words = tuple((word, 2) for word in text.split()[:6])
    return Evidence(
        Hypothesis((1, 2), text, 0.3, 0.0, {"en": 0.99}),
        own,
        others,
        words,
        Levels(-40.0, -40.0, 40.0),
    )


def clean() -> tuple[list[Clip], list[Evidence]]:
    texts = [sentence(number) for number in range(ROWS)]
    return clips(texts), [evidence(number, text) for number, text in enumerate(texts)]


def test_nothing_is_found_where_all_is_right() -> None:
    heard = compare(*clean())
    assert (
        find(heard, dict.fromkeys(((a.clip_key, b.pair_key) for a, b in wanted(heard)), 9.0)) == []
    )


@pytest.mark.filterwarnings("error")
def test_of_a_clip_that_is_alone_nothing_is_told() -> None:
    (clip, *_), (said, *_) = clean()
    alone = dataclasses.replace(said, others=np.zeros((0, TOKENS + 1)))
    heard = compare([clip], [alone])
    assert wanted(heard) == []
    assert find(heard, {}) == []


@settings(max_examples=15, deadline=None)
@given(st.floats(0.0, 6.0), st.integers(0, ROWS - 1))
def test_that_all_of_a_clip_is_dear_says_nothing(hardness: float, row: int) -> None:
    """Noise and accents make every transcript dear, and do not make it wrong."""
    some, said = clean()
    said[row] = evidence(row, some[row].utterance.text, hardness=hardness)
    assert find(compare(some, said), {}) == []


def swapped(first: int, second: int) -> tuple[list[Clip], list[Evidence]]:
    """Two transcripts have changed places: each fits its clip no better than others."""
    texts = [sentence(number) for number in range(ROWS)]
    written = list(texts)
    written[first], written[second] = texts[second], texts[first]
    said = [evidence(number, text) for number, text in enumerate(texts)]
    for row in (first, second):
        said[row] = evidence(row, texts[row], gain=0.0, hardness=USUAL_GAIN)
    return clips(written), said


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, ROWS - 1), min_size=2, max_size=2, unique=True))
def test_two_transcripts_that_changed_places_name_each_other(pair: list[int]) -> None:
    some, said = swapped(*pair)
    heard = compare(some, said)
    right = {(pair[0], pair[1]), (pair[1], pair[0])}  # sound, and the row whose transcript it is
    fits = {
        (sound.clip_key, text.pair_key): 1.0 if (sound.number, text.number) in right else 4.0
        for sound, text in wanted(heard)
    }
    found = {one.clip.number: one for one in find(heard, fits)}
    assert found.keys() == set(pair)
    for row, other in right:
        assert found[row].kind == "other_clip"
        assert found[row].text_of == some[other]
        assert found[row].fits == some[other]
        assert found[row].certainty > 0.9


def test_words_that_make_the_transcript_likelier_are_missing_in_it() -> None:
    some, said = clean()
    total = float(said[5].own.sum())
    better = Edit(True, "three more words", 12, 12, "end", total - 30.0, 2.0, 4, 2.0, 2.9)
    worse = dataclasses.replace(better, shared_nats=total + 5.0)
    said[5] = dataclasses.replace(said[5], edits=(better,))
    said[6] = dataclasses.replace(said[6], edits=(worse,))
    (one,) = find(compare(some, said), {})
    assert (one.clip.number, one.kind, one.place) == (5, "speech_without_text", "end")
    assert (one.start_seconds, one.end_seconds) == (2.0, 2.9)


def test_words_that_gain_nothing_by_their_clip_are_not_spoken() -> None:
    some, said = clean()
    own = said[7].own.copy()
    own[:6] = said[7].others.mean(axis=0)[:6]
    edit = Edit(False, "three more words", 0, 6, "beginning", float(own[6:].sum()), 0.0, 0)
    said[7] = dataclasses.replace(said[7], own=own, edits=(edit,))
    (one,) = find(compare(some, said), {})
    assert (one.clip.number, one.kind, one.place) == (7, "text_without_speech", "beginning")


def test_a_clip_that_ends_in_sound_is_cut_where_others_end_in_pauses() -> None:
    some, said = clean()

    def ending(levels: Levels, rows: range) -> list[Evidence]:
        return [
            dataclasses.replace(one, levels=levels) if row in rows else one
            for row, one in enumerate(said)
        ]

    loud, noisy = Levels(-40.0, -2.0, 40.0), Levels(-3.0, -3.0, 6.0)
    (one,) = find(compare(some, ending(loud, range(4, 5))), {})
    assert (one.clip.number, one.kind, one.place) == (4, "cut_ends", "end")
    assert find(compare(some, ending(noisy, range(4, 5))), {}) == []
    assert find(compare(some, ending(loud, range(0, ROWS, 2))), {}) == []


def test_digits_that_the_model_spells_are_not_missing() -> None:
    some, said = clean()
    words = (("has", 2), ("17", 2), *said[5].words[2:])
    spelled = Edit(True, "seventeen of them", 4, 4, "middle", 0.0, 2.0, 4, 0.5, 1.0)
    said[5] = dataclasses.replace(said[5], edits=(spelled,), words=words)
    assert find(compare(some, said), {}) == []


def test_a_clip_of_another_language_is_held_against_its_like() -> None:
    """Where half of the rows are taken for a language, that is how these rows sound; and of one
    whose transcript fits its clip as well as usual, the model is wrong.
    """
    some, said = clean()

    def taken_for(one: Evidence, language: str) -> Evidence:
        hypothesis = dataclasses.replace(one.hypothesis, languages={language: 0.95, "en": 0.04})
        return dataclasses.replace(one, hypothesis=hypothesis)

    one_of_them = [taken_for(each, "de") if row == 3 else each for row, each in enumerate(said)]
    assert find(compare(some, one_of_them), {}) == []
    one_of_them[3] = taken_for(evidence(3, some[3].utterance.text, gain=1.2), "de")
    heard = compare(some, one_of_them)
    fits = {(a.clip_key, b.pair_key): 9.0 for a, b in wanted(heard)}
    (found,) = find(heard, fits)
    assert (found.clip.number, found.kind) == (3, "wrong_language")
    assert "(95 %)" in found.detail
    half = [taken_for(each, "de") if row % 2 else each for row, each in enumerate(said)]
    assert find(compare(some, half), {}) == []


def test_a_model_knows_a_language_whose_transcripts_it_can_tell_apart() -> None:
    some, said = clean()
    assert knows(some, said) == (1.0, 1.0)
    deaf = [evidence(row, sentence(row + 1), gain=-0.1) for row in range(ROWS)]
    fitting, resembling = knows(some, deaf)
    assert fitting < 0.5
    assert resembling < 0.2


@pytest.mark.parametrize("folds", [2, 3])
def test_a_speaker_and_a_text_are_in_one_fold(folds: int) -> None:
    unlike = toy_utterances(
        [{"text": f"text {number}", "speaker": f"speaker {number % 7}"} for number in range(60)]
    )
    some = [Clip("train", n, unlike[n], n, 1.0, (), (n,), "en") for n in range(60)]
    found = divide(some, folds)
    assert set(found) == set(range(folds))
    assert np.bincount(found).min() >= 60 // folds - 9  # a speaker has 9 rows at most
    for speaker in range(7):
        assert len({found[n] for n in range(60) if n % 7 == speaker}) == 1


def test_one_speaker_is_divided_by_text() -> None:
    rows = toy_utterances([{"text": f"Text {n // 2}", "speaker": "one"} for n in range(20)])
    found = divide([Clip("train", n, rows[n], n, 1.0, (), (n,), "en") for n in range(20)], 2)
    assert np.bincount(found).tolist() == [10, 10]
    assert all(found[n] == found[n + 1] for n in range(0, 20, 2))


def test_speakers_that_all_say_the_same_are_divided_by_text() -> None:
    rows = toy_utterances([{"text": f"Text {n // 5}", "speaker": f"s{n % 5}"} for n in range(20)])
    found = divide([Clip("train", n, rows[n], n, 1.0, (), (n,), "en") for n in range(20)], 2)
    assert np.bincount(found).tolist() == [10, 10]


def test_a_row_of_another_language_is_found_by_its_sound_and_its_text() -> None:
    """Its transcript fits it, so that neither alone would say anything."""
    some, said = clean()
    foreign = "ßäöü ßßäö öüäß üöäß ääßß üßöä"
    rows = [one.utterance.text for one in some]
    some = clips([foreign if row == 3 else text for row, text in enumerate(rows)])
    other = evidence(3, foreign)
    hypothesis = dataclasses.replace(other.hypothesis, languages={"de": 0.97, "en": 0.02})
    said[3] = dataclasses.replace(other, hypothesis=hypothesis)
    assert find(compare(some, said), {}) == []  # no text of the set resembles another
    same = "the very same words are in all of these sentences but for"
    some = clips([f"{same} {text[:6]}" if text != foreign else text for text in rows_of(some)])
    (found,) = find(compare(some, said), {})
    assert (found.clip.number, found.kind) == (3, "wrong_language")
    some = clips([foreign if row == 7 else text for row, text in enumerate(rows_of(some))])
    again = evidence(7, foreign)
    said[7] = dataclasses.replace(again, hypothesis=hypothesis)
    both = find(compare(some, said), {})  # a text is as unlike the others where it stands twice
    assert {(one.clip.number, one.kind) for one in both} == {
        (3, "wrong_language"),
        (7, "wrong_language"),
    }


def rows_of(some: list[Clip]) -> list[str]:
    return [one.utterance.text for one in some]
