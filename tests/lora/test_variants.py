"""Every kind of adapter on every quantization, against the installed PEFT."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from lora_whisper.config import UNSUPPORTED, AdapterConfig, QuantizationConfig
from lora_whisper.errors import UserError
from lora_whisper.layers import as_text
from lora_whisper.lora.adalora import rank_schedule_of
from lora_whisper.lora.adapter import (
    adapter_parameters,
    attach,
    load_adapter,
    merged_in_place,
    save_adapter,
)
from lora_whisper.lora.targets import target_ranks
from lora_whisper.lora.variants import lora_layers, peft_config
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.model.published import shape, shape_names
from lora_whisper.model.quantization import prepare_for_training
from tests.configs import adapter_config
from tests.merged import merged_toy
from tests.toys import toy_config, toy_inputs, toy_model

CPU = torch.device("cpu")
RANK, STEPS = 4, 4
TOLERANCE = 1e-5  # fp32, on logits of magnitude 1
KINDS = get_args(get_type_hints(AdapterConfig)["kind"])
PAIRS = set(itertools.product(KINDS, get_args(get_type_hints(QuantizationConfig)["kind"])))


def base(checkpoint: Checkpoint, quantization: str, dtype: torch.dtype = torch.float32) -> Any:
    return load_base(checkpoint, quantization, dtype, CPU)


def adapted(whisper: Any, kind: str, quantization: str = "none", **changes: Any) -> PeftModel:
    config = adapter_config(kind, **({"rank": RANK, "alpha": 6.0} | changes))
    return attach(whisper, config, quantization, False, 0, total_steps=STEPS)


def logits(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    inputs = toy_inputs()
    inputs["input_features"] = inputs["input_features"].to(dtype)
    with torch.no_grad():
        return model.eval()(**inputs).logits.float()


def start_of(model: PeftModel, kind: str) -> dict[str, Tensor] | None:
    """PiSSA's matrices, as they are before the first step."""
    named = adapter_parameters(model).items()
    return {name: value.detach().clone() for name, value in named} if kind == "pissa" else None


def trained(model: PeftModel) -> tuple[list[float], set[str]]:
    """A few steps: the loss per token before each, and what had a gradient in the second."""
    schedule, inputs = rank_schedule_of(model), toy_inputs()
    parameters = adapter_parameters(model)
    optimizer = torch.optim.AdamW(parameters.values(), 1e-2)
    model.train()
    losses = []
    for step in range(STEPS):
        found = model(**inputs, use_cache=False).logits
        labels = inputs["decoder_input_ids"].flatten()
        loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), labels)
        loss.backward()
        if step == 1:
            given = [(name, value.grad) for name, value in parameters.items()]
            with_gradient = {name for name, one in given if one is not None and one.any()}
        optimizer.step()
        if schedule is not None:
            schedule.update(step)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, with_gradient


# ── each pair ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Pair:
    """A kind that was trained on a quantization, and saved."""

    quantization: str
    model: PeftModel
    losses: list[float]
    with_gradient: set[str]
    folder: Path


@pytest.fixture(scope="module", params=sorted(PAIRS - UNSUPPORTED.keys()), ids="-".join)
def pair(
    request: pytest.FixtureRequest,
    checkpoint: Checkpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    kind, quantization = request.param
    model = adapted(base(checkpoint, quantization), kind, quantization)
    initial = start_of(model, kind)
    losses, with_gradient = trained(model)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(model, folder, checkpoint, initial)
    return Pair(quantization, model, losses, with_gradient, folder)


def test_a_supported_pair_trains_all_that_it_consists_of(pair: Pair) -> None:
    assert pair.losses[-1] < pair.losses[0] - 0.002
    parameters = adapter_parameters(pair.model)
    assert pair.with_gradient == parameters.keys()
    assert {value.dtype for value in parameters.values()} == {torch.float32}


def test_its_folder_is_stock_peft_s(pair: Pair, checkpoint: Checkpoint) -> None:
    whisper = base(checkpoint, pair.quantization)
    if pair.quantization != "none":
        prepare_for_training(whisper)
    untrained = logits(whisper)
    stock = logits(PeftModel.from_pretrained(whisper, pair.folder))
    assert (stock - untrained).abs().max() > 100 * TOLERANCE
    torch.testing.assert_close(stock, logits(pair.model), atol=TOLERANCE, rtol=0)


def test_it_is_merged_into_the_full_base(pair: Pair, checkpoint: Checkpoint) -> None:
    loaded = load_adapter(base(checkpoint, "none"), pair.folder)
    before = logits(loaded)
    with merged_in_place(loaded):
        torch.testing.assert_close(logits(loaded), before, atol=TOLERANCE, rtol=0)
    assert torch.equal(logits(loaded), before)
    merged = merged_toy(checkpoint, pair.folder)
    torch.testing.assert_close(logits(merged), before, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("kind", "quantization"), sorted(UNSUPPORTED))
def test_an_unsupported_pair_does_not_work_in_peft(
    checkpoint: Checkpoint, kind: str, quantization: str
) -> None:
    """Should one start to work, this fails, and the pair can be allowed."""
    whisper = base(checkpoint, quantization)
    prepare_for_training(whisper)
    config = LoraConfig(
        target_modules=["q_proj"],
        init_lora_weights="pissa" if kind == "pissa" else True,
        use_dora=kind == "dora",
    )
    with pytest.raises((AttributeError, TypeError)):  # noqa: PT012
        model = get_peft_model(whisper, config)
        for _ in range(2):
            model(**toy_inputs()).logits.sum().backward()


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [(torch.float32, "none"), (torch.bfloat16, "none"), (torch.bfloat16, "nf4")],
)
@pytest.mark.parametrize("kind", ["rslora", "dora", "eva", "adalora"])
def test_a_fresh_adapter_changes_no_bit(
    checkpoint: Checkpoint, kind: str, dtype: torch.dtype, quantization: str
) -> None:
    whisper = base(checkpoint, quantization, dtype)
    if quantization != "none":
        prepare_for_training(whisper)
        dtype = torch.float32
    before = logits(whisper, dtype)
    assert torch.equal(logits(adapted(whisper, kind, quantization), dtype), before)


