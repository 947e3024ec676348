"""The vocabulary of LoRA tests: which layers, which keys, which arithmetic, which gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

from lora_whisper.config import AdapterConfig
from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import (
    TableRow,
    adapter_bytes,
    adapter_parameters,
    adapter_table,
    attach,
    is_token_embedding,
    load_adapter,
    merged_in_place,
    parameter_counts,
    save_adapter,
    scaled,
)
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.training.announce import layer_lines
from lora_whisper.training.loss import Inputs, find_targets, loss_sum
from tests.configs import adapter_config
from tests.toys import LINEAR_NAMES, toy_inputs, toy_model

CPU = torch.device("cpu")
RANK, ALPHA = 4, 6.0
MERGE_TOLERANCE = 1e-5  # fp32, on logits of magnitude 1: W·x + s·B·(A·x) against (W + s·B·A)·x


def lora(**changes: Any) -> AdapterConfig:
    return adapter_config(**({"rank": RANK, "alpha": ALPHA} | changes))


def adapted(seed: int = 0, **changes: Any) -> PeftModel:
    return attach(toy_model(), lora(**changes), "none", False, seed).eval()


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


def require_same_logits(
    found: torch.Tensor, expected: torch.Tensor, atol: float = MERGE_TOLERANCE
) -> None:
    """Of the same weights elsewhere in the memory, by which kernels may add in another order."""
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_changes_no_bit(dtype):
    inputs = toy_inputs()
    inputs["input_features"] = inputs["input_features"].to(dtype)
    base = toy_model().to(dtype)
    before = base(**inputs).logits
    assert torch.equal(attach(base, lora(), "none", False, 0).eval()(**inputs).logits, before)


@pytest.mark.parametrize("targets", ["all-linear", "attention", "attention-qv"])
def test_exactly_the_wanted_layers_carry_adapters(targets):
    names = {"all-linear": LINEAR_NAMES, "attention": LINEAR_NAMES[:4]}
    wanted = {
        name
        for name, layer in toy_model().named_modules()
        if isinstance(layer, torch.nn.Linear)
        and name.split(".")[-1] in names.get(targets, ("q_proj", "v_proj"))
    }
    inner = adapted(targets=targets).get_base_model()
    carrying = {name for name, layer in inner.named_modules() if isinstance(layer, LoraLayer)}
    assert carrying == wanted
    assert wanted


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
    require_same_logits(logits(stock), logits(model))
    ours = load_adapter(load_base(checkpoint, "none", torch.float32, CPU), tmp_path)
    require_same_logits(logits(ours), logits(model))
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


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("scale", [0.0, 0.25, 1.0, 1.5])
def test_a_scaled_adapter_adds_so_much_of_what_it_adds(quantization, scale, checkpoint):
    """A and B are not trained, so that the sum of the weights is the authority."""
    base = load_base(checkpoint, quantization, torch.float32, CPU)
    model = with_random_b(attach(base, lora(), quantization, False, 0)).eval()
    whole = logits(model)
    part = with_random_b(
        attach(
            load_base(checkpoint, quantization, torch.float32, CPU),
            lora(alpha=max(scale, 1e-9) * ALPHA),
            quantization,
            False,
            0,
        )
    ).eval()
    with scaled(model, scale):
        found = logits(model)
    assert torch.allclose(found, logits(part), atol=MERGE_TOLERANCE)
    assert torch.equal(logits(model), whole)


def test_at_scale_zero_the_base_is_heard_with_its_own_token_embeddings():
    base = logits_with_tokens(toy_model())
    model = with_tokens()
    whole = logits_with_tokens(model)
    with scaled(model, 0.0), merged_in_place(model):
        assert torch.allclose(logits_with_tokens(model), base, atol=MERGE_TOLERANCE)
    assert torch.equal(logits_with_tokens(model), whole)


def test_a_scaled_adapter_of_token_embeddings_stands_between_both():
    model = with_tokens()
    row = token_embedding(model).detach().clone()
    original = toy_model().model.decoder.embed_tokens.weight[list(TOKENS)]
    with scaled(model, 0.25):
        assert torch.allclose(token_embedding(model), original + 0.25 * (row - original))
    assert torch.equal(token_embedding(model), row)


def test_dora_is_not_scaled():
    model = adapted(kind="dora")
    with pytest.raises(UserError, match="adapter_scales"), scaled(model, 0.5):
        pass


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
    assert base.is_activation_checkpointing == checkpointing
    adapters = set(adapter_parameters(model))
    assert {name for name in adapters if ".encoder." in name}
    assert with_gradient(model) == adapters
    assert {value.dtype for value in adapter_parameters(model).values()} == {torch.float32}


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantized_base_saves_and_loads_but_is_not_merged_in_place(
    checkpoint, quantization, tmp_path
):
    base = load_base(checkpoint, quantization, torch.bfloat16, CPU)
    model = with_random_b(attach(base, lora(), quantization, False, 0)).eval()
    save_adapter(model, tmp_path, checkpoint)
    loaded = load_adapter(load_base(checkpoint, quantization, torch.bfloat16, CPU), tmp_path)
    before = logits(model)
    with merged_in_place(model):
        assert torch.equal(logits(model), before)
    require_same_logits(logits(loaded), before, atol=0.02)  # bfloat16


def test_an_unquantized_base_keeps_its_dtype():
    model = attach(toy_model().bfloat16(), lora(), "none", True, 0)
    assert {value.dtype for value in model.parameters() if not value.requires_grad} == {
        torch.bfloat16
    }


# ── trained token embeddings ─────────────────────────────────────────────────────────────────

TOKENS = (264, 265)  # <|zh|> and <|de|>, which stand in the decoder's input


def with_tokens(base: WhisperForConditionalGeneration | None = None, quantization: str = "none"):
    """An adapter whose two trained embeddings differ from the base's."""
    model = with_random_b(attach(base or toy_model(), lora(), quantization, False, 0, TOKENS))
    with torch.no_grad():
        token_embedding(model).add_(torch.randn(2, 16, generator=torch.Generator().manual_seed(3)))
    return model.eval()


