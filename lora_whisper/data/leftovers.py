"""Text that is no transcript: what files, programs and web pages leave where words should stand.

Flagged and never deleted: `nan` may be a name, and only who knows the speech can tell. So a word is
looked at where it is the whole text alone, and a sign where no language writes it.
"""

from __future__ import annotations

import html
import string
import unicodedata
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import regex

from lora_whisper.model.unseen import unseen

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
    return list(_found(text.strip(), language))


def _found(text: str, language: str | None) -> Iterator[str]:
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


def _bytes_by_letter(codec: str) -> dict[str, int]:
    """A codec's letters; what it leaves out stands for itself, as in browsers."""
    table = {chr(byte): byte for byte in range(256)}
    for byte in range(0x80, 0x100):
        with_codec = bytes([byte]).decode(codec, "ignore")
        if with_codec:
            table[with_codec] = byte
    return table


CODECS = {name: _bytes_by_letter(name) for name in ("cp1252", "cp1251", "mac_roman")}


def _misread(text: str) -> Iterator[tuple[str, str]]:
    """Words that are UTF-8 read by another table of letters, and what they were."""
    if text.isascii():
        return
    for word in dict.fromkeys(regex.split(r"[ \t\r\n]+", text)):
        bare = word.strip(QUOTES + string.punctuation)  # CAFÉ» is a word, and no byte sequence
        likely = (_likely(bare, codec) or _likely(word, codec, is_bare=False) for codec in CODECS)
        meant = next(filter(None, likely), None)
        if meant is not None:
            yield word, meant


def _likely(word: str, codec: str, is_bare: bool = True) -> str | None:
    """What the word was, if that is a word: of letters, and not by one chance sequence.

    One pair of letters may be a Latin one, as in `cafÃ©`; with marks around it, or of other
    scripts, it takes two pairs or three letters for one.
    """
    meant = _decoded(word, CODECS[codec])
    if meant is None or len(meant) == len(word):
        return None
    beyond = [letter for letter in meant if not letter.isascii()]
    if not all(map(_is_writing, beyond)):
        return None
    is_latin = codec != "cp1251" and all(ord(letter) in LATIN for letter in beyond)
    by_one_pair = is_latin and (is_bare or codec == "mac_roman")
    return meant if by_one_pair or len(word) - len(meant) > 1 else None


def _is_writing(letter: str) -> bool:
    return letter.isalnum() or ord(letter) in LATIN or unicodedata.category(letter)[0] in "MS"


def _decoded(word: str, table: dict[str, int]) -> str | None:
    """The word if its letters were bytes of UTF-8; None where they are not."""
    if word.isascii() or any(letter not in table for letter in word):
        return None
    try:
        return bytes(table[letter] for letter in word).decode("utf-8")
    except UnicodeDecodeError:
        return None
