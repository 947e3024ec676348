"""Runs of words that another text lacks, found however the model spells the rest."""

from __future__ import annotations

import numpy as np
import pytest

from lora_whisper.labels.alignment import missing_runs

SENTENCES = (
    "the quick brown fox jumps over the lazy dog and sleeps until the evening comes",
    "walioambukizwa wote ni raia wa tanzania kumi na tatu wakiwa dar es salaam",
    "please bring me seven of the green boxes that stand behind the kitchen door",
)


def misspelled(words: list[str], seed: int) -> list[str]:
    """A letter of each longer word is another one, as a model that half knows them spells."""
    generator = np.random.default_rng(seed)
    found = []
    for word in words:
        letters = list(word)
        if len(letters) > 3:
            letters[int(generator.integers(len(letters)))] = "x"
        found.append("".join(letters))
    return found


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("place", ["beginning", "middle", "end"])
def test_words_that_were_taken_out_are_found(sentence: str, place: str) -> None:
    words = sentence.split()
    first = {"beginning": 0, "middle": 4, "end": len(words) - 4}[place]
    kept = [*words[:first], *words[first + 4 :]]
    run, *_ = missing_runs(misspelled(words, 1), kept)
    assert run.place == place
    assert run.at == first
    taken, found = set(range(first, first + 4)), set(range(run.first, run.last))
    assert len(taken & found) >= 3
    assert len(found - taken) <= 1


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_text_lacks_nothing_of_itself(sentence: str) -> None:
    words = sentence.split()
    assert missing_runs(words, words) == []
    assert missing_runs(misspelled(words, 0), words) == []


def test_of_a_text_and_none_all_is_missing() -> None:
    (run,) = missing_runs(["some", "words"], [])
    assert (run.first, run.last, run.at) == (0, 2, 0)
    assert missing_runs([], ["some", "words"]) == []
    assert missing_runs([], []) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("first", [3, 8, 11])
def test_a_gap_is_found_whole_where_most_words_are_spelled_otherwise(seed: int, first: int) -> None:
    """Of a third of the letters another one, and none of the words: where they stand in time says
    which are missing, and chance matches do not.
    """
    generator = np.random.default_rng(seed)
    alphabet = list("aeioukmnwthl")
    words = ["".join(generator.choice(alphabet, generator.integers(2, 9))) for _ in range(20)]
    kept = [*words[:first], *words[first + 6 :]]
    heard = [
        "".join(
            str(generator.choice(alphabet)) if generator.random() < 1 / 3 else letter
            for letter in word
        )
        for word in words
    ]
    longest, *others = missing_runs(heard, kept)
    assert abs(longest.first - first) <= 1
    assert abs(longest.last - (first + 6)) <= 1
    assert abs(longest.at - first) <= 1
    assert not others
