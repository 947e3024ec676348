"""Greedy decoding on a CPU in a batch that is filled again as soon as a row is done.

Texts differ in length, and one that goes round in a loop has ten times as many tokens as others. A
batch that waits for its longest row computes with a third of its rows on the mean, and each step
reads all of the weights for them. Here every row is at a step of its own. Keys and values lie in
places that were made once, so that no step copies those of the steps before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lora_whisper.evaluation.decoding.decoder import (
    LOOKS_EVERY_TOKENS,
    BrokenModel,
    DecodingResult,
    DecodingTask,
    ends_in_loop,
)
from lora_whisper.evaluation.decoding.kept_rows import KeptRows
from lora_whisper.model.cpu_kernels import projected


@dataclass
class Row:
    """A text on its way."""

    number: int  # of its task
    task: DecodingTask
    tokens: list[int] = field(default_factory=list)  # after the prompt
    letters: int = 0  # in these
    is_done: bool = False

    def so_far(self) -> Tensor:
        """(1, prompt and tokens)."""
        return torch.tensor([[*self.task.prompt, *self.tokens]])

    def take(self, token: int, eot: int, letters: Tensor) -> None:
        """Append a token, and see whether it is the last one."""
        if token == eot:
            self.is_done = True
            return
        self.tokens.append(token)
        self.letters += int(letters[token])
        looks = len(self.tokens) % LOOKS_EVERY_TOKENS == 0
        is_too_long = looks and self.letters > self.task.most_letters
        is_cut = is_too_long and ends_in_loop(self.tokens)
        self.is_done = is_cut or len(self.tokens) >= self.task.most_tokens


class RefilledBatch:
    """A Whisper decoder with places for some rows, of which the first ones are taken."""

    def __init__(self, decoder: Any, size: int):
        """`decoder`: a `WhisperDecoder`, which encodes and knows the rules; `size`: of rows."""
        self.decoder, self.size = decoder, size
        self.kept = KeptRows(decoder.base, size, decoder.base.config.max_target_positions)
        self.rows: list[Row] = []
        self.rules: Sequence[Any] = ()

    def decode(self, tasks: Iterator[DecodingTask]) -> Iterator[tuple[int, DecodingResult]]:
        """Yield the number of each task and its result, as they are done.

        Tasks are taken as places become free. Their prompts are all of one length.

        Raises:
            BrokenModel: outputs are not finite numbers.
        """
        numbered = enumerate(tasks)
        while True:
            while len(self.rows) < self.size and (following := next(numbered, None)) is not None:
                self._begin(*following)
                yield from self._finished()
            if not self.rows:
                return
            self._step()
            yield from self._finished()

    def _begin(self, number: int, task: DecodingTask) -> None:
        """Give a task the next place, encode its window, and decode its first token."""
        row, place = Row(number, task), len(self.rows)
        self.rows.append(row)
        self.rules = self.rules or self.decoder.rules(task.prompt)
        here = slice(place, place + 1)
        self.kept.hear(here, self.decoder.encode([task.features]))
        if not task.most_tokens:
            row.is_done = True
            return
        self._choose([row], self.kept.forward(torch.tensor([task.prompt]), here, [0]))

    def _step(self) -> None:
        """Decode the next token of each row."""
        last = torch.tensor([[row.tokens[-1]] for row in self.rows])
        behind = [len(row.task.prompt) + len(row.tokens) - 1 for row in self.rows]
        self._choose(self.rows, self.kept.forward(last, slice(0, len(self.rows)), behind))

    def _choose(self, rows: Sequence[Row], hidden: Tensor) -> None:
        """(rows, tokens, width) of the decoder → a token for each row."""
        scores = projected(self.decoder.base.proj_out, hidden[:, -1])
        suppressed, *of_timestamps = self.rules
        scores = suppressed(rows[0].so_far(), scores)  # all are at their first token, or none
        for rule in of_timestamps:  # which look at tokens that a row has had
            scores = torch.cat(
                [rule(row.so_far(), scores[index, None]) for index, row in enumerate(rows)]
            )
        highest, likeliest = scores.max(dim=-1)
        if not highest.isfinite().all():  # a maximum with NaN is NaN
            raise BrokenModel
        for row, token in zip(rows, likeliest.tolist(), strict=True):
            row.take(token, self.decoder.special_tokens.eot, self.decoder.letters)

    def _finished(self) -> Iterator[tuple[int, DecodingResult]]:
        """Let rows that are done go, and others move into their places."""
        for place in reversed(range(len(self.rows))):
            row = self.rows[place]
            if not row.is_done:
                continue
            last = self.rows.pop()
            if place < len(self.rows):
                self.rows[place] = last
                self.kept.move(len(self.rows), place)
            yield row.number, DecodingResult(tuple(row.tokens), 0.0, None, None)
