"""PiSSA: what is trained are the weights' largest singular vectors, what is frozen is the rest.

W = R + s·B0·A0, where B0·A0 are the principal components; R takes the place of the base's weights
and stays frozen, B and A start as B0 and A0. Meng et al. 2024, https://arxiv.org/abs/2404.02948

The adapter alone is worth nothing, since it belongs to R: what ships is B·A - B0·A0 as a plain LoRA
of twice the rank. So the run keeps A0 and B0 in a file. A resumed run takes them from there too,
because an SVD is not the same to the last bit on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from lora_whisper.model.kinds import ADAPTER, lora_layers

if TYPE_CHECKING:
    from peft import PeftModel

INITIAL_FILE = "initial.safetensors"  # beside the checkpoints


def read_initial(path: Path) -> dict[str, Tensor] | None:
    """A0 and B0 by the full names of the parameters that started as them; None without a file."""
    return load_file(path) if path.is_file() else None


@torch.no_grad()
def restore_start(model: PeftModel, initial: Mapping[str, Tensor]) -> None:
    """Give fresh LoRA layers the start of an earlier run: A0 and B0, and R in the base's place."""
    for path, layer in lora_layers(model).items():
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        prefix = f"base_model.model.{path}"
        a.copy_(initial[f"{prefix}.lora_A.{ADAPTER}.weight"])
        b.copy_(initial[f"{prefix}.lora_B.{ADAPTER}.weight"])
        weight = layer.get_base_layer().weight
        # In PEFT's order of operations, so that the residual is that of the first start to the bit.
        residual = weight.float() - layer.scaling[ADAPTER] * b @ a
        weight.copy_(residual)
