"""A toy run's parts, without the command line around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor

from lora_whisper.config import TrainingConfig
from lora_whisper.data.batches import Batch, collate
from lora_whisper.data.windows import Window
from lora_whisper.lora.adalora import rank_schedule_of
from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.model.device import new_accelerator
from lora_whisper.model.features import LogMel
from lora_whisper.training.loop import Trainer
from lora_whisper.training.loss import Inputs, loss_sum
from lora_whisper.training.optim import new_optimizer
from tests.configs import adapter_config, optimizer_config, training_config
from tests.toys import MEL_BINS, WINDOW_SECONDS, toy_model

EOT = 256  # the first id after the bytes


def toy_adapter(dropout: float = 0.0, seed: int = 3) -> PeftModel:
    config = adapter_config(rank=2, alpha=4.0, dropout=dropout)
    return attach(toy_model(), config, "none", gradient_checkpointing=False, seed=seed)


def toy_trainer(model: PeftModel, seed: int = 1, **changes: Any) -> Trainer:
    """A trainer whose rate is constant, so that steps are easy to compare.

    Args:
        new_optimizer: takes the place of the loop's own.
    """
    parameters, rate = adapter_parameters(model), changes.get("rate", 1e-2)
    accelerator = new_accelerator("fp32")
    schedule = optimizer_config(
        warmup=0.0,
        schedule="constant",
        max_gradient_norm=changes.get("max_gradient_norm", 1e9),
    )
    whisper: Any = model.get_base_model()
    optimizer = changes.get("new_optimizer", new_optimizer)(parameters, schedule, rate)
    model.train()
    return Trainer(
        accelerator=accelerator,
        whisper=whisper,
        parameters=parameters,
        optimizer=accelerator.prepare(optimizer),
        features=LogMel(MEL_BINS, WINDOW_SECONDS),
        total_steps=changes.get("total_steps", 10),
        peak_learning_rate=rate,
        optimizer_settings=schedule,
        settings=training_settings(**changes),
        seed=seed,
        rank_schedule=rank_schedule_of(model),
    )


def forward(trainer: Trainer, batch: Batch) -> Tensor:
    """The loss of a micro-batch, as a step has it."""
    return loss_sum(trainer.whisper, trainer.inputs(batch), trainer.accelerator.autocast())


def with_memory_for(
    windows: int, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> list[Inputs]:
    """A device that holds so many windows; returns what each forward pass of `module` was given."""
    tried: list[Inputs] = []

    def limited(whisper: Any, inputs: Inputs, *autocast: Any) -> Tensor:
        tried.append(inputs)
        loss = loss_sum(whisper, inputs, *autocast)
        if len(inputs.decoder_input) > windows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss

    monkeypatch.setattr(module, "loss_sum", limited)
    return tried


def sizes(tried: list[Inputs]) -> list[int]:
    """Windows of each."""
    return [len(inputs.decoder_input) for inputs in tried]


def descent(parameters: Mapping[str, Tensor], _: object, rate: float) -> torch.optim.Optimizer:
    """Steps as long as the gradient, for comparing sums that are added up in another order.

    Of a gradient that is zero but for rounding, Adam makes a step of full length.
    """
    return torch.optim.SGD([{"params": [*parameters.values()], "rate_factor": 1.0}], rate)


Gradients = dict[str, np.ndarray]  # of each matrix; other processes can send them


def note_gradients(trainer: Trainer) -> list[Gradients]:
    """Those that each step from now on is made of, clipped as they are."""
    noted: list[Gradients] = []

    def note(*_: object) -> None:
        named = trainer.parameters.items()
        noted.append({name: one.grad.numpy().copy() for name, one in named})

    trainer.optimizer.optimizer.register_step_pre_hook(note)
    return noted


def require_same(found: list[Gradients], expected: list[Gradients], rtol: float = 1e-4) -> None:
    """See that each matrix has the same gradient in each step, relative to its norm."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            error = np.linalg.norm(ours[name] - gradient)
            assert error <= rtol * np.linalg.norm(gradient), name


def training_settings(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {
        "max_epochs": 1.0,
        "global_batch": 8,
        "micro_batch": 8,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "log_every_steps": 1,
        "loader_workers": 0,
    }
    known = {field.name for field in dataclasses.fields(TrainingConfig)}
    return training_config(**(values | {key: changes[key] for key in changes if key in known}))


def toy_windows(count: int = 8, seed: int = 0) -> list[Window]:
    """Windows of very unequal lengths and token counts: where a wrong mean shows."""
    generator = np.random.default_rng(seed)
    windows = []
    for index in range(count):
        samples = generator.normal(0, 0.1, generator.integers(2_000, 32_000)).astype(np.float32)
        tokens = generator.integers(0, EOT, size=int(generator.integers(2, 30))).tolist()
        windows.append(Window((f"toy:{index}",), samples, tokens[:-1], tokens[1:]))
    return windows


def micro_batches(windows: list[Window], size: int) -> list[Batch]:
    starts = range(0, len(windows), size)
    return [collate(windows[start : start + size], EOT) for start in starts]
