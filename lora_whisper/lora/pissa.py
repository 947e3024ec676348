"""PiSSA: what is trained are the weights' largest singular vectors, what is frozen is the rest.

W = R + s·B0·A0, where s·B0·A0 are the principal components. R takes the place of the base's weights
and stays frozen; B and A start as B0 and A0. Meng et al. 2024, https://arxiv.org/abs/2404.02948

The adapter alone is worth nothing, since it belongs to R: what ships is B·A - B0·A0 as a plain LoRA
of twice the rank. So the run keeps A0 and B0 in a file. A resumed run takes them from there too,
because an SVD is not the same to the last bit on every machine.

PEFT's own start is not used: it rounds A0 and B0 to the base's dtype after it has taken the exact
ones out of the weights, and a bfloat16 toy started 0.02 off in logits of magnitude 1.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from lora_whisper.lora.limits import require_components
from lora_whisper.lora.variants import ADAPTER, lora_layers
from lora_whisper.run_folder import write_whole

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger("lora_whisper")

INITIAL_FILE = "initial.safetensors"  # beside the checkpoints


def write_initial(path: Path, initial: Mapping[str, Tensor]) -> None:
    """Write A0 and B0 with their hash."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in initial.items()}
    write_whole(path, save(tensors, {"sha256": _hash_of(tensors)}))


def read_initial(path: Path) -> dict[str, Tensor] | None:
    """A0 and B0 by the full names of the parameters that started as them.

    None without a file, and where it is not what was written: they are then computed again, which
    gives the same ones but for rounding.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        initial = load_file(path)
    except (SafetensorError, OSError):
        metadata, initial = None, {}
    # Without metadata, it is of an older version.
    if not initial or (metadata and metadata.get("sha256") != _hash_of(initial)):
        log.warning("checkpoint  %s is not what was written: it is computed again", path)
        return None
    return initial


def _hash_of(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(save({name: tensors[name] for name in sorted(tensors)})).hexdigest()


@torch.no_grad()
def principal_components(model: PeftModel) -> dict[str, Tensor]:
    """A0 and B0 of each layer, fp32, by the full names of their parameters.

    With W = U·S·Vᵀ, of which the first `rank` count: A0 = √(S/s)·Vᵀ and B0 = U·√(S/s). For all
    linear layers it takes a CPU core half a minute for small, and six minutes for large-v3.

    Raises:
        UserError: a rank that is larger than a weight has singular values.
    """
    initial = {}
    for path, layer in lora_layers(model).items():
        weight, rank = layer.get_base_layer().weight.float(), layer.r[ADAPTER]
        require_components(rank, min(weight.shape))
        u, values, v = torch.linalg.svd(weight, full_matrices=False)
        root = (values[:rank] / layer.scaling[ADAPTER]).sqrt()
        name_a, name_b = _names(path)
        initial[name_a], initial[name_b] = root[:, None] * v[:rank], u[:, :rank] * root
    return initial


@torch.no_grad()
def start_from_components(model: PeftModel, initial: Mapping[str, Tensor]) -> None:
    """Set A and B to A0 and B0, and take these out of the base's weights."""
    for path, layer in lora_layers(model).items():
        name_a, name_b = _names(path)
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        a.copy_(initial[name_a])
        b.copy_(initial[name_b])
        weight = layer.get_base_layer().weight
        weight.copy_(weight.float() - layer.scaling[ADAPTER] * b @ a)


def _names(path: str) -> tuple[str, str]:
    prefix = f"base_model.model.{path}"
    return f"{prefix}.lora_A.{ADAPTER}.weight", f"{prefix}.lora_B.{ADAPTER}.weight"
