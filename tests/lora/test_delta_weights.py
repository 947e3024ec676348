"""Plain adapters: their deltas are those that PEFT merges, and their folders are stock PEFT's."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import adapter_parameters, load_adapter
from lora_whisper.lora.delta_weights import (
    DeltaWeights,
    delta_weights_of,
    mean,
    read_delta_weights,
    truncate_rank,
    write_delta_weights,
)
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint
from tests.toys import toy_inputs, toy_model

CPU = torch.device("cpu")
TOKENS = (264, 265)
FIRST = "model.encoder.layers.0.fc1"
RANKS = {"rank_pattern": {FIRST: 3}, "alpha_pattern": {FIRST: 5}}
STOCK = {
    "lora": {"lora_alpha": 6},
    "rslora": {"lora_alpha": 6, "use_rslora": True},
    "patterns": {"lora_alpha": 6, **RANKS},
    "patterns of rslora": {"lora_alpha": 6, "use_rslora": True, **RANKS},
    "tokens": {"lora_alpha": 6, "trainable_token_indices": list(TOKENS)},
}


def stock(seed: int = 0, **settings: Any) -> PeftModel:
    """What stock PEFT makes of a toy, with every matrix drawn at random."""
    config = LoraConfig(r=4, target_modules=["q_proj", "fc1", "fc2"], **settings)
    return filled(get_peft_model(toy_model(), config), seed)


def filled(model: PeftModel, seed: int = 0) -> PeftModel:
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def adalora() -> PeftModel:
    """Four ranks a layer; of FIRST one was taken away, and fc2 of layer 1 has none left."""
    config = AdaLoraConfig(
        init_r=4, target_r=2, total_step=10, lora_alpha=6, target_modules=["q_proj", "fc1", "fc2"]
    )
    model = filled(get_peft_model(toy_model(), config))
    layers: Any = model.get_base_model()
    with torch.no_grad():
        layers.model.encoder.layers[0].fc1.lora_E["default"][1] = 0
        layers.model.encoder.layers[1].fc2.lora_E["default"].zero_()
    return model


def deltas(plain: DeltaWeights) -> dict[str, Tensor]:
    return {path: b @ a for path, (a, b) in plain.matrices.items()}


def stock_deltas(model: PeftModel) -> dict[str, Tensor]:
    """What PEFT adds to the weights when it merges."""
    inner: Any = model.get_base_model()
    return {
        path: layer.get_delta_weight("default").detach()
        for path, layer in inner.named_modules()
        if isinstance(layer, LoraLayer)
    }


def logits(model: torch.nn.Module) -> Tensor:
    inputs = toy_inputs()
    inputs["decoder_input_ids"][:, 1:3] = torch.tensor(TOKENS)
    with torch.no_grad():
        return model(**inputs).logits


def close(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for path, delta in expected.items():
        torch.testing.assert_close(found[path], delta, atol=atol, rtol=1e-5)


def loaded(checkpoint: Checkpoint, folder: Path) -> PeftModel:
    """By stock PEFT alone."""
    base = WhisperForConditionalGeneration.from_pretrained(checkpoint.path)
    return PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("settings", STOCK.values(), ids=STOCK)
def test_a_delta_is_what_peft_merges_from_the_model_and_from_its_folder(settings, tmp_path):
    model = stock(**settings)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    for plain in (delta_weights_of(model), read_delta_weights(tmp_path)):
        close(deltas(plain), stock_deltas(model))
        assert tuple(plain.embeddings) == tuple(settings.get("trainable_token_indices", ()))
        assert all(
            matrix.dtype == torch.float32 for pair in plain.matrices.values() for matrix in pair
        )


@pytest.mark.parametrize("settings", STOCK.values(), ids=STOCK)
def test_a_written_folder_gives_the_model_s_logits_in_stock_peft(settings, checkpoint, tmp_path):
    model = stock(**settings)
    write_delta_weights(delta_weights_of(model), tmp_path, checkpoint)
    stocked = loaded(checkpoint, tmp_path)
    torch.testing.assert_close(logits(stocked), logits(model), atol=1e-5, rtol=0)
    assert (logits(stocked) - logits(toy_model())).abs().max() > 0.1
    scales = {
        layer.scaling["default"] for layer in stocked.modules() if isinstance(layer, LoraLayer)
    }
    assert scales == {1.0}, "one scale for all layers, for who reads no patterns"


def test_what_was_read_from_a_model_stays_when_the_model_is_trained_on():
    model = stock(**STOCK["tokens"])
    plain, before = delta_weights_of(model), copy.deepcopy(delta_weights_of(model))
    filled(model, seed=1)
    for path, pair in plain.matrices.items():
        assert all(map(torch.equal, pair, before.matrices[path]))
    assert all(torch.equal(plain.embeddings[token], before.embeddings[token]) for token in TOKENS)
    assert not torch.equal(deltas(plain)[FIRST], deltas(delta_weights_of(model))[FIRST])


def test_what_is_written_is_read_back_to_the_bit(checkpoint, tmp_path):
    plain = delta_weights_of(stock(**STOCK["patterns"] | STOCK["tokens"]))
    write_delta_weights(plain, tmp_path, checkpoint)
    again = read_delta_weights(tmp_path)
    assert again.ranks == plain.ranks
    for path, pair in plain.matrices.items():
        assert all(map(torch.equal, again.matrices[path], pair))
    for token, row in plain.embeddings.items():
        assert torch.equal(again.embeddings[token], row)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_written_folder_loads_on_a_quantized_base(quantization, checkpoint, tmp_path):
    """On a base as rounded as the one that it comes from, the logits are the same."""
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "fc1", "fc2"])
    base = load_base(checkpoint, quantization, torch.float32, CPU)
    model = filled(get_peft_model(base, config))
    write_delta_weights(delta_weights_of(model), tmp_path, checkpoint)
    again = load_adapter(load_base(checkpoint, quantization, torch.float32, CPU), tmp_path)
    torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=0)


def test_adalora_comes_as_the_ranks_that_are_left(checkpoint, tmp_path):
    model = adalora()
    plain = delta_weights_of(model)
    gone = "model.encoder.layers.1.fc2"
    expected = stock_deltas(model)
    assert not expected.pop(gone).any()
    close(deltas(plain), expected)
    assert plain.ranks[FIRST] == 3
    assert set(plain.ranks.values()) == {3, 4}
    write_delta_weights(plain, tmp_path, checkpoint)
    torch.testing.assert_close(
        logits(loaded(checkpoint, tmp_path)), logits(model), atol=1e-5, rtol=0
    )


def test_pissa_comes_as_the_difference_to_its_start(checkpoint, tmp_path):
    """At the start nothing is added; afterwards, on the whole base, its logits are the same."""
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "fc1"], init_lora_weights="pissa"
    )
    model = get_peft_model(toy_model(), config).eval()
    start = {name: value.detach().clone() for name, value in adapter_parameters(model).items()}
    assert (
        max(delta.abs().max() for delta in deltas(delta_weights_of(model, start)).values()) < 1e-5
    )
    filled(model)
    plain = delta_weights_of(model, start)
    assert set(plain.ranks.values()) == {8}
    write_delta_weights(plain, tmp_path, checkpoint)
    torch.testing.assert_close(
        logits(loaded(checkpoint, tmp_path)), logits(model), atol=1e-5, rtol=0
    )


def test_the_mean_is_that_of_the_deltas_and_not_of_the_matrices():
    first, second = (delta_weights_of(stock(seed, **STOCK["tokens"])) for seed in (1, 2))
    found = mean([first, second])
    expected = {path: (delta + deltas(second)[path]) / 2 for path, delta in deltas(first).items()}
    close(deltas(found), expected)
    assert set(found.ranks.values()) == {8}
    (a1, b1), (a2, b2) = first.matrices[FIRST], second.matrices[FIRST]
    assert not torch.allclose((b1 + b2) / 2 @ (a1 + a2) / 2, expected[FIRST], atol=1e-3)
    for token in TOKENS:
        both = first.embeddings[token] + second.embeddings[token]
        torch.testing.assert_close(found.embeddings[token], both / 2)


def test_a_layer_that_one_adapter_lacks_counts_as_nothing_there():
    whole = delta_weights_of(stock())
    part = replace(whole, matrices={FIRST: whole.matrices[FIRST]})
    found = deltas(mean([whole, part]))
    expected = {path: delta / 2 for path, delta in deltas(whole).items()}
    expected[FIRST] = deltas(whole)[FIRST]
    close(found, expected)


def test_the_mean_of_one_adapter_twice_is_that_adapter_cut_to_its_own_rank():
    one = delta_weights_of(stock())
    back, error = truncate_rank(mean([one, one]), 4)
    assert set(back.ranks.values()) == {4}
    assert error < 1e-6
    close(deltas(back), deltas(one))


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_a_cut_is_the_best_that_its_rank_allows(rank):
    """As the SVD of the full matrices has it (Eckart and Young 1936)."""
    plain = mean(
        [delta_weights_of(stock(seed)) for seed in (1, 2, 3)]
    )  # rank 12; the widths are 16 and 32
    found, error = truncate_rank(plain, rank)
    lost = whole = 0.0
    for path, delta in deltas(plain).items():
        u, values, v = torch.linalg.svd(delta.double(), full_matrices=False)
        nearest = (u[:, :rank] * values[:rank]) @ v[:rank]
        torch.testing.assert_close(deltas(found)[path].double(), nearest, atol=1e-6, rtol=0)
        lost += values[rank:].square().sum().item()
        whole += values.square().sum().item()
    assert set(found.ranks.values()) == {rank}
    assert error == pytest.approx((lost / whole) ** 0.5, rel=1e-5)


def test_a_cut_that_takes_nothing_changes_no_bit():
    plain = delta_weights_of(stock(**STOCK["patterns"]))
    found, error = truncate_rank(plain, 4)
    assert error == 0
    for path, pair in plain.matrices.items():
        assert all(map(torch.equal, found.matrices[path], pair))


def test_what_adds_nothing_is_cut_without_error():
    nothing = delta_weights_of(get_peft_model(toy_model(), LoraConfig(r=4, target_modules=["fc1"])))
    found, error = truncate_rank(nothing, 2)
    assert error == 0
    assert all(not delta.any() for delta in deltas(found).values())
    assert all(matrix.isfinite().all() for pair in found.matrices.values() for matrix in pair)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"target_modules": ["conv1"]}, r"(?s)conv1: .*linear layer.*merge_and_unload"),
    ],
)
@pytest.mark.filterwarnings("ignore:Adapter 'default'.*invalid shape")  # a bias is no matrix
def test_what_is_no_plain_lora_is_refused_with_the_reason(settings, reason, tmp_path):
    config = LoraConfig(**({"r": 4, "target_modules": ["fc1"]} | settings))
    model = get_peft_model(toy_model(), config)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(UserError, match=reason):
        read_delta_weights(tmp_path)


def test_other_kinds_of_adapters_are_refused(tmp_path):
    adalora().save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(UserError, match=r'(?s)expected LORA, found "ADALORA".*merge_and_unload'):
        read_delta_weights(tmp_path)


def test_a_damaged_folder_is_named(tmp_path):
    stock().save_pretrained(tmp_path, save_embedding_layers=False)
    weights = tmp_path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(UserError, match="expected safetensors"):
        read_delta_weights(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="expected JSON"):
        read_delta_weights(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"holds no adapter: expected adapter_model\.safetensors"):
        read_delta_weights(tmp_path)


def test_the_folder_names_its_base_and_revision(tmp_path):
    write_delta_weights(
        delta_weights_of(stock()), tmp_path, Checkpoint("owner/toy", "v2", "owner/toy")
    )
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/toy", "v2")
    assert config["auto_mapping"]["base_model_class"] == "WhisperForConditionalGeneration"
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
