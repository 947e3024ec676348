"""What training an adapter needs of a GPU's memory, part by part, before it is tried.

Weights, adapter, gradients and the optimizer's moments are counted tensor by tensor. Activations
come from the real step on fake tensors (`training.fake_step`). What lies outside of the step's
tensors is assumed, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from lora_whisper.config import AdapterConfig
from lora_whisper.model.adapter import checkpoint_activations
from lora_whisper.training.fake_step import Peak, Setup, fake_step, fullest, weights_bytes

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
    peaks: Mapping[bool, Sequence[Peak]]  # of a step, by whether activations are checkpointed

    def memory(self, windows: int, checkpointing: bool) -> Memory:
        """By part, for a micro-batch of so many windows."""
        step = fullest(self.peaks[checkpointing], windows)
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


def make_plan(setup: Setup, tokens: int) -> Plan:
    """Count what does not depend on the micro-batch, and try a step.

    Args:
        tokens: targets of each window.

    Raises:
        UserError: a range of layers that the model does not have.
    """
    step = fake_step(setup, gradient_checkpointing=False)
    peaks = {False: step.peaks(tokens)}
    checkpoint_activations(step.whisper)
    peaks[True] = step.peaks(tokens)
    return Plan(weights_bytes(setup), *step.trained(), peaks)


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
