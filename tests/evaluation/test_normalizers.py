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

from lora_whisper.evaluation.normalizers import as_written, characters_of, normalizer_for

OFFICIAL_SPELLING = Path("../shared/whisper/whisper-tiny/normalizer.json")

# Every sentence of openai/whisper's own tests/test_normalizer.py, at commit c0d2f62 (MIT).
OPENAI_ENGLISH = {
    "two": "2",
    "thirty one": "31",
    "five twenty four": "524",
    "nineteen ninety nine": "1999",
    "twenty nineteen": "2019",
    "two point five million": "2500000",
    "four point two billions": "4200000000s",
    "200 thousand": "200000",
    "200 thousand dollars": "$200000",
    "$20 million": "$20000000",
    "€52.4 million": "€52400000",
    "£77 thousands": "£77000s",
    "two double o eight": "2008",
    "three thousand twenty nine": "3029",
    "forty three thousand two hundred sixty": "43260",
    "forty three thousand two hundred and sixty": "43260",
    "nineteen fifties": "1950s",
    "thirty first": "31st",
    "thirty three thousand and three hundred and thirty third": "33333rd",
    "three billion": "3000000000",
    "millions": "1000000s",
    "july third twenty twenty": "july 3rd 2020",
    "august twenty sixth twenty twenty one": "august 26th 2021",
    "3 14": "3 14",
    "3.14": "3.14",
    "3 point 2": "3.2",
    "3 point 14": "3.14",
    "fourteen point 4": "14.4",
    "two point two five dollars": "$2.25",
    "two hundred million dollars": "$200000000",
    "$20.1 million": "$20100000",
    "ninety percent": "90%",
    "seventy six per cent": "76%",
    "double oh seven": "007",
    "double zero seven": "007",
    "nine one one": "911",
    "nine double one": "911",
    "one triple oh one": "10001",
    "two thousandth": "2000th",
    "thirty two thousandth": "32000th",
    "minus 500": "-500",
    "positive twenty thousand": "+20000",
    "two dollars and seventy cents": "$2.70",
    "3 cents": "¢3",
    "$0.36": "¢36",
    "three euros and sixty five cents": "€3.65",
    "three and a half million": "3500000",
    "forty eight and a half dollars": "$48.5",
    "b747": "b 747",
    "10 th": "10th",
    "10th": "10th",
    "mobilisation": "mobilization",
    "cancelation": "cancellation",
    "Let's": "let us",
    "he's like": "he is like",
    "she's been like": "she has been like",
    "10km": "10 km",
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
    ("hy", "Ո՞ւր ես գնում, Արա՛մ։", "ուր ես գնում արամ"),  # marks of tone within a word
    ("bn", "হঠাত্\u200d!", "হঠাৎ"),  # khanda ta, as it was written before it was a letter
    ("ml", "അവന്\u200d", "അവൻ"),  # chillu n, the same
    ("bo", "བཀྲ་ཤིས་བདེ་ལེགས།", "བཀྲ ཤིས བདེ ལེགས"),
    ("km", "តើ\u200bអ្នក សុខ។", "តើ អ្ន ក សុ ខ"),  # a consonant below another one
    ("my", "တက္ကသိုလ်။", "တ က္က သို လ်"),
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


@pytest.mark.parametrize("text", ["...", "…", "!?", "— ...", "(laughs)", "$ %", ""])
def test_of_signs_alone_nothing_is_left(text: str) -> None:
    assert normalizer_for("en")(text) == normalizer_for("sw")(text) == ""


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


@pytest.mark.parametrize(
    ("language", "text", "written", "characters"),
    [
        ("sw", " Habari,  ya\nasubuhi! ", "Habari, ya asubuhi!", "Habari, ya asubuhi!"),
        ("fr", "cafe\u0301", "caf\u00e9", "caf\u00e9"),
        ("zh", "你 好，ＡＢ。", "你 好 ， Ａ Ｂ 。", "你好，ＡＢ。"),
        ("km", "សុខ\u200bសប្បាយ", "សុ ខ ស ប្បា យ", "សុខសប្បាយ"),
        ("th", "", "", ""),
    ],
)
def test_as_written(language: str, text: str, written: str, characters: str) -> None:
    assert as_written(text, language) == written
    assert characters_of(written, language) == characters


def test_an_apostrophe_that_is_a_letter_is_one_all_the_same() -> None:
    """Or the two spellings of one word would be two errors."""
    assert normalizer_for("sw")("ng\u02bcombe") == normalizer_for("sw")("ng'ombe") == "ng ombe"


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


@pytest.mark.parametrize(
    ("language", "digits"), [("hi", "१२"), ("ar", "١٢"), ("fa", "۱۲"), ("bn", "১২"), ("th", "๑๒")]
)
def test_digits_of_a_script_stay_what_they_are(language: str, digits: str) -> None:
    """As in Whisper's own: they are another spelling; full-width ones are another font."""
    kept = normalizer_for(language)(digits).replace(" ", "")
    assert kept == BasicTextNormalizer()(digits).strip() == digits
    assert normalizer_for(language)("１２") == normalizer_for(language)("12")
