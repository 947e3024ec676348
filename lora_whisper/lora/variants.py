"""The kinds of adapters as PEFT's configurations, with what each kind needs that PEFT leaves open.

Matrices by kind, each below the path of its layer (all fp32, all trained):

    lora, rslora, eva   lora_A (rank, inputs)  lora_B (outputs, rank), B starts at zero
    pissa               the same two, and neither starts at zero: see `lora.initialization`
    dora                the same two, and lora_magnitude_vector (outputs,)
    adalora             the same two, neither zero, and lora_E (rank, 1), which starts at zero
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from peft import AdaLoraConfig, LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight

from lora_whisper.config import AdapterConfig
from lora_whisper.errors import UserError
from lora_whisper.lora.saved import SavedAdapter
from lora_whisper.lora.validation import final_steps, initial_rank

if TYPE_CHECKING:
    from peft import PeftModel

# Of AdaLoRA, Zhang et al. 2023, as PEFT's examples have them.
START_SHARE = 0.1  # of the run's steps, before which every layer keeps its rank
INTERVAL_STEPS = 10  # between two allocations
ORTHOGONALITY_WEIGHT = 0.5  # of the term that keeps the singular vectors orthogonal
ADAPTER = "default"  # PEFT's name for a model's only adapter


def peft_config(
    config: AdapterConfig,
    ranks: dict[str, int],
    token_indices: tuple[int, ...] = (),
    total_steps: int | None = None,
) -> LoraConfig:
    """What PEFT is asked for.

    Args:
        ranks: of each layer that gets an adapter, by its path.
        token_indices: tokens whose embeddings are trained as well.
        total_steps: optimizer steps of the run, by which AdaLoRA gives out ranks.

    Raises:
        UserError: a run that is too short for AdaLoRA, whose length nobody knows, or which lacks
            AdaLoRA's settings.
    """
    common: dict[str, Any] = {
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(ranks),
        "trainable_token_indices": list(token_indices) or None,
        "task_type": None,  # SEQ_2_SEQ_LM would pass input_ids, which Whisper does not take
    }
    if config.kind == "adalora":
        return AdaLoraConfig(**common, **_planned_ranks(config.rank, total_steps))
    # The module whose rank is not the highest, as one expression and not a path for each layer:
    # PEFT tries them all on every layer.
    rank, by_module = max(ranks.values()), {path.split(".")[1]: one for path, one in ranks.items()}
    return LoraConfig(
        r=rank,
        rank_pattern={
            rf"model\.{module}\.layers\..+": one for module, one in by_module.items() if one != rank
        },
        use_rslora=config.kind == "rslora",
        use_dora=config.kind == "dora",
        **common,
    )


def _planned_ranks(rank: int, total_steps: int | None) -> dict[str, Any]:
    """AdaLoRA's plan, from the rank that each layer begins with to the mean that is left."""
    if total_steps is None:
        raise UserError("adapter=adalora plans by the run's steps: type training.max_steps=…")
    return {
        "init_r": initial_rank(rank),
        "target_r": rank,
        "tinit": int(START_SHARE * total_steps),
        "tfinal": final_steps(total_steps),
        "deltaT": INTERVAL_STEPS,
        "orth_reg_weight": ORTHOGONALITY_WEIGHT,
        "total_step": total_steps,
    }


def shipped_share(config: AdapterConfig) -> float:
    """How many times as many numbers ship as are trained.

    PiSSA ships at twice its rank; AdaLoRA's ranks go down to `rank` on the mean.
    """
    if config.kind == "pissa":
        return 2.0
    return config.rank / initial_rank(config.rank) if config.kind == "adalora" else 1.0


def config_of_saved(saved: SavedAdapter) -> LoraConfig:
    """What PEFT is told of an adapter that was opened: what was found in it, layer by layer."""
    ranks = saved.ranks
    alphas = {path: layer.alpha for path, layer in saved.layers.items()}
    rank, alpha = _commonest(ranks), _commonest(alphas)
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern=_alternatives(ranks, rank),
        alpha_pattern=_alternatives(alphas, alpha),
        target_modules=list(ranks),
        trainable_token_indices=list(saved.tokens) or None,
        use_rslora=bool(saved.config.get("use_rslora")),
        use_dora=saved.is_dora,
        base_model_name_or_path=saved.base,
        revision=saved.revision,
        inference_mode=True,
    )


def _commonest(values: Mapping[str, Any]) -> Any:
    (found, _), *_ = Counter(values.values()).most_common(1)
    return found


def _alternatives(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """The paths of each value but the usual one, as one expression of PEFT's."""
    return {
        "|".join(re.escape(path) for path, one in values.items() if one == value): value
        for value in dict.fromkeys(values.values())
        if value != usual
    }


def lora_layers(model: PeftModel) -> dict[str, Any]:
    """The layers that carry an adapter (PEFT's LoraLayer), by their path in the base."""
    inner: Any = model.get_base_model()
    return {path: one for path, one in inner.named_modules() if isinstance(one, LoraLayer)}


@torch.no_grad()
def measure_magnitudes(model: PeftModel) -> None:
    """Set DoRA's magnitudes to the norms of the weights' rows, so that it starts as the base.

    PEFT takes the norm in the weights' dtype. In the forward pass it divides by the one in fp32,
    and a bfloat16 toy started 0.016 off in logits of magnitude 1.
    """
    for layer in lora_layers(model).values():
        weight = dequantize_module_weight(layer.get_base_layer()).float()
        magnitude = layer.lora_magnitude_vector[ADAPTER].weight
        magnitude.copy_(torch.linalg.norm(weight, dim=1))
