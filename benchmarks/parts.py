"""The parts of a training run without files: random weights, random speech, a real trainer."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from hydra.core.override_parser.overrides_parser import OverridesParser
from peft import PeftModel
from transformers import WhisperConfig, WhisperForConditionalGeneration

from lora_whisper.config import TrainConfig
from lora_whisper.data.batches import Batch, collate
from lora_whisper.data.windows import Window
from lora_whisper.lora.adapter import adapter_parameters
from lora_whisper.model.base import window_seconds
from lora_whisper.model.features import LogMel
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.options import configured
from lora_whisper.training.defaults import learning_rate_for_width
from lora_whisper.training.loop import Trainer
from lora_whisper.training.optim import new_optimizer

TEXT_TOKENS = 100  # of a 30-second window, about what read speech has


def train_config(*overrides: str) -> TrainConfig:
    """What `lora-whisper train OVERRIDES` would compose; the data set is not looked at."""
    given = ["name=benchmark", "data.train=none.jsonl", *overrides]
    typed = OverridesParser.create().parse_overrides(given)
    return configured(TrainConfig, {one.key_or_group: one.value() for one in typed})


def random_whisper(config: WhisperConfig, seed: int = 0) -> WhisperForConditionalGeneration:
    """A frozen model as Transformers draws it; the same seed draws the same."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = WhisperForConditionalGeneration(config)
    return model.requires_grad_(False).eval()


def random_batches(
    config: WhisperConfig,
    windows: int,
    micro_batch: int,
    seed: int = 0,
    clip_seconds: float | None = None,
) -> list[Batch]:
    """One global batch of noise, with as many tokens as read speech has; None: full windows."""
    generator, eot = np.random.default_rng(seed), config.eos_token_id
    assert isinstance(eot, int)
    full = window_seconds(config)
    seconds = full if clip_seconds is None else min(clip_seconds, full)
    samples = round(seconds * SAMPLING_RATE)
    text_tokens = min(round(TEXT_TOKENS * seconds / full), config.max_target_positions - 2)
    made = []
    for number in range(windows):
        noise = generator.normal(0, 0.1, samples).astype(np.float32)
        text = generator.integers(0, eot, text_tokens).tolist()
        tokens = [config.decoder_start_token_id, *text, eot]
        made.append(Window((f"noise:{number}",), noise, tokens[:-1], tokens[1:]))
    starts = range(0, windows, micro_batch)
    return [collate(made[start : start + micro_batch], eot) for start in starts]


def new_trainer(
    model: PeftModel, config: TrainConfig, accelerator: Accelerator, total_steps: int
) -> Trainer:
    """The trainer of a run of that many steps, as `train` makes it."""
    whisper = model.get_base_model()
    assert isinstance(whisper, WhisperForConditionalGeneration)
    shape, parameters = whisper.config, adapter_parameters(model)
    peak = config.optimizer.learning_rate or learning_rate_for_width(shape.d_model)
    features = LogMel(shape.num_mel_bins, window_seconds(shape)).to(accelerator.device)
    model.train()
    return Trainer(
        accelerator=accelerator,
        whisper=whisper,
        parameters=parameters,
        optimizer=accelerator.prepare(new_optimizer(parameters, config.optimizer, peak)),
        features=features,
        total_steps=total_steps,
        peak_learning_rate=peak,
        optimizer_settings=config.optimizer,
        settings=config.training,
        seed=config.seed,
    )
