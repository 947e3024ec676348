"""Runs of every kind of adapter, from the command line to the folder that ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_whisper.lora import adapter as adapter_module
from lora_whisper.lora import variants
from tests.cli.conftest import Line, World

KINDS = {
    "pissa": ["adapter=pissa", "adapter.dropout=0.2"],
    "eva": ["adapter=eva"],
    "adalora": ["adapter=adalora"],
}


def adapter(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path("outputs") / run / "adapter/adapter_model.safetensors")


def cut_off(run: str, name: str, step: int) -> None:
    """A copy of `run` that was killed at `step`: what was written later is not there."""
    folder = Path("outputs") / name
    shutil.copytree(Path("outputs") / run, folder)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "adapter")
    for checkpoint in (folder / "checkpoints").glob("*-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_ends_with_the_same_adapter(
    kind: str, world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [*KINDS[kind], "training.checkpoint_every_steps=2"]
    more += ["data.validation=null", "data.test=null"]
    monkeypatch.setattr(variants, "INTERVAL_STEPS", 1)
    assert line("train", *world.arguments("whole", *more)) == 0
    cut_off("whole", "killed", step=2)
    # What a start is computed from may give other bits on another machine: it is read instead.
    monkeypatch.setattr(adapter_module, "principal_components", None)
    monkeypatch.setattr(adapter_module, "input_directions", None)
    assert line("train", *world.arguments("killed", *more, "resume=auto")) == 0
    whole, killed = adapter("whole"), adapter("killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_the_base_of_a_pissa_run_is_scored_whole(world: World, line: Line) -> None:
    """Its weights lack their largest components while the adapter is on."""
    scores = []
    for name, kind in (("a", "pissa"), ("b", "lora")):
        arguments = world.arguments(name, f"adapter={kind}", "training.max_steps=1")
        assert line("train", *arguments, "data.validation=null") == 0
        folder = Path("outputs", name, "evaluation/base/test")
        scores.append((folder / "hypotheses.jsonl").read_text())
    assert scores[0] == scores[1]


def test_the_table_of_what_is_trained_is_printed_and_logged(
    world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = world.arguments("a", "training.max_steps=1", "data.validation=null")
    assert line("train", *arguments, "data.test=null", "adapter.encoder_rank=3") == 0
    printed = capsys.readouterr().out
    log = Path("outputs/a/train.log").read_text()
    for text in (printed, log):
        assert "rank 2 and 3, alpha" in text
        assert "encoder self_attn q k v out 8 16 × 16 3" in " ".join(text.split())
    summary: dict[str, Any] = json.loads(Path("outputs/a/summary.json").read_text())
    assert summary["adapter_ranks"] == [2, 3]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["adapter=pissa", "quantization=nf4"], "PiSSA splits the weights"),
        (["adapter=dora", "quantization=int8"], "PEFT's DoRA fails on 8-bit layers"),
        (["adapter=adalora", "adapter.decoder_rank=2"], "adalora itself finds out"),
        (["adapter.layers=decoder", "adapter.encoder_rank=2"], "the encoder gets no adapter"),
        (["adapter=adalora", "training.max_steps=1"], "cannot give out ranks in 1 steps"),
        (["adapter.layers=encoder.1-2+decoder"], "the encoder has the layers 0 to 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(
    asked: list[str],
    message: str,
    world: World,
    line: Line,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert line("train", *world.arguments("a", *asked)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("outputs/a/config.yaml").exists()
