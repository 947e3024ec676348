"""Presets, stacks, ranges of layers, ranks per stack: which layers get an adapter of which rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.lora.targets import target_ranks
from lora_whisper.model.published import shape
from tests.configs import adapter_config
from tests.toys import toy_config, toy_model


def targets(name: str | None = None, **changes: Any) -> dict[str, int]:
    return target_ranks(adapter_config(**changes), shape(name) if name else toy_config())


def test_all_linear_is_every_linear_layer_of_both_stacks() -> None:
    every = {
        f"model.{path}"
        for path, layer in toy_model().model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    assert targets().keys() == every


def test_presets_by_hand() -> None:
    first = {"stack": "decoder", "decoder_layers": "0"}
    prefix = "model.decoder.layers.0"
    assert list(targets(targets="attention-qv", **first)) == [
        f"{prefix}.self_attn.q_proj",
        f"{prefix}.self_attn.v_proj",
        f"{prefix}.encoder_attn.q_proj",
        f"{prefix}.encoder_attn.v_proj",
    ]
    attention, everything = targets(targets="attention", **first), targets(**first)
    assert len(attention) == 8
    assert everything.keys() - attention.keys() == {f"{prefix}.fc1", f"{prefix}.fc2"}


@pytest.mark.parametrize("name", ["large-v3", "large-v3-turbo", "tiny.en"])
def test_every_path_is_a_linear_layer_of_the_checkpoint(name: str) -> None:
    with torch.device("meta"):
        modules = dict(WhisperForConditionalGeneration(shape(name)).named_modules())
    assert all(isinstance(modules[path], torch.nn.Linear) for path in targets(name))


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ("30-31", {30, 31}),
        ("30-", {30, 31}),
        ("-1", {0, 1}),
        ("5", {5}),
        (None, set(range(32))),
    ],
)
def test_ranges_of_layers(given: str | None, layers: set[int]) -> None:
    found = targets("large-v3", stack="encoder", encoder_layers=given)
    assert {int(path.split(".")[3]) for path in found} == layers
    assert {path.split(".")[1] for path in found} == {"encoder"}


def test_a_range_of_one_stack_leaves_the_other_whole() -> None:
    found = targets("large-v3-turbo", encoder_layers="24-", decoder_layers="-1")
    by_stack = {
        stack: {int(path.split(".")[3]) for path in found if f".{stack}." in path}
        for stack in ("encoder", "decoder")
    }
    assert by_stack == {"encoder": set(range(24, 32)), "decoder": {0, 1}}


@pytest.mark.parametrize("given", ["30-32", "32", "32-", "3-2", "-32"])
def test_layers_that_are_not_there_are_named(given: str) -> None:
    with pytest.raises(UserError, match=rf"encoder_layers={given}: .* layers 0 to 31"):
        targets("large-v3", encoder_layers=given)


def test_each_stack_has_its_rank() -> None:
    ranks = targets(rank=16, decoder_rank=4)
    assert {rank for path, rank in ranks.items() if ".encoder." in path} == {16}
    assert {rank for path, rank in ranks.items() if ".decoder." in path} == {4}
