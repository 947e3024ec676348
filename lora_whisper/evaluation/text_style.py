"""How a text is written, whatever its words are: capitals, marks, and a spelling of one's own."""

from __future__ import annotations

from collections import Counter

import regex

MARKS = regex.compile(r"[\p{Terminal_Punctuation}…]")
ENDS_IN_MARK = regex.compile(r"[\p{Sentence_Terminal}…]\P{L}*$")
SHARES = 1000  # that F1 and chrF are counted in
PROMPTED_WORDS = 2  # in a clip, each in another spelling
SHORTEST_PROMPTED = 5  # letters


def respelled(text: str) -> list[str]:
    """The longest words of a text, each with a letter twice: `Fammilia` of Familia.

    Nobody writes them so who was not told to, and they sound the same.
    """
    words = {word.strip(".,;:!?\"'()«»“”¿¡…"): None for word in text.split()}
    long = [word for word in words if len(word) >= SHORTEST_PROMPTED and word.isalpha()]
    chosen = sorted(long, key=lambda word: (-len(word), word))[:PROMPTED_WORDS]
    return [word[: len(word) // 2] + word[len(word) // 2 - 1 :] for word in chosen]


def is_in_capitals(text: str) -> bool:
    """Whether more than half of the letters that can be are capitals."""
    cased = [letter for letter in text if letter.upper() != letter.lower()]
    return 2 * sum(map(str.isupper, cased)) > len(cased)


def marks_of(text: str) -> Counter[str]:
    """How often each mark stands in it, wherever: words that are misheard move them."""
    return Counter(MARKS.findall(text))


def capitals_of(text: str) -> Counter[str]:
    """How many words begin with a capital."""
    words = (word.lstrip("\"'(«“„¿¡") for word in text.split())
    return Counter(capital=sum(word[:1].isupper() for word in words))


def f1(expected: Counter[str], written: Counter[str]) -> int:
    """In thousandths; all where there is nothing to write and nothing is written."""
    of = expected.total() + written.total()
    return round(SHARES * 2 * (expected & written).total() / of) if of else SHARES


def looks_like_a_sentence(text: str) -> bool:
    """Whether it begins with a capital or a figure, is not all capitals, and ends in a mark."""
    letters = [letter for letter in text if letter.isalnum()]
    begins = bool(letters) and (letters[0].isupper() or letters[0].isdigit())
    return begins and not text.isupper() and ENDS_IN_MARK.search(text) is not None
