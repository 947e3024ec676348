"""EVA's directions explain as much of a layer's inputs as a decomposition of all of them does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import attach
from lora_whisper.lora.initialization import WatchedWindow
from lora_whisper.lora.variants import lora_layers
from tests.configs import adapter_config
from tests.toys import MEL_BINS, POSITIONS_PER_SECOND, WINDOW_SECONDS, toy_model

RANK, POSITIONS = 4, WINDOW_SECONDS * POSITIONS_PER_SECOND
SOUND = ("encoder.layers.1.fc1", "decoder.layers.0.encoder_attn.k_proj")
TEXT = ("decoder.layers.1.fc2", "decoder.layers.0.self_attn.q_proj")


def windows(count: int = 12, seed: int = 0, silence: float = 0.0) -> list[WatchedWindow]:
    """Clips of very unequal lengths; `silence` is what stands behind the sound."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        positions = 20 + 6 * number
        features = torch.randn(MEL_BINS, 2 * POSITIONS, generator=generator)
        features[:, 2 * positions :] = silence
        tokens = torch.randint(0, 256, (8 + 3 * number,), generator=generator)
        found.append(WatchedWindow(features, tokens, positions))
    return found


def started(found: list[WatchedWindow], of: str = "eva", **changes: Any) -> dict[str, Tensor]:
    """The rows of A that the adapter starts with, by layer."""
    config = adapter_config(of, **({"rank": RANK} | changes))
    model = attach(toy_model(), config, "none", False, 0, inputs=lambda: found)
    return {path: layer.lora_A["default"].weight for path, layer in lora_layers(model).items()}


def inputs_of(path: str, found: list[WatchedWindow]) -> Tensor:
    """All inputs (rows, inputs) of a layer, one window at a time and without what is padded."""
    model, rows = toy_model(), []
    layer = model.model.get_submodule(path)
    layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0][0]))
    for window in found:
        with torch.no_grad():
            model(
                input_features=window.features[None],
                decoder_input_ids=window.decoder_input[None],
                use_cache=False,
            )
        if path in SOUND:
            rows[-1] = rows[-1][: window.positions]
    return torch.cat(rows)


def explained(inputs: Tensor, directions: Tensor) -> float:
    """Share of the inputs' variance that lies in the span of these rows."""
    centred = inputs - inputs.mean(dim=0)
    return float((centred @ directions.T).square().sum() / centred.square().sum())


@pytest.mark.parametrize("path", [*SOUND, *TEXT])
def test_the_rows_of_a_explain_as_much_as_any_can(path: str) -> None:
    found = windows()
    inputs = inputs_of(path, found)
    _, _, best = torch.linalg.svd(inputs - inputs.mean(dim=0), full_matrices=False)
    rows = started(found)[f"model.{path}"].detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(RANK), atol=1e-4, rtol=0)
    assert explained(inputs, rows) > 0.97 * explained(inputs, best[:RANK])
    random_rows, _ = torch.linalg.qr(torch.randn(rows.shape[1], RANK))
    assert explained(inputs, rows) > explained(inputs, random_rows.T) + 0.1


def test_every_layer_starts_from_directions_and_keeps_its_rank() -> None:
    drawn = started([], of="lora")
    for path, rows in started(windows(), encoder_rank=2).items():
        assert len(rows) == (2 if ".encoder." in path else RANK)
        assert not torch.equal(rows, drawn[path][: len(rows)])
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-4, rtol=0)


def test_the_same_windows_give_the_same_start() -> None:
    first, second = started(windows()), started(windows())
    assert all(torch.equal(rows, second[path]) for path, rows in first.items())


def test_without_windows_it_starts_as_lora_does() -> None:
    """As a run does that goes on: its matrices come from a checkpoint."""
    model = attach(toy_model(), adapter_config("eva", rank=RANK), "none", False, 0)
    drawn = started([], of="lora")
    for path, layer in lora_layers(model).items():
        assert torch.equal(layer.lora_A["default"].weight, drawn[path])


@pytest.mark.parametrize(
    ("count", "rank", "message"),
    [
        (1, 8, r"needs 16 tokens of text, found 8 in 1 windows.*adapter\.eva\.windows"),
        (0, 4, "found 0 in 0 windows"),
        (12, 9, r"up to 8 directions.*rank is 9.*adapter\.rank"),
    ],
)
def test_too_little_for_the_rank_says_what_to_type(count: int, rank: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        started(windows(count), rank=rank)


def test_windows_are_not_asked_for_by_other_kinds() -> None:
    def never() -> Iterator[WatchedWindow]:
        raise AssertionError("decoding audio for nothing")

    attach(toy_model(), adapter_config(rank=RANK), "none", False, 0, inputs=never)
