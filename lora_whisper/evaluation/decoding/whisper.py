"""Decoding by a Whisper of Transformers, with or without an adapter around it.

Greedy search gives the texts of `GenerationMixin.generate`, with what evaluation needs beside them:
rows that are done leave the batch, log-probabilities are summed up while they are at hand
(`generate` would keep all logits, 1.5 GB for 16 rows of 448 tokens), and each row draws from
numbers of its own. Beams are `generate`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from lora_whisper.evaluation.decoding.decoder import (
    LATEST_START_STEPS,
    LOOKS_EVERY_TOKENS,
    BrokenModel,
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    ends_in_loop,
    letters_of,
)
from lora_whisper.evaluation.decoding.encoded import EncodedOnce, weights_digest
from lora_whisper.evaluation.decoding.refilled import RefilledBatch
from lora_whisper.evaluation.decoding.transcribe import side_by_side
from lora_whisper.model.cpu_kernels import FastLinear, encode, projected
from lora_whisper.model.device import timed
from lora_whisper.model.features import LogMel
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
        self.cache: Any = None
        self.no_speech = torch.zeros(count, device=device)
        self.languages: list[str | None] = [None] * count
        self.is_finite = torch.ones((), dtype=torch.bool, device=device)
        self.texts: list[list[int]] = [[] for _ in range(count)]
        self.means = [0.0] * count
        self.most_tokens = rows.most_tokens.clone()
        # Of the rows that are still in the batch:
        self.index = torch.arange(count, device=device)
        self.tokens = rows.prompts
        self.encoded = rows.encoded
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
        is_first = self.cache is None
        output = self.whisper.model.decoder(
            input_ids=self.tokens if is_first else self.tokens[:, -1:],
            encoder_hidden_states=self.encoded,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        if is_first and self.probabilities:
            sot = self.tokens[0].tolist().index(self.special_tokens.sot)
            logits = projected(self.whisper.proj_out, output.last_hidden_state[:, sot])
            self.no_speech = logits.softmax(-1)[:, self.special_tokens.no_speech]
            if self.special_tokens.multilingual:
                found = likeliest_languages(self.special_tokens, logits)
                self.languages = [language for language, _ in found]
        return projected(self.whisper.proj_out, output.last_hidden_state[:, -1])

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
        self.cache.batch_select_indices(kept)
        self.index, self.tokens, self.encoded, self.sums, self.done = (
            one[kept] for one in (self.index, self.tokens, self.encoded, self.sums, self.done)
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


# ── the decoder ──────────────────────────────────────────────────────────────────────────────

MOST_THREADS = 2  # that decode at the same time on a CPU; a batch is divided among them


class TokenLimit(LogitsProcessor):
    """Ends each row at its own limit, so that a text does not depend on its neighbours."""

    def __init__(self, limits: Tensor, prompt_tokens: int, eot: int):
        """`limits`: (batch × beams,) tokens after the prompt."""
        self.limits, self.prompt_tokens, self.eot = limits, prompt_tokens, eot

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(batch × beams, tokens), (batch × beams, vocabulary) → scores, eot where due."""
        due = input_ids.shape[1] - self.prompt_tokens >= self.limits
        scores = scores.masked_fill(due[:, None], -math.inf)
        scores[:, self.eot] = scores[:, self.eot].masked_fill(due, 0.0)
        return scores


