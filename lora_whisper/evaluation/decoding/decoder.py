"""What a model has to be able to do to be scored, whatever runs it, and when a text is cut.

A model that hardly knows a language falls into loops, each of which takes as long as the decoder
has room for: 448 tokens, where a clip of 10 seconds has 40. What repeats itself and is too long to
have been said is cut. Both signs are asked for, so that what ends by itself stays as it is; a loop
that is cut counts as it stands.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.model.features import LogMel
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES, SpecialTokens

NOT_FINITE = (
    "The model gives values that are not finite numbers (NaN or infinity), so that it cannot be "
    "scored. Its weights are broken, or too large for float16. Decode in float32 or bfloat16; if "
    "that gives the same, train again at a lower optimizer.learning_rate."
)


class BrokenModel(UserError):
    """A model whose outputs are not finite numbers."""

    def __init__(self, message: str = NOT_FINITE) -> None:
        super().__init__(message)


@dataclass(frozen=True)
class DecodingTask:
    """One window, and how its text is asked for."""

    features: Tensor  # (mel bins, frames of the window)
    prompt: tuple[int, ...]  # decoder input; no timestamps are decoded after <|notimestamps|>
    most_tokens: int  # text and timestamps; eot comes after them at the latest
    seed: tuple[int, ...]  # of what is drawn
    most_letters: float = math.inf  # of a text that goes round in a loop; see `is_endless`


@dataclass(frozen=True)
class DecodingOptions:
    """What all tasks of a batch have in common."""

    beams: int  # 1 is greedy
    temperature: float = 0.0  # above 0 each token is drawn, and there are no beams
    probabilities: bool = False  # whether the results' are asked for, and their language


@dataclass(frozen=True)
class DecodingResult:
    """Tokens that follow a task's prompt, without eot."""

    tokens: tuple[int, ...]
    temperature: float
    mean_log_probability: float | None  # of the tokens and eot, after Whisper's rules
    no_speech_probability: float | None  # of <|nospeech|> after <|startoftranscript|>
    language: str | None = None  # likeliest there; None: not asked for, or English-only


class Decoder(Protocol):
    """A model with all that it takes to decode windows."""

    special_tokens: SpecialTokens
    tokenizer: Any
    features: LogMel  # on the device where `decode` wants its windows
    width: int  # of the model, which says how many windows memory has room for
    threads: int  # that may call `decode` at the same time
    refills: bool  # whether it is a `RefillingDecoder`
    draws_by_seed: bool  # whether a temperature above 0 gives the same text for the same seed

    def decode(
        self, tasks: Sequence[DecodingTask], options: DecodingOptions
    ) -> list[DecodingResult]:
        """Decode windows whose prompts are of one length, all with timestamps or all without.

        Raises:
            BrokenModel: outputs are not finite numbers.
        """
        ...

    def inference(self) -> AbstractContextManager[None]:
        """In which `decode` is called: gradients and dropout are off."""
        ...


class RefillingDecoder(Decoder, Protocol):
    """A decoder that begins with a task as soon as another one is done."""

    def decode_as_they_come(
        self, tasks: Iterator[DecodingTask], most: int
    ) -> Iterator[tuple[int, DecodingResult]]:
        """As a greedy `decode`, `most` at a time, of tasks that are taken when there is room.

        Yields:
            the number of each task and its result, as they are done
        """
        ...


def text_of(decoder: Decoder, tokens: Sequence[int]) -> str:
    """The text of tokens; timestamps and special tokens are none of it."""
    spoken = [token for token in tokens if token < decoder.special_tokens.eot]
    text: str = decoder.tokenizer.decode(spoken, clean_up_tokenization_spaces=False)
    return text.strip()


# ── texts that would never end ──────────────────────────────────────────────────────────────

LOOP_REPEATS = 4  # of the same tokens in a row, up to the last one
LONGEST_LOOP_TOKENS = 60
LOOKS_EVERY_TOKENS = 8
# Letters and digits. The fastest of 600 sentences of synthesized English has 23 a second, the
# fastest of 463 of read Swahili 12; a Chinese character is a syllable, of which nobody speaks 15.
FREE_LETTERS, LETTERS_PER_SECOND, SYLLABLES_PER_SECOND = 10, 30, 15


def most_letters(seconds: float, language: str | None) -> float:
    """Letters and digits that nobody says more of in so many seconds."""
    rate = SYLLABLES_PER_SECOND if language in SPACELESS_LANGUAGES else LETTERS_PER_SECOND
    return FREE_LETTERS + rate * seconds


def ends_in_loop(tokens: Sequence[int]) -> bool:
    """Whether the last tokens have been there `LOOP_REPEATS` times in a row."""
    longest = min(LONGEST_LOOP_TOKENS, len(tokens) // LOOP_REPEATS)
    return any(_repeats(tokens, length) for length in range(1, longest + 1))


def _repeats(tokens: Sequence[int], length: int) -> bool:
    stretch = tokens[-length * LOOP_REPEATS :]
    return stretch[length:] == stretch[:-length]


def is_endless(tokens: Sequence[int], letters: Tensor, most_letters: float) -> bool:
    """Whether a text is cut after these tokens; `letters` are those of `letters_of`.

    It is looked at every `LOOKS_EVERY_TOKENS`.
    """
    if len(tokens) % LOOKS_EVERY_TOKENS or not tokens:
        return False
    return int(letters[list(tokens)].sum()) > most_letters and ends_in_loop(tokens)


def without_endless_loop(
    tokens: Sequence[int], letters: Tensor, most_letters: float
) -> Sequence[int]:
    """What is left of a text that nobody could cut while it was decoded."""
    counts = range(LOOKS_EVERY_TOKENS, len(tokens), LOOKS_EVERY_TOKENS)
    cut = (count for count in counts if is_endless(tokens[:count], letters, most_letters))
    return tokens[: next(cut, len(tokens))]


@functools.lru_cache(maxsize=4)
def letters_of(tokenizer: Any, size: int) -> Tensor:
    """Letters and digits in each token of a vocabulary of `size`: (size,) int64.

    Tokens are pieces of UTF-8: what begins a character beyond ASCII counts as a letter.
    """
    pieces = tokenizer.convert_ids_to_tokens(range(min(size, len(tokenizer))))
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    # A byte as byte-level vocabularies write it: ASCII as it is, others as one letter each.
    is_letter = {
        character: chr(byte).isalnum() if byte < 0x80 else byte >= 0xC0
        for character, byte in _bytes().items()
    }
    counts = [
        0
        if token in special or piece is None
        else sum(is_letter.get(character, False) for character in piece)
        for token, piece in enumerate(pieces)
    ]
    return torch.tensor(counts + [0] * (size - len(counts)))


@functools.cache
def _bytes() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}
