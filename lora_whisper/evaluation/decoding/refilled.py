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
from torch.nn import functional

from lora_whisper.evaluation.decoding.decoder import (
    LOOKS_EVERY_TOKENS,
    BrokenModel,
    DecodingResult,
    DecodingTask,
    ends_in_loop,
)
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


class Places:
    """Keys and values of a decoder layer, a place for each row: (rows, heads, length, size)."""

    def __init__(self, layer: Any, rows: int, positions: int, tokens: int, like: Tensor):
        attention = layer.self_attn
        heads, size = attention.num_heads, attention.head_dim
        self.text = [like.new_zeros(rows, heads, tokens, size) for _ in range(2)]
        self.sound = [like.new_empty(rows, heads, positions, size) for _ in range(2)]

    def move(self, source: int, target: int) -> None:
        """Put a row into the place of one that is done."""
        for part in (*self.text, *self.sound):
            part[target] = part[source]


class RefilledBatch:
    """A Whisper decoder with places for some rows, of which the first ones are taken."""

    def __init__(self, decoder: Any, size: int):
        """`decoder`: a `WhisperDecoder`, which encodes and knows the rules; `size`: of rows."""
        self.decoder, self.size = decoder, size
        self.layers = decoder.base.model.decoder.layers
        self.whisper_decoder = decoder.base.model.decoder
        config, weight = decoder.base.config, self.whisper_decoder.layer_norm.weight
        shape = (size, config.max_source_positions, config.max_target_positions)
        like = torch.empty(0, dtype=decoder.base.model.encoder.conv1.weight.dtype)
        assert weight.device.type == "cpu", "a GPU has its rows in step"
        self.places = [Places(layer, *shape, like) for layer in self.layers]
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
        encoded = self.decoder.encode([task.features])
        for layer, places in zip(self.layers, self.places, strict=True):
            attention = layer.encoder_attn
            for part, projection in zip(
                places.sound, (attention.k_proj, attention.v_proj), strict=True
            ):
                part[place] = _by_heads(projection(encoded), attention)[0]
        if not task.most_tokens:
            row.is_done = True
            return
        prompt = torch.tensor([task.prompt])
        hidden = self._forward(prompt, slice(place, place + 1), torch.zeros(1, dtype=torch.long))
        self._choose([row], hidden)

    def _step(self) -> None:
        """Decode the next token of each row."""
        last = torch.tensor([[row.tokens[-1]] for row in self.rows])
        behind = torch.tensor([len(row.task.prompt) + len(row.tokens) - 1 for row in self.rows])
        self._choose(self.rows, self._forward(last, slice(0, len(self.rows)), behind))

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
                for places in self.places:
                    places.move(len(self.rows), place)
            yield row.number, DecodingResult(tuple(row.tokens), 0.0, None, None)

    # ── one forward pass; the same as `WhisperDecoder` of Transformers ───────────────────────

    def _forward(self, tokens: Tensor, places: slice, behind: Tensor) -> Tensor:
        """(rows, tokens) that follow `behind` (rows,) others → (rows, tokens, width)."""
        whisper = self.whisper_decoder
        positions = behind[:, None] + torch.arange(tokens.shape[1])
        hidden = whisper.embed_tokens(tokens) + whisper.embed_positions.weight[positions]
        longest = int(positions.max()) + 1
        seen = torch.arange(longest) <= positions[:, None, :, None]  # (rows, 1, tokens, longest)
        for layer, kept in zip(self.layers, self.places, strict=True):
            attention = layer.self_attn
            normed = layer.self_attn_layer_norm(hidden)
            at = torch.arange(places.start, places.stop)[:, None]
            for part, projection in zip(
                kept.text, (attention.k_proj, attention.v_proj), strict=True
            ):
                new = projection(normed).unflatten(-1, (attention.num_heads, -1))
                part.transpose(1, 2)[at, positions] = new
            keys, values = (part[places, :, :longest] for part in kept.text)
            hidden = hidden + _attended(attention, normed, keys, values, seen)
            attention = layer.encoder_attn
            normed = layer.encoder_attn_layer_norm(hidden)
            keys, values = (part[places] for part in kept.sound)
            hidden = hidden + _attended(attention, normed, keys, values)
            inner = layer.fc1(layer.final_layer_norm(hidden))
            hidden = hidden + layer.fc2(layer.activation_fn(inner))
        normed = whisper.layer_norm(hidden)
        return normed


def _by_heads(states: Tensor, attention: Any) -> Tensor:
    """(rows, length, width) → (rows, heads, length, size)."""
    return states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)


def _attended(
    attention: Any, normed: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None
) -> Tensor:
    """(rows, tokens, width) → the same, of what they see in (rows, heads, length, size)."""
    query = _by_heads(attention.q_proj(normed) * attention.scaling, attention)
    if seen is None and query.shape[2] == 1 and query.dtype == torch.float32:
        heard = _attended_by_one(query, keys, values)
    else:
        heard = functional.scaled_dot_product_attention(query, keys, values, seen, scale=1.0)
    out: Tensor = attention.out_proj(heard.transpose(1, 2).flatten(2))
    return out


def _attended_by_one(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one position: 2.1 instead of 3.0 ms for 8 rows of whisper-base."""
    scores = (keys @ query.transpose(2, 3)).transpose(2, 3)
    return scores.softmax(-1) @ values
