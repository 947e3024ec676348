"""Which kernel computes attention: PyTorch's scaled dot product, or FlashAttention 2."""

from __future__ import annotations

import torch
from transformers.utils import is_flash_attn_2_available

from lora_whisper.errors import UserError, listing

SDPA, FLASH = "sdpa", "flash_attention_2"  # as Transformers calls them
AMPERE = (8, 0)  # compute capability of the oldest GPUs that FlashAttention 2 runs on


def choose_attention(asked: str, dtype: torch.dtype, device: torch.device) -> str:
    """Turn `model.attention` into the name of a kernel; auto takes FlashAttention where it runs.

    Dao 2023, https://arxiv.org/abs/2307.08691. Its results differ from SDPA's by rounding alone.

    Args:
        dtype: of the frozen weights.

    Raises:
        UserError: FlashAttention is asked for and does not run here; names all that is missing.
    """
    if asked == "sdpa":
        return SDPA
    obstacles = _flash_obstacles(dtype, device)
    if obstacles and asked == "flash":
        raise UserError(
            f"model.attention=flash does not run here:\n{listing(obstacles)}\n"
            "Mend that, or type model.attention=auto, which takes what there is."
        )
    return SDPA if obstacles else FLASH


def _flash_obstacles(dtype: torch.dtype, device: torch.device) -> list[str]:
    """Everything that keeps FlashAttention 2 from running."""
    obstacles = []
    if device.type != "cuda":
        obstacles.append(f"it needs a GPU, found device {device.type}")
    elif torch.cuda.get_device_capability(device) < AMPERE:
        name = torch.cuda.get_device_name(device)
        obstacles.append(f"it needs an Ampere GPU or a newer one, found {name}")
    if dtype not in (torch.bfloat16, torch.float16):
        found = str(dtype).removeprefix("torch.")
        obstacles.append(f"it computes in half precision, found {found}: model.dtype=bfloat16")
    if device.type == "cuda" and not is_flash_attn_2_available():  # which asks for CUDA as well
        obstacles.append(
            "the package flash_attn, 2.3.3 or newer, is not installed: "
            "pip install flash-attn --no-build-isolation"
        )
    return obstacles
