"""Token ids of one checkpoint: every one is read from its own files, none is assumed.

Whisper's three vocabularies (51864 `.en`, 51865, 51866 of large-v3) put languages, tasks and
timestamps at different ids, and a small vocabulary puts them elsewhere again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lora_whisper.errors import UserError, listing
from lora_whisper.model.languages import NO_LANGUAGE, code_of
from lora_whisper.model.rates import SECONDS_PER_TIMESTAMP
from lora_whisper.model.unseen import without_unseen

ENGLISH_ONLY_SIZE = 51_864  # openai/whisper tells `.en` checkpoints by this size
LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")
TASKS = ("transcribe", "translate")
# That older checkpoints lack: those that have it, and the related one whose token it may borrow.
NEWER_LANGUAGES = {"yue": ("large-v3, turbo", "zh")}
# Written without spaces between words; Whisper's own transcripts of them begin without one.
SPACELESS_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "km", "yue"})


@dataclass(frozen=True)
class Vocabulary:
    """The special tokens of one checkpoint and the sizes that bound a token sequence."""

    size: int  # rows of the decoder's embedding
    sot: int  # <|startoftranscript|>, the decoder's first input; not the tokenizer's bos
    eot: int  # <|endoftext|>, the last label; Whisper's bos, eos and padding at once
    previous: int  # <|startofprev|>, opens a prompt of earlier text
    no_speech: int
    no_timestamps: int
    timestamp_begin: int  # <|0.00|>; the next ids are 0.02 s apart
    languages: Mapping[str, int]  # "sw" → id of <|sw|>; empty for English-only checkpoints
    tasks: Mapping[str, int]  # "transcribe" → id; empty for English-only checkpoints
    multilingual: bool
    max_tokens: int  # decoder positions

    def start(self, language: str | None, task: str, timestamps: bool = False) -> list[int]:
        """What the decoder is given before the text; `language` is a code, None for `.en`.

        With `timestamps`, the first one comes next, in place of <|notimestamps|>.
        """
        last = [] if timestamps else [self.no_timestamps]
        if not self.multilingual:
            return [self.sot, *last]
        assert language is not None, "token_language() gives every utterance its language first"
        return [self.sot, self.languages[language], self.tasks[task], *last]

    @property
    def room_tokens(self) -> int:
        """What the decoder has room for after a start without <|notimestamps|>."""
        return self.max_tokens - (3 if self.multilingual else 1)

    def timestamp(self, seconds: float) -> int:
        """The token of the nearest multiple of 0.02 s from the window's beginning."""
        return self.timestamp_begin + round(seconds / SECONDS_PER_TIMESTAMP)


def read_vocabulary(tokenizer: Any, generation_config: Any | None, model_config: Any) -> Vocabulary:
    """Read the ids from the tokenizer and check them against the configurations.

    `generation_config` may be None: not every folder has one.

    Raises:
        UserError: names each token that is missing and each id that the files disagree about.
    """
    ids: Mapping[str, int] = tokenizer.get_vocab()
    problems = [
        *_missing(ids),
        *_disagreements(ids, "generation_config.json", generation_config),
        *_disagreements(ids, "config.json", model_config),
        *_out_of_place(ids, model_config.vocab_size),
    ]
    if problems:
        raise UserError(
            "The checkpoint's tokenizer does not belong to its model:\n" + listing(problems) + "\n"
            "Take tokenizer, config and generation config from the same checkpoint."
        )
    multilingual = _is_multilingual(generation_config, model_config)
    languages = _languages(ids, generation_config) if multilingual else {}
    return Vocabulary(
        size=model_config.vocab_size,
        sot=ids["<|startoftranscript|>"],
        eot=ids["<|endoftext|>"],
        previous=ids["<|startofprev|>"],
        no_speech=_no_speech(ids),
        no_timestamps=ids["<|notimestamps|>"],
        timestamp_begin=ids["<|notimestamps|>"] + 1,
        languages=languages,
        tasks={task: ids[f"<|{task}|>"] for task in TASKS} if multilingual else {},
        multilingual=multilingual,
        max_tokens=model_config.max_target_positions,
    )


def _no_speech(ids: Mapping[str, int]) -> int:
    """large-v3 calls the token by another name than the checkpoints before it."""
    return ids["<|nospeech|>"] if "<|nospeech|>" in ids else ids["<|nocaptions|>"]


def _missing(ids: Mapping[str, int]) -> Iterator[str]:
    names = ["startoftranscript", "endoftext", "startofprev", "notimestamps", *TASKS]
    # `tokenizer.convert_tokens_to_ids` would answer <|endoftext|> for a token that is not there.
    for token in (f"<|{name}|>" for name in names):
        if token not in ids:
            yield f"{token}: not in the tokenizer"
    if "<|nospeech|>" not in ids and "<|nocaptions|>" not in ids:
        yield "<|nospeech|>: not in the tokenizer, nor is <|nocaptions|>"


