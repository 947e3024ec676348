"""What becomes of `data.windows=auto`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from lora_whisper.config import TrainConfig
from lora_whisper.data.loader import WindowKind, window_kind
from lora_whisper.options import configured

SHORT, LONG = 3.0, 25.0


def chosen(mean_seconds: float | None, **settings: Any) -> WindowKind:
    data = {"language": "sw", "train": "train.jsonl", "windows": "auto"} | settings.pop("data", {})
    config = configured(TrainConfig, {"name": "a", "data": data} | settings)
    train = mean_seconds and SimpleNamespace(seconds=10 * mean_seconds, utterances=range(10))
    base, speech = SimpleNamespace(window_seconds=30.0), SimpleNamespace(train=train)
    return window_kind(config, cast(Any, base), cast(Any, speech))


@pytest.mark.parametrize(
    ("mean_seconds", "settings", "expected", "reason"),
    [
        (SHORT, {}, "trimmed", "3.0 s"),
        (LONG, {}, "padded", "25.0 s"),
        (None, {}, "padded", "stream"),
        (SHORT, {"adapter": {"layers": "decoder"}}, "padded", "computed once"),
        (SHORT, {"adapter": {"layers": "encoder.2-+decoder"}}, "trimmed", "3.0 s"),
        (SHORT, {"adapter": {"layers": "decoder"}, "augmentation": ["speed"]}, "trimmed", "3.0 s"),
        (
            SHORT,
            {"adapter": {"layers": "decoder"}, "training": {"encoder_cache_gigabytes": 0}},
            "trimmed",
            "3.0 s",
        ),
        (SHORT, {"data": {"windows": "packed"}}, "packed", ""),
    ],
)
def test_what_saves_most_is_chosen_and_the_reason_said(
    mean_seconds: float | None, settings: dict[str, Any], expected: str, reason: str
) -> None:
    kind = chosen(mean_seconds, **settings)
    assert kind.name == expected
    assert reason in kind.reason
