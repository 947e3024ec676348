"""Token ids of the three genuine layouts, by hand, and of the genuine tokenizers where present."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import regex
from transformers import GenerationConfig, WhisperConfig, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from lora_whisper.data.corpus import load_corpus, with_codes
from lora_whisper.data.dataset import Utterance, token_language, written_language
from lora_whisper.data.text import clean
from lora_whisper.errors import UserError
from lora_whisper.evaluation.normalizers import as_written, normalizer_for
from lora_whisper.model.tokenizer import (
    TABLE,
    SpecialTokens,
    code_of,
    language_code,
    read_special_tokens,
    text_tokens,
    unseen,
    without_unseen,
)
from tests.configs import data_config
from tests.toy_speech import write_clip
from tests.toy_tokenizers import toy_generation_config, toy_tokenizer
from tests.toy_utterances import manifest_utterances

GENUINE = Path("../shared/whisper")
needs_genuine = pytest.mark.skipif(not GENUINE.exists(), reason="the genuine tokenizers are absent")


def model_config(size: int, **ids: int) -> Any:
    return SimpleNamespace(vocab_size=size, max_target_positions=448, **ids)


def toy_special_tokens(**layout: Any) -> SpecialTokens:
    tokenizer = toy_tokenizer(**layout)
    config = toy_generation_config(tokenizer, layout.get("multilingual", True))
    return read_special_tokens(tokenizer, config, model_config(len(tokenizer)))


@pytest.fixture(scope="module")
def english_only() -> SpecialTokens:
    return toy_special_tokens(
        multilingual=False, languages=99, window_seconds=30, text_tokens=50256
    )


@pytest.fixture(scope="module")
def multilingual() -> SpecialTokens:
    return toy_special_tokens(languages=99, window_seconds=30, text_tokens=50257)


@pytest.fixture(scope="module")
def large_v3() -> SpecialTokens:
    return toy_special_tokens(languages=100, window_seconds=30, text_tokens=50257)


def test_51864_has_neither_language_nor_task(english_only: SpecialTokens) -> None:
    assert english_only.size == 51864
    assert english_only.start(None, "transcribe") == [50257, 50362]
    assert (english_only.eot, english_only.previous, english_only.no_speech) == (
        50256,
        50360,
        50361,
    )
    assert english_only.timestamp_begin == 50363
    assert english_only.languages == {}
    assert english_only.tasks == {}


def test_51865(multilingual: SpecialTokens) -> None:
    assert multilingual.size == 51865
    assert multilingual.start("sw", "transcribe") == [50258, 50318, 50359, 50363]
    assert multilingual.start("en", "translate") == [50258, 50259, 50358, 50363]
    assert (multilingual.eot, multilingual.previous, multilingual.no_speech) == (
        50257,
        50361,
        50362,
    )
    assert multilingual.timestamp_begin == 50364
    assert len(multilingual.languages) == 99


def test_51866_has_one_language_more_and_shifts_what_follows(large_v3: SpecialTokens) -> None:
    assert large_v3.size == 51866
    assert large_v3.start("sw", "transcribe") == [50258, 50318, 50360, 50364]
    assert large_v3.start("yue", "translate") == [50258, 50358, 50359, 50364]
    assert (large_v3.eot, large_v3.previous, large_v3.no_speech) == (50257, 50362, 50363)
    assert large_v3.timestamp_begin == 50365
    assert len(large_v3.languages) == 100


@needs_genuine
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("whisper-tiny", "multilingual"),
        ("whisper-large-v3", "large_v3"),
        ("whisper-large-v3-turbo", "large_v3"),
    ],
)
def test_genuine_files_give_the_same_ids(
    name: str, layout: str, request: pytest.FixtureRequest
) -> None:
    folder = GENUINE / name
    has_generation_config = (folder / "generation_config.json").exists()
    found = read_special_tokens(
        WhisperTokenizer.from_pretrained(folder),
        GenerationConfig.from_pretrained(folder) if has_generation_config else None,
        WhisperConfig.from_pretrained(folder),
    )
    assert found == request.getfixturevalue(layout)


def test_english_only_by_its_size_when_there_is_no_generation_config() -> None:
    tokenizer = toy_tokenizer(False, languages=99, window_seconds=30, text_tokens=50256)
    assert not read_special_tokens(tokenizer, None, model_config(51864)).multilingual


def test_a_small_vocabulary_has_its_own_ids() -> None:
    special_tokens = toy_special_tokens(languages=2, window_seconds=1)
    # 256 bytes and 5 merges, then: eot, sot, en, zh, translate, transcribe, lm, prev, nocaptions
    assert special_tokens.start("zh", "transcribe") == [262, 264, 266, 270]
    assert (special_tokens.eot, special_tokens.size) == (261, 322)


def test_every_disagreement_is_named_at_once() -> None:
    tokenizer = toy_tokenizer(languages=2)
    config: Any = toy_generation_config(tokenizer)
    config.no_timestamps_token_id = 7
    config.lang_to_id = {"<|en|>": 263, "<|sw|>": 265}
    with pytest.raises(UserError) as error:
        read_special_tokens(tokenizer, config, model_config(300, decoder_start_token_id=261))
    message = str(error.value)
    assert "<|notimestamps|>: 7 in generation_config.json, 270 in the tokenizer" in message
    assert "<|sw|>: 265 in generation_config.json, not in the tokenizer" in message
    assert "<|startoftranscript|>: 261 in config.json, 262 in the tokenizer" in message
    assert "<|5.00|>: 521 in the tokenizer, but vocab_size is 300" in message
    assert "<|en|>" not in message


def test_a_tokenizer_that_is_not_whispers() -> None:
    class Bare:
        def get_vocab(self) -> dict[str, int]:
            return {"<|endoftext|>": 0}

    with pytest.raises(UserError, match=r"<\|startofprev\|>: not in the tokenizer"):
        read_special_tokens(Bare(), None, model_config(10))


@pytest.mark.parametrize("language", ["sw", "SW", "swahili", " Swahili "])
def test_language_by_code_or_name(multilingual: SpecialTokens, language: str) -> None:
    assert language_code(multilingual, language) == "sw"


def test_a_misspelt_language_is_answered_with_the_nearest(multilingual: SpecialTokens) -> None:
    with pytest.raises(UserError, match=r"'swahilli'.*swahili"):
        language_code(multilingual, "swahilli")
    with pytest.raises(UserError, match=r"data\.language"):
        language_code(multilingual, "cantonese")  # in large-v3 only


def test_a_multilingual_checkpoint_must_be_told_the_language(multilingual: SpecialTokens) -> None:
    with pytest.raises(UserError, match=r"data\.language=sw"):
        language_code(multilingual, None)


def test_an_english_only_checkpoint_takes_no_other_language(english_only: SpecialTokens) -> None:
    assert language_code(english_only, None) is None
    assert language_code(english_only, "English") is None
    with pytest.raises(UserError, match="reads English only"):
        language_code(english_only, "sw")


def test_text_starts_with_a_space_where_words_have_spaces() -> None:
    tokenizer = toy_tokenizer()
    # " " is byte 220, h 71, i 72; " the", "in" and "er" are merges 258, 259 and 260
    assert text_tokens(tokenizer, "hi", "en") == [220, 71, 72]
    assert text_tokens(tokenizer, "  the\tinner \n", None) == [258, 220, 259, 77, 260]
    assert text_tokens(tokenizer, "hi", "ja") == [71, 72]
    assert text_tokens(tokenizer, "   ", "en") == []


def test_composed_and_decomposed_letters_are_the_same_text() -> None:
    tokenizer = toy_tokenizer()
    assert text_tokens(tokenizer, "e\u0301", "fr") == text_tokens(tokenizer, "\u00e9", "fr")


@pytest.mark.parametrize(
    "text", ["say <|en|> now", "<|endoftext|>", "a <|0.00|> b", "<|startoftranscript|>x<|2.00|>"]
)
def test_text_never_becomes_a_special_token(text: str) -> None:
    tokenizer = toy_tokenizer()
    ids = text_tokens(tokenizer, text, "en")
    assert max(ids) < toy_special_tokens().eot
    assert tokenizer.backend_tokenizer.decode(ids) == f" {text}"


@needs_genuine
@pytest.mark.parametrize("name", ["whisper-tiny", "whisper-large-v3-turbo"])
def test_ordinary_text_is_tokenized_as_the_tokenizer_does(name: str) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(GENUINE / name)
    texts = ["Habari ya asubuhi, ndugu zangu!", "It's 12:30 — naïve café…", "ไทย 你好 नमस्ते 🙂"]
    for text in texts:
        expected = tokenizer(f" {text}", add_special_tokens=False).input_ids
        assert text_tokens(tokenizer, text, "sw") == expected
    ids = text_tokens(tokenizer, "<|en|> <|0.00|>", "en")
    assert max(ids) < tokenizer.get_vocab()["<|endoftext|>"]


def test_the_record_cannot_be_changed(multilingual: SpecialTokens) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        multilingual.sot = 0  # type: ignore[misc]


def spoken(language: str | None, token: str | None = None, task: str = "transcribe") -> Utterance:
    return Utterance(
        Path("a.wav"), "hi", language, task, None, None, None, "a:1", {}, language_token=token
    )


@pytest.mark.parametrize(
    ("utterance", "token", "written"),
    [
        (spoken("Swahili"), "sw", "sw"),
        (spoken("luo", token="swahili"), "sw", "luo"),
        (spoken(" Luo ", token="sw", task="translate"), "sw", "en"),
        (spoken("yue", token="zh"), "zh", "yue"),  # 51865 tokens know no Cantonese
        (spoken("cantonese", token="zh"), "zh", "yue"),
        (spoken(None, token="sw"), "sw", "sw"),
        (spoken("ja", task="translate"), "ja", "en"),
    ],
)
def test_the_token_s_language_and_the_text_s(
    multilingual: SpecialTokens, utterance: Utterance, token: str, written: str
) -> None:
    assert token_language(multilingual, utterance) == token
    assert written_language(multilingual, utterance) == written


def test_without_a_borrowed_token_an_unknown_language_names_the_way_out(
    multilingual: SpecialTokens,
) -> None:
    for rule in (token_language, written_language):
        with pytest.raises(UserError, match=r"data\.language_token=CODE"):
            rule(multilingual, spoken("luo"))
    with pytest.raises(UserError, match="'xx'"):
        token_language(multilingual, spoken("luo", token="xx"))


def test_english_only_has_no_token(english_only: SpecialTokens) -> None:
    assert token_language(english_only, spoken("en")) is None
    assert written_language(english_only, spoken(None)) is None


@pytest.mark.parametrize("seconds", [0.0, 0.009, 0.02, 2.4, 5.1, 29.98, 30.0])
def test_timestamps_are_the_tokenizer_s(seconds: float) -> None:
    layout = {"languages": 100, "window_seconds": 30, "text_tokens": 50257}
    ids = toy_tokenizer(**layout).get_vocab()
    token = f"<|{round(seconds * 50) / 50:.2f}|>"
    assert toy_special_tokens(**layout).timestamp(seconds) == ids[token]


# ── what a language is called ─────────────────────────────────────────────────────────────────────


NAMED = {
    "sw": "sw SW sw_KE sw-TZ sw_KE.UTF-8 swh swa Swahili KISWAHILI swh_Latn swh-TZ",
    "zh": "zh zh-CN zh_TW zh-Hans-CN cmn cmn_hans_cn zho chi mandarin 中文",
    "yue": "yue yue-Hant-HK cantonese Cantonese zh-yue 粵語",
    "he": "he iw iw_IL heb עברית",
    "id": "id in ind in_ID indonesian",
    "yi": "yi ji yid",
    "jw": "jw jv jav jv_ID javanese",
    "no": "no nb nob nor nb-NO nb_NO no_NO norsk bokmål False false",
    "nn": "nn nno nn_NO nynorsk",
    "sr": "sr sr-Latn sr_Cyrl_RS srp sr@latin",
    "en": "en en-US en_GB eng English en.UTF-8 en-US@posix",
    "de": "de deu ger de_AT Deutsch de-CH-1996",
    "pt": "pt pt-BR pt_PT por português",
    "fa": "fa fas per pes fa-IR Farsi",
    "ms": "ms zsm msa ms_MY",
    "fr": "fr fra Français",
    "tl": "tl fil fil_PH filipino",
}


@pytest.mark.parametrize(
    ("code", "name"), [(code, name) for code, names in NAMED.items() for name in names.split()]
)
def test_each_name_means_its_code(code: str, name: str) -> None:
    assert code_of(name) == code
    assert code_of(f" {name.upper()}\ufeff ") == code


def test_whispers_own_codes_and_names_mean_themselves() -> None:
    assert {code: code_of(code) for code in LANGUAGES} == dict(
        zip(LANGUAGES, LANGUAGES, strict=True)
    )
    assert {name: code_of(name) for name in TO_LANGUAGE_CODE} == TO_LANGUAGE_CODE


def test_the_table_has_each_language_once_and_no_name_of_two() -> None:
    lines = [line.replace(";", "").split() for line in TABLE.split("\n") if line]
    assert {line[0] for line in lines} == set(LANGUAGES)
    names = [name for line in lines for name in dict.fromkeys(line)]
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= {"norsk", "creole"}, twice


@pytest.mark.parametrize("name", ["klingon", "luo", "xx_YY", "Swahilli", "", "1", "True"])
def test_what_is_no_language_stays_unknown(name: str) -> None:
    assert code_of(name) not in LANGUAGES
    with pytest.raises(UserError, match="does not know the language"):
        language_code(toy_special_tokens(), name)


@pytest.mark.parametrize("name", ["mul", "und", "zxx", "unknown", "auto", "none"])
def test_codes_for_no_language(name: str) -> None:
    with pytest.raises(UserError, match=r"stands for .*data\.language=CODE"):
        language_code(toy_special_tokens(), name)


@pytest.mark.parametrize("name", ["yue", "Cantonese", "yue-HK"])
def test_cantonese_on_an_older_checkpoint(name: str) -> None:
    with pytest.raises(UserError, match=r"model=large-v3 or model=turbo.*language_token=zh"):
        language_code(toy_special_tokens(), name)


@pytest.mark.parametrize("name", ["sw", "sw_KE", "mul"])
def test_an_english_checkpoint_takes_english_alone(name: str) -> None:
    english = toy_special_tokens(
        multilingual=False, languages=99, window_seconds=30, text_tokens=50256
    )
    assert language_code(english, "en_US") is None
    with pytest.raises(UserError, match=r"reads English only.*model=small, not model=small\.en"):
        language_code(english, name)


# ── a key beside rows that have their own ────────────────────────────────────────────────────


def coded(folder: Path, given: str | None, *languages: str | None) -> list[str | None]:
    write_clip(folder / "1.wav", 1.0)
    config = data_config(language=given)
    rows = [{"audio": "1.wav", "text": "a"} | {"language": one} for one in languages]
    utterances = manifest_utterances(folder, rows, config)
    corpus = with_codes(
        load_corpus(utterances, "train", config, 30.0), toy_special_tokens(languages=99)
    )
    return [one.language for one in corpus.utterances]


def test_a_key_that_is_no_language_is_refused_though_rows_have_theirs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.language=Klingon: .*does not know"):
        coded(tmp_path, "Klingon", "en", "en")


def test_a_key_that_rows_overrule_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert coded(tmp_path, "sw", "en", "en-GB", None) == ["en", "en", "sw"]
    assert "data.language=sw, but rows name their own, which counts: 2 en; 1 are sw" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert coded(tmp_path, "sw", "sw_KE", "Swahili", None) == ["sw"] * 3
        assert coded(tmp_path, None, "sw_KE", "en") == ["sw", "en"]
    assert not caplog.text


# ── characters that nobody sees ───────────────────────────────────────────────────────────────────


READ_IN = ["en", None, "fr", "tr", "sw", "ja", "bo", "fa", "hi"]
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
    for language in READ_IN:
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


@pytest.mark.parametrize("language", READ_IN)
def test_no_format_character_is_left_by_any_normalizer(language: str | None) -> None:
    text = "".join(f"a{chr(code)}b " for code in range(0x11000) if not 0xD800 <= code < 0xE000)
    text += "".join(f"a{chr(code)}b " for code in range(0xE0000, 0xE01F0))
    assert not regex.findall(r"\p{Cf}|\p{Variation_Selector}", normalizer_for(language)(text))
