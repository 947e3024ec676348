"""Clean-up of training texts: what goes, and above all what has to stay."""

import logging
import sys
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_whisper.data.corpus import load_corpus
from lora_whisper.data.text import (
    STEPS,
    clean,
    cleaning_report,
    leftovers,
    require_cleanable,
    suspects,
)
from lora_whisper.errors import UserError
from lora_whisper.model.tokenizer import without_unseen
from tests.configs import data_config
from tests.toy_speech import write_clip
from tests.toy_utterances import manifest_utterances


def test_without_steps_a_text_is_only_composed() -> None:
    assert clean("cafe\u0301,  [x] 5 A", (), "fr") == "caf\u00e9,  [x] 5 A"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Well [laughter] yes", "Well yes"),
        ("<noise> yes <i>really</i> <|en|>", "yes really"),
        ("【笑】はい \uff3b拍手\uff3d", "はい"),
        ("♪ la la ♪", "la la"),
        ("(APPLAUSE) thanks (laughter) (DOOR SLAMS)", "thanks"),
        ("he (my brother) said (I) 3 < 5 and 7 > 2", "he (my brother) said (I) 3 < 5 and 7 > 2"),
        ("[music]", ""),
    ],
)
def test_annotations(text: str, expected: str) -> None:
    assert clean(text, ["annotations"], "en") == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("'It's a mother-in-law's', she said...", "en", "It's a mother-in-law's she said"),
        ("50% & 3.5 at 10:30, 1,000 or -5.", "en", "50% & 3.5 at 10:30 1,000 or -5"),
        ("o\u2018zbek \u2018salom\u2019", "uz", "o\u2018zbek salom"),
        ("col·lega · no", "ca", "col·lega no"),
        ("ինչպե\u055e\u057d ես:", "hy", "ինչպե\u057d ես"),
        ("བོད་ཡིག།", "bo", "བོད་ཡིག"),
        ("हिन्दी, है।", "hi", "हिन्दी है"),  # a vowel sign before the comma
        ("中文\uff0c测试。", "zh", "中文 测试"),
        ("«¿Qué?» — no", "es", "Qué no"),
    ],
)
def test_punctuation(text: str, language: str, expected: str) -> None:
    assert clean(text, ["punctuation"], language) == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("ISTANBUL \u0130zmir", "tr", "\u0131stanbul izmir"),
        ("ISTANBUL", "en", "istanbul"),
        ("ΣΟΦΟΣ", "el", "σοφος"),
    ],
)
def test_case(text: str, language: str, expected: str) -> None:
    assert clean(text, ["case"], language) == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("I have 21 cats.", "en", "I have twenty-one cats."),
        ("In 1999, no", None, "In one thousand nine hundred and ninety-nine, no"),
        ("21 Katzen", "de", "einundzwanzig Katzen"),
        ("\u0661\u0662 كتاب", "ar", "اثنا عشر كتاب"),  # 12 in Arabic digits
        ("12", "kk", "он екі"),  # num2words says kz
        # read in several ways, so they stay
        ("007 B2 5th 3.5 1,000 10:30 2019-20 90's -5", "en", None),
        ("99999999999", "te", None),  # too large for num2words in Telugu
    ],
)
def test_digits(text: str, language: str | None, expected: str | None) -> None:
    pytest.importorskip("num2words")
    assert clean(text, ["digits"], language) == (text if expected is None else expected)


def test_the_order_in_the_configuration_does_not_matter() -> None:
    pytest.importorskip("num2words")
    text = "[Noise] The 12, 3.5 (LAUGHS) Isn't"
    assert clean(text, list(STEPS), "en") == "the twelve 3.5 isn't"
    assert clean(text, list(reversed(STEPS)), "en") == clean(text, list(STEPS), "en")


@given(text=st.text(), language=st.sampled_from(["en", "tr", "hi", "zh", None]))
def test_cleaning_twice_changes_nothing_and_no_mark_is_lost(
    text: str, language: str | None
) -> None:
    steps = ["punctuation"]
    once = clean(text, steps, language)
    assert clean(once, steps, language) == once
    seen = without_unseen(text)
    kept = [letter for letter in seen if letter.isalnum()]
    assert [letter for letter in once if letter.isalnum()] == kept
    marks = [x for x in seen if unicodedata.category(x)[0] == "M"]
    assert [letter for letter in once if unicodedata.category(letter)[0] == "M"] == marks


@given(text=st.text())
def test_no_text_makes_it_raise(text: str) -> None:
    clean(text, ["annotations", "punctuation", "case"], None)


def test_a_language_without_number_words_is_named_before_anything_is_read() -> None:
    pytest.importorskip("num2words")
    require_cleanable(["digits"], ["en", None, "kk", "German"])
    require_cleanable(["punctuation"], ["sw"])
    with pytest.raises(UserError, match=r"cannot be spelled in sw; num2words speaks .*\bde\b"):
        require_cleanable(["digits"], ["Swahili", "de"])


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(UserError, match=r"pip install 'lora-whisper\[text\]'"):
        require_cleanable(["digits"], ["en"])


def test_the_report_counts_texts_by_step() -> None:
    pytest.importorskip("num2words")
    texts = [("A 5th of [noise] 12", "en"), ("cafe\u0301", "fr"), ("[x]", None), ("same", "en")]
    report = cleaning_report(texts, ["case", "digits", "annotations"])
    assert report.texts == 4
    assert report.changed == {"unicode": 1, "annotations": 2, "digits": 1, "case": 1}
    assert (report.emptied, report.with_digits) == (1, 1)
    assert report.examples[0] == "'A 5th of [noise] 12' → 'a 5th of twelve'"
    assert "annotations 2" in str(report)


