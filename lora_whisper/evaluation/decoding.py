"""Hypotheses for a set of utterances, by real autoregressive generation on padded windows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList

from lora_whisper import processes
from lora_whisper.config import EvaluationConfig
from lora_whisper.data.features import LogMel
from lora_whisper.data.sound.audio import SAMPLING_RATE, AudioError, read_audio
from lora_whisper.data.table import Utterances
from lora_whisper.data.utterance import Utterance
from lora_whisper.data.vocabulary import Vocabulary, token_language
from lora_whisper.data.windows import BadAudio

# A hypothesis may have 20 tokens and 50 more a second. Read Swahili has 6 a second at most; fast
# speech in scripts that Whisper's vocabulary spells byte by byte (Burmese, Amharic, Georgian: three
# tokens a letter) stays below 50. So it only ends hallucinations, of short clips above all.
FREE_TOKENS = 20
TOKENS_PER_SECOND = 50

Progress = Callable[[int, int], None]  # utterances done, utterances in all


@dataclass(frozen=True)
class Heard:
    """One utterance: its text and length, or why there is none."""

    text: str = ""
    seconds: float = 0.0
    bad: BadAudio | None = None


@dataclass(frozen=True)
class Hypotheses:
    """What was heard, in the order of the utterances; "" where the audio did not decode."""

    texts: tuple[str, ...]
    seconds: tuple[
        float, ...
    ]  # of each one's audio, without the padding; 0 where it did not decode
    segments: tuple[tuple[Any, ...], ...]  # none without timestamps
    bad: tuple[BadAudio, ...]
    decode_seconds: float  # wall clock: reading audio, features and generation

    @property
    def audio_seconds(self) -> float:
        return sum(self.seconds)


class TokenLimit(LogitsProcessor):
    """Ends each row at its own limit, so that a text does not depend on its neighbours."""

    def __init__(self, limits: Tensor, prompt_tokens: int, eot: int):
        """`limits`: (batch × beams,) text tokens after the prompt."""
        self.limits, self.prompt_tokens, self.eot = limits, prompt_tokens, eot

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(batch × beams, tokens), (batch × beams, vocabulary) → scores, eot where due."""
        due = input_ids.shape[1] - self.prompt_tokens >= self.limits
        scores = scores.masked_fill(due[:, None], -math.inf)
        scores[:, self.eot] = scores[:, self.eot].masked_fill(due, 0.0)
        return scores


def transcribe(
    model: nn.Module,
    utterances: Sequence[Utterance],
    processor: Any,
    vocabulary: Vocabulary,
    features: LogMel,
    settings: EvaluationConfig,
    on_progress: Progress | None = None,
) -> Hypotheses:
    """Decode utterances with a Whisper model, with or without an adapter around it.

    Audio is read and turned into log-mels batch by batch, the longest first: memory is short at
    once or not at all. Each row carries its own language and task. A text is the same in a batch
    as on its own, but for near ties that rounding decides. So several processes can each decode a
    part, of all lengths; every one of them gets all texts.

    Raises:
        UserError: a language that the checkpoint does not know, or none where it needs one.
    """
    batch_size = settings.batch_size
    assert batch_size is not None, "null is for whoever knows the model's width"
    started = time.perf_counter()
    _check_languages(vocabulary, utterances)
    listener = Listener(model, processor, vocabulary, features, settings.beams)
    mine = _longest_first(utterances)[processes.rank() :: processes.count()]
    heard: dict[int, Heard] = {}
    with _evaluating(model), torch.inference_mode():
        for start in range(0, len(mine), batch_size):
            rows = mine[start : start + batch_size]
            found = listener.hear([utterances[row] for row in rows])
            heard |= zip(rows, found, strict=True)
            if on_progress is not None:  # the other processes are about as far
                done = min(len(heard) * processes.count(), len(utterances))
                on_progress(done, len(utterances))
    heard = dict(processes.gather(list(heard.items())))
    in_order = [heard[row] for row in range(len(utterances))]
    return Hypotheses(
        texts=tuple(one.text for one in in_order),
        seconds=tuple(one.seconds for one in in_order),
        segments=((),) * len(in_order),
        bad=tuple(one.bad for one in in_order if one.bad is not None),
        decode_seconds=time.perf_counter() - started,
    )


