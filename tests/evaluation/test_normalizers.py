# ruff: noqa: RUF001  (letters of many scripts are the subject)
"""Whisper's own normalizers are the authority; where ours differs from them, the test says how."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from lora_whisper.evaluation.normalizers import normalizer_for

OFFICIAL_SPELLING = Path("../shared/whisper/whisper-tiny/normalizer.json")

# From openai/whisper, tests/test_normalizer.py.
OPENAI_ENGLISH = {
    "two": "2",
    "nineteen ninety nine": "1999",
    "four point two billions": "4200000000s",
    "$20 million": "$20000000",
    "forty three thousand two hundred and sixty": "43260",
    "thirty three thousand and three hundred and thirty third": "33333rd",
    "august twenty sixth twenty twenty one": "august 26th 2021",
    "two point two five dollars": "$2.25",
    "seventy six per cent": "76%",
    "double oh seven": "007",
    "minus 500": "-500",
    "two dollars and seventy cents": "$2.70",
    "three and a half million": "3500000",
    "b747": "b 747",
    "mobilisation": "mobilization",
    "cancelation": "cancellation",
    "Let's": "let us",
    "she's been like": "she has been like",
    "10mm": "10 mm",
    "RC232": "rc 232",
    "Mr. Park visited Assoc. Prof. Kim Jr.": "mister park visited associate professor kim junior",
}

# What was said, and what has to be left of it. Every mark on a letter stays.
MULTILINGUAL = [
    ("hi", "नमस्ते, आप कैसे हैं?", "नमस्ते आप कैसे हैं"),
    ("ta", "வணக்கம்! எப்படி இருக்கிறீர்கள்?", "வணக்கம் எப்படி இருக்கிறீர்கள்"),
    ("ml", "സുഖമാണോ? (ചിരി) അതെ.", "സുഖമാണോ അതെ"),
    ("ar", "السَّلامُ عَلَيْكُم، كيف الحال؟", "السَّلامُ عَلَيْكُم كيف الحال"),
    ("fa", "می‌خواهم", "میخواهم"),  # the joiner between the two parts is not seen
    ("he", "שָׁלוֹם, עוֹלָם!", "שָׁלוֹם עוֹלָם"),
    ("vi", "Tiếng Việt: «đẹp»…", "tiếng việt đẹp"),
    ("yo", "Ẹ káàárọ̀, ẹ̀gbọ́n!", "ẹ káàárọ̀ ẹ̀gbọ́n"),
    ("ru", "Ёлка — это ДЕРЕВО.", "ёлка это дерево"),
    ("el", "ΟΔΟΣ ΑΘΗΝΑΣ", "οδος αθηνας"),
    ("tr", "IŞIK, İSTANBUL'DA", "ışık istanbul da"),
    ("az", "I\u0307stanbul", "istanbul"),  # the same capital, written as two characters
    ("sw", "Ng'ombe wa Mzee [kelele] Juma!", "ng ombe wa mzee juma"),
    ("de", "Straße ´ don´t ❤️ 1️⃣", "straße don t 1"),  # nothing is left of accent, heart and key
    ("ko", "안녕하세요. 반갑습니다!", "안녕하세요 반갑습니다"),
    ("zh", "你好，ＡＢ１。", "你 好 a b 1"),
    ("ja", "ｶﾞラスが。", "ガ ラ ス が"),
    ("th", "น้ำ ไทย", "น้ำ ไ ท ย"),
]


@pytest.mark.parametrize(("text", "normalized"), OPENAI_ENGLISH.items())
def test_english_equals_openais(text: str, normalized: str) -> None:
    assert normalizer_for("en")(text) == normalized


@pytest.mark.skipif(not OFFICIAL_SPELLING.exists(), reason="needs whisper-tiny's normalizer.json")
def test_english_equals_the_one_of_whisper_tiny() -> None:
    official = EnglishTextNormalizer(json.loads(OFFICIAL_SPELLING.read_text()))
    text = (
        "Mr. Smith's favourite colour (grey) won't cost £3.50, he's organised two hundred litres."
    )
    assert normalizer_for("en")(text) == official(text)
    assert normalizer_for("en")(text) == (
        "mister smith is favorite color will not cost £3.50 he is organized 200 liters"
    )


def test_an_english_only_checkpoint_needs_no_language() -> None:
    assert normalizer_for(None) is normalizer_for(None)
    assert normalizer_for(None).name == normalizer_for("en").name == "whisper-english"


@pytest.mark.parametrize(("language", "text", "normalized"), MULTILINGUAL)
def test_real_sentences(language: str, text: str, normalized: str) -> None:
    expected = unicodedata.normalize("NFKC", normalized) if language != "th" else normalized
    assert normalizer_for(language)(text) == expected


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("fr", "L'élève — «âgé» de 12,5 ans [rires] (tousse) n’est-ce pas?"),
        ("sw", "Habari ya asubuhi; shilingi 1,000/= <kelele> (a [b) c]"),
        ("ru", "Ещё раз: №5, «Объект» 100%!"),
    ],
)
def test_without_loose_marks_it_is_whispers_basic_one(language: str, text: str) -> None:
    assert normalizer_for(language)(text) == BasicTextNormalizer()(text).strip()


@pytest.mark.parametrize("language", ["zh", "ja", "yue"])
def test_spaceless_scripts_are_split_like_whispers(language: str) -> None:
    text = "我们今天去公园，（笑）下午3点回来。東京タワーへ行きました！"
    whisper = BasicTextNormalizer(split_letters=True)(text)
    assert normalizer_for(language)(text) == " ".join(whisper.split())


def test_turkish_letters_are_lowered_only_in_turkish() -> None:
    assert normalizer_for("tr")("KIZ") == "kız"
    assert normalizer_for("id")("KIZ") == "kiz"


@given(st.text(max_size=60), st.sampled_from(["en", "sw", "hi", "tr", "zh", "th"]))
@settings(max_examples=300, deadline=None)
def test_any_text_normalizes_to_words_between_single_spaces(text: str, language: str) -> None:
    normalized = normalizer_for(language)(text)
    assert normalized == " ".join(normalized.split())
    if language != "en":
        kinds = {unicodedata.category(letter)[0] for letter in normalized.replace(" ", "")}
        assert kinds.isdisjoint("PSZ")
