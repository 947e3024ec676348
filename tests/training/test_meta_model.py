"""Models without weights store what real ones do, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.model.base import load_base
from lora_whisper.model.checkpoint import Checkpoint, locate, open_to_readers
from lora_whisper.model.published import shape
from lora_whisper.model.quantization import prepare_for_training
from lora_whisper.training.memory_estimator import attach_to_meta
from lora_whisper.training.meta_model import new_meta_model, stored_bytes
from tests.configs import adapter_config, model_config
from tests.toys import toy_checkpoint, toy_config, toy_model

KINDS = [("none", False), ("int8", False), ("nf4", True), ("nf4", False)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return locate(model_config(toy_checkpoint(tmp_path_factory.mktemp("toy"))))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The widths of whisper-tiny, two layers deep, in shards as any other checkpoint."""
    from benchmarks.random_checkpoint import write_weights

    folder = tmp_path_factory.mktemp("narrow")
    config = shape("tiny")
    config.encoder_layers = config.decoder_layers = 2
    config.save_pretrained(folder)
    write_weights(folder, config, 0, torch.bfloat16)
    open_to_readers(folder)
    return Checkpoint(str(folder), None, "narrow")


def real_bytes(model: nn.Module) -> int:
    """Parameters, buffers, and what bitsandbytes keeps beside its weights."""
    tensors = [*model.parameters(), *model.buffers()]
    total = sum(one.nbytes for one in {id(one): one for one in tensors}.values())
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        for one in (state, getattr(state, "state2", None)):
            kept = (getattr(one, name, None) for name in ("absmax", "code", "offset"))
            total += sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))
        scales = getattr(parameter, "SCB", None)
        total += scales.nbytes if scales is not None else 0
    return total


@pytest.mark.parametrize(("kind", "double"), KINDS)
def test_weights_are_as_large_as_real_ones(narrow: Checkpoint, kind: str, double: bool) -> None:
    """bitsandbytes itself quantizes the real ones."""
    base = load_base(narrow, kind, torch.bfloat16, torch.device("cpu"), double_quantization=double)
    if kind != "none":
        prepare_for_training(base)
    meta = new_meta_model(base.config, kind, torch.bfloat16, double_quantization=double)
    assert stored_bytes(meta) == pytest.approx(real_bytes(base), rel=0.01)
    assert {value.device.type for value in meta.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "adalora", "pissa", "eva"])
def test_adapters_have_the_parameters_of_real_ones(kind: str) -> None:
    config = adapter_config(kind, rank=4)
    real = attach(toy_model(), config, "none", False, seed=0, total_steps=100)
    meta = attach_to_meta(
        new_meta_model(toy_config(), "none", torch.float32), config, "none", False
    )
    shapes = [
        {name: value.shape for name, value in adapter_parameters(model).items()}
        for model in (real, meta)
    ]
    assert shapes[0] == shapes[1]


def test_a_trained_token_is_counted() -> None:
    plain = adapter_config(rank=4)
    learnt = adapter_config(rank=4, train_language_token=True)
    counts = [
        sum(
            value.numel()
            for value in adapter_parameters(
                attach_to_meta(
                    new_meta_model(toy_config(), "none", torch.float32), one, "none", False
                )
            ).values()
        )
        for one in (plain, learnt)
    ]
    assert counts[1] - counts[0] == toy_config().d_model


def test_the_output_projection_is_tied_and_stays_as_it_is(toy: Checkpoint) -> None:
    model = new_meta_model(toy_config(), "nf4", torch.bfloat16)
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert model.proj_out.weight.dtype == torch.float32
    assert Path(toy.path).is_dir()
