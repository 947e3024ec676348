"""What a model has to be able to do to be scored, whatever runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.model.features import LogMel
from lora_whisper.model.tokenizer import Vocabulary

# Of a window, Whisper's own decoding lets the text begin in its first second.
LATEST_START_STEPS = 50  # timestamps after <|0.00|>


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
    most_letters: float = math.inf  # of a text that goes round in a loop; see `endless`


@dataclass(frozen=True)
class DecodingOptions:
    """What all tasks of a batch have in common."""

    beams: int  # 1 is greedy
    temperature: float = 0.0  # above 0 each token is drawn, and there are no beams
    probabilities: bool = False  # whether the results' are asked for


@dataclass(frozen=True)
class DecodingResult:
    """Tokens that follow a task's prompt, without eot."""

    tokens: tuple[int, ...]
    temperature: float
    mean_log_probability: float | None  # of the tokens and eot, after Whisper's rules
    no_speech_probability: float | None  # of <|nospeech|> after <|startoftranscript|>


class Recognizer(Protocol):
    """A model with all that it takes to hear windows."""

    vocabulary: Vocabulary
    tokenizer: Any
    features: LogMel  # on the device where `decode` wants its windows
    width: int  # of the model, which says how many windows memory has room for
    threads: int  # that may call `decode` at the same time
    draws_by_seed: bool  # whether a temperature above 0 gives the same text for the same seed

    def decode(
        self, tasks: Sequence[DecodingTask], options: DecodingOptions
    ) -> list[DecodingResult]:
        """Decode windows whose prompts are of one length, all with timestamps or all without.

        Raises:
            BrokenModel: outputs are not finite numbers.
        """
        ...

    def listening(self) -> AbstractContextManager[None]:
        """In which `decode` is called: gradients and dropout are off."""
        ...


def text_of(recognizer: Recognizer, tokens: Sequence[int]) -> str:
    """The text of tokens; timestamps and special tokens are none of it."""
    spoken = [token for token in tokens if token < recognizer.vocabulary.eot]
    text: str = recognizer.tokenizer.decode(spoken, clean_up_tokenization_spaces=False)
    return text.strip()