class Finite(LogitsProcessor):
    """Sees whether the highest score was finite at every step; asked once, at the end."""

    def __init__(self, device: torch.device):
        self.holds = torch.ones((), dtype=torch.bool, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.holds &= scores.amax(-1).isfinite().all()  # a maximum with NaN is NaN
        return scores


class WhisperDecoder:
    """Transcribes windows by greedy search, by beams or by drawing."""

    draws_by_seed = True

    def __init__(
        self, model: nn.Module, processor: Any, special_tokens: SpecialTokens, features: LogMel
    ):
        self.model = model
        # Adapters are layers inside the base model; PEFT's wrapper is not needed to run them.
        self.base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.width: int = cast(Any, self.base).config.d_model
        self.device = next(self.base.parameters()).device
        self.features = features.to(self.device)
        self.tokenizer = processor.tokenizer
        self.special_tokens = special_tokens
        self.letters = letters_of(self.tokenizer, special_tokens.size).to(self.device)
        # Layers in 8 bits keep what they are at in themselves.
        alone = self.device.type != "cpu" or getattr(self.base, "is_quantized", False)
        self.refills = self.device.type == "cpu"  # a GPU keeps its rows in step
        self.threads = 1 if alone else min(MOST_THREADS, torch.get_num_threads())
        self._shared: tuple[EncodedOnce, bytes] | None = None

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Switch gradients and dropout off; afterwards each module is as it was."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module in training:
                module.training = True

    def decode(
        self, tasks: Sequence[DecodingTask], options: DecodingOptions
    ) -> list[DecodingResult]:
        """See `Decoder`. A text is the same in a batch as on its own, but for near ties."""
        encoded = self.encode([task.features for task in tasks])
        if options.beams == 1 or options.temperature > 0:
            return self._greedy(tasks, encoded, options)
        texts = self._by_beams(tasks, encoded, options.beams)
        if not options.probabilities:
            return [DecodingResult(tuple(text), 0.0, None, None) for text in texts]
        # `generate` tells a beam's probability only where it may keep the logits of all of them
        # (8 GB for 16 rows, 5 beams, 448 tokens), so the texts are decoded again, as they are.
        return self._greedy(tasks, encoded, options, texts)

    def decode_as_they_come(
        self, tasks: Iterator[DecodingTask], most: int
    ) -> Iterator[tuple[int, DecodingResult]]:
        """See `RefillingDecoder`; the texts are those of `decode`."""
        return RefilledBatch(self, most).decode(tasks)

    def share(self, encoded: EncodedOnce) -> None:
        """Encode no window again that is there of an encoder of this one's weights as they are."""
        self._shared = encoded, weights_digest(self.base.model.encoder)

    def encode(self, features: Sequence[Tensor]) -> Tensor:
        """(mel bins, frames) each → (windows, positions, width)."""
        if self._shared is None:
            return self._encode(features)
        encoded, weights = self._shared
        return encoded.encode(weights, features, self._encode)

    def _encode(self, features: Sequence[Tensor]) -> Tensor:
        encoder = self.base.model.encoder
        windows = torch.stack(list(features)).to(encoder.conv1.weight.dtype)
        if any(isinstance(layer, FastLinear) for layer in encoder.modules()):
            return torch.cat([encode(encoder, part) for part in windows.split(1)])
        # On a CPU, what one window needs stays in the caches: 16 at once took 1.15 times as long.
        at_once = 1 if windows.device.type == "cpu" else len(windows)
        parts = [encoder(part).last_hidden_state for part in windows.split(at_once)]
        return torch.cat(parts)

    def _greedy(
        self,
        tasks: Sequence[DecodingTask],
        encoded: Tensor,
        options: DecodingOptions,
        forced: Sequence[Sequence[int]] | None = None,
    ) -> list[DecodingResult]:
        uniforms = None
        if options.temperature:  # to draw with, (tasks, tokens + 1), each row's by its own seed
            most = 1 + max(task.most_tokens for task in tasks)
            seeds = [(*task.seed, round(100 * options.temperature)) for task in tasks]
            numbers = [np.random.default_rng(seed).random(most) for seed in seeds]
            uniforms = torch.from_numpy(np.stack(numbers)).to(self.device)
        rows = Rows(
            encoded,
            self._tensor([task.prompt for task in tasks]),
            self._tensor([task.most_tokens for task in tasks]),
            uniforms=uniforms,
            forced=None if forced is None else self._padded(forced),
            letters=self.letters if forced is None else None,
            most_letters=self._tensor([task.most_letters for task in tasks]),
        )
        temperature, probabilities = options.temperature, options.probabilities
        rules = self.rules(tasks[0].prompt)
        search = GreedySearch(
            self.base, self.special_tokens, rows, rules, temperature, probabilities
        )
        texts = search.run()
        if not texts.is_finite:
            raise BrokenModel
        if not probabilities:
            return [DecodingResult(tuple(one), temperature, None, None) for one in texts.tokens]
        return [
            DecodingResult(tuple(tokens), temperature, mean, no_speech, language)
            for tokens, mean, no_speech, language in zip(
                texts.tokens,
                texts.mean_log_probabilities,
                texts.no_speech_probabilities,
                texts.languages,
                strict=True,
            )
        ]

    def rules(self, prompt: Sequence[int]) -> list[Rule]:
        """What may not be decoded after a prompt of this length and kind."""
        suppressed = suppressed_tokens(self.base.generation_config, len(prompt), self.device)
        return [suppressed, *timestamp_rules(self.special_tokens, prompt)]

    def _by_beams(
        self, tasks: Sequence[DecodingTask], encoded: Tensor, beams: int
    ) -> list[list[int]]:
        """Tokens of the best beams, without eot.

        Whisper's own `generate` is a loop around the one that is called here, for audio beyond a
        window. When a model emits timestamps unasked, it drops text and listens again in a guessed
        language.
        """
        prompt_tokens, eot = len(tasks[0].prompt), self.special_tokens.eot
        limits = self._tensor([task.most_tokens for task in tasks])
        finite = Finite(self.device)
        limit = TokenLimit(limits.repeat_interleave(beams), prompt_tokens, eot)
        rules = [finite, *timestamp_rules(self.special_tokens, tasks[0].prompt), limit]
        generated: Any = GenerationMixin.generate(
            self.base,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            # Of positions; unused, but asked for.
            attention_mask=torch.ones(encoded.shape[:2], device=self.device),
            decoder_input_ids=self._tensor([task.prompt for task in tasks]),
            generation_config=GenerationConfig(  # suppressed tokens come from the checkpoint's own
                max_length=prompt_tokens + int(limits.max()) + 1,
                num_beams=beams,
                do_sample=False,
                use_cache=True,
                return_dict_in_generate=False,
                eos_token_id=eot,
                pad_token_id=eot,
            ),
            logits_processor=LogitsProcessorList(rules),
        )
        if not finite.holds:
            raise BrokenModel
        texts = [row[prompt_tokens:] for row in generated.tolist()]
        return [text[: text.index(eot)] if eot in text else text for text in texts]

    def _padded(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """(texts, longest + 1) tokens, eot behind each."""
        longest = 1 + max(map(len, texts))
        eot = self.special_tokens.eot
        return self._tensor([[*text, *[eot] * (longest - len(text))] for text in texts])

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, device=self.device)


# ── how fast it decodes on this machine: timed on silence, in less time than a clip takes ─────

PROMPT_TOKENS, STEPS = 4, 4  # the steps are timed together
# A batch is filled again when all of its rows are done, which leave it one after another.
SHARE_BUSY = 0.5


@dataclass(frozen=True)
class Pace:
    """How long all threads together take, on the mean."""

    window_seconds: float  # encoder, its keys and values in the decoder, and the first token
    token_seconds: float  # each one after it

    def seconds(self, windows: float, tokens: float) -> float:
        """Of so many windows, whose texts have so many tokens in all."""
        return windows * self.window_seconds + tokens * self.token_seconds


def measured_pace(decoder: WhisperDecoder, batch_size: int) -> Pace:
    """Encode a window, and decode some tokens in a batch as it is on the mean.

    Threads that decode side by side are timed side by side, since they share the processor.
    """
    threads = min(decoder.threads, batch_size)
    rows = max(1, round(SHARE_BUSY * batch_size / threads))

    def in_thread(_: Sequence[int]) -> list[Pace]:
        return [_pace(decoder, rows)]

    with decoder.inference():
        paces = list(side_by_side(threads, in_thread, range(threads)))
    return Pace(
        sum(pace.window_seconds for pace in paces) / threads**2,
        sum(pace.token_seconds for pace in paces) / threads**2,
    )


def _pace(decoder: WhisperDecoder, rows: int) -> Pace:
    """Of one thread. A CPU encodes one window after another, a GPU all of a batch at once."""
    device = decoder.device
    at_once = 1 if device.type == "cpu" else rows
    silence = torch.zeros(at_once, decoder.features.window_samples, device=device)
    sot = decoder.special_tokens.sot

    def begun() -> GreedySearch:
        batch = Rows(
            decoder.encode(list(decoder.features(silence))),
            torch.full((at_once, PROMPT_TOKENS), sot, device=device),
            torch.full((at_once,), STEPS, device=device),
        )
        search = GreedySearch(decoder.base, decoder.special_tokens, batch, rules=[])
        search.forward()
        return search

    window_seconds, search = timed(begun, device)
    search.cache.batch_repeat_interleave(rows // at_once)
    search.tokens = search.tokens.repeat_interleave(rows // at_once, 0)
    steps_seconds, _ = timed(lambda: [search.forward() for _ in range(STEPS)], device)
    return Pace(window_seconds / at_once, steps_seconds / STEPS / rows)
