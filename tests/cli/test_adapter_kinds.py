"""Runs of every kind of adapter, from the command line to the folder that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Line, Refusal, World


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
    asked: list[str], message: str, world: World, refusal: Refusal
) -> None:
    assert message in " ".join(refusal("train", *world.arguments("a", *asked)).split())
    assert not Path("outputs/a/config.yaml").exists()
