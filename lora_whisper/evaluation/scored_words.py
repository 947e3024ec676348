"""Whether the words that are scored are those that were spoken.

A normalizer may make one word of several: `two eight five seven` is 2857 to Whisper's English one,
so that a single wrong digit counts as if all were wrong, and an error of spacing as a word. Where
it does so often, the word error rate is not of what was said, and another rate has to bear it.
"""

from __future__ import annotations

from collections.abc import Mapping

import regex

from lora_whisper.data.quality import FEWEST_SHARE, LONGEST_WORD, MOST_SHARE
from lora_whisper.evaluation.normalizers import as_written, normalizer_for
from lora_whisper.evaluation.results import Score

FEWEST_WORDS = 10  # of a set, for a share that means something
EMPTY_SHARE = 0.1  # of the references, with text and nothing to score
WORD = regex.compile(r"[\p{L}\p{N}]")


def written_words(text: str, language: str | None) -> int:
    """Words (or graphemes) of a text as it is written, marks that stand alone not among them."""
    return sum(bool(WORD.search(one)) for one in as_written(text, language).split())


def scored_words(text: str, language: str | None) -> int:
    """What the error rate of the text is divided by."""
    return len(normalizer_for(language)(text).split())


def words_of(text: str, language: str | None) -> tuple[int, int]:
    """Both, for `check`."""
    return written_words(text, language), scored_words(text, language)


def is_off(written: int, scored: int) -> bool:
    """Whether so many fewer or more words are scored that a rate of them is of something else."""
    return written >= FEWEST_WORDS and not FEWEST_SHARE <= scored / written <= MOST_SHARE


def is_unspaced(characters: int, words: int) -> bool:
    """Whether what counts as a word is mostly a whole sentence."""
    return words > 0 and characters / words > LONGEST_WORD


def caution(score: Score) -> str:
    """What to say of a set whose words are not those that were spoken; "" where they are.

    Older scores lack the written words, and nothing is said of them.
    """
    written, scored = score.written_words, score.reference_words
    if written is not None and is_off(written, scored):
        return (
            f"{written:,} {score.units} of {score.utterances:,} utterances are scored as "
            f"{scored:,}: the normalizer {score.normalizer} "
            f"{'joins' if scored < written else 'parts'} them (numbers, abbreviations), so that "
            "the WER is not of what was said"
        )
    if written is not None and score.cer_unspaced is not None:
        return (
            f"{score.utterances:,} utterances are scored as {scored:,} {score.units}, most of them "
            "whole sentences: the texts have no spaces, and one wrong letter is a wrong sentence"
        )
    if score.emptied > EMPTY_SHARE * score.utterances:
        return (
            f"of {score.emptied:,} of {score.utterances:,} references nothing is left to score by "
            f"{score.normalizer} (marks alone, or in brackets)"
        )
    return ""


def bearing_rates(scores: Mapping[str, Score | None]) -> str:
    """The rates that bear it, of each model: `CER without spaces base 4.1 %, …`"""
    known = {
        name: (one.cer_unspaced, one.wer_orthographic)
        for name, one in scores.items()
        if one and one.cer_unspaced is not None
    }
    if not known:
        return ""
    titles = ("CER without spaces", "WER as written")
    return "; ".join(
        f"{title} " + ", ".join(f"{name} {100 * rates[at]:.1f} %" for name, rates in known.items())
        for at, title in enumerate(titles)
    )


def cautions(scores: Mapping[str, Score | None]) -> str:
    """The caution for a set, and the rates of its models beside it."""
    first = next(filter(None, scores.values()), None)
    text = caution(first) if first else ""
    rates = bearing_rates(scores)
    return f"{text}. {rates}" if text and rates else text
