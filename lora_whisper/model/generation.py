"""What decoding reads of a base: languages, tasks, suppressed tokens, alignment heads.

Many folders lack generation_config.json or half of it. A model trains and transcribes without, and
then `language="en"`, timestamps and the detection of languages fail where it is deployed. What is
missing is completed from the vocabulary, as the published checkpoints have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lora_whisper.model.shapes import ENGLISH_VOCABULARY, alignment_heads

LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")
TASKS = ("transcribe", "translate")
PLAIN_SEARCH = {
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "max_new_tokens": None,
}
LATEST_START_STEPS = 50  # in which the first timestamp has to be, 1 s
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
    usual = _usual(config, tokenizer, ids)
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


def _usual(config: Mapping[str, Any], tokenizer: Any, ids: Mapping[str, int]) -> dict[str, Any]:
    eot = ids.get("<|endoftext|>")
    return {
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
