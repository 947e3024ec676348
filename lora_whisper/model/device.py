"""Processes, device and precision, through accelerate; which attention; how long work takes."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, broadcast
from torch import Tensor, nn
from transformers.utils import is_flash_attn_2_available

from lora_whisper import processes
from lora_whisper.errors import UserError, listing
from lora_whisper.model.cpu_kernels import use_fast_products

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

    Of a CPU that is fp32; a run that begins on one has it tried out (`training.precision`).

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


def trains_on_cpu() -> bool:
    """Whether there is nothing else to compute on."""
    return torch.accelerator.current_accelerator(check_available=True) is None


TRIED_SECONDS = 0.2
TRIED_ROWS = 512  # a third of a window's positions


@functools.cache
def bf16_gain(width: int) -> float:
    """How many times as long a linear layer of a model of this width takes in fp32 as in bf16.

    There and back, frozen, as training computes it on this CPU; of some goes the fastest.
    """
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    layers = {dtype: nn.Linear(width, 4 * width, dtype=dtype) for dtype in seconds}
    started = time.perf_counter()
    while math.isinf(max(seconds.values())) or time.perf_counter() - started < TRIED_SECONDS:
        for dtype, layer in layers.items():
            layer.requires_grad_(False)
            use_fast_products(layer)
            x = torch.ones(TRIED_ROWS, width, dtype=dtype, requires_grad=True)
            since = time.perf_counter()
            layer(x).sum().backward()
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - since)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def choose_dtype(name: str, precision: str) -> torch.dtype:
    """Turn `model.dtype` into the dtype of the frozen weights; auto is that of `precision`.

    One decides the other: fp32 arithmetic on weights rounded to bf16 would be fp32 in name only.
    """
    if name == "auto":
        return DTYPES[choose_precision(precision)]
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


# ── which kernel computes attention ───────────────────────────────────────────────────────────────

SDPA, FLASH = "sdpa", "flash_attention_2"  # as Transformers calls them
AMPERE = (8, 0)  # compute capability of the oldest GPUs that FlashAttention 2 runs on


def choose_attention(asked: str, dtype: torch.dtype, device: torch.device) -> str:
    """Turn `model.attention` into the name of a kernel; auto takes FlashAttention where it runs.

    Dao 2023, https://arxiv.org/abs/2307.08691. Its results differ from SDPA's by rounding alone.

    Args:
        dtype: of the frozen weights.

    Raises:
        UserError: FlashAttention is asked for and does not run here; names all that is missing.
    """
    if asked == "sdpa":
        return SDPA
    obstacles = _flash_obstacles(dtype, device)
    if obstacles and asked == "flash":
        raise UserError(
            f"model.attention=flash does not run here:\n{listing(obstacles)}\n"
            "Mend that, or type model.attention=auto, which takes what there is."
        )
    return SDPA if obstacles else FLASH


def _flash_obstacles(dtype: torch.dtype, device: torch.device) -> list[str]:
    """Everything that keeps FlashAttention 2 from running."""
    obstacles = []
    if device.type != "cuda":
        obstacles.append(f"it needs a GPU, found device {device.type}")
    elif torch.cuda.get_device_capability(device) < AMPERE:
        name = torch.cuda.get_device_name(device)
        obstacles.append(f"it needs an Ampere GPU or a newer one, found {name}")
    if dtype not in (torch.bfloat16, torch.float16):
        found = str(dtype).removeprefix("torch.")
        obstacles.append(f"it computes in half precision, found {found}: model.dtype=bfloat16")
    if device.type == "cuda" and not is_flash_attn_2_available():  # which asks for CUDA as well
        obstacles.append(
            "the package flash_attn, 2.3.3 or newer, is not installed: "
            "pip install flash-attn --no-build-isolation"
        )
    return obstacles


# ── how long a piece of work takes, tried before there is much of it ──────────────────────────────

Value = TypeVar("Value")
LONG_SECONDS = 1.0  # what takes longer is not done a second time only to be timed


def timed(action: Callable[[], Value], device: torch.device) -> tuple[float, Value]:
    """Seconds that `action` takes, of two goes the faster, and what it returned last.

    The first one pays for what is only done once: kernels are chosen, memory is mapped.
    """
    seconds: list[float] = []
    for _ in range(2):
        _wait_for(device)
        started = time.perf_counter()
        value = action()
        _wait_for(device)
        seconds.append(time.perf_counter() - started)
        if seconds[0] >= LONG_SECONDS:
            break
    return min(seconds), value


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
