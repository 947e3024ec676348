"""Transcripts as they are trained on: as they are seen, and the clean-up that was asked for.

Only training texts are cleaned: a reference that is scored stays as its speaker was transcribed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from lora_whisper.errors import UserError, listing
from lora_whisper.model.languages import code_of
from lora_whisper.model.unseen import without_unseen

Step = Callable[[str, str | None], str]

# The capital of Turkish dotless i is I, and that of i has a dot.
TURKIC_LOWERCASE = str.maketrans({"I": "\u0131", "\u0130": "i"})
TURKIC_LANGUAGES = frozenset({"tr", "az"})

# [laughter], 【笑】 and its like, {pause}, <noise>, and of <i>this</i> the tags. "3 < 5" stays.
BRACKETED = regex.compile(
    r"\[[^\[\]]*\]|【[^【】]*】|\uff3b[^\uff3b\uff3d]*\uff3d|\{[^{}]*\}|<[^<>\s][^<>]*>"
)
# What stands in parentheses is often spoken, so only capitals go, (DOOR SLAMS), and these words.
SOUNDS = (
    "applause|breath|breathing|cheering|cough|coughs|coughing|crosstalk|crying|inaudible|indistinct"
    "|laughing|laughs|laughter|music|noise|pause|sigh|sighs|silence|singing|sneeze|unclear"
    "|unintelligible"
)
PARENTHESES = regex.compile(
    rf"\((?:[\p{{Lu}}\s\d'’.,-]*\p{{Lu}}{{2}}[^()\p{{Ll}}]*|(?i:{SOUNDS}))\)"
)
MUSIC = regex.compile(r"[♩♪♫♬]")  # around what is sung, which stays

# Punctuation within words: apostrophes (Uzbek has the left one), hyphens, the Catalan middle dot,
# the Tibetan tsheg, and the Hebrew geresh, gershayim and maqaf.
INSIDE_WORDS = "'\u2018\u2019\u2010\u2011\u00b7\u0f0b\u05f3\u05f4\u05be-"
INSIDE_NUMBERS = ".,:"  # 3.5, 1,000, 10:30
SPOKEN = "%‰&@§"  # signs that Unicode counts as punctuation and people read aloud
ARMENIAN_ACCENTS = regex.compile(r"[\u055a-\u055f]")  # written on a vowel in the middle of a word
PUNCTUATION = regex.compile(
    rf"(?<=[\p{{L}}\p{{M}}\p{{N}}])[{INSIDE_WORDS}](?=[\p{{L}}\p{{N}}])(*SKIP)(*FAIL)"
    rf"|(?<=\p{{N}})[{INSIDE_NUMBERS}](?=\p{{N}})(*SKIP)(*FAIL)"
    r"|(?<!\S)-(?=\p{N})(*SKIP)(*FAIL)"  # minus
    rf"|(?![{SPOKEN}])\p{{P}}"
)

# A whole number that stands alone. Decimals, times, dates, 007, B2 and 5th are read in too many
# ways; num2words 0.5.14 itself reads 3.5 wrongly in some languages (Arabic, Turkish).
WHOLE_NUMBER = regex.compile(
    r"(?<![\p{L}\p{M}\p{N}+−-]|\p{N}[.,:/’'])\p{Nd}{1,12}(?![\p{L}\p{M}\p{N}/-]|[.,:’'][\p{L}\p{N}])"
)
NUM2WORDS_CODES = {"kk": "kz"}  # where it deviates from Whisper's


def clean(text: str, steps: Sequence[str], language: str | None) -> str:
    """Compose the text (NFC), drop what is not seen, and clean up.

    With steps, words are parted by single spaces.

    The steps of `data.clean` have an order of their own, that of `STEPS`.

    Args:
        language: Whisper's code of what the text is written in; None stands for English.
    """
    text = without_unseen(text)
    for name, step in STEPS.items():
        if name in steps:
            text = step(text, language)
    return " ".join(text.split()) if steps else text


def without_annotations(text: str, language: str | None) -> str:
    """Drop what was heard but not said: [laughter], <noise>, (APPLAUSE), ♪.

    Words in parentheses stay, unless they are capitals or a sound in `SOUNDS`.
    """
    return MUSIC.sub(" ", PARENTHESES.sub(" ", BRACKETED.sub(" ", text)))


def without_digits(text: str, language: str | None) -> str:
    """Spell whole numbers; years are read as numbers are."""
    return WHOLE_NUMBER.sub(lambda number: _spelled(number[0], language), text)


def without_punctuation(text: str, language: str | None) -> str:
    """Drop punctuation (Unicode's P), but not within words and numbers, nor signs like %."""
    return PUNCTUATION.sub(" ", ARMENIAN_ACCENTS.sub("", text))


def without_capitals(text: str, language: str | None) -> str:
    """Lowercase, with the two letters i of Turkish and Azerbaijani kept apart."""
    if language in TURKIC_LANGUAGES:
        text = text.translate(TURKIC_LOWERCASE)
    return text.lower()


# Digits before punctuation, which tells 3.5 from 35.
STEPS: Mapping[str, Step] = {
    "annotations": without_annotations,
    "digits": without_digits,
    "punctuation": without_punctuation,
    "case": without_capitals,
}


def _spelled(number: str, language: str | None) -> str:
    """In words, without the commas that num2words puts between thousands."""
    if len(number) > 1 and int(number[0]) == 0:
        return number
    code = language or "en"
    try:
        words = _num2words().num2words(int(number), lang=NUM2WORDS_CODES.get(code, code))
    except OverflowError:  # Kannada and Telugu end at ten thousand million
        return number
    return words.replace(",", "").strip() or number


def _num2words() -> Any:
    try:
        import num2words
    except ImportError:
        raise UserError(
            "data.clean=[digits] needs num2words; type: pip install 'lora-whisper[text]'"
        ) from None
    return num2words


def without_number_words(codes: Iterable[str]) -> list[str]:
    """Those languages in which numbers cannot be spelled; none where num2words is missing."""
    try:
        return _unspoken(codes, _num2words().CONVERTER_CLASSES)
    except UserError:
        return []


def _unspoken(codes: Iterable[str], known: Container[str]) -> list[str]:
    return sorted(code for code in codes if NUM2WORDS_CODES.get(code, code) not in known)


def require_cleanable(steps: Sequence[str], languages: Iterable[str | None]) -> None:
    """See that every step can be done in every language, before anything is tokenized.

    Args:
        languages: that texts are written in, by code or by name; None stands for English.

    Raises:
        UserError: num2words is missing, or has no words for a language.
    """
    if "digits" not in steps:
        return
    known = _num2words().CONVERTER_CLASSES
    if unknown := _unspoken({code_of(language or "en") for language in languages}, known):
        speaks = ", ".join(sorted(code for code in known if len(code) < 4))
        raise UserError(
            f"data.clean: digits cannot be spelled in {', '.join(unknown)}; num2words speaks "
            f"{speaks}. Leave digits out of data.clean: Whisper reads and writes them."
        )


@dataclass(frozen=True)
class CleaningReport:
    """What cleaning changed in a set of texts."""

    texts: int
    changed: Mapping[str, int]  # step ("unicode": NFC, unseen) → texts that it changed
    emptied: int  # texts of which nothing is left: their windows teach silence
    with_digits: int  # texts in which digits are left after their step; 0 without it
    examples: tuple[str, ...]  # "before → after"

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.changed.items()) or "none"
        left = f"; {self.emptied} are empty now" if self.emptied else ""
        left += f"; {self.with_digits} have digits left" if self.with_digits else ""
        changes = f"\n{listing(list(self.examples), 3)}" if self.examples else ""
        return f"cleaned {self.texts} texts, changed by step: {counts}{left}{changes}"


def cleaning_report(
    texts: Iterable[tuple[str, str | None]], steps: Sequence[str]
) -> CleaningReport:
    """Clean texts, each with its language, and count what each step changes."""
    changed: Counter[str] = Counter()
    total = emptied = with_digits = 0
    examples: list[str] = []
    for before, language in texts:
        after = without_unseen(before)
        changed["unicode"] += after != before
        for name in (name for name in STEPS if name in steps):
            text, after = after, STEPS[name](after, language)
            changed[name] += " ".join(after.split()) != " ".join(text.split())
        after = " ".join(after.split())
        total += 1
        emptied += not after and bool(before.strip())
        with_digits += "digits" in steps and any(letter.isdigit() for letter in after)
        if len(examples) < 3 and after != " ".join(before.split()):
            examples.append(f"{before!r} → {after!r}")
    counts = {name: count for name, count in changed.items() if count}
    return CleaningReport(total, counts, emptied, with_digits, tuple(examples))