def test_the_report_agrees_with_what_is_trained_on() -> None:
    texts = [("A,  b!", "en"), ("fine", "en")]
    report = cleaning_report(texts, ["punctuation"])
    assert report.changed == {"punctuation": 1}
    assert [clean(text, ["punctuation"], language) for text, language in texts] == ["A b", "fine"]


# ── text that is no transcript ───────────────────────────────────────────────────────────────────


# ruff: noqa: RUF001


NO_TRANSCRIPTS = [
    *("nan", "NaN", "None", " null ", "NULL", "N/A", "#N/A", "<NA>", "undefined", "[]"),
    *(
        "Hello <|endoftext|> world",
        "<|startoftranscript|>hi",
        "<s> hi </s>",
        "the [UNK] man",
        "a ⁇ b",
    ),
    *("Tom &amp; Jerry", "it&#39;s", "a&nbsp;b", "5 &lt; 6", "&#x27;t", "a &amp b"),
    *("<i>this</i>", "one<br/>two", '<font color="#fff">x</font>', "</p>"),
    *("\\u00e9t\\u00e9", "one\\ntwo"),
    *("clips/1.wav", "LJ001.flac", "['hallo']", "b'hallo'", "{'text': 'hallo'}"),
    *("caf\ufffd", "\ue000x", "\ufffd"),
    *("word\u200b word", "\ufeffword", "PR\u00adESS", "a\x07b", "a\u202eb"),
]
MISREAD = [
    "café",
    "don’t",
    "“Hello” he said",
    "Привет мир",
    "السلام عليكم",
    "नमस्ते",
    "Ünïcödé",
    "日本語",
    "voilà oui",
    "État",
    "tiếng Việt",
]
TRANSCRIPTS = {
    "en": "Nan said hello to Null|AT&T and R&D|None of them|None.|Rock & Roll; yes|5 < 6 > 3"
    "|a nil draw"
    '|C:\\new|say "yes"|<noise> hi|[laughter]|{pause} so|<·0.00·> hi <·2.00·>|no. 1/2|na|'
    "|❤\ufe0f 👨\u200d👩\u200d👧",
    "de": "null|Null Komma nichts|das „Ä“ fehlt – Öl",
    "no": "null",
    "fr": "«CAFÉ»|le CAFÉ» oui|Quel âge a-t-il|L’ÉTÉ… DÉJÀ»|À «moi»|naïve café",
    "pt": "MANHÃ…|IRMÃ”, NÃO|AMANHÃ – JÁ",
    "sv": "ÅÄÖ”",
    "uk": "Ні, мої її Сі",
    "ru": "Ещё раз: РСФСР",
    "el": "Καλημέρα κόσμε",
    "vi": "Đà Nẵng, Â ÂU",
    "fa": "می\u200cروم خانه\u200cها",
    "si": "ක්\u200dරියා",
    "ml": "അവന്\u200d വന്നു",
    "hi": "नमस्ते दुनिया",
    "km": "សុខ\u200bសប្បាយ",
    "th": "ไป\u200bไหน",
    "ja": "はい、そうです。",
    "sw": "Habari ya asubuhi, ng'ombe wa Mama Na",
    "yo": "Ẹ káàárọ̀ o",
}


def is_suspect(text: str) -> bool:
    return suspects(pa.chunked_array([[text]])).to_pylist() == [True]


@pytest.mark.parametrize("text", NO_TRANSCRIPTS)
def test_what_is_no_transcript_is_found(text: str) -> None:
    assert leftovers(text, "en")
    assert is_suspect(text)


@pytest.mark.parametrize("text", MISREAD)
@pytest.mark.parametrize("codec", ["cp1252", "latin-1", "cp1251", "mac_roman"])
def test_utf8_that_was_read_as_something_else(text: str, codec: str) -> None:
    """As browsers do, bytes that the table leaves out stand for themselves."""
    read = "".join(
        bytes([byte]).decode(codec, "ignore") or chr(byte) for byte in text.encode("utf-8")
    )
    if codec == "cp1251" and text.isascii() is False and sum(not a.isascii() for a in text) < 2:
        pytest.skip("one pair of Cyrillic letters may be a word")
    assert any("in another encoding" in one for one in leftovers(read)), read
    assert is_suspect(read)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        (language, text.replace("·", "|"))
        for language, texts in TRANSCRIPTS.items()
        for text in texts.split("|")
    ],
)
def test_what_people_write_is_left_alone(language: str, text: str) -> None:
    assert leftovers(text, language) == []


@given(st.text())
def test_any_text_that_is_found_was_suspected(text: str) -> None:
    assert not leftovers(text) or is_suspect(text)


def test_training_says_it_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_clip(tmp_path / "1.wav", 1.0)
    texts = ["nan", "hello", "Tom &amp; Jerry"]
    config = data_config(language="en")
    rows = [{"audio": "1.wav", "text": text} for text in texts]
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus(manifest_utterances(tmp_path, rows, config), "train", config, 30.0)
    assert [one.text for one in corpus.utterances] == texts
    assert "2 texts that are no transcripts" in caplog.text
    assert "a.jsonl:3: HTML &amp;" in caplog.text
