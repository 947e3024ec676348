"""Write an adapter's folder for whoever serves it: what it takes to load it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_whisper.errors import UserError
from lora_whisper.model.checkpoint import Checkpoint, open_to_readers
from lora_whisper.model.plain import (
    AUTO_MAPPING,
    PlainAdapter,
    read_plain,
    write_plain,
)
from lora_whisper.model.saved import WEIGHTS_FILE, require_adapter
from lora_whisper.model.shipped import vllm_obstacles

DTYPES = ("float32", "float16", "bfloat16")  # float32 as it was trained

# What a DoRA adapter computes with. The rest of its configuration is of its training: dropout, how
# it started, and on what.
KEPT = (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "trainable_token_indices",
)


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
    require_adapter(adapter)
    base, precision = Checkpoint(base_name, revision, base_name), getattr(torch, dtype)
    if LoraConfig.from_pretrained(str(adapter)).use_dora:
        _write_dora(adapter, folder, base, precision)
    else:
        write_plain(_rounded(read_plain(adapter), precision), folder, base)
    return vllm_obstacles(folder)


def _rounded(plain: PlainAdapter, dtype: torch.dtype) -> PlainAdapter:
    """In the type that it is to be written in."""
    matrices = {path: (a.to(dtype), b.to(dtype)) for path, (a, b) in plain.matrices.items()}
    return PlainAdapter(matrices, {token: row.to(dtype) for token, row in plain.embeddings.items()})


def _write_dora(adapter: Path, folder: Path, base: Checkpoint, dtype: torch.dtype) -> None:
    trained = LoraConfig.from_pretrained(str(adapter))
    modules = trained.target_modules
    config = LoraConfig(
        **{key: getattr(trained, key) for key in KEPT},
        target_modules=modules if isinstance(modules, str) else sorted(modules or ()),
        base_model_name_or_path=base.path,
        revision=base.revision,
        inference_mode=True,
        auto_mapping=AUTO_MAPPING,
    )
    tensors: dict[str, Tensor] = load_file(adapter / WEIGHTS_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    rounded = {key: value.to(dtype).contiguous() for key, value in tensors.items()}
    save_file(rounded, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    open_to_readers(folder)
