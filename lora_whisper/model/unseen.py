"""Characters that nobody sees: one rule for what is trained on, compared and checked.

A soft hyphen, a mark of direction or of byte order stands in a text by accident, and a text with it
looks like one without. What is not seen and yet a letter's own in its script stays:

- joiners beside the letters of scripts that are joined or stacked (Persian, Indic and Sinhala
  texts, Mongolian, …): The Unicode Standard, 23.2, and Unicode Annex 31, 2.3, which allows them
  after these letters alone, since there they tell words apart;
- the zero width space of scripts that part words by it (Thai, Lao, Khmer, Burmese, Javanese, …);
- joiners within emoji, which are one picture by them, and selectors after a letter or a picture
  that has several forms (Han, Mongolian, emoji).
"""

from __future__ import annotations

import unicodedata

import regex

JOINED_SCRIPTS = (
    "Arabic Syriac Mandaic Mongolian Nko Adlam Hanifi_Rohingya Phags_Pa "
    "Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala Myanmar "
    "Khmer Balinese Javanese Sundanese Meetei_Mayek Newa Tirhuta"
).split()
UNSPACED_SCRIPTS = "Thai Lao Khmer Myanmar Tibetan Javanese Balinese Tai_Tham New_Tai_Lue".split()
ZERO_WIDTH_SPACE = "\u200b"


def _of(scripts: list[str]) -> str:
    """A class of the letters and marks of these scripts."""
    return "[" + "".join(rf"\p{{Script={name}}}" for name in scripts) + "]"


JOINABLE, UNSPACED = _of(JOINED_SCRIPTS), _of(UNSPACED_SCRIPTS)
# Control characters but for those that part words, format characters, variation selectors, and
# what is drawn as nothing: Hangul fillers, the grapheme joiner (Default_Ignorable_Code_Point).
UNSEEN = regex.compile(
    r"[[\p{Cc}--[\s\x1c-\x1f]]\p{Variation_Selector}\p{Default_Ignorable_Code_Point}"
    r"[\p{Cf}--\p{Prepended_Concatenation_Mark}]]",
    regex.V1,
)
ACCIDENTAL = regex.compile(
    rf"(?<={JOINABLE}\p{{M}}*)[\u200c\u200d](?=[\p{{L}}\p{{M}}])(*SKIP)(*FAIL)"
    rf"|(?<={JOINABLE}\p{{M}}*)\u200d(*SKIP)(*FAIL)"
    rf"|(?:(?<={UNSPACED})\u200b|\u200b(?={UNSPACED}))(*SKIP)(*FAIL)"
    r"|(?<=[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f])\u200d"
    r"(?=\p{Extended_Pictographic})(*SKIP)(*FAIL)"
    r"|(?<=\p{Emoji})[\ufe0e\ufe0f](*SKIP)(*FAIL)"
    r"|(?<=\p{Script=Mongolian})[\u180b-\u180f](*SKIP)(*FAIL)"
    r"|(?<=\p{Script=Han})\p{Variation_Selector}(*SKIP)(*FAIL)"
    rf"|{UNSEEN.pattern}",
    regex.V1,
)


def without_unseen(text: str) -> str:
    """The text as it is seen, in Unicode's composed form (NFC)."""
    text = unicodedata.normalize("NFC", text)
    if not _may_hold_unseen(text):
        return text
    return unicodedata.normalize("NFC", ACCIDENTAL.sub("", text))  # what it parted may compose


def unseen(text: str) -> list[str]:
    """What `without_unseen` would take away, each character once: `U+200B`."""
    found = dict.fromkeys(ACCIDENTAL.findall(text)) if _may_hold_unseen(text) else {}
    return [f"U+{ord(one):04X}" for one in found]


def _may_hold_unseen(text: str) -> bool:
    """A quick look: most of a million texts have nothing of the kind."""
    return not (text.isascii() and text.isprintable()) and UNSEEN.search(text) is not None
