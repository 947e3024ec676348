"""Write an adapter's folder for whoever serves it: what it takes to load it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.lora.delta_weights import (
    AUTO_MAPPING,
    DeltaWeights,
    delta_weights_from,
    write_delta_weights,
)
from lora_whisper.lora.saved import WEIGHTS_FILE, open_adapter, vllm_obstacles
from lora_whisper.lora.variants import config_of_saved
from lora_whisper.model.checkpoint import Checkpoint, open_to_readers
from lora_whisper.model.weights import is_finite

DTYPES = ("float32", "float16", "bfloat16")  # float32 as it was trained


def write(
    adapter: Path, base_name: str, revision: str | None, folder: Path, dtype: str
) -> list[str]:
    """Write adapter_config.json and adapter_model.safetensors, which stock PEFT loads.

    What adds B·A to the weights, with whatever scales, is written with a scale of 1 in every layer,
    for servers that take one scale for all of them. DoRA keeps its matrices as they are.

    Args:
        adapter: as stock PEFT saves it.
        base_name, revision: on the hub, what the adapter is to be loaded onto.
        folder: is made where it does not exist.
        dtype: one of DTYPES; the scale is rounded together with B.

    Returns:
        why vLLM does not serve it; empty where it does.

    Raises:
        UserError: no adapter is there, or one that is neither DoRA nor a sum with the weights; or
            the base's name is a path of this machine.
    """
    assert dtype in DTYPES
    if Path(base_name).is_absolute():
        raise UserError(f"The base's name: expected a hub id (owner/name), found {base_name}")
    saved = open_adapter(adapter)
    base, precision = Checkpoint(base_name, revision, base_name), getattr(torch, dtype)
    if saved.is_dora:
        config = config_of_saved(saved)
        config.base_model_name_or_path, config.revision = base.path, base.revision
        config.auto_mapping = AUTO_MAPPING
        config.rank_pattern = {path: layer.rank for path, layer in saved.layers.items()}
        config.alpha_pattern = {path: layer.alpha for path, layer in saved.layers.items()}
        tensors: dict[str, Tensor] = load_file(saved.folder / WEIGHTS_FILE)
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        rounded = {key: _in_range(key, value, precision) for key, value in tensors.items()}
        save_file(rounded, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        open_to_readers(folder)
    else:
        write_delta_weights(_rounded(delta_weights_from(saved), precision), folder, base)
    return vllm_obstacles(folder)


def _rounded(delta: DeltaWeights, dtype: torch.dtype) -> DeltaWeights:
    """In the type that it is to be written in."""
    matrices = {
        path: (_in_range(path, a, dtype), _in_range(path, b, dtype))
        for path, (a, b) in delta.matrices.items()
    }
    rows = {
        token: _in_range(f"token {token}", row, dtype) for token, row in delta.embeddings.items()
    }
    return DeltaWeights(matrices, rows)


def _in_range(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Raises UserError: a number is too large for `dtype`."""
    rounded = tensor.to(dtype).contiguous()
    if not is_finite(rounded):
        shown = str(dtype).removeprefix("torch.")
        raise UserError(f"{name} has numbers beyond {shown}. Type dtype=float32, or bfloat16.")
    return rounded
