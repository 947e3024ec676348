"""Greedy search by a Whisper of Transformers: a batch from its prompts to its texts.

It gives the texts of `GenerationMixin.generate`, with what evaluation needs beside them: rows that
are done leave the batch, log-probabilities are summed up while they are at hand (`generate` would
keep all logits, 1.5 GB for 16 rows of 448 tokens), and each row draws from numbers of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from lora_whisper.evaluation.decoding.decoder import (
    LOOKS_EVERY_TOKENS,
    ends_in_loop,
)
from lora_whisper.evaluation.decoding.kept_rows import RowsInStep
from lora_whisper.model.cpu_kernels import projected
from lora_whisper.model.published import LATEST_START_STEPS
from lora_whisper.model.tokenizer import SpecialTokens

# Rows leave when so many of them are done: to copy the others' keys and values takes two steps.
SHARE_DONE = 0.25

Rule = Callable[[Tensor, Tensor], Tensor]  # (rows, tokens), (rows, vocabulary) → scores


class Suppressed:
    """Tokens that are never decoded, and some that are not at the beginning."""

    def __init__(
        self, always: Sequence[int], first: Sequence[int], prompt_tokens: int, device: torch.device
    ):
        self.always = torch.tensor(always, dtype=torch.long, device=device)
        self.first = torch.tensor(first, dtype=torch.long, device=device)
        self.prompt_tokens = prompt_tokens

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Change scores in place. Transformers' own looks through the vocabulary at every step."""
        scores = scores.index_fill_(1, self.always, -math.inf)
        if tokens.shape[1] > self.prompt_tokens:
            return scores
        return scores.index_fill_(1, self.first, -math.inf)


def suppressed_tokens(config: Any, prompt_tokens: int, device: torch.device) -> Suppressed:
    """Those that a checkpoint's generation config names."""
    always, first = config.suppress_tokens or [], config.begin_suppress_tokens or []
    return Suppressed(always, first, prompt_tokens, device)


def timestamp_rules(special_tokens: SpecialTokens, prompt: Sequence[int]) -> list[Rule]:
    """Timestamps come in pairs, do not go back, and one where their sum is likeliest."""
    if prompt[-1] == special_tokens.no_timestamps:
        return []
    config = GenerationConfig(
        eos_token_id=special_tokens.eot,
        no_timestamps_token_id=special_tokens.no_timestamps,
        max_initial_timestamp_index=LATEST_START_STEPS,
    )
    return [WhisperTimeStampLogitsProcessor(config, begin_index=len(prompt))]


@dataclass(frozen=True)
class Rows:
    """What a batch decodes."""

    encoded: Tensor  # (rows, positions, width), of the encoder
    prompts: Tensor  # (rows, tokens)
    most_tokens: Tensor  # (rows,), after which eot is due
    uniforms: Tensor | None = None  # (rows, tokens + 1), 0 … 1: tokens are drawn with them
    forced: Tensor | None = None  # (rows, tokens + 1): tokens that are taken whatever is likely
    letters: Tensor | None = None  # (vocabulary,), of each token
    most_letters: Tensor | None = None  # (rows,), of what goes round in a loop; see `is_endless`


@dataclass(frozen=True)
class Found:
    """What was decoded, in the order of the rows."""

    tokens: list[list[int]]  # without prompt and eot
    mean_log_probabilities: list[float]  # over tokens and eot; 0.0 unless asked for
    no_speech_probabilities: list[float]  # after <|startoftranscript|>; 0.0 unless asked for
    languages: list[str | None]  # likeliest there; None unless asked for
    is_finite: bool  # whether the likeliest token had a finite score at every step


