"""The trimmed adapter is what was trained: stock PEFT's logits, and nothing of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.export.adapter import DTYPES, write
from lora_whisper.lora.adapter import adapter_parameters, attach, save_adapter
from lora_whisper.lora.saved import exported_ranks
from lora_whisper.model.checkpoint import Checkpoint
from tests.configs import adapter_config
from tests.toys import toy_inputs, toy_model

TOKEN = 264
PER_STACK = {"encoder_rank": 4, "decoder_rank": 8}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {},
    "eva": {},
    "dora": {},
    "unequal ranks": {"kind": "lora", **PER_STACK},
    "unequal ranks of rslora": {"kind": "rslora", **PER_STACK},
    "unequal ranks of dora": {"kind": "dora", **PER_STACK},
    "a token": {"kind": "lora", "tokens": (TOKEN,)},
    "a token of dora": {"kind": "dora", "tokens": (TOKEN,)},
}
LEFT = {
    "dora": ["DoRA is not served"],
    "unequal ranks of dora": ["DoRA is not served", "the layers' scales differ"],
    "a token": ["re-learnt token embeddings are not served"],
    "a token of dora": ["DoRA is not served", "re-learnt token embeddings are not served"],
}
# Largest difference of logits up to 2; of the short types what was seen is half of it.
NEAR = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 6e-2}


def trained(name: str, folder: Path) -> PeftModel:
    """An adapter with every matrix moved, and its folder below a home of somebody."""
    settings: dict[str, Any] = {"kind": name, "tokens": ()} | KINDS[name]
    tokens, kind = settings.pop("tokens"), settings.pop("kind")
    config = adapter_config(kind, **({"rank": 8, "dropout": 0.1} | settings))
    model = attach(toy_model(), config, "none", False, 0, tokens)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder, Checkpoint("/home/somebody/whisper", None, "whisper"))
    return model.eval()


def logits(model: torch.nn.Module) -> Tensor:
    inputs = toy_inputs()
    inputs["decoder_input_ids"][:, 1] = TOKEN
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_stock_peft_gives_the_logits_of_what_was_trained(
    name: str, dtype: str, tmp_path: Path
) -> None:
    model = trained(name, tmp_path / "adapter")
    left = write(tmp_path / "adapter", "owner/whisper", "v2", tmp_path / "served", dtype)
    served = PeftModel.from_pretrained(toy_model(), tmp_path / "served").eval()
    expected = logits(model)
    torch.testing.assert_close(logits(served), expected, atol=NEAR[dtype], rtol=0)
    assert (expected - logits(toy_model())).abs().max() > 0.1
    weights = load_file(tmp_path / "served" / "adapter_model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {f"torch.{dtype}"}
    assert exported_ranks(tmp_path / "served") == exported_ranks(tmp_path / "adapter")
    assert len(left) == len(LEFT.get(name, []))
    assert all(map(str.startswith, left, LEFT.get(name, [])))


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_left_of_the_training(name: str, tmp_path: Path) -> None:
    trained(name, tmp_path / "adapter")
    served = tmp_path / "served"
    write(tmp_path / "adapter", "owner/whisper", "v2", served, "float32")
    files = {path.name: path for path in served.iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads(files["adapter_config.json"].read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/whisper", "v2")
    assert (config["lora_dropout"], config["init_lora_weights"]) == (0.0, True)
    assert config["inference_mode"]
    assert not config["eva_config"]
    assert all(b"somebody" not in path.read_bytes() for path in files.values())
    with safe_open(files["adapter_model.safetensors"], framework="np") as weights:
        assert weights.metadata() == {"format": "pt"}
    assert len({path.stat().st_mode for path in files.values()}) == 1


@pytest.mark.parametrize("name", ["unequal ranks of dora", "unequal ranks"])
def test_the_same_adapter_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    trained(name, tmp_path / "adapter")
    for time in ("first", "second"):
        write(tmp_path / "adapter", "owner/whisper", None, tmp_path / time, "float16")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_what_is_no_adapter_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no adapter"):
        write(tmp_path, "owner/whisper", None, tmp_path / "served", "float32")


def test_a_path_of_this_machine_is_no_name_for_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a hub id"):
        write(tmp_path, str(tmp_path), None, tmp_path / "served", "float32")