class Listener:
    """A model with all that it takes to hear a batch of utterances."""

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        vocabulary: Vocabulary,
        features: LogMel,
        beams: int,
    ):
        # Adapters are layers inside the base model; PEFT's wrapper is not needed to run them.
        self.base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.device = next(self.base.parameters()).device
        self.features = features.to(self.device)
        self.tokenizer = processor.tokenizer
        self.vocabulary = vocabulary
        self.beams = beams

    def hear(self, utterances: Sequence[Utterance]) -> list[Heard]:
        """Read the audio of one batch and decode what could be read."""
        audio = [_read(utterance, self.features.window_samples) for utterance in utterances]
        pairs = zip(audio, utterances, strict=True)
        readable = [(found, one) for found, one in pairs if not isinstance(found, BadAudio)]
        prompts = [_prompt(self.vocabulary, utterance) for _, utterance in readable]
        texts = iter(self._decode([samples for samples, _ in readable], prompts))
        return [
            Heard(bad=found)
            if isinstance(found, BadAudio)
            else Heard(next(texts), len(found) / SAMPLING_RATE)
            for found in audio
        ]

    def _decode(self, audio: Sequence[np.ndarray], prompts: Sequence[list[int]]) -> list[str]:
        """Generate texts for waveforms, each (samples,) float32, after prompts of one length."""
        if not audio:
            return []
        prompt_tokens = len(prompts[0])
        limits = torch.tensor(
            [self.limit(len(samples), prompt_tokens) for samples in audio], device=self.device
        )
        windows = self._input_features(audio)
        limit = TokenLimit(limits.repeat_interleave(self.beams), prompt_tokens, self.vocabulary.eot)
        # Whisper's own `generate` is a loop around this one for audio beyond a window. When a
        # model emits timestamps unasked, it drops text and listens again in a guessed language.
        tokens = GenerationMixin.generate(
            self.base,
            windows,
            attention_mask=torch.ones_like(windows[:, 0]),  # of frames; unused, but asked for
            decoder_input_ids=torch.tensor(prompts, device=self.device),
            generation_config=self._config(prompt_tokens + int(limits.max()) + 1),
            logits_processor=LogitsProcessorList([limit]),
        )
        return [self._text(row) for row in tokens[:, prompt_tokens:].tolist()]

    def _input_features(self, audio: Sequence[np.ndarray]) -> Tensor:
        """(batch, mel bins, frames) in the dtype of the encoder's first layer."""
        longest = max(len(samples) for samples in audio)
        padded = np.stack([np.pad(samples, (0, longest - len(samples))) for samples in audio])
        features = self.features(torch.from_numpy(padded).to(self.device))
        return features.to(self.base.model.encoder.conv1.weight.dtype)

    def limit(self, samples: int, prompt_tokens: int) -> int:
        """Text tokens that audio of this length may have; eot comes after them."""
        room = self.vocabulary.max_tokens - prompt_tokens - 1
        spoken = math.ceil(TOKENS_PER_SECOND * samples / SAMPLING_RATE)
        return min(FREE_TOKENS + spoken, room)

    def _config(self, max_length: int) -> GenerationConfig:
        """Say what matters; the suppressed tokens come from the checkpoint's generation config."""
        return GenerationConfig(
            max_length=max_length,
            num_beams=self.beams,
            do_sample=False,
            use_cache=True,
            return_dict_in_generate=False,
            eos_token_id=self.vocabulary.eot,
            pad_token_id=self.vocabulary.eot,
        )

    def _text(self, tokens: list[int]) -> str:
        text = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()


def _check_languages(vocabulary: Vocabulary, utterances: Iterable[Utterance]) -> None:
    """Complain before the first batch, not after an hour."""
    for utterance in utterances:
        token_language(vocabulary, utterance)


def _longest_first(utterances: Sequence[Utterance]) -> list[int]:
    if isinstance(utterances, Utterances):  # which have their durations without making any
        return np.argsort(-utterances.durations_seconds, kind="stable").tolist()
    return sorted(range(len(utterances)), key=lambda row: -utterances[row].duration_seconds)


def _prompt(vocabulary: Vocabulary, utterance: Utterance) -> list[int]:
    return vocabulary.start(token_language(vocabulary, utterance), utterance.task)


def _read(utterance: Utterance, window_samples: int) -> np.ndarray | BadAudio:
    try:
        samples = read_audio(utterance.audio, utterance.start_seconds, utterance.end_seconds)
    except AudioError as error:
        return BadAudio(utterance.row, str(error))
    if len(samples) > window_samples:
        seconds = f"{len(samples) / SAMPLING_RATE:.2f} s"
        return BadAudio(utterance.row, f"{utterance.audio}: {seconds}, longer than the window")
    return samples


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off; afterwards each module is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
