"""The knobs of the base's storage, on their way from the configuration to its layers."""

from __future__ import annotations

import pytest
import torch

from lora_whisper.config import TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.evaluation.loading import load_whisper
from lora_whisper.model.base import read_base
from lora_whisper.schema import from_values
from tests.cli.conftest import World
from tests.composed import train_values


def test_nf4_quantizes_its_scales_and_computes_in_the_models_dtype(world: World) -> None:
    more = ("quantization=nf4", "model.dtype=bfloat16")
    config = from_values(TrainConfig, train_values(*world.arguments("x", *more)))
    base, precision = read_base(config.model), config.training.precision
    cpu = torch.device("cpu")
    whisper = load_whisper(base, config.model, config.quantization, precision, cpu)
    linear = [layer for layer in whisper.model.modules() if isinstance(layer, torch.nn.Linear)]
    assert {layer.compute_dtype for layer in linear} == {torch.bfloat16}
    assert {layer.weight.quant_state.nested for layer in linear} == {True}
    assert whisper.dtype == torch.bfloat16


@pytest.mark.parametrize(("dtype", "precision"), [("float16", "bf16"), ("bfloat16", "fp16")])
def test_weights_in_one_half_precision_and_arithmetic_in_the_other_are_refused(
    world: World, dtype: str, precision: str
) -> None:
    """PyTorch fails at the first norm on the CPU; on a GPU each step would cast every weight."""
    more = (f"model.dtype={dtype}", f"training.precision={precision}")
    with pytest.raises(UserError, match=f"model: weights in {dtype} are not computed with in"):
        from_values(TrainConfig, train_values(*world.arguments("x", *more)))


def test_flash_without_a_gpu_is_answered_before_anything_is_read(world: World, line, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    speech = "data.train=there/is/none.jsonl"
    assert line("train", *world.arguments("x", "model.attention=flash", speech)) == 2
    assert "model.attention=flash does not run here" in capsys.readouterr().err
