"""What `plan` says: one checkpoint, all of them, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.commands import plan
from lora_whisper.config import memory_bytes
from tests.configs import model_config
from tests.toys import toy_config


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert plan.main([*arguments, "json=true"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration alone, without weights and tokenizer."""
    path = tmp_path_factory.mktemp("shape")
    toy_config().save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("8GB", 8 * 10**9),
        ("7.5 GiB", round(7.5 * 2**30)),
        ("6000mb", 6 * 10**9),
        ("512MiB", 2**29),
        ("8", None),
        ("8 TBs", None),
        ("-8GB", None),
        ("0GB", None),
        ("", None),
    ],
)
def test_amounts_are_read_with_their_unit(given: str, expected: int | None) -> None:
    assert memory_bytes(given) == expected


def test_one_checkpoint_by_its_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys, "model=nano", f"model.checkpoint={folder}", "gpu_memory=8GB")
    assert answer["fits"] is True
    assert answer["suggestions"] == []
    used = answer["memory_bytes"]
    assert used["total"] == sum(size for name, size in used.items() if name != "total")
    assert answer["largest_micro_batch"] == {"without_checkpointing": 16, "with_checkpointing": 16}
    assert answer["flops_per_audio_hour"] > 0
    assert answer["audio_seconds_per_second"] == "not measured"


def test_in_words_and_in_80_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["model=nano", f"model.checkpoint={folder}", "gpu_memory=510MB", "tokens=10"]
    assert plan.main(arguments) == 0
    said = capsys.readouterr().out
    for word in ("weights", "activations", "assumed", "largest micro-batch", "TFLOP", "adapter:"):
        assert word in said
    assert max(map(len, said.splitlines())) <= 80 or "type" in said


def test_what_to_change_when_nothing_fits(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SMALLER", ())
    given = ("model=nano", f"model.checkpoint={folder}", "gpu_memory=1MB")
    typed = [one["type"] for one in as_json(capsys, *given)["suggestions"]]
    assert typed == [
        "training.gradient_checkpointing=true",
        "training.gradient_checkpointing=true quantization=nf4",
        "training.gradient_checkpointing=true quantization=nf4 adapter.targets=attention-qv",
        "training.gradient_checkpointing=true quantization=nf4 adapter.targets=attention-qv "
        "adapter.rank=8",
    ]


def test_a_smaller_micro_batch_comes_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("model=nano", f"model.checkpoint={folder}")
    many = as_json(capsys, *given, "training.micro_batch=64")["memory_bytes"]["total"]
    answer = as_json(
        capsys, *given, "training.micro_batch=64", f"gpu_memory={(many - 10**6) / 1e6:.1f}MB"
    )
    assert answer["fits"] is False
    assert answer["suggestions"][0]["type"] == "training.micro_batch=16"


def test_the_table_of_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "CHECKPOINTS", ("toy",))
    monkeypatch.setattr("lora_whisper.model.shapes.shape", lambda name: toy_config())
    rows = as_json(capsys, "gpu_memory=8GB", "adapter=dora")["rows"]
    assert [row["quantization"] for row in rows] == ["none", "int8", "nf4"]
    assert "second forward" in rows[1]["refused"]
    assert rows[0]["fits"]
    assert rows[0]["micro_batch"] == 16
    assert plan.main(["quantization=nf4"]) == 0
    said = capsys.readouterr().out
    assert "toy" in said
    assert "int8" not in said


def test_a_shape_is_known_by_its_published_name() -> None:
    shape = plan.shape_of(model_config("openai/whisper-large-v3-turbo"))
    assert (shape.encoder_layers, shape.decoder_layers) == (32, 4)
    assert plan.shape_of(model_config("somebody/whisper-small-sw")).d_model == 768


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpu_memory=8"], "such as"),
        (["tokens=0"], "expected 1 or more"),
        (["adapter=pissa", "quantization=nf4"], "does not train on"),
        (["model=tiny", "model.dtype=float16", "training.precision=bf16"], "not computed with"),
        (["model=tiny", "adapter.encoder_layers=9-12"], "the encoder has the layers 0 to 3"),
        (["model=tiny", "model.checkpoint=nobody/nothing"], "model.checkpoint=nobody/nothing"),
        (["gpu_memory=8", "adapter.rank=0"], "adapter.rank"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(arguments) == 2
    assert words in capsys.readouterr().err
