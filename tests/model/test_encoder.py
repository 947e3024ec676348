"""The encoder on parts of windows, against Transformers' own on windows of that length."""

import pytest
import torch
from torch import nn
from transformers import WhisperForConditionalGeneration

from lora_whisper.model.encoder import Known, encode, encode_below, normed_bound
from tests.toys import MEL_BINS, toy_config, toy_model

POSITIONS = 100


def shorter(whisper: WhisperForConditionalGeneration, positions: int) -> nn.Module:
    """An encoder whose windows are so long, with the same weights."""
    config = toy_config()
    config.max_source_positions = positions
    encoder = WhisperForConditionalGeneration(config).model.encoder
    weights = whisper.model.encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:positions]
    encoder.load_state_dict(weights)
    return encoder


@pytest.mark.parametrize("positions", [POSITIONS, 37, 1])
def test_equals_the_encoder_of_transformers(positions: int) -> None:
    whisper = toy_model().eval()
    features = torch.randn(3, MEL_BINS, 2 * positions, generator=torch.manual_seed(0))
    expected = shorter(whisper, positions).eval()(features).last_hidden_state
    found = encode(whisper.model.encoder, features)
    assert found.shape == (3, positions, whisper.config.d_model)
    torch.testing.assert_close(found, expected)


def test_drops_out_as_transformers_does() -> None:
    whisper = toy_model().train()
    whisper.model.encoder.dropout = 0.5
    features = torch.randn(2, MEL_BINS, 2 * POSITIONS, generator=torch.manual_seed(0))
    torch.manual_seed(1)
    expected = whisper.model.encoder(features).last_hidden_state
    torch.manual_seed(1)
    assert torch.equal(encode(whisper.model.encoder, features), expected)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("missing", [[], [0, 2], [0, 1, 2]])
def test_goes_on_from_what_is_known(layers: int, missing: list[int]) -> None:
    """Windows that are known beside others that are not, in their order."""
    whisper = toy_model().eval()
    encoder = whisper.model.encoder
    features = torch.randn(3, MEL_BINS, 2 * POSITIONS, generator=torch.manual_seed(0))
    expected = encode(encoder, features)
    activations = encode_below(encoder, features, layers).detach()
    activations[missing] = torch.nan
    known = Known(activations, layers, torch.tensor(missing, dtype=torch.int64))
    torch.testing.assert_close(encode(encoder, features[missing], known), expected)


def test_no_normed_value_exceeds_the_bound() -> None:
    """Which the largest number of a vector attains if all others are the same."""
    encoder = toy_model().model.encoder
    torch.nn.init.uniform_(encoder.layer_norm.weight, -2, 2)
    torch.nn.init.uniform_(encoder.layer_norm.bias, -2, 2)
    spikes = 1e4 * torch.cat([torch.eye(16), -torch.eye(16)])
    highest = encoder.layer_norm(spikes).abs().max().item()
    assert highest == pytest.approx(normed_bound(encoder), rel=1e-4)
