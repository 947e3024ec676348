# ruff: noqa: RUF001, RUF003  (letters of many scripts are the subject)
"""Real sentences in 25 scripts, misheard in a known way: errors were counted by hand.

Punctuation, capitals and spaces that a script has not are changed, too, and are no errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.score import score, score_utterance


@dataclass(frozen=True)
class Misheard:
    script: str
    language: str
    reference: str
    hypothesis: str
    edits: tuple[int, int, int]  # substituted, inserted, deleted words (graphemes without spaces)
    words: int  # of the normalized reference
    character_edits: int
    characters: int  # of the normalized reference, with its spaces


SENTENCES = [
    # schnelle + space are 9 letters too many, uhr + space 4 too few, and one umlaut is lost
    Misheard(
        *("Latin", "de", "Der Zug fährt um acht Uhr ab.", "der schnelle Zug fahrt um acht ab"),
        *((1, 1, 1), 7, 14, 28),
    ),
    # "ну " is made up, "в " is missed; ё is е
    Misheard(
        *("Cyrillic", "ru", "Мой брат живёт в Москве.", "Ну, мой брат живет Москве"),
        *((1, 1, 1), 5, 6, 23),
    ),
    # an accent, and "ο "; the last letter of a word in capitals is its final form
    Misheard(
        *("Greek", "el", "Πού είναι ο σταθμός;", "Που είναι ΣΤΑΘΜΌΣ"),
        *((1, 0, 1), 4, 3, 19),
    ),
    # the article, one letter; the mark of the question stands within a word
    Misheard(
        *("Armenian", "hy", "Որտե՞ղ է գրադարանը։", "Որտեղ է գրադարան"),
        *((1, 0, 0), 3, 1, 17),
    ),
    # the polite ending, one letter, and a word of six more with its space
    Misheard(
        *("Georgian", "ka", "გამარჯობა, როგორ ხარ?", "გამარჯობა როგორ ხართ კარგად"),
        *((1, 1, 0), 3, 8, 19),
    ),
    # two words without their points: three and four of them
    Misheard(
        *("Hebrew", "he", "הַיֶּלֶד הָלַךְ לַבַּיִת.", "הַיֶּלֶד הלך לבית"),
        *((2, 0, 0), 3, 7, 24),
    ),
    # three vowels of one word, the hamza of the next, and a word of seven letters with its space
    Misheard(
        *("Arabic", "ar", "ذَهَبَ الوَلَدُ إلى المدرسة.", "ذَهَبَ الولد الى المدرسة الكبيرة"),
        *((2, 1, 0), 4, 12, 27),
    ),
    # one vowel sign is another, one is lost
    Misheard(
        *("Devanagari", "hi", "मेरा नाम राम है।", "मेरी नाम रम है"),
        *((2, 0, 0), 4, 2, 15),
    ),
    # a word of two letters with its space; the last letter became two
    Misheard(
        *("Bengali", "bn", "আমি ভাত খাই।", "আমি আজ ভাত খায়"),
        *((1, 1, 0), 3, 5, 11),
    ),
    # a tippi; and the last word, three letters with their marks, and its space
    Misheard(
        *("Gurmukhi", "pa", "ਮੈਂ ਪੰਜਾਬੀ ਬੋਲਦਾ ਹਾਂ।", "ਮੈਂ ਪਜਾਬੀ ਬੋਲਦਾ"),
        *((1, 0, 1), 4, 5, 20),
    ),
    # the dot that makes a vowel nasal
    Misheard(
        *("Gujarati", "gu", "આજે હવામાન સારું છે.", "આજે હવામાન સારુ છે"),
        *((1, 0, 0), 4, 1, 19),
    ),
    # the doubled consonant at a word's end, letter and pulli; a word of five with its space
    Misheard(
        *("Tamil", "ta", "நான் பள்ளிக்குப் போகிறேன்.", "நான் பள்ளிக்கு போகிறேன் இன்று"),
        *((1, 1, 0), 3, 8, 25),
    ),
    # the last vowel
    Misheard(
        *("Telugu", "te", "నాకు తెలుగు వచ్చు.", "నాకు తెలుగ వచ్చు"),
        *((1, 0, 0), 3, 1, 17),
    ),
    # a word of five, with its space
    Misheard(
        *("Kannada", "kn", "ನನಗೆ ಕನ್ನಡ ಬರುತ್ತದೆ.", "ನನಗೆ ಬರುತ್ತದೆ"),
        *((0, 0, 1), 3, 6, 19),
    ),
    # the last vowel; the endings n and l, written as before 2008, are no error
    Misheard(
        *("Malayalam", "ml", "അവൻ വീട്ടിൽ പോയി.", "അവന്\u200d വീട്ടില്\u200d പോയ്"),
        *((1, 0, 0), 3, 1, 16),
    ),
    # the dot that makes a vowel nasal
    Misheard(
        *("Sinhala", "si", "මම සිංහල කතා කරමි.", "මම සිහල කතා කරමි"),
        *((1, 0, 0), 4, 1, 17),
    ),
    # a tone mark
    Misheard(
        *("Thai", "th", "ฉันชอบกินข้าว", "ฉันชอบ กินขาว"),
        *((1, 0, 0), 10, 1, 13),
    ),
    # a tone mark
    Misheard(
        *("Lao", "lo", "ຂ້ອຍມັກກິນເຂົ້າ", "ຂອຍ ມັກ ກິນ ເຂົ້າ"),
        *((1, 0, 0), 10, 1, 15),
    ),
    # a vowel; words end in a space of no width; ខ្ញុំ is one grapheme of five characters
    Misheard(
        *("Khmer", "km", "ខ្ញុំ\u200bស្រឡាញ់\u200bភាសា\u200bខ្មែរ។", "ខ្ញុំស្រឡាញ់ ភាសាខ្មរ"),
        *((1, 0, 0), 8, 1, 21),
    ),
    # the mark of the high tone, which Unicode's graphemes part from its letter
    Misheard(
        *("Burmese", "my", "ကျွန်တော် ထမင်း စားတယ်။", "ကျွန်တော် ထမင်းစာတယ်"),
        *((1, 0, 0), 9, 1, 20),
    ),
    # one syllable; words are parted by a sign
    Misheard(
        *("Ethiopic", "am", "እኔ፡ቡና፡እወዳለሁ።", "እኔ ቡና እወዳሁ"),
        *((1, 0, 0), 3, 1, 11),
    ),
    # the particle
    Misheard(
        *("Hangul", "ko", "오늘 날씨가 정말 좋네요.", "오늘 날씨 정말 좋네요"),
        *((1, 0, 0), 4, 1, 13),
    ),
    # 很 is missed, 了 is made up
    Misheard(
        *("Han", "zh", "今天天气很好，我们去公园。", "今天天气好 我们去了公园"),
        *((0, 1, 1), 11, 2, 11),
    ),
    # 咗 is 左, 呀 is missed
    Misheard(
        *("Han", "yue", "你食咗飯未呀？", "你食左飯未"),
        *((1, 0, 1), 6, 2, 6),
    ),
    # a numeral; kana of half the width are the same
    Misheard(
        *("Kana", "ja", "コーヒーを一杯ください。", "ｺｰﾋｰを1杯ください"),
        *((1, 0, 0), 11, 1, 11),
    ),
    # a syllable of one letter, and the space that parts it
    Misheard(
        *("Tibetan", "bo", "ང་བོད་པ་ཡིན།", "ང་བོད་ཡིན།"),
        *((0, 0, 1), 4, 2, 11),
    ),
]


def test_there_are_enough_scripts() -> None:
    assert len({sentence.script for sentence in SENTENCES}) == 25


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda one: f"{one.script}-{one.language}")
def test_errors_are_those_counted_by_hand(sentence: Misheard) -> None:
    row = score_utterance("a:1", sentence.language, sentence.reference, sentence.hypothesis)
    assert (row.substitutions, row.insertions, row.deletions) == sentence.edits
    assert row.reference_words == sentence.words
    result = score([row], 10, seed=0)
    assert (result.substitutions, result.insertions, result.deletions) == sentence.edits
    assert result.wer == sum(sentence.edits) / sentence.words
    assert result.cer == sentence.character_edits / sentence.characters


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda one: f"{one.script}-{one.language}")
def test_a_sentence_is_itself(sentence: Misheard) -> None:
    """Normalizing changes nothing more the second time, and a sentence beside itself is right."""
    normalize = normalizer_for(sentence.language)
    assert normalize(normalize(sentence.reference)) == normalize(sentence.reference)
    row = score_utterance("a:1", sentence.language, sentence.reference, sentence.reference)
    result = score([row], 10, seed=0)
    rates = (result.wer, result.cer, result.wer_orthographic, result.cer_orthographic)
    assert rates == (0, 0, 0, 0)
    assert result.sentence_error_rate == 0


def test_which_rate_leads_and_what_words_are() -> None:
    told = {
        one.language: (result.leading, result.units, result.normalizer)
        for one in SENTENCES
        for result in [score([score_utterance("a:1", one.language, one.reference, "")], 10, seed=0)]
    }
    assert {code for code, (leading, *_) in told.items() if leading == "cer"} == {
        *("zh", "yue", "ja", "th", "lo", "km", "my")
    }
    assert told["th"] == ("cer", "graphemes", "multilingual-graphemes")
    assert told["bo"] == ("wer", "syllables", "multilingual-syllables")
    assert told["hi"] == ("wer", "words", "multilingual")
