"""Text normalization before scoring: what counts as the same word.

English: the normalizer of the Whisper paper, so that numbers compare with published ones.
Every other language: Whisper's basic normalizer, except that combining marks stay. Whisper's own
drops them, and with them the vowels of Indic, Thai and Arabic scripts.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources

import regex
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from lora_whisper.data.text import TURKIC_LANGUAGES, TURKIC_LOWERCASE
from lora_whisper.data.vocabulary import SPACELESS_LANGUAGES

# [music] and <noise>, then (laughs); the order is Whisper's and matters where they are nested
BRACKETED = (regex.compile(r"[<\[][^>\]]*[>\]]"), regex.compile(r"\([^)]+?\)"))
ZERO_WIDTH_SPACE = "\u200b"  # ends a word in Thai and Khmer text, where nothing is seen
# Format characters and variation selectors say how a letter is drawn, not which it is.
INVISIBLE = regex.compile(r"[\p{Cf}\p{Variation_Selector}\p{Me}]")
FREE_ACCENT = regex.compile(r"\p{Sk}")
SYMBOL = regex.compile(r"[\p{P}\p{S}]")
# NFKC takes the Thai and Lao vowel am apart, into a mark and a second letter.
VOWEL_AM = (("\u0e4d\u0e32", "\u0e33"), ("\u0ecd\u0eb2", "\u0eb3"))
STRAY_MARKS = regex.compile(r"(?<![\p{L}\p{M}\p{N}])\p{M}+")  # the letter they stood on is gone
GRAPHEME = regex.compile(r"\X")


@dataclass(frozen=True)
class Normalizer:
    """A named rule; the name goes into every report, because a WER means nothing without it."""

    name: str
    rule: Callable[[str], str] = field(repr=False)

    def __call__(self, text: str) -> str:
        """Return words parted by single spaces; an empty string when nothing is left."""
        return fold_spaces(self.rule(text))


@functools.cache
def normalizer_for(language: str | None) -> Normalizer:
    """Choose by Whisper's language code; `None` stands for an English-only checkpoint."""
    if language in (None, "en"):
        return Normalizer("whisper-english", EnglishTextNormalizer(_english_spelling()))
    if language in TURKIC_LANGUAGES:
        return Normalizer("multilingual-turkic", _multilingual_turkic)
    if language in SPACELESS_LANGUAGES:
        return Normalizer("multilingual-graphemes", _multilingual_graphemes)
    return Normalizer("multilingual", multilingual)


def fold_spaces(text: str) -> str:
    """Part words by single spaces; nothing before the first and after the last."""
    return " ".join(text.split())


def multilingual(text: str) -> str:
    """Lowercase, drop what is bracketed, punctuation and symbols; keep letters, marks and digits.

    NFKC brings full-width, half-width and presentation forms to the common ones. Free-standing
    accents go before it: it would turn them into a space and a combining mark, which then stays.
    """
    for bracketed in BRACKETED:
        text = bracketed.sub("", text.lower())
    text = INVISIBLE.sub("", text.replace(ZERO_WIDTH_SPACE, " "))
    text = unicodedata.normalize("NFKC", FREE_ACCENT.sub(" ", text))
    for apart, whole in VOWEL_AM:
        text = text.replace(apart, whole)
    return STRAY_MARKS.sub("", SYMBOL.sub(" ", text)).lower()


def _multilingual_turkic(text: str) -> str:
    return multilingual(unicodedata.normalize("NFC", text).translate(TURKIC_LOWERCASE))


def _multilingual_graphemes(text: str) -> str:
    """Part all graphemes, as the Whisper paper does for scripts without spaces (appendix C).

    The word error rate is then one of graphemes, which tells models apart where every sentence
    would be a single word. Radford et al. 2022, https://arxiv.org/abs/2212.04356.
    """
    return " ".join(GRAPHEME.findall("".join(multilingual(text).split())))


def _english_spelling() -> dict[str, str]:
    """British to American spelling, OpenAI's own table (licence beside it)."""
    table = resources.files("lora_whisper.evaluation") / "english_spelling.json"
    return json.loads(table.read_text(encoding="utf-8"))
