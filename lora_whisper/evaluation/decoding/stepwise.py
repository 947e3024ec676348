"""A Whisper that some other program runs, a token at a time: it is told how to decode by us.

What programs such as whisper.cpp take for granted (a window of 30 seconds, one of OpenAI's three
vocabularies, a prompt made of them) does not hold for every model that they can compute. Below
that, each has an encoder and a decoder, and these suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from lora_whisper.evaluation.decoding.decoder import (
    BrokenModel,
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    is_endless,
    letters_of,
)
from lora_whisper.evaluation.decoding.greedy import Rule, suppressed_tokens, timestamp_rules
from lora_whisper.model.features import LogMel
from lora_whisper.model.tokenizer import SpecialTokens


class Backend(Protocol):
    """Encoder and decoder, wherever they are computed."""

    width: int  # of the model

    def encode(self, features: Tensor) -> None:
        """Encode a window: log-mel (mel bins, frames) in float32 on the CPU. No token is given."""
        ...

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Give the decoder more tokens of the same window: (vocabulary,) in float32, of the next.

        What it was given since `encode` stands before them.
        """
        ...


class StepwiseDecoder:
    """Transcribes windows one after the other, greedily; see `Decoder`."""

    threads = 1
    refills = False
    draws_by_seed = False

    def __init__(
        self,
        backend: Backend,
        tokenizer: Any,
        generation_config: Any,
        special_tokens: SpecialTokens,
        features: LogMel,
    ):
        """`generation_config`: of Transformers; its suppressed tokens are not decoded."""
        self.backend, self.tokenizer, self.config = backend, tokenizer, generation_config
        self.special_tokens, self.features, self.width = special_tokens, features, backend.width
        self.letters = letters_of(tokenizer, special_tokens.size)

    def inference(self) -> AbstractContextManager[None]:
        return torch.inference_mode()

    def decode(
        self, tasks: Sequence[DecodingTask], options: DecodingOptions
    ) -> list[DecodingResult]:
        """See `Decoder`."""
        assert (options.beams, options.temperature) == (1, 0.0), "greedy is what can be compared"
        assert not options.probabilities, "of recordings over a window, which are not compared"
        return [DecodingResult(self._tokens(task), 0.0, None, None) for task in tasks]

    def _tokens(self, task: DecodingTask) -> tuple[int, ...]:
        self.backend.encode(task.features)
        rules: list[Rule] = [
            suppressed_tokens(self.config, len(task.prompt), torch.device("cpu")),
            *timestamp_rules(self.special_tokens, task.prompt),
        ]
        tokens, new = [*task.prompt], list(task.prompt)
        while len(tokens) - len(task.prompt) < task.most_tokens:
            scores = self.backend.logits(new)[None].clone()
            for rule in rules:
                scores = rule(torch.tensor([tokens]), scores)
            highest, likeliest = scores[0].max(dim=-1)
            if not highest.isfinite():
                raise BrokenModel
            if int(likeliest) == self.special_tokens.eot:
                break
            new = [int(likeliest)]
            tokens += new
            text = tokens[len(task.prompt) :]
            if is_endless(text, self.letters, task.most_letters):
                break
        return tuple(tokens[len(task.prompt) :])
