"""What is no transcript is found, and what only looks odd is left alone."""

# ruff: noqa: RUF001

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_whisper.data.corpus import load_corpus
from lora_whisper.data.leftovers import leftovers, suspects
from tests.configs import data_config
from tests.toy_speech import write_clip
from tests.toy_tables import toy_utterances

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
        corpus = load_corpus(toy_utterances(tmp_path, rows, config), "train", config, 30.0)
    assert [one.text for one in corpus.utterances] == texts
    assert "2 texts that are no transcripts" in caplog.text
    assert "a.jsonl:3: HTML &amp;" in caplog.text
