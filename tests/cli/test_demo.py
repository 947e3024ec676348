"""`lora-whisper demo`: what it refuses before a model is loaded, and what it offers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile

from lora_whisper.browser import server
from lora_whisper.cli import demo
from lora_whisper.config import DemoConfig
from tests.cli.conftest import Line, Refusal, World


@pytest.fixture(autouse=True)
def with_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nobody's business here whether it is installed."""
    monkeypatch.setattr(server, "require_gradio", lambda: None)
    monkeypatch.setattr(demo, "serve", lambda *arguments: pytest.fail("it is served"))


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ((), "expected a run=…, a model=… or an adapter=…"),
        (("run=outputs/a", "model=nano"), "expected a run=…, a model=… or an adapter=…"),
        (("run=nowhere",), "nowhere"),
        (("model=nano", "adapter=nowhere"), "adapter=nowhere: there is no such folder"),
        (("model=nano", "examples=gone.wav"), "examples=gone.wav: there is no such file"),
        (("model=nano", "language=xx"), "language=xx: the model knows af, "),
        (("model=nano", "longest_minutes=0"), "expected more than 0"),
    ],
)
def test_what_is_refused(typed: tuple[str, ...], found: str, refusal: Refusal) -> None:
    assert found in refusal("demo", *typed)
    assert not list(Path().iterdir())


def test_the_test_set_of_a_run_is_what_can_be_tried(
    finished: list[str], world: World, line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gradio")
    served: list[Any] = []
    monkeypatch.setattr(demo, "serve", lambda *arguments: served.append(arguments))
    assert line("demo", "run=outputs/a", "test_examples=2", "most_megabytes=5") == 0
    ((page, config, label, most_bytes),) = served
    assert (config.host, label, most_bytes) == ("127.0.0.1", "demo", 5_000_000)
    plan = demo.prepare(DemoConfig(run="outputs/a", test_examples=2, port=None))
    parts = demo.parts_of(plan, tmp_path)
    assert (parts.model, list(parts.adapters)) == ("a", ["a"])
    first, second = parts.examples
    assert first.audio != second.audio
    assert set(first.reference.split()) <= {"one", "two", "three", "four", "five"}
    assert soundfile.info(first.audio).samplerate == 16_000
    assert page(tmp_path).blocks


def test_a_test_set_that_is_gone_is_no_reason_not_to_try(
    finished: list[str], line: Line, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def gone(*_: object) -> None:
        raise demo.UserError("it is gone")

    monkeypatch.setattr(demo, "read_split", gone)
    assert demo.prepare(DemoConfig(run="outputs/a")).tried == []
    assert "none: it is gone" in caplog.text


def test_a_file_is_an_example_as_the_model_hears_it(world: World, tmp_path: Path) -> None:
    clip = next((world.speech / "test").glob("*.wav"))
    shutil.copyfile(clip, tmp_path / "Ein Beispiel.wav")
    config = DemoConfig(checkpoint="embedded:nano", examples=(f"{tmp_path}/Ein Beispiel.wav",))
    (example,) = demo.parts_of(demo.prepare(config), tmp_path / "kept").examples
    assert example.audio == tmp_path / "kept/examples/1/Ein-Beispiel.flac"
    assert example.reference == ""
