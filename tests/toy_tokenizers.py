"""Tokenizers with the layout of Whisper's, small enough to read.

The 256 bytes stand first, in GPT-2's order (`"!"` is 0, `"h"` is 71, the space is 220), then five
merges from id 256 on, then Whisper's special tokens in Whisper's order, then the timestamps.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AddedToken, GenerationConfig, WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.whisper.tokenization_whisper import LANGUAGES

SPACE = "Ġ"  # how byte-level BPE writes the space
MERGES = [(SPACE, "t"), ("h", "e"), (f"{SPACE}t", "he"), ("i", "n"), ("e", "r")]
SMALLEST_VOCABULARY = 256 + len(MERGES)
SECONDS_PER_TIMESTAMP = 0.02


def toy_tokenizer(
    multilingual: bool = True,
    languages: int = 3,
    window_seconds: float = 5.0,
    text_tokens: int = SMALLEST_VOCABULARY,
) -> WhisperTokenizer:
    """A Whisper tokenizer with the first `languages` languages; <|endoftext|> is id `text_tokens`.

    The genuine vocabularies have 50256 text tokens and 99 languages (`.en`, which has the language
    tokens as well), 50257 and 99, or 50257 and 100 (large-v3).
    """
    vocabulary = {letter: index for index, letter in enumerate(bytes_to_unicode().values())}
    for pair in MERGES:
        vocabulary["".join(pair)] = len(vocabulary)
    for index in range(SMALLEST_VOCABULARY, text_tokens):
        vocabulary[f"unused{index}"] = index
    tokenizer = WhisperTokenizer(
        vocab={**vocabulary, "<|endoftext|>": text_tokens},
        merges=MERGES,
        pad_token="<|endoftext|>",
    )
    names = ["startoftranscript", *list(LANGUAGES)[:languages], "translate", "transcribe"]
    names += ["startoflm", "startofprev", "nospeech" if languages > 99 else "nocaptions"]
    special = [f"<|{name}|>" for name in [*names, "notimestamps"]]
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    times = range(round(window_seconds / SECONDS_PER_TIMESTAMP) + 1)
    # As in the genuine files, timestamps are added tokens, but not special ones.
    tokenizer.add_tokens([f"<|{time * SECONDS_PER_TIMESTAMP:.2f}|>" for time in times])
    if multilingual:
        tokenizer.set_prefix_tokens(language="english", task="transcribe")
    else:
        tokenizer.set_prefix_tokens()
    return tokenizer


def toy_generation_config(
    tokenizer: WhisperTokenizer, multilingual: bool = True
) -> GenerationConfig:
    """What the genuine generation_config.json says, for the ids of `tokenizer`."""
    ids = tokenizer.get_vocab()
    config = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "begin_suppress_tokens": [ids[SPACE], ids["<|endoftext|>"]],
        "suppress_tokens": [ids["<|startoftranscript|>"], ids["<|startofprev|>"]],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "max_length": 64,
        "return_timestamps": False,
        "is_multilingual": multilingual,
    }
    if multilingual:
        codes = [f"<|{code}|>" for code in LANGUAGES]
        config["lang_to_id"] = {code: ids[code] for code in codes if code in ids}
        config["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    return GenerationConfig(**config)


def write_tokenizer(
    folder: Path, multilingual: bool = True, languages: int = 3, window_seconds: float = 5.0
) -> WhisperTokenizer:
    """Save a toy tokenizer and its generation config below ."""
    tokenizer = toy_tokenizer(multilingual, languages, window_seconds)
    tokenizer.save_pretrained(folder)
    toy_generation_config(tokenizer, multilingual).save_pretrained(folder)
    return tokenizer
