"""Decoding by a Whisper of Transformers, with or without an adapter around it.

Greedy search is of `greedy`, beams are `GenerationMixin.generate`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from lora_whisper.evaluation.decoding.decoder import (
    BrokenModel,
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    letters_of,
)
from lora_whisper.evaluation.decoding.encoded import EncodedOnce, weights_digest
from lora_whisper.evaluation.decoding.greedy import (
    GreedySearch,
    Rows,
    Rule,
    suppressed_tokens,
    timestamp_rules,
)
from lora_whisper.evaluation.decoding.refilled import RefilledBatch
from lora_whisper.model.cpu_kernels import FastLinear, encode
from lora_whisper.model.features import LogMel
from lora_whisper.model.tokenizer import SpecialTokens

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
