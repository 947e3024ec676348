"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math

from lora_whisper.config import OptimizerConfig


def learning_rate(step: int, total_steps: int, peak: float, config: OptimizerConfig) -> float:
    """The learning rate of optimizer step `step`, 0 ≤ step < total_steps.

    It rises linearly over the warm-up and then stays (`constant`), or falls to zero in a straight
    line (`linear`) or half a cosine (`cosine`).
    """
    warmup_steps = config.warmup_steps
    if warmup_steps is None:
        warmup_steps = round(config.warmup_share * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done_share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.schedule == "constant":
        return peak
    if config.schedule == "linear":
        return peak * (1 - done_share)
    return peak * 0.5 * (1 + math.cos(math.pi * done_share))
