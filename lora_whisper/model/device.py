"""Processes, device and precision, through accelerate."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, broadcast
from torch import Tensor

from lora_whisper import processes
from lora_whisper.errors import UserError

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# For each other. NCCL's ten minutes are too few where one process reads the speech of a slow disk,
# or the main one alone makes a mean of adapters; one that ends is noticed by the launcher.
PATIENCE = timedelta(hours=2)


def new_accelerator(precision: str) -> Accelerator:
    """An `Accelerator` for one run.

    accelerate keeps its state for the life of a process and refuses a second precision, so that the
    points of a sweep would fall over each other; what the point before left is forgotten here.
    """
    if AcceleratorState._shared_state:
        AcceleratorState._reset_state(reset_partial_state=processes.count() == 1)
        GradientState._reset_state()
    return Accelerator(
        mixed_precision=MIXED_PRECISION[choose_precision(precision)],
        cpu=_share_over_cpu(),
        # Said, for it is otherwise looked up in the environment; our losses are divided already.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )


def join_processes() -> None:
    """Meet the processes that a launcher started beside this one; all of them wait for the last."""
    PartialState(cpu=_share_over_cpu(), timeout=PATIENCE)


def _share_over_cpu() -> bool:
    """Whether several processes compute on the CPU, which accelerate has to be told.

    On a Mac too: PyTorch sends nothing from one MPS device to another.
    """
    device = torch.accelerator.current_accelerator(check_available=True)
    return processes.count() > 1 and (device is None or device.type == "mps")


@torch.no_grad()
def take_from_main(tensors: Iterable[Tensor]) -> None:
    """Give every process the main one's values: what was drawn may differ between machines."""
    for tensor in tensors:
        tensor.copy_(broadcast(tensor.detach()))


def choose_precision(name: str) -> str:
    """Turn `training.precision` into fp32, bf16 or fp16; auto takes what the device is good at.

    Raises:
        UserError: fp16 without a GPU, which accelerate would leave out without a word.
    """
    if name == "fp16" and not torch.cuda.is_available():
        raise UserError("training.precision=fp16 needs a GPU. Type bf16, or leave it out.")
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def choose_dtype(name: str, precision: str) -> torch.dtype:
    """Turn `model.dtype` into the dtype of the frozen weights; auto is that of `precision`.

    One decides the other: fp32 arithmetic on weights rounded to bf16 would be fp32 in name only.
    """
    if name == "auto":
        return DTYPES[choose_precision(precision)]
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
