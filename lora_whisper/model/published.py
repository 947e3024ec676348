"""What the published Whisper checkpoints have in common: rates, shapes, and how they decode.

A shape is six numbers (`shapes/*.json`, with the alignment heads where the shape tells them); the
rest follows from them in every published checkpoint.
Radford et al. 2022, https://arxiv.org/abs/2212.04356, table 1; large-v3 and turbo: model cards.
Neither torch nor Transformers is needed for any of it but `shape`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.errors import UserError

if TYPE_CHECKING:
    from transformers import WhisperConfig


FOLDER = Path(__file__).parent / "shapes"

HEAD_WIDTH = 64
MEDIUM_WIDTH = 1024  # whisper-medium's
FEED_FORWARD_FACTOR = 4  # width of the hidden layer in units of the model's width
ENGLISH_VOCABULARY = 51864  # GPT-2's, with Whisper's special tokens
SPACE_TOKEN = 220  # " "; suppressed as first token, like <|endoftext|>


def shape_names() -> list[str]:
    """Names that `shape` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def alignment_heads(config: Mapping[str, Any]) -> list[list[int]] | None:
    """[decoder layer, head] of those whose attention follows the sound, from which times of words
    are taken; None for a shape that is no published one's, or large's, which two have.

    Args:
        config: values of a config.json.
    """
    keys = {
        "encoder_layers": "encoder_layers",
        "decoder_layers": "decoder_layers",
        "width": "d_model",
        "mel_bins": "num_mel_bins",
        "encoder_positions": "max_source_positions",
        "vocabulary_tokens": "vocab_size",
    }
    ours = {key: config[name] for key, name in keys.items()}
    for name in shape_names():
        values = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        heads: list[list[int]] | None = values.pop("alignment_heads", None)
        if values == ours:
            return heads
    return None


def shape(name: str) -> WhisperConfig:
    """Build the configuration of the published checkpoint `name`, e.g. "large-v3".

    Raises:
        UserError: no such shape; names those that exist.
    """
    from transformers import WhisperConfig

    if name not in shape_names():
        raise UserError(f"No shape {name!r}; there are: {', '.join(shape_names())}")
    values = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    width, vocabulary = values["width"], values["vocabulary_tokens"]
    end_of_text = 50256 if vocabulary == ENGLISH_VOCABULARY else 50257
    return WhisperConfig(
        encoder_layers=values["encoder_layers"],
        decoder_layers=values["decoder_layers"],
        encoder_attention_heads=width // HEAD_WIDTH,
        decoder_attention_heads=width // HEAD_WIDTH,
        d_model=width,
        encoder_ffn_dim=FEED_FORWARD_FACTOR * width,
        decoder_ffn_dim=FEED_FORWARD_FACTOR * width,
        num_mel_bins=values["mel_bins"],
        vocab_size=vocabulary,
        max_source_positions=values["encoder_positions"],
        max_target_positions=448,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        decoder_start_token_id=end_of_text + 1,
        begin_suppress_tokens=[SPACE_TOKEN, end_of_text],
    )


SAMPLING_RATE = 16_000  # samples a second
HOP_SAMPLES = 160  # frames are 10 ms apart
FRAMES_PER_POSITION = 2  # stride of the encoder's second convolution
SECONDS_PER_TIMESTAMP = 0.02  # one position of the encoder


# ── what decoding reads: languages, tasks, suppressed tokens, alignment heads ─────────────────────
# Many folders lack generation_config.json or half of it. A model trains and transcribes without,
# and then `language="en"`, timestamps and the detection of languages fail where it is deployed.
# What is missing is completed from the vocabulary, as the published checkpoints have it.

LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")
TASKS = ("transcribe", "translate")
PLAIN_SEARCH = {
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "max_new_tokens": None,
}
LATEST_START_STEPS = 50  # timestamps after <|0.00|>: a window's text begins in its first second
# What stands before and behind text, and is never said in it.
UNSPOKEN = ("transcribe", "translate", "startoftranscript", "startofprev", "startoflm")
NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # large-v3, and the checkpoints before it
# openai-whisper, whisper/tokenizer.py: symbols of annotations such as ♪ and [DAVID].
SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *"<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split(),
)
NOTES = "♩♪♫♬♭♮♯"  # which may be several tokens each, whose first one is theirs alone
NOT_AT_A_BEGINNING = (" -", " '")


def completed(
    stated: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Any
) -> dict[str, Any]:
    """What generation_config.json says, and what it leaves out.

    Args:
        stated: values of generation_config.json, {} where there is none.
        config: values of config.json, in which checkpoints of 2022 have some of them.
    """
    ids: Mapping[str, int] = tokenizer.get_vocab()
    # Empty ones are a habit of training scripts; what is decoded is not read there.
    legacy = {key: config.get(key) or None for key in ("suppress_tokens", "begin_suppress_tokens")}
    eot = ids.get("<|endoftext|>")
    usual = {
        "bos_token_id": eot,
        "eos_token_id": eot,
        "pad_token_id": eot,
        "decoder_start_token_id": ids.get("<|startoftranscript|>"),
        "no_timestamps_token_id": ids.get("<|notimestamps|>"),
        "prev_sot_token_id": ids.get("<|startofprev|>"),
        "max_initial_timestamp_index": LATEST_START_STEPS,
        "max_length": config["max_target_positions"],
        "return_timestamps": False,
        "suppress_tokens": suppressed_tokens(tokenizer, ids),
        "begin_suppress_tokens": [index for index in (ids.get("Ġ"), eot) if index is not None],
        "alignment_heads": alignment_heads(config),
    }
    given = _stated(legacy) | _stated(stated)
    is_multilingual = given.get("is_multilingual", config["vocab_size"] != ENGLISH_VOCABULARY)
    usual["is_multilingual"] = is_multilingual
    if is_multilingual:
        usual["lang_to_id"] = {name: ids[name] for name in ids if LANGUAGE_TOKEN.fullmatch(name)}
        tasks = {task: ids.get(f"<|{task}|>") for task in TASKS}
        usual["task_to_id"] = _stated(tasks)
    return _stated(usual) | given


def searched_otherwise(stated: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json says of how to search, other than Whisper's checkpoints.

    A length beyond the positions bounds nothing.
    """
    plain = plain_search(config)
    longest = stated.get("max_length") or 0
    usual = plain | ({"max_length": longest} if longest >= plain["max_length"] else {})
    return {key: stated[key] for key in usual if stated.get(key) not in (None, usual[key])}


def plain_search(config: Mapping[str, Any]) -> dict[str, Any]:
    """Texts as they come, without a beam, to the end of the positions."""
    return PLAIN_SEARCH | {"max_length": config["max_target_positions"]}


def is_complete(stated: Mapping[str, Any]) -> bool:
    """Whether nothing has to be read from the vocabulary."""
    needed = ["is_multilingual", "no_timestamps_token_id", "suppress_tokens", "eos_token_id"]
    needed += ["begin_suppress_tokens", "decoder_start_token_id", "pad_token_id"]
    if stated.get("is_multilingual"):
        needed += ["lang_to_id", "task_to_id"]
    return all(stated.get(key) is not None for key in needed)


def suppressed_tokens(tokenizer: Any, ids: Mapping[str, int]) -> list[int]:
    """Tokens of annotations and of prompts, which openai-whisper never decodes."""
    names = [*(f"<|{name}|>" for name in UNSPOKEN), *NO_SPEECH]
    found = {ids[name] for name in names if name in ids}
    found |= {tokens[0] for text in NOT_AT_A_BEGINNING if (tokens := _tokens(tokenizer, text))}
    for symbol in (*SYMBOLS, *NOTES):
        for text in (symbol, f" {symbol}"):
            tokens = _tokens(tokenizer, text)
            if len(tokens) == 1 or (tokens and symbol in NOTES):
                found.add(tokens[0])
    return sorted(found)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
