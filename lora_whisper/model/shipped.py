"""What can be said of the adapter that a run leaves behind: its ranks, and who serves it.

vLLM serves Whisper with adapters since 0.18 (vllm-project/vllm#29856). Its rules are those of
`PEFTHelper`, `LoRAConfig` and `parse_fine_tuned_lora_name` in vllm/lora and vllm/config/lora.py.
"""

from __future__ import annotations

from pathlib import Path

from lora_whisper.lora.saved import read_saved
from lora_whisper.model.adapter_config import USUAL
from lora_whisper.model.targets import sees_sound

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank takes


def shipped_ranks(folder: Path) -> tuple[int, int]:
    """The lowest and the highest rank of a layer."""
    ranks = read_saved(folder).ranks.values()
    return min(ranks), max(ranks)


def vllm_max_rank(folder: Path) -> int:
    """What vLLM's --max-lora-rank has to be for this adapter, if vLLM serves it."""
    return next(rank for rank in VLLM_RANKS if rank >= shipped_ranks(folder)[1])


def vllm_obstacles(folder: Path) -> list[str]:
    """Why vLLM does not serve the adapter; empty where it does."""
    saved = read_saved(folder)
    highest = max(saved.ranks.values())
    alpha, rank = (saved.config.get(name, USUAL[name]) for name in ("lora_alpha", "r"))
    one_scale = alpha / (rank**0.5 if saved.config.get("use_rslora") else rank)
    reasons = {
        "DoRA is not served": saved.is_dora,
        "re-learnt token embeddings are not served": bool(saved.tokens),
        f"rank {highest} is over its limit of {VLLM_RANKS[-1]}": highest > VLLM_RANKS[-1],
        "the layers' scales differ, and it takes lora_alpha / r for all of them": (
            {layer.scale for layer in saved.layers.values()} != {one_scale}
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]


def vllm_is_to_be_compared(folder: Path) -> bool:
    """Whether layers are adapted that see sound, which vLLM loads but may serve only in part.

    Its kernels adapt as many rows of a layer's input as there are text tokens in a step, and its
    Whisper has no `get_mm_mapping`, by which other models count the encoder's rows apart. Read in
    vllm/lora/model_manager.py and vllm/model_executor/models/whisper.py, not run.
    """
    return any(map(sees_sound, read_saved(folder).layers))
