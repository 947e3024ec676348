"""What is said of sound while training goes on."""

import logging
from typing import Any

import pytest
import torch

from lora_whisper.data.audio import Remark
from lora_whisper.data.batches import Batch
from lora_whisper.training.audit import SoundAudit


def batch(*remarks: tuple[str, Remark]) -> Batch:
    nothing = torch.empty(0, 0)
    return Batch(nothing, nothing, nothing, 0.0, (), (), remarks=remarks)


def test_the_first_of_each_kind_is_named_unless_it_was_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data: Any = None  # of which only what is bad is asked
    audit = SoundAudit(data, remarked={"short"})
    of_kind = {kind: Remark(kind, "detail") for kind in ("short", "cancelling", "beyond_scale")}
    batches = [
        [batch(("a:1", of_kind["short"]), ("a:2", of_kind["cancelling"]))],
        [batch(("a:3", of_kind["cancelling"])), batch(("a:4", of_kind["beyond_scale"]))],
    ]
    with caplog.at_level(logging.WARNING):
        assert list(audit.watched(batches)) == batches
    first, second = caplog.messages
    assert "a:2: with channels that cancel each other; read from one of them (detail)" in first
    assert "a:4: with samples beyond full scale" in second
