"""Bases of every dtype, quantization and size under a real step of training."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from lora_whisper.data.batches import Batch
from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.model.device import new_accelerator
from lora_whisper.model.features import LogMel
from lora_whisper.model.published import shape
from lora_whisper.training.loop import Trainer, train_step
from lora_whisper.training.optim import new_optimizer
from tests.configs import adapter_config, optimizer_config
from tests.training.parts import forward, micro_batches, toy_trainer, toy_windows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # as accelerate chooses it
QUANTIZATIONS = ("none", "int8", "nf4")
NEEDS_GPU = pytest.mark.skipif(DEVICE.type == "cpu", reason="fp16 arithmetic needs a GPU")
FLOATS = [  # dtype of the frozen weights, and arithmetic of the forward pass
    ("float32", "fp32"),
    ("bfloat16", "bf16"),
    ("float16", "fp32"),
    ("float32", "bf16"),
    pytest.param("float16", "fp16", marks=[pytest.mark.gpu, NEEDS_GPU]),
]
ENCODER_POSITIONS = 50  # a second of audio, where only the widths matter


def trainer_on(checkpoint: Checkpoint, quantization: str, dtype: str, precision: str) -> Trainer:
    base = load_base(checkpoint, quantization, getattr(torch, dtype), DEVICE)
    model = attach(base, adapter_config(rank=2, alpha=4.0), quantization, False, seed=3)
    return with_precision(toy_trainer(model), precision)


def with_precision(trainer: Trainer, precision: str) -> Trainer:
    """The same trainer with another arithmetic, and with an optimizer that knows of it."""
    accelerator = new_accelerator(precision)
    optimizer = new_optimizer(trainer.parameters, optimizer_config(), trainer.peak_learning_rate)
    trainer.features.to(accelerator.device)
    return dataclasses.replace(
        trainer, accelerator=accelerator, optimizer=accelerator.prepare(optimizer)
    )


def frozen_bits(trainer: Trainer) -> dict[str, Tensor]:
    named = trainer.whisper.named_parameters()
    return {name: value.detach().clone() for name, value in named if not value.requires_grad}


def require_fp32_training(trainer: Trainer, batches: list[Batch]) -> list[float]:
    """Two steps; everything that is trained, or sums up, is in fp32, and the base stays.

    Returns the losses.
    """
    before = frozen_bits(trainer)
    gradients: list[torch.dtype] = []
    for parameter in trainer.parameters.values():
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.dtype))
    assert forward(trainer, batches[0]).dtype == torch.float32
    losses = [train_step(trainer, step, batches).loss for step in range(2)]
    state = trainer.optimizer.state.values()
    moments = {entry[name].dtype for entry in state for name in ("exp_avg", "exp_avg_sq")}
    trained = {parameter.dtype for parameter in trainer.parameters.values()}
    assert {*gradients} == moments == trained == {torch.float32}
    after = frozen_bits(trainer)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return losses


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> list[float]:
    """The losses of an fp32 base."""
    trainer = trainer_on(checkpoint, "none", "float32", "fp32")
    return require_fp32_training(trainer, micro_batches(toy_windows(), 4))


@pytest.mark.parametrize(("dtype", "precision"), FLOATS)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_base_stays_low_and_what_is_trained_is_fp32(
    checkpoint, reference, quantization, dtype, precision
):
    trainer = trainer_on(checkpoint, quantization, dtype, precision)
    losses = require_fp32_training(trainer, micro_batches(toy_windows(), 4))
    assert losses == pytest.approx(reference, abs=1e-2)
    assert losses[0] > losses[1]
    codes = {"none": getattr(torch, dtype), "int8": torch.int8, "nf4": torch.uint8}[quantization]
    layers = [layer for layer in trainer.whisper.modules() if hasattr(layer, "base_layer")]
    assert {layer.base_layer.weight.dtype for layer in layers} == {codes}
    embedding = trainer.whisper.model.decoder.embed_tokens.weight
    assert embedding.dtype == (torch.float32 if quantization != "none" else codes)


# ── every published size ─────────────────────────────────────────────────────────────────────


def shallow(name: str) -> WhisperConfig:
    """A published shape with one layer a side and a second of audio: all widths are the true ones.

    Its own tokens start and end the toy windows, whose other tokens every vocabulary has.
    """
    config = shape(name)
    config.encoder_layers = config.decoder_layers = 1
    config.max_source_positions = ENCODER_POSITIONS
    return config


def bfloat16_model(config: WhisperConfig) -> WhisperForConditionalGeneration:
    """Frozen random weights, drawn faster than Transformers does."""
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config).bfloat16()
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.uniform_(-0.03, 0.03)
    model.tie_weights()
    return model.requires_grad_(False).eval()


def toy_batch(config: WhisperConfig) -> Batch:
    windows = toy_windows(2)
    for window in windows:
        window.decoder_input[0] = config.decoder_start_token_id
        window.labels[-1] = config.eos_token_id
    (batch,) = micro_batches(windows, 2)
    return dataclasses.replace(batch, waveforms=batch.waveforms[:, :16_000])


def test_whisper_tiny_trains_at_its_true_width_mels_and_vocabulary():
    """A bfloat16 base under bf16, whose products go slowly on a CPU: wider ones take minutes, and
    their shapes are tried below."""
    config = shallow("tiny")
    base = bfloat16_model(config).to(DEVICE)
    model = attach(base, adapter_config(rank=4), "none", False, seed=0)
    features = LogMel(config.num_mel_bins, 1.0)
    trainer = with_precision(dataclasses.replace(toy_trainer(model), features=features), "bf16")
    losses = require_fp32_training(trainer, [toy_batch(config)])
    assert losses[0] > losses[1]
    learnt = [name for name, value in trainer.parameters.items() if value.detach().any()]
    assert len(learnt) == len(trainer.parameters) == 2 * (6 + 10), "the B's too, from zero"


@pytest.mark.parametrize("name", ["tiny.en", "large-v3-turbo"])
def test_full_depth_has_a_forward_and_a_backward_pass(name):
    """On the meta device, which computes shapes: 30 seconds, and as many tokens as fit."""
    config = shape(name)
    with torch.device("meta"):
        base = WhisperForConditionalGeneration(config).bfloat16().requires_grad_(False)
        features = torch.empty(1, config.num_mel_bins, 3000, dtype=torch.bfloat16)
        tokens = torch.zeros(1, config.max_target_positions, dtype=torch.int64)
    model = attach(base, adapter_config(rank=4), "none", False, seed=0).to("meta")
    logits = model(input_features=features, decoder_input_ids=tokens).logits
    assert logits.shape == (1, 448, config.vocab_size)
    logits.float().sum().backward()
    for parameter in adapter_parameters(model).values():
        assert parameter.grad.shape == parameter.shape


# ── gradient checkpointing ───────────────────────────────────────────────────────────────────


def gradients_and_kept_bytes(
    checkpoint: Checkpoint, quantization: str, checkpointing: bool
) -> tuple[dict[str, Tensor], int]:
    """Of one forward and backward pass with dropout; every B has been moved off zero.

    Counted is what autograd keeps outside of checkpointed layers, which keep only their input.
    """
    base = load_base(checkpoint, quantization, torch.float32, DEVICE)
    config = adapter_config(rank=2, alpha=4.0, dropout=0.3)
    model: PeftModel = attach(base, config, quantization, checkpointing, seed=3)
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.05
    trainer = toy_trainer(model)
    (batch,) = micro_batches(toy_windows(4), 4)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(trainer, batch).backward()
    return {name: value.grad for name, value in trainer.parameters.items()}, sum(kept)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_checkpointing_gives_the_same_gradients_from_less_memory(checkpoint, quantization):
    """Dropout included, whose draws are repeated, and in the encoder, whose input needs none."""
    plain, plain_bytes = gradients_and_kept_bytes(checkpoint, quantization, False)
    again, again_bytes = gradients_and_kept_bytes(checkpoint, quantization, True)
    assert any(".encoder." in name for name in plain)
    for name, gradient in plain.items():
        assert gradient.any(), name
        assert (again[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    assert again_bytes < plain_bytes / 2
