"""`export`: what is written is tried, and what differs is said."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.cli import export
from lora_whisper.cli.export import _show_quantizer
from lora_whisper.config import EXPORT_DTYPES
from lora_whisper.evaluation.decoding.transcribe import Transcriptions
from lora_whisper.export import adapter, ctranslate2
from lora_whisper.export import parity as parity_module
from lora_whisper.export.whisper_cpp import quantize_command
from tests.cli.conftest import Line, Refusal, World
from tests.toy_speech import write_manifest


def parity(name: str, run: str = "outputs/a") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(run, "export", name, "parity.json").read_text())
    return found


def said_by_adapter(world: World, path: Path) -> Path:
    """The test set with the adapter's own words as references: they are no speech of anybody's."""
    lines = Path("outputs/a/evaluation/adapter/test/hypotheses.jsonl").read_text().splitlines()
    texts = [json.loads(one)["hypothesis"] for one in lines]
    rows = map(json.loads, (world.speech / "test.jsonl").read_text().splitlines())
    return write_manifest(
        path,
        [
            row | {"audio": str(world.speech / row["audio"]), "text": text}
            for row, text in zip(rows, texts, strict=True)
        ],
    )


def test_exports_say_what_the_merged_model_says(
    finished: list[str], line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was not merged is merged first, and scored as `merge` does."""
    formats = "format=[ctranslate2,onnx,adapter]"
    assert line("export", "run=outputs/a", formats, "dtype=float32", "base=me/base") == 0
    said = capsys.readouterr().out
    assert json.loads(Path("outputs/a/summary.json").read_text())["merged"] is not None
    for name in ("ctranslate2", "onnx", "adapter"):
        found = parity(name)
        assert list(found["scores"]) == ["base", "adapter", "merged", f"{name} float32"]
        assert found["scores"]["merged"]["wer"] == found["scores"][f"{name} float32"]["wer"]
        assert (found["identical"], found["utterances"], found["difference"]) == (4, 4, 0.0)
        assert (found["padding"], found["other_padding"]["padding"]) == ("sound", "log-mel")
        assert f"{name} float32 in {found['consumer']}" in " ".join(said.split())
        assert str(tmp_path) not in Path("outputs/a/export", name, "parity.json").read_text()
    assert {one.name for one in Path("outputs/a/export/adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_what_differs_is_exit_code_1(
    finished: list[str],
    world: World,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here the base is exported, as by a converter that does not see the adapter."""
    said_by_adapter(world, Path("own.jsonl"))
    whole = ctranslate2.write
    monkeypatch.setattr(
        ctranslate2, "write", lambda _, folder, dtype: whole(world.checkpoint, folder, dtype)
    )
    given = ("run=outputs/a", "format=ctranslate2", "dtype=float32", "data.test=own.jsonl")
    assert line("export", *given) == 1
    found = parity("ctranslate2")
    assert not found["is_within"]
    assert found["scores"]["merged"]["wer"] == 0
    assert found["scores"]["ctranslate2 float32"]["wer"] == found["scores"]["base"]["wer"] > 0
    assert found["differing"][0].keys() == {"row", "reference", "merged", "ctranslate2 float32"}
    printed = capsys.readouterr()
    assert "is not what was measured" in printed.out + printed.err
    assert "DIFFERS" in printed.out


def test_a_program_that_hears_otherwise_is_told_from_weights_that_do(
    finished: list[str],
    world: World,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As faster-whisper may do with a model of a published size: here it hears what nobody said."""

    def babble(utterances: Sequence[Any], *_: object) -> Transcriptions:
        count = len(utterances)
        return Transcriptions(
            ("no such word " * 9,) * count, (1.0,) * count, ((),) * count, (), 1.0
        )

    monkeypatch.setattr(export, "load_runtime", lambda *_: parity_module.Runtime("mad 1", babble))
    monkeypatch.setattr(export, "is_program", lambda *_: True)
    monkeypatch.setattr(parity_module, "is_program", lambda *_: True)
    assert line("export", "run=outputs/a", "format=ctranslate2", "dtype=float32") == 1
    found = parity("ctranslate2")
    assert found["consumer"] == "mad 1"
    assert found["difference"] > 1.0
    assert (found["below"]["identical"], found["below"]["is_within"]) == (4, True)
    said = " ".join(capsys.readouterr().out.split())
    assert "the weights are right" in said
    assert "it pads the log-mel; with padded sound, merged is at" in said
    assert {one["of"]["decoding"]["padding"] for one in found["scores"].values()} == {"log-mel"}


def test_an_export_is_replaced_only_when_that_is_asked_for(finished: list[str], line: Line) -> None:
    given = ("run=outputs/a", "format=ctranslate2", "dtype=float32")
    assert line("export", *given) == 0
    place = Path("outputs/a/export/ctranslate2")
    before = (place / "model.bin").read_bytes()
    assert line("export", "run=outputs/a", "format=ctranslate2", "dtype=int8") == 2
    assert (place / "model.bin").read_bytes() == before
    more = ("dtype=int8", "overwrite=true", "parity.utterances=0")
    assert line("export", "run=outputs/a", "format=ctranslate2", *more) == 0
    assert (place / "model.bin").read_bytes() != before
    assert "scores" not in parity("ctranslate2"), "nobody has tried it"


def test_the_quantizers_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    place = Path("outputs/a/export/ggml")
    _show_quantizer(place)
    assert quantize_command(place) in capsys.readouterr().out


def test_a_merged_model_of_another_adapter_is_not_exported(
    finished: list[str], line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("merge", "run=outputs/a") == 0
    path = Path("outputs/a/merged/merge.json")
    values = json.loads(path.read_text())
    values["adapters"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(values))
    assert line("export", "run=outputs/a", "format=ctranslate2") == 2
    assert "merge run=outputs/a overwrite=true" in capsys.readouterr().err
    assert not Path("outputs/a/export").exists()


def test_an_adapter_alone_is_merged_and_exported(
    finished: list[str], world: World, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("outputs/a/adapter", "mine")
    assert line("merge", "adapter=mine") == 0
    given = ("run=outputs/mine", "format=ctranslate2", "dtype=float32")
    assert line("export", *given) == 2  # there is no speech
    assert line("export", "run=outputs/mine", "format=adapter", "base=o/n") == 2
    assert "a merged model alone" in capsys.readouterr().err
    speech = (f"data.test={world.speech / 'test.jsonl'}", "data.language=en")
    assert line("export", *given, *speech) == 0
    found = parity("ctranslate2", "outputs/mine")
    assert list(found["scores"]) == ["merged", "ctranslate2 float32"]
    assert found["identical"] == 4


def test_an_adapter_is_written_where_nothing_was_merged(finished: list[str], line: Line) -> None:
    """It ended in a FileNotFoundError, of the merged model's recipe."""
    given = ("export", "run=outputs/a", "format=adapter", "base=some/body")
    assert line(*given, "parity.utterances=0") == 0
    assert not Path("outputs/a/merged").exists()
    assert parity("adapter")["merged"] is None
    assert line("merge", "run=outputs/a") == 0
    assert line(*given, "overwrite=true", "parity.utterances=1") == 0
    assert parity("adapter")["merged"] == json.loads(
        Path("outputs/a/merged/merge.json").read_text()
    )


def test_a_run_whose_base_was_renamed_is_exported_and_evaluated_with_base(
    finished: list[str],
    world: World,
    line: Line,
    refusal: Refusal,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And so is what is advised to type next; without base= nothing is begun."""
    shutil.copytree(world.checkpoint, "moved base")
    config = Path("outputs/a/config.yaml")
    config.write_text(config.read_text().replace(str(world.checkpoint), f"{Path.cwd()}/toy"))
    quick = ("evaluation.diagnostics=false",)
    for typed in (["evaluate", *quick], ["export", "format=ctranslate2"]):
        said = refusal(*typed, "run=outputs/a")
        assert "the base that outputs/a/config.yaml names: " in said
        assert "base=path/to/folder" in said
    written = {one.name for one in Path("outputs/a").iterdir()}
    assert not written & {"merged", "export", "evaluation.json"}
    base = "base=moved base"
    assert line("export", "run=outputs/a", "format=ctranslate2", "dtype=float32", base) == 0
    advised = [one for one in capsys.readouterr().out.splitlines() if " evaluate run=" in one]
    (command,) = map(shlex.split, advised)
    assert command[1:] == ["evaluate", "run=outputs/a", base]
    assert list(parity("ctranslate2")["scores"])[:3] == ["base", "adapter", "merged"]
    assert line(*command[1:], *quick) == 0
    found = json.loads(Path("outputs/a/evaluation.json").read_text())
    assert [one["name"] for one in found["models"]] == ["base", "adapter", "merged"]
    written = ("export", "run=outputs/a", "format=adapter", "base=some/body")
    said = refusal(*written)
    assert "no such folder" in said
    (advice,) = {word.strip(".,") for word in said.split() if word.startswith("parity.")}
    assert line(*written, advice) == 0
    assert f"ln -s FOLDER {Path.cwd()}/toy" in said
    Path("toy").symlink_to("moved base")
    assert line(*written, "parity.utterances=1", "overwrite=true") == 0, "tried, as it is advised"
    assert "adapter float32" in parity("adapter")["scores"]
    assert (
        json.loads(Path("outputs/a/export/adapter/adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        == "some/body"
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["format=[ggml,onnx,ggml]"], "format: ggml stands there twice"),
        (["format=tflite"], "expected ctranslate2 or ggml or onnx or openai or adapter"),
        (["format=ggml", "dtype=int8"], "ggml has f16, f32, found int8"),
        (["format=[ctranslate2,onnx]", "dtype=int8"], "onnx has float32, float16, found int8"),
        (["format=onnx", "parity.tolerance=2"], "parity.tolerance: expected 0 … 1"),
        (["format=adapter"], "base=owner/name"),
        (["format=[ctranslate2,openai]"], "encoder_ffn_dim: found 32, expected 64"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is(
    refusal: Refusal, finished: list[str], typed: list[str], said: str
) -> None:
    assert said in refusal("export", "run=outputs/a", *typed)
    assert not Path("outputs/a/merged").exists()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("ctranslate2", "faster_whisper", "ctranslate2"),
        ("ggml", "_pywhispercpp", "ggml"),
        ("onnx", "onnxscript", "onnx"),
        ("openai", "whisper", "openai"),
    ],
)
def test_a_missing_package_is_one_line(
    finished: list[str],
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    module: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert line("export", "run=outputs/a", f"format={name}") == 2
    assert f"pip install 'lora-whisper[{extra}]'" in capsys.readouterr().err
    assert not Path("outputs/a/merged").exists()


@pytest.mark.parametrize("name", EXPORT_DTYPES)
def test_the_table_of_dtypes_is_that_of_the_writers(name: str) -> None:
    writer = adapter if name == "adapter" else parity_module.module_of(name)
    assert EXPORT_DTYPES[name] == writer.DTYPES


@pytest.mark.parametrize("name", parity_module.RUNTIMES)
def test_consumers_are_where_the_table_says(name: str) -> None:
    kind, module = parity_module.RUNTIMES[name], parity_module.module_of(name)
    assert callable(module.require_package)
    for place in filter(None, (kind.program, kind.backend)):
        assert callable(getattr(module, place).load)
