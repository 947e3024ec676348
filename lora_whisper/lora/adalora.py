"""AdaLoRA's ranks, which are taken from the layers where they matter least.

ΔW = s · B·diag(E)·A. Each direction is worth what its entries of A, E and B were worth to the loss,
smoothed over the steps; the values E of the least worthy are set to zero, more of them from one
allocation to the next. Zhang et al. 2023, https://arxiv.org/abs/2303.10512. The rules are PEFT's;
what it leaves to the training loop is here: the step of each call, a term of the loss, and the
state that a resumed run needs.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.adalora import AdaLoraModel
from torch import Tensor

from lora_whisper.lora.variants import ADAPTER, lora_layers


def rank_schedule_of(model: PeftModel) -> RankSchedule | None:
    """The schedule of a model that is trained with AdaLoRA; None for any other kind."""
    is_trained = isinstance(model.base_model, AdaLoraModel) and (
        not model.peft_config[ADAPTER].inference_mode
    )
    return RankSchedule(model) if is_trained else None


class RankSchedule:
    """Gives out the ranks of one model while it is trained."""

    def __init__(self, model: PeftModel):
        self._model = model
        self._tuner: Any = model.base_model  # AdaLoraModel
        self._config: Any = model.peft_config[ADAPTER]  # AdaLoraConfig
        self._is_settled = False  # whether the last allocation was made

    def regularization(self) -> Tensor:
        """What is added to the loss: the distance of A·Aᵀ and Bᵀ·B from the identity, weighted.

        A mean over the matrices, as PEFT's forward has it, which adds it only to a loss of its own.
        """
        layers = lora_layers(self._model).values()
        factors = [(layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]) for layer in layers]
        grams = [gram for a, b in factors for gram in (a @ a.T, b.T @ b)]
        distances = [torch.linalg.norm(gram - torch.eye(len(gram)).to(gram)) for gram in grams]
        return self._config.orth_reg_weight * torch.stack(distances).mean()

    def update(self, step: int) -> None:
        """Weigh the directions by the step's gradients, and take ranks away when it is time.

        Once an optimizer step, after `optimizer.step()`, which would move the values that are set
        to zero here, and before the gradients go. Skipped steps may be left out: the last
        allocation is then made up for.

        Args:
            step: optimizer steps that were done before this one.
        """
        layers = lora_layers(self._model).values()
        if any(layer.lora_E[ADAPTER].grad is None for layer in layers):
            return  # a step without a window, in which nothing was moved either
        # PEFT counts from 1: counted from 0, a run without a final share ends before its last
        # allocation.
        number = step + 1
        last_allocation = self._config.total_step - self._config.tfinal
        if number >= last_allocation and not self._is_settled:
            number, self._is_settled = last_allocation, True
        self._tuner.update_and_allocate(number)

    def ranks(self) -> dict[str, int]:
        """How many directions each layer has left, by its path."""
        layers = lora_layers(self._model)
        return {path: int(one.lora_E[ADAPTER].count_nonzero()) for path, one in layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; plain values and tensors."""
        allocator = self._tuner.rankallocator
        return {
            "is_settled": self._is_settled,
            "pattern": self._config.rank_pattern,  # which values of E are left
            "sensitivity": dict(allocator.exp_avg_ipt),
            "uncertainty": dict(allocator.exp_avg_unc),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the schedule of which `state` was taken."""
        allocator = self._tuner.rankallocator
        parameters = dict(self._tuner.model.named_parameters())
        allocator.exp_avg_ipt, allocator.exp_avg_unc = (
            {name: value.to(parameters[name]) for name, value in state[key].items()}
            for key in ("sensitivity", "uncertainty")
        )
        # Computed anew in each step; PEFT takes a name that is missing here for its first step.
        allocator.ipt = {
            name: torch.zeros_like(value) for name, value in allocator.exp_avg_ipt.items()
        }
        self._config.rank_pattern = state["pattern"]
        self._is_settled = state["is_settled"]