# ── what PEFT is asked for ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "pissa", "eva"])
def test_each_stack_has_its_rank_and_each_layer_its_scale(kind: str) -> None:
    changes = {"encoder_rank": 2, "decoder_rank": 8, "alpha": 16.0}
    layers = lora_layers(adapted(toy_model(), kind, **changes))
    for path, layer in layers.items():
        rank = 2 if ".encoder." in path else 8
        assert layer.lora_A["default"].weight.shape == (rank, layer.in_features)
        assert layer.scaling["default"] == 16 / (rank**0.5 if kind == "rslora" else rank)
    assert len(layers) == 2 * 6 + 2 * 10


def test_adalora_s_shares_become_steps() -> None:
    config = adapter_config("adalora", rank=5)
    asked: Any = peft_config(config, target_ranks(config, toy_model().config), (), 200)
    assert (asked.init_r, asked.target_r) == (8, 5)
    assert (asked.tinit, asked.tfinal, asked.deltaT, asked.total_step) == (20, 60, 10, 200)


@pytest.mark.parametrize(
    ("total_steps", "message"),
    [(1, r"cannot give out ranks in 1 steps.*training\.max_steps"), (None, "training.max_steps")],
)
def test_adalora_says_what_it_needs(total_steps: int | None, message: str) -> None:
    config = adapter_config("adalora")
    with pytest.raises(UserError, match=message):
        attach(toy_model(), config, "none", False, 0, total_steps=total_steps)


# ── every size ───────────────────────────────────────────────────────────────────────────────


def sizes() -> list[str]:
    """A published checkpoint of each width and depth."""
    named = {}
    for name in shape_names():
        known = shape(name)
        named[known.d_model, known.encoder_layers, known.decoder_layers] = name
    assert len(named) == 6, "tiny, base, small, medium, large, turbo"
    return list(named.values())


@pytest.mark.parametrize("name", sizes())
def test_every_published_size_carries_the_adapter(name: str) -> None:
    """Counted by hand: 4·2d + 2·5d in an encoder's layer, 4·2d more in a decoder's, by the rank."""
    known = shape(name)
    with torch.device("meta"):
        whisper = WhisperForConditionalGeneration(known).requires_grad_(False)
        model = attach(whisper, adapter_config(rank=RANK), "none", True, 0)
    width = known.d_model
    by_hand = RANK * width * (18 * known.encoder_layers + 26 * known.decoder_layers)
    assert sum(value.numel() for value in adapter_parameters(model).values()) == by_hand
    assert whisper.is_activation_checkpointing


# ── target layers ─────────────────────────────────────────────────────────────────────────────────


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
    first = {"layers": "decoder.0"}
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
        ("-", set(range(32))),
    ],
)
def test_ranges_of_layers(given: str, layers: set[int]) -> None:
    found = targets("large-v3", layers=as_text({"encoder": given}))
    assert {int(path.split(".")[3]) for path in found} == layers
    assert {path.split(".")[1] for path in found} == {"encoder"}


def test_a_range_of_one_stack_leaves_the_other_whole() -> None:
    found = targets("large-v3-turbo", layers="encoder.24-+decoder.-1")
    by_stack = {
        stack: {int(path.split(".")[3]) for path in found if f".{stack}." in path}
        for stack in ("encoder", "decoder")
    }
    assert by_stack == {"encoder": set(range(24, 32)), "decoder": {0, 1}}


@pytest.mark.parametrize("given", ["30-32", "32", "32-", "-32"])
def test_layers_that_are_not_there_are_named(given: str) -> None:
    with pytest.raises(UserError, match=rf"layers=encoder.{given}: .* layers 0 to 31"):
        targets("large-v3", layers=f"encoder.{given}")


def test_each_stack_has_its_rank() -> None:
    ranks = targets(rank=16, decoder_rank=4)
    assert {rank for path, rank in ranks.items() if ".encoder." in path} == {16}
    assert {rank for path, rank in ranks.items() if ".decoder." in path} == {4}
