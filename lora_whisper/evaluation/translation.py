"""Whether a text is a translation into English, and how near it comes to another one."""

from __future__ import annotations

from collections import Counter

import regex

# Of English, these words are two fifths; of any other language a few, which it happens to have.
COMMON_WORDS = frozenset(
    "the of and to in is that it was for on are with as his they be at this have from by not but "
    "what all were when we there can an your which their if will would has he she you my who been "
    "its had or so".split()
)
LEAST_COMMON_SHARE = 0.25
WORD = regex.compile(r"\p{L}[\p{L}\p{M}']*")
CHRF_ORDER, CHRF_BETA = 6, 2.0  # n-grams of up to so many characters; recall counts four times


def is_english(text: str) -> bool:
    """Whether a quarter of the words are the commonest of English."""
    words = WORD.findall(text.lower())
    common = sum(word in COMMON_WORDS for word in words)
    return bool(words) and common >= LEAST_COMMON_SHARE * len(words)


def chrf(reference: str, text: str) -> float:
    """chrF2 of a sentence, 0 … 1: Popović 2015, https://aclanthology.org/W15-3049.

    Precision and recall are means over the orders of n-grams that both texts have; spaces do not
    count. The same as sacrebleu's, of which this is all that is needed.
    """
    precisions, recalls = [], []
    for order in range(1, CHRF_ORDER + 1):
        expected, written = _ngrams(reference, order), _ngrams(text, order)
        if expected and written:
            matches = (expected & written).total()
            precisions.append(matches / written.total())
            recalls.append(matches / expected.total())
    if not any(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    weight = CHRF_BETA**2
    return (1 + weight) * precision * recall / (weight * precision + recall)


def _ngrams(text: str, order: int) -> Counter[str]:
    letters = "".join(text.split())
    return Counter(letters[first : first + order] for first in range(len(letters) - order + 1))
