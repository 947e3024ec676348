"""The vocabulary of LoRA tests: which layers, which keys, which arithmetic, which gradients."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

from lora_whisper.config import AdapterConfig, ModelConfig
from lora_whisper.errors import UserError
from lora_whisper.model.adapter import (
    WEIGHTS_FILE,
    adapter_bytes,
    adapter_parameters,
    attach,
    load_adapter,
    merge,
    merged_in_place,
    parameter_counts,
    save_adapter,
)
from lora_whisper.model.checkpoint import Checkpoint, load_base, locate
from tests.toys import LINEAR_NAMES, toy_checkpoint, toy_inputs, toy_model

CPU = torch.device("cpu")
RANK, ALPHA = 4, 6.0
MERGE_TOLERANCE = 1e-5  # fp32, on logits of magnitude 1: W·x + s·B·(A·x) against (W + s·B·A)·x


def lora(targets: tuple[str, ...] = LINEAR_NAMES, dropout: float = 0.0) -> AdapterConfig:
    return AdapterConfig("lora", RANK, ALPHA, dropout, targets, False)


def adapted(seed: int = 0, targets: tuple[str, ...] = LINEAR_NAMES) -> PeftModel:
    return attach(toy_model(), lora(targets), "none", False, seed).eval()


def with_random_b(model: PeftModel, seed: int = 1) -> PeftModel:
    """Fill B, which starts at zero, so that the adapter does something."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter_parameters(model).items():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**toy_inputs()).logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = toy_checkpoint(tmp_path_factory.mktemp("toy"))
    return locate(ModelConfig(str(folder), None, "auto"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_changes_no_bit(dtype):
    inputs = toy_inputs()
    inputs["input_features"] = inputs["input_features"].to(dtype)
    base = toy_model().to(dtype)
    before = base(**inputs).logits
    assert torch.equal(attach(base, lora(), "none", False, 0).eval()(**inputs).logits, before)


@pytest.mark.parametrize("targets", [LINEAR_NAMES, ("q_proj", "v_proj"), ("encoder_attn.k_proj",)])
def test_exactly_the_wanted_layers_carry_adapters(targets):
    model = adapted(targets=targets)
    wanted = {
        name
        for name, layer in toy_model().named_modules()
        if isinstance(layer, torch.nn.Linear) and name.endswith(tuple(f".{t}" for t in targets))
    }
    inner = model.get_base_model()
    carrying = {name for name, layer in inner.named_modules() if isinstance(layer, LoraLayer)}
    assert carrying == wanted
    assert wanted


@pytest.mark.parametrize("name", ["query", "proj_out", "proj", "conv1", "decoder"])
def test_an_unknown_target_is_answered_with_the_known_ones(name):
    with pytest.raises(UserError, match=rf"called {name}; .* fc1, fc2, k_proj, out_proj"):
        attach(toy_model(), lora(("q_proj", name)), "none", False, 0)


def test_only_fp32_adapter_matrices_are_trainable_also_on_a_bfloat16_base():
    model = attach(toy_model().to(torch.bfloat16), lora(), "none", False, 0)
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trainable == set(adapter_parameters(model))
    assert {value.dtype for value in adapter_parameters(model).values()} == {torch.float32}


def test_the_same_seed_draws_the_same_adapter_and_disturbs_no_other_draw():
    first = adapter_parameters(adapted(seed=5))
    torch.manual_seed(1)
    again = adapter_parameters(adapted(seed=5))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    other = adapter_parameters(adapted(seed=6))
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, other[name]) == ("lora_B" in name)


def test_parameters_are_counted_by_hand():
    by_hand = sum(
        RANK * (layer.in_features + layer.out_features)
        for layer in toy_model().model.modules()
        if isinstance(layer, torch.nn.Linear)
    )
    whole = sum(value.numel() for value in toy_model().parameters())
    assert parameter_counts(adapted()) == (by_hand, whole + by_hand)


def test_merging_adds_alpha_over_rank_times_b_a():
    model = with_random_b(adapted())
    matrices = {name: value.detach().clone() for name, value in adapter_parameters(model).items()}
    merged = merge(model)
    changed = set()
    for name, weight in toy_model().state_dict().items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        a = matrices.get(f"{prefix}.lora_A.default.weight")
        if a is None:
            assert torch.equal(merged.state_dict()[name], weight)
            continue
        changed.add(name)
        b = matrices[f"{prefix}.lora_B.default.weight"]
        expected = weight + ALPHA / RANK * b @ a
        torch.testing.assert_close(merged.state_dict()[name], expected, atol=1e-6, rtol=0)
    assert len(changed) == len(matrices) // 2 == 2 * 6 + 2 * 10


def test_merged_logits_are_the_adapter_s():
    model = with_random_b(adapted())
    adapter_logits = logits(model)
    assert (adapter_logits - logits(toy_model())).abs().max() > 1000 * MERGE_TOLERANCE
    merged = merge(model)
    assert type(merged) is WhisperForConditionalGeneration
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), adapter_logits, atol=MERGE_TOLERANCE, rtol=0)


