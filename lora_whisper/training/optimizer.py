"""AdamW over the adapter's parameters, in groups that differ in rate or decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lora_whisper.config import OptimizerConfig
from lora_whisper.model.adapter import is_token_embedding


def new_optimizer(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, peak: float
) -> torch.optim.AdamW:
    """Fused AdamW. Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101."""
    tokens = [value for name, value in parameters.items() if is_token_embedding(name)]
    matrices = [value for name, value in parameters.items() if not is_token_embedding(name)]
    groups: list[dict[str, Any]] = [{"params": matrices}]
    if tokens:  # they replace rows of the base, and are not to decay towards zero
        groups.append({"params": tokens, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, peak, weight_decay=config.weight_decay, fused=True)
