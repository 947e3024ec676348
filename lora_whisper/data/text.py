"""Transcripts as they are trained on: as they are seen, the clean-up that was asked for, and what
in them is no transcript.

Only training texts are cleaned: a reference that is scored stays as its speaker was transcribed.
"""

from __future__ import annotations

import html
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import regex

from lora_whisper.errors import UserError, listing
from lora_whisper.model.tokenizer import code_of, unseen, without_unseen

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


# ── text that is no transcript ───────────────────────────────────────────────────────────────────

# What files, programs and web pages leave where words should stand. Flagged and never deleted:
# `nan` may be a name, and only who knows the speech can tell. So a word is looked at where it is
# the whole text alone, and a sign where no language writes it.

# What programs write for a cell without a value, exactly as they spell it.
NO_VALUE = frozenset(
    "nan NaN NAN -nan None null NULL nil NIL undefined N/A n/a #N/A <NA> NaT (null) (none) [] {} "
    "#REF! #VALUE! #NAME? #DIV/0! \\N TODO TBD".split()
)
ZERO_IS_NULL = frozenset("de da no nn nb et lb fo sv is".split())  # languages with the word null
SPECIAL_TOKEN = regex.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?s>|<(?:unk|pad|eos|bos|blank|mask)>|\[(?:UNK|PAD|CLS|SEP|MASK)\]"
    r"|\u2047|\u2581"
)
TIMESTAMP = regex.compile(r"<\|\d+\.\d\d\|>")  # Whisper's own, which have their meaning
ENTITY = regex.compile(r"&(?:#\d{2,7}|#[xX][0-9a-fA-F]{2,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")
BARE_ENTITY = regex.compile(r"&(?:amp|nbsp|quot|apos|lt|gt)\b")
TAG = regex.compile(
    r"</?(?:a|b|big|br|center|code|div|em|font|h[1-6]|i|img|li|ol|p|pre|q|ruby|rt|s|small|span|strong"
    r"|sub|sup|table|td|tr|tt|u|ul)(?:\s[^<>]*)?/?>",
    regex.IGNORECASE,
)
ESCAPE = regex.compile(r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\[nrt](?![a-z])|(?<=\w)\\n")
FILE_NAME = regex.compile(r"\S*\.(?:wav|flac|ogg|opus|mp3|m4a|webm)", regex.IGNORECASE)
LIST = regex.compile(r"\[(['\"]).*\1\]|\{(['\"]).*[}]|b(['\"]).*\3", regex.DOTALL)
PRIVATE = regex.compile(r"[\p{Co}\p{Cn}]")

# A text without these is none of all that; few others are looked at letter by letter.
SUSPECT = (
    r"[^\x20-\x25\x27-\x3b\x3d\x3f-\x5a\x5e-\x7a]"  # anything but ASCII without & < > [ ] \ { } |
    r"|^\s*(?i:-?nan|none|null|nil|undefined|n/a|#n/a|nat|\(null\)|\(none\)|todo|tbd)\s*$"
    r"|^\s*#(REF|VALUE|NAME|DIV)"
    r"|(?i:\.(wav|flac|ogg|opus|mp3|m4a|webm)\s*$)|^\s*b['\"]"
)


def leftovers(text: str, language: str | None = None) -> list[str]:
    """What there is in a text that nobody says, each in a few words; mostly nothing.

    Args:
        language: Whisper's code, for words that are a language's own.
    """
    return list(_signs(text.strip(), language))


def _signs(text: str, language: str | None) -> Iterator[str]:
    if text in NO_VALUE and not (text == "null" and language in ZERO_IS_NULL):
        yield f"{text!r}, for no value"
    if FILE_NAME.fullmatch(text):
        yield "a file's name"
    if LIST.fullmatch(text):
        yield "a program's list"
    for token in dict.fromkeys(SPECIAL_TOKEN.findall(text)):
        if not TIMESTAMP.fullmatch(token):
            yield f"the token {token}"
    entities = [one for one in ENTITY.findall(text) if html.unescape(one) != one]
    for one in dict.fromkeys([*entities, *BARE_ENTITY.findall(text)]):
        yield f"HTML {one}"
    for tag in dict.fromkeys(TAG.findall(text)):
        yield f"the tag {tag}"
    for escape in dict.fromkeys(ESCAPE.findall(text)):
        yield f"the escape {escape}"
    for word, meant in _misread(text):
        yield f"{word!r}, which is {meant!r} in another encoding"
    if "\ufffd" in text:
        yield "a letter that was lost (U+FFFD)"
    for one in dict.fromkeys(PRIVATE.findall(text)):
        yield f"a private letter (U+{ord(one):04X})"
    for name in unseen(text):
        yield f"{name}, which is not seen"


def suspects(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """(rows,) of booleans: which of a million texts are worth a look."""
    return pc.fill_null(pc.match_substring_regex(texts, SUSPECT), False)


# ── UTF-8 that was read as something else ────────────────────────────────────────────────────

QUOTES = "".join(
    letter for letter in map(chr, range(0x2100)) if unicodedata.category(letter)[0] == "P"
)
LATIN = frozenset(
    [*range(0xA0, 0x180), *range(0x1E00, 0x1F00), *range(0x2010, 0x2070), 0x20AC, 0x2122]
)


def _bytes_by_letter(encoding: str) -> dict[str, int]:
    """An encoding's letters; what it leaves out stands for itself, as in browsers."""
    table = {chr(byte): byte for byte in range(256)}
    for byte in range(0x80, 0x100):
        letter = bytes([byte]).decode(encoding, "ignore")
        if letter:
            table[letter] = byte
    return table


ENCODINGS = {name: _bytes_by_letter(name) for name in ("cp1252", "cp1251", "mac_roman")}


def _misread(text: str) -> Iterator[tuple[str, str]]:
    """Words that are UTF-8 read by another table of letters, and what they were."""
    if text.isascii():
        return
    for word in dict.fromkeys(regex.split(r"[ \t\r\n]+", text)):
        bare = word.strip(QUOTES + string.punctuation)  # CAFÉ» is a word, and no byte sequence
        likely = (
            _likely(bare, encoding) or _likely(word, encoding, is_bare=False)
            for encoding in ENCODINGS
        )
        meant = next(filter(None, likely), None)
        if meant is not None:
            yield word, meant


def _likely(word: str, encoding: str, is_bare: bool = True) -> str | None:
    """What the word was, if that is a word: of letters, and not by one chance sequence.

    One pair of letters may be a Latin one, as in `cafÃ©`; with marks around it, or of other
    scripts, it takes two pairs or three letters for one.
    """
    meant = _decoded(word, ENCODINGS[encoding])
    if meant is None or len(meant) == len(word):
        return None
    beyond = [letter for letter in meant if not letter.isascii()]
    if not all(
        letter.isalnum() or ord(letter) in LATIN or unicodedata.category(letter)[0] in "MS"
        for letter in beyond
    ):
        return None
    is_latin = encoding != "cp1251" and all(ord(letter) in LATIN for letter in beyond)
    by_one_pair = is_latin and (is_bare or encoding == "mac_roman")
    return meant if by_one_pair or len(word) - len(meant) > 1 else None


def _decoded(word: str, table: dict[str, int]) -> str | None:
    """The word if its letters were bytes of UTF-8; None where they are not."""
    if word.isascii() or any(letter not in table for letter in word):
        return None
    try:
        return bytes(table[letter] for letter in word).decode("utf-8")
    except UnicodeDecodeError:
        return None
