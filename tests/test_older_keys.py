"""Keys that earlier versions had: answered, read, and known to the checkpoints of their runs."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lora_whisper import older_keys
from lora_whisper.cli.compose import hydra_over
from lora_whisper.cli.misfits import compose, known_keys, unknown_key
from lora_whisper.config import TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.older_keys import BUILT_IN, RENAMED
from lora_whisper.options import configured
from lora_whisper.run_config import as_called_now, config_hash
from lora_whisper.schema import from_values

NAMED = {
    "name": "x",
    "model": "nano",
    "data": {"train": "embedded:speech/dictation/train.jsonl", "windows": "padded"},
}

MIXED = {"train": "embedded:speech/rehearsal/train.jsonl", "weight": 0.5}


def test_none_of_them_is_a_key_and_each_new_name_is() -> None:
    commands = ("train", "search", "push", "evaluate")
    known = {key for command in commands for key in known_keys(command)}
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
        ("adapter.stack", "decoder", "called adapter.layers now. Type adapter.layers=decoder"),
        ("adapter.stack", "encoder,decoder,both", "Type adapter.layers=encoder,decoder,all"),
        ("adapter.encoder_layers", "24-31", "Type adapter.layers=encoder.24-31+decoder"),
        ("adapter.decoder_layers", "-7", "Type adapter.layers=encoder+decoder.-7"),
        ("adapter.decoder_layers", "null", "called adapter.layers now. Leave it out."),
        ("adapter.encoder_layers", "[1,2]", "Type adapter.layers=encoder.1-2+decoder"),
        ("adapter.encoder_layers", "[1,3]", "Type adapter.layers=encoder.FIRST-LAST+decoder"),
        ("adapter.adalora.initial_rank", "24", "one and a half times adapter.rank is built in"),
        ("adapter.eva.windows", "8", "64 is built in"),
        ("augmentation.speed.slowest", "0.9", "Type augmentation.speed.factors=[0.9,…]"),
        ("augmentation.noise.highest_snr_db", "20", "Type augmentation.noise.snr_db=[…,20]"),
        ("training.averaging.of", "best", "Type training.averaging=best-…"),
        ("training.averaging.count", "3", "Type training.averaging=…-3"),
        ("training.averaging.rank", "16", "Type training.averaging_rank=16"),
    ],
)
def test_what_is_typed_is_answered(key: str, value: str, answer: str) -> None:
    assert answer in unknown_key(key, value, "train")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (("adapter.stack=encoder", "adapter.encoder_layers=1-2"), "adapter.layers=encoder.1-2"),
        (
            ("adapter.encoder_layers=[1,2]", "adapter.decoder_layers=3-"),
            "adapter.layers=encoder.1-2+decoder.3-",
        ),
        (
            ("augmentation.gain.lowest_db=-3", "augmentation.gain.highest_db=2"),
            "augmentation.gain.db=[-3,2]",
        ),
        (("training.averaging.of=best", "training.averaging.count=3"), "averaging=best-3"),
        (("optimizer.warmup_share=0.1", "optimizer.warmup_steps=50"), "optimizer.warmup=50"),
        (("evaluation.probe_clips=0", "evaluation.training_utterances=9"), "diagnostics=true"),
        (("adapter.stack=encoder,decoder", "adapter.encoder_layers=1-"), "=encoder.1-,decoder"),
    ],
)
def test_keys_that_are_one_now_are_answered_alike(typed: tuple[str, str], answer: str) -> None:
    given = dict(one.split("=", 1) for one in typed)
    for key, value in given.items():
        assert str(older_keys.answer(key, value, given)).endswith(answer)


def test_the_command_line_and_files_answer_them_alike_too() -> None:
    typed = {"stack": "encoder", "encoder_layers": "1-2"}
    with hydra_over("train", None) as hydra, pytest.raises(UserError) as on_the_line:
        compose(hydra, "train", [f"adapter.{key}={value}" for key, value in typed.items()])
    with pytest.raises(UserError) as in_a_file:
        from_values(TrainConfig, NAMED | {"model": {}, "adapter": typed})
    for raised in (on_the_line, in_a_file):
        assert str(raised.value).count("Type adapter.layers=encoder.1-2\n") == 1
        assert str(raised.value).endswith("Type adapter.layers=encoder.1-2")


def test_what_evaluate_was_told_is_answered() -> None:
    answer = unknown_key("evaluation.probe_clips", "0", "evaluate")
    assert "Type evaluation.diagnostics=false" in answer


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


OLDER = {  # as older runs have them, and as they are called now
    "both, some": (
        {"adapter": {"stack": "both", "encoder_layers": "24-", "decoder_layers": None}},
        {"adapter": {"layers": "encoder.24-+decoder"}},
    ),
    "one, whole": ({"adapter": {"stack": "decoder"}}, {"adapter": {"layers": "decoder"}}),
    "ranges": (
        {"augmentation": {"gain": {"share": 1.0, "lowest_db": -20.0, "highest_db": 6.0}}},
        {"augmentation": {"gain": {"share": 1.0, "db": [-20.0, 6.0]}}},
    ),
    "a mean": (
        {"training": {"averaging": {"of": "last", "count": 5, "rank": None}}},
        {"training": {"averaging": "last-5", "averaging_rank": None}},
    ),
    "no mean": ({"training": {"averaging": None}}, {"training": {"averaging": None}}),
    "start": (
        {"adapter": {"kind": "eva", "adalora": None, "eva": {"windows": 64}}},
        {"adapter": {"kind": "eva"}},
    ),
}


@pytest.mark.parametrize(("older", "now"), OLDER.values(), ids=OLDER)
def test_an_older_runs_keys_are_read_as_they_are_called_now(
    older: dict[str, Any], now: dict[str, Any]
) -> None:
    assert as_called_now(older) == now


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
        (
            {
                "adapter": {"layers": "decoder.0-3", "decoder_rank": 8},
                "augmentation": ["speed", "noise", "gain", "reverberation"],
                "training": {"averaging": "best-3", "averaging_rank": 8},
            },
            "ad4a26c27a826e3bf517a79c3130d3132a6ef4b9f9da62d1ff85d77c55b6de74",
        ),
        (
            {
                "adapter": {"layers": "encoder.24-+decoder"},
                "data": NAMED["data"] | {"mix": [MIXED]},
            },
            "da7621b0b1cd9a0bbed4aad9b10682b9208c76134c2033e34e357ea1d57c2ea9",
        ),
    ],
)
def test_a_checkpoint_knows_its_configuration_by_what_it_was_called(
    given: dict[str, Any], sha256: str
) -> None:
    """As the version that had all of these keys hashed it."""
    assert config_hash(configured(TrainConfig, NAMED | given)) == sha256
