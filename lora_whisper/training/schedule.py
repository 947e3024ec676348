"""Learning rate as pure functions of the step."""

from __future__ import annotations

import math

from lora_whisper.config import OptimizerConfig

TINY_WIDTH, TINY_RATE = 384, 1.5e-3  # whisper-tiny's own peak rate in pre-training
WIDTH_EXPONENT = 1.8
HIGHEST_RATE = 2e-3


def learning_rate_for_width(width: int) -> float:
    """The default peak learning rate for a model of `width` (d_model) units.

    Whisper's own pre-training peaks fall with the width: 1.5e-3 at 384, 1e-3 at 512, 5e-4 at 768,
    2.5e-4 at 1024, 1.75e-4 at 1280 (Radford et al. 2022, https://arxiv.org/abs/2212.04356, table
    18). A power of 1.8 passes within a quarter of each, and LoRA trains well at such rates.
    """
    return min(HIGHEST_RATE, TINY_RATE * (TINY_WIDTH / width) ** WIDTH_EXPONENT)


def learning_rate(step: int, total_steps: int, peak: float, config: OptimizerConfig) -> float:
    """The learning rate of optimizer step `step`, 0 ≤ step < total_steps.

    It rises linearly over the warm-up and then stays (`constant`), or falls to zero in a straight
    line (`linear`) or half a cosine (`cosine`).
    """
    warmup_steps = round(config.warmup_share * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done_share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.schedule == "constant":
        return peak
    if config.schedule == "linear":
        return peak * (1 - done_share)
    return peak * 0.5 * (1 + math.cos(math.pi * done_share))


def total_steps(
    utterances: int, global_batch: int, max_epochs: float | None, max_steps: int | None
) -> int:
    """Optimizer steps of a run: the smaller of what the epochs and `max_steps` give, at least 1.

    The last step of an epoch may be short, so an epoch has ceil(utterances / global_batch) steps.
    """
    steps_per_epoch = math.ceil(utterances / global_batch)
    limits = [max_steps] if max_steps is not None else []
    if max_epochs is not None:
        limits.append(math.ceil(max_epochs * steps_per_epoch))
    return max(1, min(limits))
