"""Text normalization before scoring: what counts as the same word.

English: the normalizer of the Whisper paper, so that numbers compare with published ones (and its
oddities stay: "so..." ends in a word "."). Only of a text without letters and digits nothing is
left here, where Whisper's would leave "." of "...".
Every other language: Whisper's basic normalizer, except that combining marks stay. Whisper's own
drops them, and with them the vowels of Indic, Thai, Arabic and Hebrew scripts.
Of what is not seen (soft hyphens, marks of direction, joiners, …) nothing is compared, in whatever
language: what looks alike is alike. Where a joiner makes another letter, the letter is compared.

Units are words, parted by spaces, but for two cases. Scripts without spaces are scored by grapheme
(Chinese, Japanese, Thai, Lao, Khmer, Burmese, Cantonese). Tibetan has a tsheg after each syllable
and spaces only between phrases: the tsheg is punctuation and becomes a space, so its units are
syllables, which is what Tibetan recognition is scored by, too. Both say so in their names.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources

import regex

from lora_whisper.data.text import ARMENIAN_ACCENTS, TURKIC_LANGUAGES, TURKIC_LOWERCASE
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES, ZERO_WIDTH_SPACE, without_unseen

# [music] and <noise>, then (laughs); the order is Whisper's and matters where they are nested
BRACKETED = (regex.compile(r"[<\[][^>\]]*[>\]]"), regex.compile(r"\([^)]+?\)"))
# What `without_unseen` leaves to its script says how a letter is drawn, not which it is.
INVISIBLE = regex.compile(r"[\p{Cf}\p{Variation_Selector}\p{Me}]")
FREE_ACCENT = regex.compile(r"\p{Sk}")
SYMBOL = regex.compile(r"[\p{P}\p{S}]")
# NFKC takes the Thai and Lao vowel am apart, into a mark and a second letter.
VOWEL_AM = (("\u0e4d\u0e32", "\u0e33"), ("\u0ecd\u0eb2", "\u0eb3"))
# What older texts write with a joiner has a letter of its own by now: the Malayalam chillus and the
# Bengali khanda ta (The Unicode Standard, chapter 12). Without its joiner it would be another one.
JOINED_LETTERS = str.maketrans("ണനരലളകত", "ൺൻർൽൾൿৎ")
JOINED = regex.compile("([ണനരലളക])\u0d4d\u200d|(ত)\u09cd\u200d")
# Marathi writes the eyelash ra with either ra (the same chapter, R5a), and without its joiner it
# would be another letter: दर्‍या are valleys, दर्या is the sea.
EYELASH_RA = ("\u0930\u094d\u200d", "\u0931\u094d")
# Swahili ng'ombe is written with either; the first would be a letter of its word.
APOSTROPHE = ("\u02bc", "'")
STRAY_MARKS = regex.compile(r"(?<![\p{L}\p{M}\p{N}])\p{M}+")  # the letter they stood on is gone
SPOKEN = regex.compile(r"[\p{L}\p{N}]")
# A letter below another one belongs to it (Khmer coeng, Burmese virama); older versions of `regex`
# part them, 2023.12.25 does. Every mark belongs to its letter, also those that Unicode Annex 29
# parts from it, the Burmese vowel aa and visarga: on their own nobody could read them.
GRAPHEME = regex.compile(r"\X(?:\p{M}|(?<=[\u17d2\u1039])\X)*")
TIBETAN = frozenset({"bo", "dz"})


@dataclass(frozen=True)
class Normalizer:
    """A named rule; the name goes into every report, because a WER means nothing without it."""

    name: str
    rule: Callable[[str], str] = field(repr=False)
    units: str = "words"  # what it parts by spaces, and a "word error rate" is therefore of

    def __call__(self, text: str) -> str:
        """Return words parted by single spaces; an empty string when nothing is left."""
        return fold_spaces(self.rule(text))


@functools.cache
def normalizer_for(language: str | None) -> Normalizer:
    """Choose by Whisper's language code; `None` stands for an English-only checkpoint."""
    if language in (None, "en"):
        # Late: names of normalizers are asked for by commands that answer within a second.
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        # British to American spelling, OpenAI's own table (licence beside it).
        table = resources.files("lora_whisper.evaluation") / "english_spelling.json"
        whispers = EnglishTextNormalizer(json.loads(table.read_text(encoding="utf-8")))
        return Normalizer("whisper-english", functools.partial(english, whispers))
    if language in TURKIC_LANGUAGES:
        return Normalizer("multilingual-turkic", multilingual_turkic)
    if language in SPACELESS_LANGUAGES:
        return Normalizer("multilingual-graphemes", multilingual_graphemes, "graphemes")
    if language in TIBETAN:
        return Normalizer("multilingual-syllables", multilingual, "syllables")
    return Normalizer("multilingual", multilingual)


def fold_spaces(text: str) -> str:
    """Part words by single spaces; nothing before the first and after the last."""
    return " ".join(text.split())


def multilingual(text: str) -> str:
    """Lowercase, drop what is bracketed, punctuation and symbols; keep letters, marks and digits.

    NFKC brings full-width, half-width and presentation forms to the common ones. Free-standing
    accents go before it: it would turn them into a space and a combining mark, which then stays.
    Armenian marks of tone stand on a vowel, so they go without leaving a space in the word.
    """
    text = _seen(text)
    for bracketed in BRACKETED:
        text = bracketed.sub("", text.lower())
    text = ARMENIAN_ACCENTS.sub("", text)
    text = unicodedata.normalize("NFKC", FREE_ACCENT.sub(" ", text)).replace(*APOSTROPHE)
    for apart, whole in VOWEL_AM:
        text = text.replace(apart, whole)
    return STRAY_MARKS.sub("", SYMBOL.sub(" ", text)).lower()


def _seen(text: str) -> str:
    """Without what is not seen. The zero width space ends a word in scripts like Thai and Khmer."""
    text = without_unseen(text).replace(ZERO_WIDTH_SPACE, " ").replace(*EYELASH_RA)
    text = JOINED.sub(lambda match: match[0][0].translate(JOINED_LETTERS), text)
    return INVISIBLE.sub("", text)


def english(whispers: Callable[[str], str], text: str) -> str:
    normalized = whispers(_seen(text))
    return normalized if SPOKEN.search(normalized) else ""


def multilingual_turkic(text: str) -> str:
    return multilingual(unicodedata.normalize("NFC", text).translate(TURKIC_LOWERCASE))


def multilingual_graphemes(text: str) -> str:
    """Part all graphemes, as the Whisper paper does for scripts without spaces (appendix C).

    The word error rate is then one of graphemes, which tells models apart where every sentence
    would be a single word. Radford et al. 2022, https://arxiv.org/abs/2212.04356.
    """
    return _graphemes(multilingual(text))


def _graphemes(text: str) -> str:
    return " ".join(GRAPHEME.findall("".join(text.split())))


def as_written(text: str, language: str | None) -> str:
    """Text for the orthographic rates: nothing is changed but its encoding and its spaces.

    One encoding for what is written the same, as the training texts have it: NFC, without what is
    not seen. Words are parted by single spaces; without them (`SPACELESS_LANGUAGES`), graphemes
    are, as when normalized.
    """
    text = without_unseen(text).replace(ZERO_WIDTH_SPACE, " ")
    return _graphemes(text) if language in SPACELESS_LANGUAGES else fold_spaces(text)


def characters_of(units: str, language: str | None) -> str:
    """Units parted by spaces as the text that CER is of: without the spaces that it has not."""
    return units.replace(" ", "") if language in SPACELESS_LANGUAGES else units
