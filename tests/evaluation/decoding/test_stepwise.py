"""The checkpoint itself as a backend, a token at a time: its texts are those of the batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_whisper.evaluation.decoding.decoder import BrokenModel
from lora_whisper.evaluation.decoding.stepwise import StepwiseDecoder
from lora_whisper.evaluation.decoding.transcribe import transcribe
from tests.evaluation.toy_decoder import GREEDY, general_speech, nano


class Checkpoint:
    """Transformers' Whisper as a `Backend`, without a cache."""

    def __init__(self, model: Any):
        self.model, self.width = model, model.config.d_model

    def encode(self, features: Tensor) -> None:
        self.encoded, self.given = self.model.model.encoder(features[None]), []

    def logits(self, tokens: Sequence[int]) -> Tensor:
        self.given += tokens
        output = self.model(
            encoder_outputs=self.encoded, decoder_input_ids=torch.tensor([self.given])
        )
        return output.logits[0, -1]


class Broken(Checkpoint):
    def logits(self, tokens: Sequence[int]) -> Tensor:
        return super().logits(tokens) * torch.nan


def stepwise(kind: type[Checkpoint] = Checkpoint) -> StepwiseDecoder:
    known = nano().decoder
    return StepwiseDecoder(
        kind(known.base),
        known.tokenizer,
        known.base.generation_config,
        known.special_tokens,
        known.features,
    )


@pytest.mark.parametrize("timestamps", [False, True])
def test_texts_are_those_of_a_batch(timestamps: bool) -> None:
    clips = general_speech(5)
    settings = dataclasses.replace(GREEDY, batch_size=3, timestamps=timestamps)
    found = transcribe(stepwise(), clips, settings)
    expected = nano().transcribe(clips, settings)
    assert (found.texts, found.segments) == (expected.texts, expected.segments)
    assert any(found.texts)


def test_a_model_without_numbers_is_said() -> None:
    with pytest.raises(BrokenModel):
        transcribe(stepwise(Broken), general_speech(1), dataclasses.replace(GREEDY, batch_size=1))
