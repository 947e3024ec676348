"""A run that found bf16 faster goes on in it, where the next machine would not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lora_whisper.model import cpu_kernels, device
from tests.cli.conftest import Line, World

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has a rule of its own")


def precision(name: str) -> str:
    config = yaml.safe_load(Path(f"outputs/{name}/config.yaml").read_text())
    return str(config["training"]["precision"])


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(f"outputs/{name}/adapter/adapter_model.safetensors")


def test_a_run_keeps_the_precision_that_it_began_with(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("optimizer.schedule=constant", "optimizer.warmup=1", "data.validation=null")
    asked = world.arguments("a", *more, "data.test=null")
    monkeypatch.setattr(cpu_kernels, "LEAST_WIDTH", 16)
    monkeypatch.setattr(device, "bf16_gain", lambda width: 2.0)
    assert line("train", *asked, "training.max_steps=2") == 0
    assert "bf16: linear layers take 2 times as long in fp32" in capsys.readouterr().out
    monkeypatch.setattr(device, "bf16_gain", lambda width: 0.1)
    assert line("train", *asked, "training.max_steps=4", "resume=auto") == 0
    assert precision("a") == "bf16"
    through = ["name=through", *asked[1:], "training.precision=bf16"]
    assert line("train", *through) == 0
    one, other = weights("a"), weights("through")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert line("train", *asked, "overwrite=true") == 0
    assert precision("a") == "fp32"