def token_embedding(model: PeftModel) -> torch.nn.Parameter:
    (found,) = (
        value for name, value in adapter_parameters(model).items() if is_token_embedding(name)
    )
    return found


def inputs_with_tokens() -> dict[str, torch.Tensor]:
    inputs = toy_inputs()
    inputs["decoder_input_ids"][:, 1:3] = torch.tensor(TOKENS)
    return inputs


def logits_with_tokens(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs_with_tokens()).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_token_embeddings_change_no_bit(dtype):
    inputs = inputs_with_tokens()
    inputs["input_features"] = inputs["input_features"].to(dtype)
    base = toy_model().to(dtype)
    before = base(**inputs).logits
    model = attach(base, lora(), "none", False, 0, TOKENS).eval()
    assert torch.equal(model(**inputs).logits, before)
    assert token_embedding(model).dtype == torch.float32, "or small steps would be rounded away"


def test_token_embeddings_are_counted_and_nothing_else_of_the_embedding():
    trainable, total = parameter_counts(with_tokens())
    without, total_without = parameter_counts(adapted())
    assert (trainable - without, total - total_without) == (2 * 16, 2 * 16)


def test_a_trained_token_acts_where_it_is_read_and_where_it_is_written():
    """As one by hand: the base with these rows in the weight that both layers share."""
    model = with_tokens()
    by_hand = with_random_b(adapted())
    weight = by_hand.get_base_model().proj_out.weight
    with torch.no_grad():
        weight[list(TOKENS)] = token_embedding(model)
    require_same_logits(logits_with_tokens(model), logits_with_tokens(by_hand))
    assert not torch.equal(logits(model)[..., TOKENS[0]], logits(adapted())[..., TOKENS[0]])


