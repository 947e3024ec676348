"""Merging against PEFT's own, and against what was heard while the adapter was trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import adapter_parameters, attach, load_adapter, save_adapter, scaled
from lora_whisper.lora.delta_weights import delta_weights_of, mean, write_delta_weights
from lora_whisper.lora.merge import EMBEDDINGS, is_linear
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint, locate
from lora_whisper.model.quantization import CpuLinear4bit, Nf4
from lora_whisper.model.weights import TIED
from tests.configs import adapter_config, model_config
from tests.lora.test_delta_weights import FIRST, STOCK, TOKENS, filled, logits, stock
from tests.merged import merged_toy, merged_weights
from tests.toys import LINEAR_NAMES, toy_checkpoint, toy_model

CPU = torch.device("cpu")
WEIGHTS, LOGITS = 1e-6, 1e-5  # fp32, of weights of 0.1 and logits of 1: how far sums may differ
KINDS = {
    "lora": {},
    "rslora": {},
    "dora": {},
    "a rank for each stack": {"encoder_rank": 2, "decoder_rank": 6},
    "pissa": {},
    "adalora": {},
}


def ours(kind: str, tokens: tuple[int, ...] = (), **changes: Any) -> PeftModel:
    """A trained adapter of ours on a toy, without the training."""
    config = adapter_config(kind, **({"rank": 4, "alpha": 6.0} | changes))
    return attach(toy_model(), config, "none", False, 0, tokens, total_steps=100)


def saved(model: PeftModel, folder: Path, base: Checkpoint, is_pissa: bool = False) -> PeftModel:
    """Move what is trained away from its start, and save it."""
    start = {name: value.detach().clone() for name, value in adapter_parameters(model).items()}
    save_adapter(filled(model), folder, base, start if is_pissa else None)
    return model


def on_base(folder: Path, base: Checkpoint) -> PeftModel:
    """By stock PEFT alone, on a base in fp32."""
    return PeftModel.from_pretrained(
        WhisperForConditionalGeneration.from_pretrained(base.path), folder
    ).eval()


def require_peft_s(found: dict[str, Tensor], model: PeftModel) -> None:
    """See that these are the weights that PEFT merges."""
    merged: Any = model.merge_and_unload()
    expected = merged.state_dict()
    assert found.keys() == expected.keys() - {TIED}
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=WEIGHTS, rtol=0)


# ── one adapter ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_what_ships_of_each_kind_is_merged_as_peft_merges_it(kind, checkpoint, tmp_path):
    name = kind if kind in ("rslora", "dora", "pissa", "adalora") else "lora"
    model = saved(ours(name, TOKENS, **KINDS[kind]), tmp_path, checkpoint, kind == "pissa")
    merged = merged_toy(checkpoint, tmp_path)
    torch.testing.assert_close(logits(merged), logits(model), atol=LOGITS, rtol=0)
    assert (logits(merged) - logits(toy_model())).abs().max() > 0.1
    require_peft_s(merged_weights(checkpoint, tmp_path), on_base(tmp_path, checkpoint))


MICA = {"lora_alpha": 6, "init_lora_weights": "mica"}  # B stays as it starts, A is trained


@pytest.mark.parametrize("settings", [*STOCK.values(), MICA], ids=[*STOCK, "mica"])
def test_what_stock_peft_saved_is_merged_as_peft_merges_it(settings, checkpoint, tmp_path):
    model = stock(**settings)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    torch.testing.assert_close(
        logits(merged_toy(checkpoint, tmp_path)), logits(model), atol=LOGITS, rtol=0
    )
    require_peft_s(merged_weights(checkpoint, tmp_path), on_base(tmp_path, checkpoint))


def test_an_average_of_checkpoints_is_merged_as_peft_merges_it(checkpoint, tmp_path):
    plain = mean([delta_weights_of(stock(seed, **STOCK["tokens"])) for seed in (1, 2, 3)])
    write_delta_weights(plain, tmp_path, checkpoint)
    require_peft_s(merged_weights(checkpoint, tmp_path), on_base(tmp_path, checkpoint))


def test_only_layers_with_an_adapter_change(checkpoint, tmp_path):
    saved(ours("lora", targets="attention-qv", layers="encoder"), tmp_path, checkpoint)
    weights, base = merged_weights(checkpoint, tmp_path), toy_model().state_dict()
    changed = {name for name, weight in weights.items() if not torch.equal(weight, base[name])}
    assert changed == {
        f"model.encoder.layers.{layer}.self_attn.{name}.weight"
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
    }


def test_trained_tokens_take_their_rows_and_the_output_projection_is_left_to_them(
    checkpoint, tmp_path
):
    model = saved(ours("lora", TOKENS), tmp_path, checkpoint)
    weights = merged_weights(checkpoint, tmp_path)
    assert TIED not in weights
    rows = delta_weights_of(model).embeddings
    before = toy_model().proj_out.weight
    for token, row in enumerate(weights[EMBEDDINGS]):
        assert torch.equal(row, rows.get(token, before[token]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_exact_sum_is_rounded_once(dtype, kind, tmp_path):
    """Also from a base that is stored as coarsely: its weights are taken to fp32 first."""
    folder = toy_checkpoint(tmp_path / "base")
    toy_model().to(dtype).save_pretrained(folder)
    base = locate(model_config(folder))
    saved(ours(kind, TOKENS), tmp_path / "adapter", base)
    exact = merged_weights(base, tmp_path / "adapter")
    rounded = merged_weights(base, tmp_path / "adapter", dtype=dtype)
    assert exact.keys() == rounded.keys()
    for name, weight in rounded.items():
        assert weight.dtype == dtype
        assert torch.equal(weight, exact[name].to(dtype)), name
    require_peft_s(exact, on_fp32(base, tmp_path / "adapter"))


def on_fp32(base: Checkpoint, adapter: Path) -> PeftModel:
    whisper = WhisperForConditionalGeneration.from_pretrained(base.path, dtype=torch.float32)
    return PeftModel.from_pretrained(whisper, adapter).eval()


# ── scaled, and several ──────────────────────────────────────────────────────────────────────


def test_at_scale_zero_the_base_comes_back_to_the_bit(checkpoint, tmp_path):
    saved(ours("lora", TOKENS), tmp_path, checkpoint)
    base = toy_model().state_dict()
    for name, weight in merged_weights(checkpoint, (tmp_path, 0.0)).items():
        assert torch.equal(weight, base[name]), name


@pytest.mark.parametrize("scale", [0.5, 1.5, -1.0])
def test_a_scale_is_that_of_evaluation(scale, checkpoint, tmp_path):
    saved(ours("lora", TOKENS), tmp_path, checkpoint)
    model = load_adapter(load_base(checkpoint, "none", torch.float32, CPU), tmp_path)
    with scaled(model, scale):
        expected = logits(model)
    merged = merged_toy(checkpoint, (tmp_path, scale))
    torch.testing.assert_close(logits(merged), expected, atol=LOGITS, rtol=0)


def two(folder: Path, base: Checkpoint) -> list[Path]:
    """Of different ranks, scales and layers, which share some."""
    settings = [
        {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "fc1"]},
        {"r": 3, "lora_alpha": 8, "use_rslora": True, "target_modules": ["fc1", "out_proj"]},
    ]
    for number, one in enumerate(settings):
        model = filled(get_peft_model(toy_model(), LoraConfig(**one)), seed=number)
        model.save_pretrained(folder / str(number))
    return [folder / "0", folder / "1"]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, 0.25)])
def test_several_are_the_sum_that_peft_makes_of_them(weights, checkpoint, tmp_path):
    first, second = two(tmp_path, checkpoint)
    model = on_base(first, checkpoint)
    model.load_adapter(second, "second")
    model.add_weighted_adapter(["default", "second"], list(weights), "sum", "cat")
    model.set_adapter("sum")
    found = merged_weights(checkpoint, (first, weights[0]), (second, weights[1]))
    for name, weight in model.merge_and_unload(adapter_names=["sum"]).state_dict().items():
        if name != TIED:
            torch.testing.assert_close(found[name], weight, atol=WEIGHTS, rtol=0)


def test_an_adapter_is_taken_away_again(checkpoint, tmp_path):
    first, second = two(tmp_path, checkpoint)
    without = merged_weights(checkpoint, (first, 1.0), (second, 1.0), (first, -1.0))
    alone = merged_weights(checkpoint, second)
    for name, weight in alone.items():
        torch.testing.assert_close(without[name], weight, atol=WEIGHTS, rtol=0)


def test_embeddings_of_several_go_as_far_as_their_weights_say(checkpoint, tmp_path):
    """One has both tokens, the other only the second."""
    rows = []
    for name, tokens in (("a", TOKENS), ("b", TOKENS[1:])):
        model = filled(ours("lora", tokens), seed=ord(name))
        save_adapter(model, tmp_path / name, checkpoint)
        rows.append(delta_weights_of(model).embeddings)
    found = merged_weights(checkpoint, (tmp_path / "a", 0.25), (tmp_path / "b", 0.5))[EMBEDDINGS]
    base = toy_model().proj_out.weight
    first, second = TOKENS
    torch.testing.assert_close(found[first], base[first] + 0.25 * (rows[0][first] - base[first]))
    expected = base[second] + 0.25 * (rows[0][second] - base[second])
    torch.testing.assert_close(found[second], expected + 0.5 * (rows[1][second] - base[second]))


@pytest.mark.parametrize("weights", [(0.5,), (1.0, 1.0), (0.0,)])
def test_dora_is_merged_whole_and_alone(weights, checkpoint, tmp_path):
    saved(ours("dora"), tmp_path / "0", checkpoint)
    saved(ours("lora"), tmp_path / "1", checkpoint)
    parts = [(tmp_path / str(number), weight) for number, weight in enumerate(weights)]
    for order in (parts, parts[::-1]):
        with pytest.raises(UserError, match="Merge it alone, with scale=1"):
            merged_weights(checkpoint, *order)


# ── into what nf4 made of the weights ────────────────────────────────────────────────────────


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_into_nf4_read_back_the_logits_are_those_of_training(kind, double, checkpoint, tmp_path):
    """Widths of 16 and 32, which blocks of 64 do not divide."""
    base = load_base(checkpoint, "nf4", torch.float32, CPU, double_quantization=double)
    config = adapter_config(kind, rank=4, alpha=6.0)
    model = saved(attach(base, config, "nf4", False, 0, TOKENS), tmp_path, checkpoint)
    merged = merged_toy(checkpoint, tmp_path, nf4=Nf4(torch.float32, double))
    torch.testing.assert_close(logits(merged), logits(model), atol=LOGITS, rtol=0)
    into_full = merged_toy(checkpoint, tmp_path)
    assert (logits(into_full) - logits(model)).abs().max() > 100 * LOGITS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double", [True, False])
def test_every_linear_layer_is_what_its_nf4_layer_computes_with(
    double, dtype, checkpoint, tmp_path
):
    saved(ours("lora", targets="attention-qv"), tmp_path, checkpoint)
    found = merged_weights(checkpoint, (tmp_path, 0.0), nf4=Nf4(dtype, double))
    base = load_base(checkpoint, "nf4", dtype, CPU, double_quantization=double)
    layers: dict[str, CpuLinear4bit] = {
        f"{path}.weight": layer
        for path, layer in base.named_modules()
        if isinstance(layer, bitsandbytes.nn.Linear4bit)
    }
    assert layers.keys() == {name for name in found if is_linear(name)}
    for name, layer in layers.items():
        layer.bias = None
        computed = layer(torch.eye(layer.in_features, dtype=dtype)).T
        assert torch.equal(found[name], computed.float()), name
    others = toy_model().state_dict()
    for name in found.keys() - layers.keys():
        assert torch.equal(found[name], others[name])


def test_linear_layers_are_told_by_their_names():
    named = toy_model().named_modules()
    linear = {f"{path}.weight" for path, one in named if isinstance(one, torch.nn.Linear)} - {TIED}
    names = toy_model().state_dict()
    assert {name for name in names if is_linear(name)} == linear
    assert len(linear) == 2 * len(LINEAR_NAMES) + 2 * (len(LINEAR_NAMES) + 4)
    assert FIRST + ".weight" in linear


# ── numbers beyond all reason ────────────────────────────────────────────────────────────────


def multiplied(model: PeftModel, factor: float, folder: Path, base: Checkpoint) -> Path:
    """The adapter in `folder`, so many times as large in its first layer."""
    saved(model, folder, base)
    tensors = load_file(folder / WEIGHTS_FILE)
    ends = ".lora_magnitude_vector" if model.peft_config["default"].use_dora else ".lora_B.weight"
    key = next(key for key in tensors if key.endswith(ends))
    save_file(tensors | {key: factor * tensors[key]}, folder / WEIGHTS_FILE)
    return folder


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(("factor", "is_named"), [(1.0, False), (1e20, True)])
def test_what_is_added_beyond_all_reason_is_named(
    kind, factor, is_named, checkpoint, tmp_path, caplog
):
    adapter = multiplied(ours(kind), factor, tmp_path, checkpoint)
    with caplog.at_level(logging.WARNING, "lora_whisper"):
        merged_weights(checkpoint, adapter)
    assert ("too large?  what is added to 1 of 32 layers" in caplog.text) is is_named


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_is_beyond_the_dtype_is_refused(dtype, checkpoint, tmp_path):
    adapter = multiplied(ours("lora"), 1e20, tmp_path, checkpoint)
    scale = 1.0 if dtype == torch.float16 else 1e25
    with pytest.raises(UserError, match=r"not finite in float(16, which dtype=float32 may|32\.)"):
        merged_weights(checkpoint, (adapter, scale), dtype=dtype)
