"""What transcribing asks of a model beside decoding: the language, and when words are spoken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.ctranslate2 import CTranslate2Decoder
from lora_whisper.evaluation.decoding.decoder import Decoder
from lora_whisper.evaluation.decoding.greedy import likeliest_languages
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.transcription.word_times import MEDIAN_POSITIONS, Alignment, aligned


class Backend(Decoder, Protocol):
    """A decoder that also says which language is spoken, and when."""

    def language(self, window: Tensor) -> tuple[str, float]:
        """The code of the likeliest language of (mel bins, frames), and its probability."""
        ...

    def align(
        self, window: Tensor, frames: int, start: Sequence[int], tokens: Sequence[int]
    ) -> Alignment:
        """See `word_times.aligned`; `frames` of the window are the recording's."""
        ...


class WhisperBackend(WhisperDecoder):
    """A Whisper of Transformers, which encodes each window once.

    The language, the text, its further attempts at rising temperatures and its alignment all ask
    for the same one; it is kept as long as somebody holds the window.
    """

    def __init__(self, *given: Any):
        super().__init__(*given)
        self._encoded = WeakTensorKeyDictionary()

    def encode(self, features: Sequence[Tensor]) -> Tensor:
        new = [one for one in features if one not in self._encoded]
        if new:
            for one, encoded in zip(new, super().encode(new), strict=True):
                self._encoded[one] = encoded
        return torch.stack([self._encoded[one] for one in features])

    def forget(self) -> None:
        """For other weights."""
        self._encoded = WeakTensorKeyDictionary()

    def language(self, window: Tensor) -> tuple[str, float]:
        hidden = self.base.model.decoder(
            input_ids=self._tensor([[self.special_tokens.sot]]),
            encoder_hidden_states=self.encode([window]),
            use_cache=False,
        ).last_hidden_state[:, -1]
        (likeliest,) = likeliest_languages(self.special_tokens, self.base.proj_out(hidden))
        return likeliest

    def align(
        self, window: Tensor, frames: int, start: Sequence[int], tokens: Sequence[int]
    ) -> Alignment:
        return aligned(self.base, self.encode([window])[0], start, tokens, frames)


class CTranslate2Backend(CTranslate2Decoder):
    """A Whisper that was exported to CTranslate2."""

    def forget(self) -> None:
        """Its weights are always the same."""

    def language(self, window: Tensor) -> tuple[str, float]:
        from ctranslate2 import StorageView

        if not self.model.is_multilingual:
            raise UserError(
                "CTranslate2 takes this model for an English-only one by the size of its "
                "vocabulary, and detects no language. Type language=CODE."
            )
        view = StorageView.from_array(window[None].cpu().contiguous().numpy())
        (((token, probability), *_),) = self.model.detect_language(view)
        return token.strip("<|>"), float(probability)

    def align(
        self, window: Tensor, frames: int, start: Sequence[int], tokens: Sequence[int]
    ) -> Alignment:
        from ctranslate2 import StorageView

        view = StorageView.from_array(window[None].cpu().contiguous().numpy())
        without = [token for token in start if token != self.special_tokens.no_timestamps]
        (found,) = self.model.align(
            view, without, [list(tokens)], frames, median_filter_width=MEDIAN_POSITIONS
        )
        way = np.array(found.alignments)
        return Alignment(way[:, 0], way[:, 1], np.array(found.text_token_probs))
