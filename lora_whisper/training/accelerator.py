"""Device, precision and processes, through accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def new_accelerator(precision: str) -> Accelerator:
    """An `Accelerator` for one run.

    accelerate keeps its state for the life of a process and refuses a second precision, so that the
    points of a sweep would fall over each other; what the point before left is forgotten here.
    """
    if AcceleratorState._shared_state:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return Accelerator(mixed_precision=MIXED_PRECISION[choose_precision(precision)])


def choose_precision(name: str) -> str:
    """Turn `training.precision` into fp32, bf16 or fp16; auto takes what the device is good at."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