class CachedRows:
    """`RowsInStep` on any device, by Transformers' decoder and its caches."""

    def __init__(self, whisper: Any, encoded: Tensor, tokens: int):
        """`tokens` are not asked for: the caches grow."""
        self.whisper, self.encoded = whisper, encoded
        self.cache: Any = None

    def forward(self, tokens: Tensor) -> Tensor:
        """(rows, tokens) that come next → (rows, tokens, width)."""
        output = self.whisper.model.decoder(
            input_ids=tokens,
            encoder_hidden_states=self.encoded,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        hidden: Tensor = output.last_hidden_state
        return hidden

    def select(self, rows: Tensor) -> None:
        """Go on with these, (rows,)."""
        self.cache.batch_select_indices(rows)
        self.encoded = self.encoded[rows]

    def repeat(self, times: int) -> None:
        """Go on with so many of each row."""
        self.cache.batch_repeat_interleave(times)


class GreedySearch:
    """A batch on its way from its prompts to its texts."""

    def __init__(
        self,
        whisper: Any,
        special_tokens: SpecialTokens,
        rows: Rows,
        rules: Sequence[Rule],
        temperature: float = 0.0,
        probabilities: bool = False,
    ):
        self.whisper, self.special_tokens, self.rows, self.rules = (
            whisper,
            special_tokens,
            rows,
            rules,
        )
        self.temperature, self.probabilities = temperature, probabilities
        count, device = len(rows.prompts), rows.prompts.device
        self.prompt_tokens = rows.prompts.shape[1]
        longest = self.prompt_tokens + int(rows.most_tokens.max()) if count else 0
        self.is_begun = False
        in_step = RowsInStep if device.type == "cpu" else CachedRows
        self.in_step = in_step(whisper, rows.encoded, longest)
        self.no_speech = torch.zeros(count, device=device)
        self.languages: list[str | None] = [None] * count
        self.is_finite = torch.ones((), dtype=torch.bool, device=device)
        self.texts: list[list[int]] = [[] for _ in range(count)]
        self.means = [0.0] * count
        self.most_tokens = rows.most_tokens.clone()
        # Of the rows that are still in the batch:
        self.index = torch.arange(count, device=device)
        self.tokens = rows.prompts
        self.sums = torch.zeros(count, device=device)
        self.done = torch.zeros(count, dtype=torch.bool, device=device)

    def run(self) -> Found:
        """Decode until every row has come to its eot."""
        while len(self.index):
            scores = self.forward()
            for rule in self.rules:
                scores = rule(self.tokens, scores)
            self._take(self._chosen(scores), scores)
            self._end_loops()
            self._let_go()
        no_speech, is_finite = self.no_speech.tolist(), bool(self.is_finite)
        return Found(self.texts, self.means, no_speech, self.languages, is_finite)

    def forward(self) -> Tensor:
        """Logits of what comes next, (rows, vocabulary) in float32."""
        is_first, self.is_begun = not self.is_begun, True
        hidden = self.in_step.forward(self.tokens if is_first else self.tokens[:, -1:])
        if is_first and self.probabilities:
            sot = self.tokens[0].tolist().index(self.special_tokens.sot)
            logits = projected(self.whisper.proj_out, hidden[:, sot])
            self.no_speech = logits.softmax(-1)[:, self.special_tokens.no_speech]
            if self.special_tokens.multilingual:
                found = likeliest_languages(self.special_tokens, logits)
                self.languages = [language for language, _ in found]
        return projected(self.whisper.proj_out, hidden[:, -1])

    def _chosen(self, scores: Tensor) -> Tensor:
        """The next token of each row: (rows,)."""
        highest, likeliest = scores.max(dim=-1)
        self.is_finite &= highest.isfinite().all()  # a maximum with NaN is NaN
        step = self.tokens.shape[1] - self.prompt_tokens
        if self.rows.forced is not None:
            return self.rows.forced[self.index, step]
        if self.rows.uniforms is not None:
            return drawn(scores / self.temperature, self.rows.uniforms[self.index, step])
        return likeliest

    def _take(self, chosen: Tensor, scores: Tensor) -> None:
        """Append the tokens, or eot where it is due, and sum up their log-probabilities."""
        step = self.tokens.shape[1] - self.prompt_tokens
        due = self.done | (self.most_tokens[self.index] <= step)
        if self.probabilities:  # those of an eot that the model did not choose are left out
            logits = scores.gather(1, chosen[:, None])[:, 0]
            self.sums += (logits - scores.logsumexp(-1)).masked_fill(due, 0.0)
        chosen = chosen.masked_fill(due, self.special_tokens.eot)
        self.tokens = torch.cat([self.tokens, chosen[:, None]], dim=1)
        self.done = chosen == self.special_tokens.eot

    def _end_loops(self) -> None:
        """Let rows that are too long and go round in a loop have no more tokens."""
        texts = self.tokens[:, self.prompt_tokens :]
        if self.rows.letters is None or texts.shape[1] % LOOKS_EVERY_TOKENS:
            return
        assert self.rows.most_letters is not None
        too_long = self.rows.letters[texts].sum(1) > self.rows.most_letters[self.index]
        for row in (too_long & ~self.done).nonzero()[:, 0].tolist():
            if ends_in_loop(texts[row].tolist()):
                self.most_tokens[self.index[row]] = texts.shape[1]

    def _let_go(self) -> None:
        """Note the texts of rows that are done, and go on without them."""
        done = self.done.tolist()
        if sum(done) < max(1, SHARE_DONE * len(done)):
            return
        kept = (~self.done).nonzero()[:, 0]
        for row, index in enumerate(self.index.tolist()):
            if done[row]:
                text = self.tokens[row, self.prompt_tokens :].tolist()
                self.texts[index] = text[: text.index(self.special_tokens.eot)]
                self.means[index] = float(self.sums[row]) / (len(self.texts[index]) + 1)
        self.in_step.select(kept)
        self.index, self.tokens, self.sums, self.done = (
            one[kept] for one in (self.index, self.tokens, self.sums, self.done)
        )


def likeliest_languages(special_tokens: SpecialTokens, logits: Tensor) -> list[tuple[str, float]]:
    """The code of the likeliest language, and its probability among all.

    Args:
        logits: (rows, vocabulary) of what follows <|startoftranscript|>.
    """
    codes = list(special_tokens.languages)
    tokens = torch.tensor([special_tokens.languages[code] for code in codes], device=logits.device)
    chances, best = logits[:, tokens].float().softmax(-1).max(-1)
    pairs = zip(best.tolist(), chances.tolist(), strict=True)
    return [(codes[index], chance) for index, chance in pairs]


def drawn(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Draw from (rows, vocabulary) scores with a number in 0 … 1 for each row: (rows,) tokens.

    The token at which the sum of the probabilities passes the number, so that a row's token depends
    on nothing else; in float64, in which no probability is lost beside that sum.
    """
    sums = scores.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True)[:, 0]