def test_our_loss_is_that_of_the_stock_forward():
    model = with_tokens()
    inputs = inputs_with_tokens()
    labels = inputs["decoder_input_ids"].roll(-1, dims=1)
    given = (inputs["input_features"], inputs["decoder_input_ids"], *find_targets(labels))
    ours = loss_sum(model.get_base_model(), Inputs(*given))
    stock = torch.nn.functional.cross_entropy(
        model(**inputs).logits.flatten(0, 1), labels.flatten(), reduction="sum"
    )
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=0)
    ours.backward()
    assert token_embedding(model).grad.abs().sum(dim=1).all()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_token_embeddings_get_gradients_with_all_other_matrices(
    checkpoint, quantization, checkpointing
):
    base = load_base(checkpoint, quantization, torch.float32, CPU)
    model = with_random_b(attach(base, lora(), quantization, checkpointing, 0, TOKENS))
    model.train()
    model(**inputs_with_tokens(), use_cache=False).logits.float().square().mean().backward()
    assert with_gradient(model) == set(adapter_parameters(model))
    assert {value.dtype for value in adapter_parameters(model).values()} == {torch.float32}


def test_without_the_adapter_the_base_is_heard():
    base = logits_with_tokens(toy_model())
    model = with_tokens()
    with model.disable_adapter():
        assert torch.equal(logits_with_tokens(model), base)
    assert not torch.equal(logits_with_tokens(model), base)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_stock_peft_loads_token_embeddings(checkpoint, quantization, tmp_path):
    base = load_base(checkpoint, quantization, torch.float32, CPU)
    model = with_tokens(base, quantization)
    save_adapter(model, tmp_path, checkpoint)
    saved = load_file(tmp_path / WEIGHTS_FILE)
    expected = {
        name.replace(".default", ""): value for name, value in adapter_parameters(model).items()
    }
    assert saved.keys() == expected.keys(), "two rows, and not the whole embedding"
    ours = load_adapter(load_base(checkpoint, quantization, torch.float32, CPU), tmp_path)
    require_same_logits(logits_with_tokens(ours), logits_with_tokens(model))
    assert not any(value.requires_grad for value in ours.parameters())
    if quantization == "none":
        stock = WhisperForConditionalGeneration.from_pretrained(checkpoint.path)
        stock = PeftModel.from_pretrained(stock, tmp_path)
        require_same_logits(logits_with_tokens(stock), logits_with_tokens(model))


def test_merged_in_place_restores_token_embeddings_to_the_bit():
    model = with_tokens()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = logits_with_tokens(model)
    with merged_in_place(model):
        merged = model.get_base_model().proj_out.token_adapter.base_layer.weight
        assert torch.equal(merged[list(TOKENS)], token_embedding(model))
        inside = logits_with_tokens(model)
    torch.testing.assert_close(inside, before, atol=MERGE_TOLERANCE, rtol=0)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits_with_tokens(model), before)


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


WIDTH, HIDDEN = 16, 32


def test_rows_by_hand() -> None:
    config = adapter_config(rank=4, encoder_rank=2, targets="attention-qv")
    model = attach(toy_model(), config, "none", False, 0, (264, 265))
    assert adapter_table(model) == [
        TableRow("encoder self_attn q v", 2 * 2, (WIDTH, WIDTH), 2, 4 * 2 * 2 * WIDTH),
        TableRow("decoder self_attn q v", 2 * 2, (WIDTH, WIDTH), 4, 4 * 4 * 2 * WIDTH),
        TableRow("decoder encoder_attn q v", 2 * 2, (WIDTH, WIDTH), 4, 4 * 4 * 2 * WIDTH),
        TableRow("decoder embed_tokens", 1, (2, WIDTH), None, 2 * WIDTH),
    ]


def test_the_feed_forward_layers_have_rows_of_their_own() -> None:
    rows = adapter_table(attach(toy_model(), adapter_config(rank=4), "none", False, 0))
    assert [(row.name, row.shape) for row in rows[:3]] == [
        ("encoder self_attn q k v out", (WIDTH, WIDTH)),
        ("encoder fc1", (HIDDEN, WIDTH)),
        ("encoder fc2", (WIDTH, HIDDEN)),
    ]


@pytest.mark.parametrize("kind", ["lora", "dora", "adalora"])
def test_the_rows_add_up_to_what_is_trained(kind: str) -> None:
    model = attach(toy_model(), adapter_config(kind), "none", False, 0, (264,), total_steps=10)
    rows = adapter_table(model)
    assert sum(row.parameters for row in rows) == parameter_counts(model)[0]
    lines = list(layer_lines(rows))
    assert {len(line) for line in lines} == {78}, "the columns stand below each other"
    shares = [float(line.split()[-2]) for line in lines[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
