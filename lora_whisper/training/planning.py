"""What training an adapter needs of a GPU's memory, part by part, before it is tried.

Weights, adapter, gradients and the optimizer's moments are counted tensor by tensor. Activations
come from the real step on fake tensors (`training.fake_step`); they are affine in the number of
windows, so that a step of one window and one of two tell of all. What lies outside of the step's
tensors is assumed, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from lora_whisper.config import AdapterConfig
from lora_whisper.model.hollow import stored_bytes
from lora_whisper.training.fake_step import Setup, StepMemory, fake_step, hollow_base

FP32_BYTES = 4  # of what is trained, its gradients and moments
MOMENTS = 2  # of AdamW, for each parameter
HEADER_BYTES = 150  # of each tensor in a safetensors file, about

# Assumptions, which no tensor tells of.
CONTEXT_BYTES = 500_000_000  # CUDA's context and the kernels of the libraries, outside of PyTorch's
# allocator: 300 to 600 MB by driver and card, as nvidia-smi shows it beside an empty process
WORKSPACE_BYTES = 2 * 8_519_680  # cuBLAS, forward and backward thread: PyTorch's default of
# CUBLAS_WORKSPACE_CONFIG=:4096:2:16:8
UNUSED_SHARE = 0.05  # of the step's memory, reserved by PyTorch's allocator and not handed out


@dataclass(frozen=True)
class Memory:
    """Bytes by part."""

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    allocator: float  # an assumption
    context: float  # an assumption

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def reserved(self) -> float:
        """What `torch.cuda.max_memory_reserved` sees: all but the context."""
        return self.total - self.context


@dataclass(frozen=True)
class Plan:
    """The memory of one setup, at any micro-batch, with and without checkpointing."""

    weights_bytes: int
    trained: int  # parameters of the adapter
    tensors: int  # that they lie in
    # By whether activations are checkpointed: at each moment of a step with one and two windows.
    steps: Mapping[bool, tuple[Mapping[str, StepMemory], Mapping[str, StepMemory]]]

    def memory(self, windows: int, checkpointing: bool) -> Memory:
        """By part, for a micro-batch of so many windows."""
        step = self._step(windows, checkpointing)
        trained = FP32_BYTES * self.trained
        return Memory(
            weights=self.weights_bytes,
            adapter=trained,
            gradients=trained,
            optimizer=MOMENTS * trained,
            activations=step.activations_bytes,
            logits=step.logits_bytes,
            allocator=WORKSPACE_BYTES + UNUSED_SHARE * step.total_bytes,
            context=CONTEXT_BYTES,
        )

    def largest_micro_batch(self, memory_bytes: float, checkpointing: bool, most: int) -> int:
        """The most windows that fit, up to `most`; 0 where not one does."""
        fits = [
            windows
            for windows in range(1, most + 1)
            if self.memory(windows, checkpointing).total <= memory_bytes
        ]
        return max(fits, default=0)

    def _step(self, windows: int, checkpointing: bool) -> StepMemory:
        one, two = self.steps[checkpointing]
        moments = [
            one[moment].plus(two[moment], windows - 1).plus(one[moment], 1 - windows)
            for moment in one
        ]
        return max(moments, key=lambda step: step.total_bytes)


def make_plan(setup: Setup, tokens: int) -> Plan:
    """Count what does not depend on the micro-batch, and try steps of one and two windows.

    Args:
        tokens: targets of each window.

    Raises:
        UserError: a range of layers that the model does not have.
    """
    weights_bytes = stored_bytes(hollow_base(setup, setup.quantization.kind))
    steps = {}
    for checkpointing in (False, True):
        step = fake_step(setup, checkpointing)
        steps[checkpointing] = (step.memory(1, tokens), step.memory(2, tokens))
    return Plan(weights_bytes, *step.trained(), steps)


def adapter_file_bytes(plan: Plan, adapter: AdapterConfig) -> int:
    """Of `adapter_model.safetensors`, about: fp32, as `save_adapter` writes it.

    PiSSA ships at twice its rank; AdaLoRA's ranks go down to `rank` on the mean.
    """
    share = 1.0
    if adapter.kind == "pissa":
        share = 2.0
    elif adapter.adalora is not None:
        initial = adapter.adalora.initial_rank or math.ceil(1.5 * adapter.rank)
        share = adapter.rank / initial
    return round(share * FP32_BYTES * plan.trained) + HEADER_BYTES * plan.tensors
