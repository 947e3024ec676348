"""One rule for what nobody sees, in what is trained on, scored and checked."""

from __future__ import annotations

import pytest
import regex

from lora_whisper.data.text import clean
from lora_whisper.evaluation.normalizers import as_written, normalizer_for
from lora_whisper.model.tokenizer import text_tokens, unseen, without_unseen
from tests.toy_tokenizers import toy_tokenizer

LANGUAGES = ["en", None, "fr", "tr", "sw", "ja", "bo", "fa", "hi"]
ACCIDENTS = {  # characters that a copied text brings along, and where they stand
    "marks of direction": "ab\u200e cd\u200f \u202aef\u202c \u2066gh\u2069\u061c",
    "marks of byte order": "\ufeffab cd\ufeff ef gh",
    "soft hyphens": "a\u00adb cd e\u00adf gh",
    "zero width": "ab\u200b c\u200bd ef\u2060 g\u200dh\u200c",
    "control characters": "a\x07b cd\x08 e\x7ff g\x9dh",
    "selectors and fillers": "ab\ufe0f cd\u3164 e\u034ff gh\U000e0101",
}


@pytest.mark.parametrize("text", ACCIDENTS.values(), ids=ACCIDENTS.keys())
def test_what_looks_alike_is_alike(text: str) -> None:
    seen = "ab cd ef gh"
    assert clean(text, (), "en") == without_unseen(text) == seen
    for language in LANGUAGES:
        assert normalizer_for(language)(text) == normalizer_for(language)(seen), language
        assert as_written(text, language) == as_written(seen, language), language
    tokenizer = toy_tokenizer()
    assert text_tokens(tokenizer, text, "en") == text_tokens(tokenizer, seen, "en")
    assert unseen(text)
    assert not unseen(seen)


OWN = {  # of letters in their script: none of it is an accident
    "Persian": "می\u200cروم خانه\u200cها",  # noqa: RUF001
    "Sinhala": "ක්\u200dරියා ශ්\u200dරී",
    "Malayalam, as it was written": "അവന്\u200d വന്നു",
    "Bengali": "র\u200d্যাব হঠাত্\u200d",
    "Marathi": "दर्\u200dया",
    "Kannada": "ರ\u200d್ಯಾಂಕ್",
    "Khmer": "សុខ\u200bសប្បាយ",
    "Thai": "ไป\u200bไหน",
    "Mongolian": "ᠬᠦᠮᠦᠨ\u180eᠠ ᠰᠠᠶ᠋ᠢᠨ",
    "emoji": "👨\u200d👩\u200d👧 ❤\ufe0f ❤\ufe0f\u200d🔥",
    "Arabic numbers": "\u06dd٣٢",
    "lines": "ab\tcd\nef\u2028gh\u00a0ij",
}


@pytest.mark.parametrize("text", OWN.values(), ids=OWN.keys())
def test_what_is_a_letters_own_stays(text: str) -> None:
    assert without_unseen(text) == clean(text, (), None) == text
    assert unseen(text) == []


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [("fa", OWN["Persian"], "میروم خانهها"), ("si", OWN["Sinhala"], "ක්රියා ශ්රී")],
)
def test_joiners_are_not_compared(language: str, one: str, other: str) -> None:
    assert normalizer_for(language)(one) == normalizer_for(language)(other)


def test_a_letter_that_a_joiner_makes_is_compared() -> None:
    """Marathi's valleys, in both spellings, and sea (The Unicode Standard, 12.1, R5a)."""
    marathi = normalizer_for("mr")
    assert marathi("दर्\u200dया") == marathi("दऱ्या") != marathi("दर्या")


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_format_character_is_left_by_any_normalizer(language: str | None) -> None:
    text = "".join(f"a{chr(code)}b " for code in range(0x11000) if not 0xD800 <= code < 0xE000)
    text += "".join(f"a{chr(code)}b " for code in range(0xE0000, 0xE01F0))
    assert not regex.findall(r"\p{Cf}|\p{Variation_Selector}", normalizer_for(language)(text))
