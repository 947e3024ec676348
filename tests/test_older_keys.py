"""Keys that earlier versions had: answered, read, and known to the checkpoints of their runs."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lora_whisper.cli.misfits import known_keys, unknown_key
from lora_whisper.config import TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.older_keys import BUILT_IN, RENAMED
from lora_whisper.options import configured
from lora_whisper.run_config import as_called_now, config_hash
from lora_whisper.schema import from_values

NAMED = {"name": "x", "model": "nano", "data": {"train": "embedded:speech/dictation/train.jsonl"}}


def test_none_of_them_is_a_key_and_each_new_name_is() -> None:
    known = set(known_keys("train")) | set(known_keys("search")) | set(known_keys("push"))
    assert not known & (BUILT_IN | RENAMED).keys()
    assert set(RENAMED.values()) <= known


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        (
            "optimizer.warmup_steps",
            "50",
            "called optimizer.warmup now. Type optimizer.warmup=50",
        ),
        ("optimizer.warmup_steps", "null", "called optimizer.warmup now. Leave it out."),
        ("optimizer.warmup_share", "1.0", "Type optimizer.warmup=0.999"),
        ("training.keep_checkpoints", "3", "2 is built in. Leave it out."),
        (
            "augmentation.telephone.codecs",
            "[opus]",
            "amr_nb, opus are built in",
        ),
        ("quantization.compute_dtype", "float16", "auto is built in"),
    ],
)
def test_what_is_typed_is_answered(key: str, value: str, answer: str) -> None:
    assert answer in unknown_key(key, value, "train")


def test_what_stands_in_a_file_of_ones_own_is_answered_too() -> None:
    values = NAMED | {"model": {}, "training": {"keep_checkpoints": 3}}
    with pytest.raises(UserError, match=r"training\.keep_checkpoints: .*2 is built in"):
        from_values(TrainConfig, values)


@pytest.mark.parametrize(
    ("share", "steps", "warmup"), [(0.1, None, 0.1), (0.0, None, 0.0), (0.5, 40, 40), (0.1, 0, 0)]
)
def test_the_warm_up_of_an_older_run(share: float, steps: int | None, warmup: float) -> None:
    older = {"optimizer": {"warmup_share": share, "warmup_steps": steps, "schedule": "cosine"}}
    assert as_called_now(older) == {"optimizer": {"schedule": "cosine", "warmup": warmup}}


def test_what_an_older_run_did_otherwise_is_said(caplog: pytest.LogCaptureFixture) -> None:
    quantization = {"kind": "nf4", "double_quantization": False, "compute_dtype": "auto"}
    with caplog.at_level(logging.WARNING):
        assert as_called_now({"quantization": quantization}) == {"quantization": {"kind": "nf4"}}
    assert caplog.messages == [
        "settings    quantization.double_quantization=False of an older version is no setting any "
        "more"
    ]


@pytest.mark.parametrize(
    ("given", "sha256"),
    [
        ({}, "d82f9873c52b04f2cbba7f4fe5bd2f9959e97c92441310ad10b930851ee3d2fd"),
        (
            {
                "adapter": "adalora",
                "quantization": "nf4",
                "augmentation": ["telephone", "spec_augment"],
            },
            "7ccd71c3fbc52c19d359402d816bb0183dd46b52360616e870d47913ab131f5e",
        ),
        (
            {
                "adapter": "eva",
                "quantization": "int8",
                "optimizer": {"warmup": 50, "schedule": "constant"},
            },
            "5bbae449226e83feb3bf0185a1cb673c20b34fdc83ac83a5821dd814b10fe8f7",
        ),
    ],
)
def test_a_checkpoint_knows_its_configuration_by_what_it_was_called(
    given: dict[str, Any], sha256: str
) -> None:
    """As the version that had all of these keys hashed it."""
    assert config_hash(configured(TrainConfig, NAMED | given)) == sha256
