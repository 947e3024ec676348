"""Token ids of the three genuine layouts, by hand, and of the genuine tokenizers where present."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig, WhisperConfig, WhisperTokenizer

from lora_whisper.data.dataset import Utterance, token_language, written_language
from lora_whisper.errors import UserError
from lora_whisper.model.tokenizer import (
    SpecialTokens,
    language_code,
    read_special_tokens,
    text_tokens,
)
from tests.toy_tokenizers import toy_generation_config, toy_tokenizer

GENUINE = Path("../shared/whisper")
needs_genuine = pytest.mark.skipif(not GENUINE.exists(), reason="the genuine tokenizers are absent")


def model_config(size: int, **ids: int) -> Any:
    return SimpleNamespace(vocab_size=size, max_target_positions=448, **ids)


def toy_vocabulary(**layout: Any) -> SpecialTokens:
    tokenizer = toy_tokenizer(**layout)
    config = toy_generation_config(tokenizer, layout.get("multilingual", True))
    return read_special_tokens(tokenizer, config, model_config(len(tokenizer)))


@pytest.fixture(scope="module")
def english_only() -> SpecialTokens:
    return toy_vocabulary(multilingual=False, languages=99, window_seconds=30, text_tokens=50256)


@pytest.fixture(scope="module")
def multilingual() -> SpecialTokens:
    return toy_vocabulary(languages=99, window_seconds=30, text_tokens=50257)


@pytest.fixture(scope="module")
def large_v3() -> SpecialTokens:
    return toy_vocabulary(languages=100, window_seconds=30, text_tokens=50257)


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
    vocabulary = toy_vocabulary(languages=2, window_seconds=1)
    # 256 bytes and 5 merges, then: eot, sot, en, zh, translate, transcribe, lm, prev, nocaptions
    assert vocabulary.start("zh", "transcribe") == [262, 264, 266, 270]
    assert (vocabulary.eot, vocabulary.size) == (261, 322)


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
    assert max(ids) < toy_vocabulary().eot
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
    assert toy_vocabulary(**layout).timestamp(seconds) == ids[token]
