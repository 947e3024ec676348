"""What training an adapter needs of the memory, estimated part by part.

Weights, adapter, gradients and the optimizer's moments are counted tensor by tensor. Activations
come from the real step on fake tensors (`training.memory_estimator`). What lies outside of the
step's tensors is assumed, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from transformers import WhisperConfig

from lora_whisper.lora.adapter import checkpoint_activations
from lora_whisper.training.memory_estimator import (
    Peak,
    Setup,
    fullest,
    new_estimator,
    weights_bytes,
)

FP32_BYTES = 4  # of what is trained, its gradients and moments
MOMENTS = 2  # of AdamW, for each parameter
HEADER_BYTES = 150  # of each tensor in a safetensors file, about

# Assumptions, which no tensor tells of.
CONTEXT_BYTES = 500_000_000  # CUDA's context and the kernels of the libraries, outside of PyTorch's
# allocator: 300 to 600 MB by driver and card, as nvidia-smi shows it beside an empty process
WORKSPACE_BYTES = 2 * 8_519_680  # cuBLAS, forward and backward thread: PyTorch's default of
# CUBLAS_WORKSPACE_CONFIG=:4096:2:16:8
UNUSED_SHARE = 0.05  # of the step's memory, reserved by PyTorch's allocator and not handed out
# On a CPU, fitted to the most that `train` had resident with whisper-base and some 50 tokens a
# window. In fp32: 3.1 GB at a micro-batch of 1, 5.0 at 2, 8.0 at 4, of which the step's tensors are
# 0.7 a window; with nano, 1.0 GB. In bf16, with a validation: 4.6 GB at 1 and 6.6 at 2, of which
# they are 0.5 (and 3.3 GB at 1 with one thread instead of two). glibc keeps what was freed in
# pieces that the next tensor, of another size, does not fit. Each tensor in pages of its own
# (M_MMAP_THRESHOLD of 1 MB) had 2.1 GB resident and not 3.1 after three micro-batches of 2 in fp32,
# but took some 10 % more of the CPU's time.
CPU_CONTEXT_BYTES = 850_000_000  # Python and all libraries of a run
CPU_UNUSED_SHARES = {"fp32": 1.5, "bf16": 4.0}


@dataclass(frozen=True)
class Assumed:
    """What no tensor tells of."""

    workspace_bytes: int
    unused_share: float  # of the step's memory
    context_bytes: int

    @classmethod
    def of(cls, setup: Setup) -> Assumed:
        if setup.device == "cpu":
            return cls(0, CPU_UNUSED_SHARES[setup.precision], CPU_CONTEXT_BYTES)
        return cls(WORKSPACE_BYTES, UNUSED_SHARE, CONTEXT_BYTES)


# A CPU gains by more windows only where each is little work: whisper-base went through 8.6 s of
# audio a second at a micro-batch of 1, and through 8.2 at 2, on two cores.
CPU_STEP_BYTES = 2_000_000_000  # of a micro-batch, unless one window takes more
CPU_MOST_WINDOWS = 8
CPU_MEMORY_SHARE = 0.5  # of what the process can have: other programs want some, and it is assumed


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


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of one setup, at any micro-batch, with and without checkpointing."""

    weights_bytes: int
    trained: int  # parameters of the adapter
    tensors: int  # that they lie in
    peaks: Mapping[bool, Sequence[Peak]]  # of a step, by whether activations are checkpointed
    assumed: Assumed
    device: str  # cuda or cpu

    def memory(self, windows: int, checkpointing: bool) -> Memory:
        """By part, for a micro-batch of so many windows."""
        step = fullest(self.peaks[checkpointing], windows)
        trained = FP32_BYTES * self.trained
        assumed = self.assumed
        return Memory(
            weights=self.weights_bytes,
            adapter=trained,
            gradients=trained,
            optimizer=MOMENTS * trained,
            activations=step.activations_bytes,
            logits=step.logits_bytes,
            allocator=assumed.workspace_bytes + assumed.unused_share * step.total_bytes,
            context=assumed.context_bytes,
        )

    def largest_micro_batch(self, memory_bytes: float, checkpointing: bool, most: int) -> int:
        """The most windows that fit, up to `most`; 0 where not one does."""
        fits = [
            windows
            for windows in range(1, most + 1)
            if self.memory(windows, checkpointing).total <= memory_bytes
        ]
        return max(fits, default=0)


def micro_batch_on_cpu(plan: MemoryPlan, memory_bytes: float) -> int:
    """As many windows as a CPU gains anything by and as the memory holds; one at least.

    Args:
        plan: with checkpointing or without, and not both.
        memory_bytes: that the process has or can still get.
    """
    (checkpointing,) = plan.peaks
    enough = plan.memory(0, checkpointing).total + CPU_STEP_BYTES
    budget = min(enough, CPU_MEMORY_SHARE * memory_bytes)
    return max(1, plan.largest_micro_batch(budget, checkpointing, CPU_MOST_WINDOWS))


def decoding_bytes(shape: WhisperConfig, rows: int, number_bytes: int) -> float:
    """What a batch takes in scoring: keys and values of each window in each layer of the decoder.

    Twice, since they are copied when rows leave it, those that stay before the old ones go.
    """
    positions = shape.max_source_positions + shape.max_target_positions
    return 2.0 * rows * 2 * shape.decoder_layers * positions * shape.d_model * number_bytes


def plan_memory(
    setup: Setup, tokens: int, checkpointing: Sequence[bool] = (False, True)
) -> MemoryPlan:
    """Count what does not depend on the micro-batch, and try a step.

    Args:
        tokens: targets of each window.
        checkpointing: of what the plan is to know, without and with; each takes a second.

    Raises:
        UserError: a range of layers that the model does not have.
    """
    step = new_estimator(setup, gradient_checkpointing=False)
    peaks = {}
    for on in sorted(checkpointing):
        if on:
            checkpoint_activations(step.whisper)
        peaks[on] = step.peaks(tokens)
    return MemoryPlan(weights_bytes(setup), *step.trained(), peaks, Assumed.of(setup), setup.device)


def adapter_file_bytes(plan: MemoryPlan, share: float) -> int:
    """Of `adapter_model.safetensors`, about: fp32, as `save_adapter` writes it.

    Args:
        share: of what is trained that ships, see `shipped_share`.
    """
    return round(share * FP32_BYTES * plan.trained) + HEADER_BYTES * plan.tensors
