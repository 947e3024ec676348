"""A toy run's parts, without the command line around them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from peft import PeftModel

from lora_whisper.config import TrainingConfig
from lora_whisper.data.batches import Batch, collate
from lora_whisper.data.features import LogMel
from lora_whisper.data.windows import Window
from lora_whisper.model.adapter import adapter_parameters, attach
from lora_whisper.model.rank_schedule import rank_schedule_of
from lora_whisper.training.accelerator import new_accelerator
from lora_whisper.training.loop import Trainer
from lora_whisper.training.optimizer import new_optimizer
from tests.configs import adapter_config, optimizer_config, training_config
from tests.toys import MEL_BINS, WINDOW_SECONDS, toy_model

EOT = 256  # the first id after the bytes


def toy_adapter(dropout: float = 0.0, seed: int = 3) -> PeftModel:
    config = adapter_config(rank=2, alpha=4.0, dropout=dropout)
    return attach(toy_model(), config, "none", gradient_checkpointing=False, seed=seed)


def toy_trainer(model: PeftModel, seed: int = 1, **changes: Any) -> Trainer:
    """A trainer whose rate is constant, so that steps are easy to compare."""
    parameters = adapter_parameters(model)
    accelerator = new_accelerator("fp32")
    schedule = optimizer_config(
        warmup_share=0.0,
        schedule="constant",
        max_gradient_norm=changes.get("max_gradient_norm", 1e9),
    )
    whisper: Any = model.get_base_model()
    model.train()
    return Trainer(
        accelerator=accelerator,
        whisper=whisper,
        parameters=parameters,
        optimizer=accelerator.prepare(new_optimizer(parameters, schedule, 1e-2)),
        features=LogMel(MEL_BINS, WINDOW_SECONDS),
        total_steps=changes.get("total_steps", 10),
        peak_learning_rate=1e-2,
        schedule=schedule,
        settings=training_settings(**changes),
        seed=seed,
        rank_schedule=rank_schedule_of(model),
    )


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
