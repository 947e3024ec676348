"""AdamW over the adapter's parameters, in groups that differ in rate or decay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lora_whisper.config import OptimizerConfig
from lora_whisper.lora.adapter import is_token_embedding


def new_optimizer(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, peak: float
) -> torch.optim.AdamW:
    """Fused AdamW. Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101.

    The loop sets a group's rate to `rate_factor` times the schedule's: LoRA+ (Hayou et al. 2024,
    https://arxiv.org/abs/2402.12354) has B learn faster than A, because B starts at zero.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in parameters.items():
        is_magnitude = "lora_magnitude_vector" in name  # DoRA's, with B: as PEFT has it for LoRA+
        rate_factor = config.lora_plus_ratio if "lora_B" in name or is_magnitude else 1.0
        # What stands in for a part of the base is not to decay towards zero.
        is_of_base = is_magnitude or is_token_embedding(name)
        weight_decay = 0.0 if is_of_base else config.weight_decay
        groups.setdefault((rate_factor, weight_decay), []).append(value)
    described: list[dict[str, Any]] = [
        {"params": values, "rate_factor": rate_factor, "weight_decay": weight_decay}
        for (rate_factor, weight_decay), values in groups.items()
    ]
    return torch.optim.AdamW(described, peak, fused=True)


def set_rate(optimizer: Any, rate: float) -> None:
    """Give every group its share of the schedule's `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def learning_rate(step: int, total_steps: int, peak: float, config: OptimizerConfig) -> float:
    """The learning rate of optimizer step `step`, 0 ≤ step < total_steps.

    It rises linearly over the warm-up and then stays (`constant`), or falls to zero in a straight
    line (`linear`) or half a cosine (`cosine`).
    """
    warmup = config.warmup
    warmup_steps = round(warmup * total_steps) if warmup < 1 else int(warmup)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done_share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.schedule == "constant":
        return peak
    if config.schedule == "linear":
        return peak * (1 - done_share)
    return peak * 0.5 * (1 + math.cos(math.pi * done_share))
