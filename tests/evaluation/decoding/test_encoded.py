"""Windows that several models hear by one encoder are encoded once, and the texts are theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_whisper.evaluation.decoding.encoded import EncodedOnce, weights_digest
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from tests.evaluation.toy_decoder import GREEDY, IN_BATCHES, Toy, general_speech, nano

CLIPS = 5


class Counting(WhisperDecoder):
    """Counts the windows that its encoder is given."""

    windows = 0

    def _encode(self, features: Sequence[Tensor]) -> Tensor:
        self.windows += len(features)
        return super()._encode(features)


def heard(toy: Toy, encoded: EncodedOnce, settings: object = GREEDY) -> tuple[list[str], int]:
    decoder = Counting(toy.model, toy.processor, toy.special_tokens, toy.features)
    decoder.share(encoded)
    texts = transcribe(decoder, general_speech(CLIPS), settings).texts  # type: ignore[arg-type]
    return list(texts), decoder.windows


def test_models_with_one_encoder_encode_each_window_once() -> None:
    base, other_decoder, other_encoder = nano(), nano(), nano()
    other_decoder.model.model.decoder.layers[0].fc1.weight *= 1.5
    other_encoder.model.model.encoder.layers[0].fc1.weight *= 1.5
    alone = [toy.transcribe(general_speech(CLIPS)).texts for toy in (base, other_decoder)]
    assert alone[0] != alone[1]
    encoded = EncodedOnce()
    assert heard(base, encoded) == (list(alone[0]), CLIPS)
    assert heard(other_decoder, encoded) == (list(alone[1]), 0)
    assert heard(base, encoded, IN_BATCHES) == (list(alone[0]), 0)
    assert heard(other_encoder, encoded)[1] == CLIPS


def test_what_has_no_room_is_encoded_again() -> None:
    toy = nano()
    texts, _ = heard(toy, whole := EncodedOnce())
    one = next(iter(whole._kept.values()))
    encoded = EncodedOnce(room_bytes=2 * one.nbytes + 1)
    assert heard(toy, encoded) == (texts, CLIPS)
    assert heard(toy, encoded) == (texts, CLIPS - 2), "the first two are still there"


def test_an_encoder_is_another_one_by_any_of_its_numbers() -> None:
    encoder = nano().model.model.encoder
    before = weights_digest(encoder)
    assert weights_digest(nano().model.model.encoder) == before
    encoder.layer_norm.bias[3] += 1e-6
    assert weights_digest(encoder) != before
    encoder.layer_norm.bias[3] = nano().model.model.encoder.layer_norm.bias[3]
    assert weights_digest(encoder) == before
    assert weights_digest(encoder.to(torch.bfloat16)) != before