def _disagreements(ids: Mapping[str, int], file: str, config: Any | None) -> Iterator[str]:
    """Ids that `config` states and that the tokenizer gives to another token, or to none."""
    stated = {
        "<|startoftranscript|>": getattr(config, "decoder_start_token_id", None),
        "<|endoftext|>": getattr(config, "eos_token_id", None),
        "<|notimestamps|>": getattr(config, "no_timestamps_token_id", None),
        "<|startofprev|>": getattr(config, "prev_sot_token_id", None),
        **(getattr(config, "lang_to_id", None) or {}),
    }
    tasks = getattr(config, "task_to_id", None) or {}
    stated |= {f"<|{task}|>": index for task, index in tasks.items()}
    for token, index in stated.items():
        if isinstance(index, int) and index != ids.get(token):
            found = f"{ids[token]} in the tokenizer" if token in ids else "not in the tokenizer"
            yield f"{token}: {index} in {file}, {found}"


def _out_of_place(ids: Mapping[str, int], size: int) -> Iterator[str]:
    """Generation takes the id after <|notimestamps|> for the first timestamp."""
    first = ids.get("<|0.00|>")  # older tokenizer files hold no timestamps
    if first is not None and first - 1 != ids.get("<|notimestamps|>"):
        yield f"<|0.00|>: {first} in the tokenizer, expected right after <|notimestamps|>"
    highest = max(ids, key=ids.__getitem__)
    if ids[highest] >= size:
        yield f"{highest}: {ids[highest]} in the tokenizer, but vocab_size is {size} in config.json"


def _is_multilingual(generation_config: Any | None, model_config: Any) -> bool:
    """`.en` vocabularies hold the language tokens too, so their presence says nothing."""
    declared = getattr(generation_config, "is_multilingual", None)
    return model_config.vocab_size != ENGLISH_ONLY_SIZE if declared is None else declared


def _languages(ids: Mapping[str, int], generation_config: Any | None) -> dict[str, int]:
    """Languages by code; those that generation does not know are no use to anyone."""
    usable = getattr(generation_config, "lang_to_id", None) or ids
    matches = ((LANGUAGE_TOKEN.fullmatch(token), token) for token in ids if token in usable)
    return {match[1]: ids[token] for match, token in matches if match}


def language_code(vocabulary: Vocabulary, language: str | None) -> str | None:
    """Whisper's code for a language given by code, locale or name, in any case.

    Returns None for English-only checkpoints, which have no language token.

    Raises:
        UserError: a language that the checkpoint does not know, or none where one is needed.
    """
    if not vocabulary.multilingual:
        if language is not None and code_of(language) != "en":
            raise UserError(
                f"The checkpoint reads English only, but the language is {language!r}. "
                "Choose a multilingual one (model=small, not model=small.en) or say "
                "data.language=en."
            )
        return None
    if language is None:
        raise UserError(
            "A multilingual checkpoint has to be told the language: say data.language=sw (or "
            'data.language=swahili), or give each row of the manifest a "language".'
        )
    code = code_of(language)
    if code not in vocabulary.languages:
        raise UserError(_unknown_language(vocabulary, language, code))
    return code


def check_task(vocabulary: Vocabulary, task: str) -> None:
    """Raise UserError when the checkpoint has not learnt `task`."""
    if task != "transcribe" and task not in vocabulary.tasks:
        raise UserError(
            f"The checkpoint reads English only and cannot {task}. Choose a multilingual one "
            "(model=small, not model=small.en) or say data.task=transcribe."
        )


def _unknown_language(vocabulary: Vocabulary, language: str, code: str) -> str:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    if code in NO_LANGUAGE:
        return (
            f"{language!r} stands for {NO_LANGUAGE[code]}, and Whisper has to be told which is "
            "spoken: say data.language=CODE, such as sw, or give each row its own."
        )
    if code in NEWER_LANGUAGES and code not in vocabulary.languages:
        known = ", ".join(NEWER_LANGUAGES[code][1:])
        return (
            f"The checkpoint does not know the language {language!r} ({LANGUAGES.get(code, code)}),"
            f" which came with large-v3: say model=large-v3 or model=turbo. Any other multilingual "
            f"one can borrow the token of a related language: data.language_token={known}."
        )
    names = [name for name, known in TO_LANGUAGE_CODE.items() if known in vocabulary.languages]
    near = difflib.get_close_matches(language.lower(), [*names, *vocabulary.languages], n=3)
    codes = [TO_LANGUAGE_CODE.get(one, one) for one in near]
    named = [one if one == of else f"{one} ({of})" for one, of in zip(near, codes, strict=True)]
    examples = ", ".join(named or sorted(vocabulary.languages)[:10])
    kind = "the nearest being" if near else "such as"
    return (
        f"The checkpoint does not know the language {language!r}; it knows "
        f"{len(vocabulary.languages)}, {kind} {examples}. Say data.language=CODE with "
        "one of them; a language that Whisper was not trained on borrows the token of a related "
        "one: data.language_token=CODE."
    )


def text_tokens(tokenizer: Any, text: str, language: str | None) -> list[int]:
    """Token ids of a transcript, in Whisper's own convention.

    NFC, nothing that is not seen, single spaces, and one in front unless `language` (a code) is
    written without. Nothing in the text can become a special token, whatever it looks like: the
    text goes past the tokenizer's list of added tokens (`split_special_tokens` would still let
    timestamps through, which are added but not special), straight to its byte-level BPE.
    """
    words = " ".join(without_unseen(text).split())
    spaced = words if not words or language in SPACELESS_LANGUAGES else f" {words}"
    backend = tokenizer.backend_tokenizer
    pieces = backend.pre_tokenizer.pre_tokenize_str(spaced)
    return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]
