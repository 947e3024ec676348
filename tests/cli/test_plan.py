"""What `plan` says: one checkpoint, all of them, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import WhisperConfig

from lora_whisper.__main__ import carry_out
from lora_whisper.config import memory_bytes
from lora_whisper.model.base import shape_of
from lora_whisper.training import gpu_plan
from tests.configs import model_config
from tests.toys import toy_config


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert carry_out("plan", [*arguments, "json=true"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration alone, without weights and tokenizer; of one layer, since each takes time."""
    path = tmp_path_factory.mktemp("shape")
    one_layer().save_pretrained(path)
    return path


@pytest.fixture(autouse=True, scope="module")
def each_step_is_tried_once() -> Iterator[None]:
    """A plan takes a second, and hangs on its setup alone; several are asked for by most tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plan_memory", "step_flops"):
            patch.setattr(gpu_plan, name, once(getattr(gpu_plan, name)))
        yield


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[str, Any] = {}

    def found(*given: Any) -> Any:
        if repr(given) not in known:
            known[repr(given)] = function(*given)
        return known[repr(given)]

    return found


def one_layer() -> WhisperConfig:
    config = toy_config()
    config.encoder_layers = config.decoder_layers = 1
    return config


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
    arguments = ["model=nano", f"model.checkpoint={folder}", "gpu_memory=8GB", "tokens=10"]
    assert carry_out("plan", arguments) == 0
    said = capsys.readouterr().out
    for word in ("weights", "activations", "assumed", "largest micro-batch", "TFLOP", "adapter:"):
        assert word in said
    assert max(map(len, said.splitlines())) <= 80


def test_an_experiment_is_planned_as_it_is_trained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["experiment=large-v3-8gb", "name=mine", "data.train=a.jsonl", "gpu_memory=8GB"]
    answer = as_json(capsys, *given, f"model.checkpoint={folder}", "training.global_batch=5")
    assert answer["quantization"] == "nf4"
    assert answer["gradient_checkpointing"]
    assert answer["micro_batch"] == 5, "auto: as many as fit"


def test_what_to_change_when_nothing_fits(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_plan, "SMALLER", ())
    given = ("model=nano", f"model.checkpoint={folder}", "gpu_memory=1MB", "adapter.rank=9")
    typed = [one["type"] for one in as_json(capsys, *given)["suggestions"]]
    steps = (
        "training.gradient_checkpointing=true",
        "quantization=nf4",
        "adapter.targets=attention-qv",
        "adapter.rank=8",
    )
    assert typed == [" ".join(steps[: count + 1]) for count in range(len(steps))]
    assert carry_out("plan", [*given[:3], *steps]) == 0
    said = capsys.readouterr().out
    assert "not yet" not in said, "all of it is typed already"
    assert "nothing fits" in said


def test_what_is_advised_fits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without checkpointing a window does not fit; with what is then said to be typed, it does."""
    given = ["model=nano", f"model.checkpoint={folder}", "training.micro_batch=64"]
    memory = as_json(capsys, *given)
    most = memory["memory_bytes"]["total"] - 1
    answer = as_json(capsys, *given, f"gpu_memory={most}B")
    assert answer["fits"] is False
    (advice,) = answer["suggestions"]
    assert advice["type"] == "training.micro_batch=16", "the global batch"
    followed = as_json(capsys, *given[:2], f"gpu_memory={most}B", advice["type"])
    assert followed["fits"] is True
    assert followed["memory_bytes"]["total"] == pytest.approx(advice["total_bytes"], abs=10)


def test_the_table_of_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_plan, "CHECKPOINTS", ("large-v3-turbo",))
    monkeypatch.setattr("lora_whisper.model.published.shape", lambda name: one_layer())
    rows = as_json(capsys, "gpu_memory=8GB", "adapter=dora")["rows"]
    assert [row["quantization"] for row in rows] == ["none", "int8", "nf4"]
    assert "second forward" in rows[1]["refused"]
    assert rows[0]["fits"]
    assert rows[0]["micro_batch"] == 16
    assert carry_out("plan", ["quantization=nf4"]) == 0
    said = capsys.readouterr().out
    assert "large-v3-turbo" in said
    assert "int8" not in said


def test_a_shape_is_known_by_its_published_name() -> None:
    shape = shape_of(model_config("openai/whisper-large-v3-turbo"))
    assert (shape.encoder_layers, shape.decoder_layers) == (32, 4)
    assert shape_of(model_config("somebody/whisper-small-sw")).d_model == 768


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpu_memory=8"], "such as"),
        (["model=huge"], "there is no such option"),
        (["quantization=nf5"], "Did you mean nf4"),
        (["tokens=0"], "expected 1 or more"),
        (["adapter=pissa", "quantization=nf4"], "does not train on"),
        (["model=tiny", "model.dtype=float16", "training.precision=bf16"], "not computed with"),
        (["model=tiny", "adapter.layers=encoder.9-12"], "the encoder has the layers 0 to 3"),
        (["model=tiny", "model.checkpoint=nobody/nothing"], "model.checkpoint=nobody/nothing"),
        (["gpu_memory=8", "adapter.rank=0"], "adapter.rank"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carry_out("plan", arguments) == 2
    assert words in capsys.readouterr().err
