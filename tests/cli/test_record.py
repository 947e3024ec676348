"""`lora-whisper record`: what it refuses before anything is written, and what it serves."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.browser import server
from lora_whisper.cli import record
from lora_whisper.config import ServedConfig
from tests.cli.conftest import Line, Refusal

TYPED = ("sentences=s.txt", "out=mine")


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "s.txt"
    path.write_text("Habari.\nKaribu.\n")
    return path


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ((), "sentences: missing; type sentences=…"),
        (("sentences=gone.txt", "out=mine"), "there is no such file"),
        ((*TYPED, "speaker=a/b"), "expected a name"),
        (("sentences=s.txt", "out=s.txt"), "out=/"),
        ((*TYPED, "user=me"), "expected a user=… and a password=…, or neither"),
        ((*TYPED, "port=70000"), "expected 1 … 65535"),
        ((*TYPED, "host=203.0.113.7", "port=7999"), "host=203.0.113.7: "),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    typed: tuple[str, ...], found: str, refusal: Refusal, sentences: Path
) -> None:
    assert found in refusal("record", *typed)
    assert [path.name for path in sentences.parent.iterdir()] == ["s.txt"]


def test_a_port_that_is_taken_is_said(refusal: Refusal, sentences: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port={port} of 127.0.0.1 is in use" in refusal("record", *TYPED, f"port={port}")


def test_without_gradio_it_says_what_to_type(
    refusal: Refusal, sentences: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'lora-whisper[demo]'" in refusal("record", *TYPED)
    assert not Path("mine").exists()


def test_it_ends_by_saying_what_was_recorded_and_what_comes_next(
    line: Line,
    sentences: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(record, "serve", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(server, "require_gradio", lambda: None)
    assert line("record", *TYPED) == 0
    assert "recorded    nothing" in capsys.readouterr().out
    (_, served, label, _), row = given[0], {"audio": "a.flac", "speaker": "a", "split": "train"}
    assert (served.host, served.share, label) == ("127.0.0.1", False, "record")
    Path("mine/recordings.jsonl").write_text(json.dumps(row | {"text": "Habari."}) + "\n")
    assert line("record", *TYPED, "language=sw") == 0
    shown = capsys.readouterr().out
    assert "recorded    1 take, 0 of them new, in mine/recordings.jsonl" in shown
    assert "train model=small name=mine data.path=mine data.language=…" in shown


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_page_for_this_machine_alone_is_no_reason_to_warn(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.warn_of_others(ServedConfig(host=host))
    assert not caplog.messages
    server.warn_of_others(ServedConfig(host="0.0.0.0"))
    server.warn_of_others(ServedConfig(share=True))
    assert len(caplog.messages) == 3