def test_merging_twice_merges_once():
    model = with_random_b(adapted())
    once = logits(merge(model))
    assert torch.equal(logits(merge(model)), once)
    assert torch.equal(logits(merge(merge(model))), once)


def test_merging_in_bfloat16_rounds_the_exact_sum_once():
    model = with_random_b(attach(toy_model().bfloat16(), lora(("fc1",)), "none", False, 0))
    layer = model.get_base_model().model.encoder.layers[0].fc1
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    exact = layer.base_layer.weight.float() + ALPHA / RANK * b @ a
    merged = merge(model).model.encoder.layers[0].fc1.weight
    assert torch.equal(merged, exact.bfloat16())


def test_the_file_holds_exactly_the_adapter_s_keys(checkpoint, tmp_path):
    model = with_random_b(adapted())
    save_adapter(model, tmp_path, checkpoint)
    saved = load_file(tmp_path / WEIGHTS_FILE)
    expected = {
        name.replace(".default", ""): value for name, value in adapter_parameters(model).items()
    }
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in saved)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1, "others may read the configuration, but not the weights"
    assert adapter_bytes(tmp_path) == (tmp_path / WEIGHTS_FILE).stat().st_size


def test_stock_peft_loads_it_on_the_base_that_it_names(checkpoint, tmp_path):
    model = with_random_b(adapted())
    save_adapter(model, tmp_path, checkpoint)
    named = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named).is_absolute()
    base = WhisperForConditionalGeneration.from_pretrained(named)
    stock = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(logits(stock), logits(model))
    ours = load_adapter(load_base(checkpoint, "none", torch.float32, CPU), tmp_path)
    assert torch.equal(logits(ours), logits(model))
    assert not any(value.requires_grad for value in ours.parameters())


def test_a_hub_base_is_named_with_its_revision(tmp_path):
    save_adapter(adapted(), tmp_path, Checkpoint("owner/toy", "v2", "owner/toy"))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/toy", "v2")


def test_a_folder_without_adapter_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no adapter: expected adapter_config\.json"):
        load_adapter(toy_model(), tmp_path)


def test_merged_in_place_gives_merged_logits_and_restores_every_bit():
    model = with_random_b(adapted())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = logits(model)
    with merged_in_place(model):
        inside = logits(model)
        merged_weight = model.get_base_model().model.encoder.layers[0].fc1.base_layer.weight
        assert not torch.equal(merged_weight, toy_model().model.encoder.layers[0].fc1.weight)
    torch.testing.assert_close(inside, before, atol=MERGE_TOLERANCE, rtol=0)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(model), before)


def test_merged_in_place_restores_after_an_error():
    model = with_random_b(adapted())
    before = logits(model)
    with pytest.raises(KeyboardInterrupt), merged_in_place(model):
        raise KeyboardInterrupt
    assert torch.equal(logits(model), before)


def test_merged_in_place_leaves_a_half_precision_base_as_it_is():
    model = with_random_b(attach(toy_model().bfloat16(), lora(), "none", False, 0))
    layer = model.get_base_model().model.encoder.layers[0].fc1
    with merged_in_place(model):
        assert not layer.merged


def backward(model: PeftModel) -> None:
    model.train()
    model(**toy_inputs(), use_cache=False).logits.float().square().mean().backward()


def with_gradient(model: PeftModel) -> set[str]:
    named = model.named_parameters()
    return {name for name, value in named if value.grad is not None and value.grad.any()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_every_adapter_matrix_and_nothing_else_gets_a_gradient(
    checkpoint, quantization, checkpointing
):
    base = load_base(checkpoint, quantization, torch.float32, CPU)
    model = with_random_b(attach(base, lora(), quantization, checkpointing, 0))
    backward(model)
    assert base.is_gradient_checkpointing == checkpointing
    adapters = set(adapter_parameters(model))
    assert {name for name in adapters if ".encoder." in name}
    assert with_gradient(model) == adapters
    assert {value.dtype for value in adapter_parameters(model).values()} == {torch.float32}


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantized_base_trains_saves_and_loads_but_is_not_merged(
    checkpoint, quantization, tmp_path
):
    base = load_base(checkpoint, quantization, torch.bfloat16, CPU)
    model = with_random_b(attach(base, lora(), quantization, False, 0)).eval()
    save_adapter(model, tmp_path, checkpoint)
    loaded = load_adapter(load_base(checkpoint, quantization, torch.bfloat16, CPU), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    with merged_in_place(model):
        assert torch.equal(logits(model), logits(loaded))
    with pytest.raises(UserError, match="quantization=none"):
        merge(model)


def test_an_unquantized_base_keeps_its_dtype():
    model = attach(toy_model().bfloat16(), lora(), "none", True, 0)
    assert {value.dtype for value in model.parameters() if not value.requires_grad} == {
        torch.bfloat16
    }
