"""Languages as people name them, against ISO's and Whisper's own tables."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from lora_whisper.data.corpus import load_corpus, with_codes
from lora_whisper.errors import UserError
from lora_whisper.model.tokenizer import TABLE, code_of, language_code
from tests.configs import data_config
from tests.model.test_tokenizer import toy_vocabulary
from tests.toy_speech import write_clip
from tests.toy_utterances import manifest_utterances

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
        language_code(toy_vocabulary(), name)


@pytest.mark.parametrize("name", ["mul", "und", "zxx", "unknown", "auto", "none"])
def test_codes_for_no_language(name: str) -> None:
    with pytest.raises(UserError, match=r"stands for .*data\.language=CODE"):
        language_code(toy_vocabulary(), name)


@pytest.mark.parametrize("name", ["yue", "Cantonese", "yue-HK"])
def test_cantonese_on_an_older_checkpoint(name: str) -> None:
    with pytest.raises(UserError, match=r"model=large-v3 or model=turbo.*language_token=zh"):
        language_code(toy_vocabulary(), name)


@pytest.mark.parametrize("name", ["sw", "sw_KE", "mul"])
def test_an_english_checkpoint_takes_english_alone(name: str) -> None:
    english = toy_vocabulary(multilingual=False, languages=99, window_seconds=30, text_tokens=50256)
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
        load_corpus(utterances, "train", config, 30.0), toy_vocabulary(languages=99)
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
