"""What a kind of adapter cannot do on a checkpoint or in a run, known from shapes and steps alone.

Neither weights nor torch are needed, so that a run is refused before anything is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_whisper.config import AdaLoraConfig, AdapterConfig
from lora_whisper.errors import UserError
from lora_whisper.lora.targets import target_ranks

if TYPE_CHECKING:
    from transformers import WhisperConfig


def require_possible(config: AdapterConfig, shape: WhisperConfig) -> None:
    """See that a checkpoint of this shape can get the adapter.

    Raises:
        UserError: layers that it does not have, a rank that its layers are too narrow for, or a
            kind without its settings.
    """
    rank = max(target_ranks(config, shape).values())
    width = shape.d_model  # no layer has fewer inputs or outputs
    if config.kind == "eva":
        require_eva(config)
        require_directions(rank, width)
    if config.kind == "pissa":
        require_components(rank, width)
    if config.kind == "adalora":
        require_adalora(config)


def require_eva(config: AdapterConfig) -> int:
    """How many windows EVA's start is computed from, which has to be said."""
    if config.eva is None:
        raise UserError("adapter.kind=eva lacks its settings: type adapter=eva instead")
    return config.eva.windows


def require_directions(rank: int, width: int) -> None:
    if 2 * rank > width:  # PEFT looks for twice as many directions as it keeps
        raise UserError(
            f"adapter=eva finds up to {width // 2} directions in layers of width {width}, but the "
            f"rank is {rank}. Type a smaller adapter.rank=…, or adapter=lora."
        )


def require_components(rank: int, width: int) -> None:
    """Of a weight matrix, `width` is the shorter side."""
    if rank > width:
        raise UserError(
            f"adapter=pissa: a weight of this checkpoint has {width} components, but the rank is "
            f"{rank}. Type a smaller adapter.rank=…"
        )


def require_adalora(config: AdapterConfig) -> AdaLoraConfig:
    """AdaLoRA's settings, which have to be there."""
    if config.adalora is None:
        raise UserError("adapter.kind=adalora lacks its settings: type adapter=adalora instead")
    return config.adalora


def final_steps(settings: AdaLoraConfig, total_steps: int) -> int:
    """Steps at the end of a run in which AdaLoRA's ranks stay as they are.

    Raises:
        UserError: the run has none before them in which ranks could be given out.
    """
    steps = int(settings.final_share * total_steps)
    if total_steps - steps < 2:  # what a layer is worth is known from the first step on
        raise UserError(
            f"adapter=adalora cannot give out ranks in {total_steps} steps, of which the last "
            f"{steps} keep them. Type a larger training.max_steps=…, or adapter=lora."
        )
    return steps
