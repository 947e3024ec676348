"""Decoder input and labels, token by token, written by hand for each layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperTokenizer
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from lora_whisper.data.utterance import Utterance
from lora_whisper.data.windows import BadAudio, Window, make_window, window_tokens
from tests.data.test_vocabulary import GENUINE, needs_genuine, toy_vocabulary
from tests.toy_speech import write_clip
from tests.toy_tokenizers import toy_tokenizer

Layout = Mapping[str, Any]
LARGE_V3: Layout = {"languages": 100, "window_seconds": 30, "text_tokens": 50257}
MULTILINGUAL = {**LARGE_V3, "languages": 99}
ENGLISH_ONLY = {**MULTILINGUAL, "multilingual": False, "text_tokens": 50256}


def utterance(audio: Path, text: str, language: str | None, task: str = "transcribe") -> Utterance:
    return Utterance(audio, text, language, task, None, None, None, "a.jsonl:1", {})


def window(folder: Path, layout: Layout, language: str | None, task: str) -> Window:
    clip = write_clip(folder / "1.wav", 1.0)
    made = make_window(
        utterance(clip, "hi", language, task), toy_tokenizer(**layout), toy_vocabulary(**layout)
    )
    assert isinstance(made, Window)
    return made


@pytest.mark.parametrize(
    ("layout", "language", "task", "decoder_input", "labels"),
    [
        # sot, no-timestamps, " ", "h", "i" → …, eot
        (
            ENGLISH_ONLY,
            None,
            "transcribe",
            [50257, 50362, 220, 71, 72],
            [50362, 220, 71, 72, 50256],
        ),
        # sot, sw, transcribe, no-timestamps, " ", "h", "i" → …, eot
        (
            MULTILINGUAL,
            "sw",
            "transcribe",
            [50258, 50318, 50359, 50363, 220, 71, 72],
            [50318, 50359, 50363, 220, 71, 72, 50257],
        ),
        (
            MULTILINGUAL,
            "sw",
            "translate",
            [50258, 50318, 50358, 50363, 220, 71, 72],
            [50318, 50358, 50363, 220, 71, 72, 50257],
        ),
        # one more language: task and no-timestamps are one higher
        (
            LARGE_V3,
            "sw",
            "transcribe",
            [50258, 50318, 50360, 50364, 220, 71, 72],
            [50318, 50360, 50364, 220, 71, 72, 50257],
        ),
        # Japanese is written without spaces, but its translation is English
        (
            LARGE_V3,
            "japanese",
            "transcribe",
            [50258, 50266, 50360, 50364, 71, 72],
            [50266, 50360, 50364, 71, 72, 50257],
        ),
        (
            LARGE_V3,
            "japanese",
            "translate",
            [50258, 50266, 50359, 50364, 220, 71, 72],
            [50266, 50359, 50364, 220, 71, 72, 50257],
        ),
    ],
)
def test_tokens(
    tmp_path: Path,
    layout: Layout,
    language: str | None,
    task: str,
    decoder_input: list[int],
    labels: list[int],
) -> None:
    made = window(tmp_path, layout, language, task)
    assert made.decoder_input == decoder_input
    assert made.labels == labels
    assert made.samples.shape == (16_000,)


def test_transformers_would_shift_our_labels_to_our_decoder_input(tmp_path: Path) -> None:
    made = window(tmp_path, MULTILINGUAL, "sw", "transcribe")
    shifted = shift_tokens_right(
        torch.tensor([made.labels]), pad_token_id=50257, decoder_start_token_id=50258
    )
    assert shifted.tolist() == [made.decoder_input]


def test_an_empty_text_teaches_the_end(tmp_path: Path) -> None:
    tokens = window_tokens(
        utterance(tmp_path / "1.wav", " ", "sw"),
        toy_tokenizer(**LARGE_V3),
        toy_vocabulary(**LARGE_V3),
    )
    assert tokens == [50258, 50318, 50360, 50364, 50257]


def test_bad_audio_is_a_value(tmp_path: Path) -> None:
    made = make_window(
        utterance(tmp_path / "absent.wav", "hi", "en"), toy_tokenizer(), toy_vocabulary()
    )
    assert made == BadAudio("a.jsonl:1", f"{tmp_path / 'absent.wav'}: no such file")


@needs_genuine
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("whisper-tiny", [50258, 50318, 50359, 50363]),
        ("whisper-large-v3", [50258, 50318, 50360, 50364]),
        ("whisper-large-v3-turbo", [50258, 50318, 50360, 50364]),
    ],
)
def test_the_genuine_tokenizers(name: str, expected: list[int]) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(
        GENUINE / name, language="swahili", task="transcribe"
    )
    layout = MULTILINGUAL if name == "whisper-tiny" else LARGE_V3
    tokens = window_tokens(
        utterance(Path("1.wav"), "Habari ya asubuhi.", "sw"), tokenizer, toy_vocabulary(**layout)
    )
    assert tokens[:4] == expected
    assert tokens == tokenizer(" Habari ya asubuhi.").input_ids
