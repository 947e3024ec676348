"""The table of what is trained adds up, and says each kind of layer once."""

from __future__ import annotations

import pytest

from lora_whisper.lora.adapter import TableRow, adapter_table, attach, parameter_counts
from lora_whisper.training.announce import layer_lines
from tests.configs import adapter_config
from tests.toys import toy_model

WIDTH, HIDDEN = 16, 32


def test_rows_by_hand() -> None:
    config = adapter_config(rank=4, encoder_rank=2, stack="both", targets="attention-qv")
    model = attach(toy_model(), config, "none", False, 0, (264, 265))
    assert adapter_table(model) == [
        TableRow("encoder self_attn q v", 2 * 2, (WIDTH, WIDTH), 2, 4 * 2 * 2 * WIDTH),
        TableRow("decoder self_attn q v", 2 * 2, (WIDTH, WIDTH), 4, 4 * 4 * 2 * WIDTH),
        TableRow("decoder encoder_attn q v", 2 * 2, (WIDTH, WIDTH), 4, 4 * 4 * 2 * WIDTH),
        TableRow("decoder embed_tokens", 1, (2, WIDTH), None, 2 * WIDTH),
    ]


def test_the_feed_forward_layers_have_rows_of_their_own() -> None:
    rows = adapter_table(attach(toy_model(), adapter_config(rank=4), "none", False, 0))
    assert [(row.name, row.shape) for row in rows[:3]] == [
        ("encoder self_attn q k v out", (WIDTH, WIDTH)),
        ("encoder fc1", (HIDDEN, WIDTH)),
        ("encoder fc2", (WIDTH, HIDDEN)),
    ]


@pytest.mark.parametrize("kind", ["lora", "dora", "adalora"])
def test_the_rows_add_up_to_what_is_trained(kind: str) -> None:
    model = attach(toy_model(), adapter_config(kind), "none", False, 0, (264,), total_steps=10)
    rows = adapter_table(model)
    assert sum(row.parameters for row in rows) == parameter_counts(model)[0]
    lines = list(layer_lines(rows))
    assert {len(line) for line in lines} == {78}, "the columns stand below each other"
    shares = [float(line.split()[-2]) for line in lines[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
