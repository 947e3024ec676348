"""PiSSA: the split of the weights, the same one for a run that goes on, and what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.lora.adapter import adapter_parameters, attach, save_adapter
from lora_whisper.lora.delta_weights import delta_weights_of
from lora_whisper.lora.initialization import INITIAL_FILE, read_initial
from lora_whisper.lora.saved import read_saved
from lora_whisper.lora.variants import lora_layers
from lora_whisper.model.checkpoint import Checkpoint
from tests.configs import adapter_config
from tests.toys import toy_inputs, toy_model

RANK = 4
BASE = Checkpoint("owner/toy", None, "owner/toy")


def pissa(initial: dict[str, Tensor] | None = None, dtype: torch.dtype = torch.float32) -> Any:
    config = adapter_config("pissa", rank=RANK, alpha=6.0)
    return attach(toy_model().to(dtype), config, "none", False, 0, initial=initial).eval()


def start_of(model: PeftModel, folder: Path) -> dict[str, Tensor]:
    """The start, written and read."""
    start = {name: value.detach() for name, value in adapter_parameters(model).items()}
    save_file(start, folder / INITIAL_FILE)
    found = read_initial(folder / INITIAL_FILE)
    assert found is not None
    return found


def test_the_start_is_peft_s() -> None:
    config = LoraConfig(
        r=RANK, lora_alpha=6, target_modules=["fc1", "q_proj"], init_lora_weights="pissa"
    )
    stock, ours = lora_layers(get_peft_model(toy_model(), config)), lora_layers(pissa())
    for path, layer in stock.items():
        for name, value in layer.named_parameters():
            found = ours[path].get_parameter(name)
            torch.testing.assert_close(found, value, atol=1e-6, rtol=0, msg=f"{path} {name}")


def test_a_bfloat16_base_starts_off_by_the_rounding_of_the_rest_alone() -> None:
    """Half a unit in the last of bfloat16's 8 binary digits."""
    whole = dict(toy_model().bfloat16().named_modules())
    for path, layer in lora_layers(pissa(dtype=torch.bfloat16)).items():
        weight = whole[path].weight.float()
        rest, taken = layer.get_base_layer().weight.float(), layer.get_delta_weight("default")
        allowed = (weight - taken).abs() * 2**-8 + 1e-6
        assert ((rest + taken - weight).abs() <= allowed).all()


def test_the_largest_singular_values_are_trained_and_the_others_are_frozen() -> None:
    whole = dict(toy_model().named_modules())
    for path, layer in lora_layers(pissa()).items():
        values = torch.linalg.svdvals(whole[path].weight)
        trained = torch.linalg.svdvals(layer.get_delta_weight("default"))[:RANK]
        frozen = torch.linalg.svdvals(layer.get_base_layer().weight)
        torch.testing.assert_close(trained, values[:RANK], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(frozen[: len(values) - RANK], values[RANK:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_goes_on_has_the_same_weights_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    first = pissa(dtype=dtype)
    initial = start_of(first, tmp_path)
    monkeypatch.setattr(torch.linalg, "svd", None)  # another machine's may differ
    second = pissa(initial, dtype).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.state_dict().items())


def test_there_is_no_start_where_none_was_written(tmp_path: Path) -> None:
    assert read_initial(tmp_path / INITIAL_FILE) is None


def test_an_untrained_adapter_adds_nothing(tmp_path: Path) -> None:
    model = pissa()
    matrices = delta_weights_of(model, start_of(model, tmp_path)).matrices
    assert max((b @ a).abs().max().item() for a, b in matrices.values()) < 1e-5


def test_the_change_ships_at_twice_the_rank_and_fits_the_whole_base(tmp_path: Path) -> None:
    model = pissa()
    initial = start_of(model, tmp_path)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in adapter_parameters(model).values():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
        trained = model(**toy_inputs()).logits
        save_adapter(model, tmp_path, BASE, initial)
        shipped = PeftModel.from_pretrained(toy_model(), tmp_path)(**toy_inputs()).logits
    assert set(read_saved(tmp_path).ranks.values()) == {2 * RANK}
    torch.testing.assert_close(shipped, trained, atol=1e-5, rtol=0)


def test_a_rank_over_the_number_of_components_says_what_to_type() -> None:
    with pytest.raises(UserError, match=r"has 16 components.*rank is 17.*adapter\.rank"):
        attach(toy_model(), adapter_config("pissa", rank=17), "none", False, 0)
