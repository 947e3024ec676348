"""Sentences read in a real browser, to a server that is killed in between."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from lora_whisper.browser.record_page import MOST_BYTES, record_page, samples_of
from lora_whisper.browser.server import own_folder, running
from lora_whisper.config import DataConfig, ServedConfig
from lora_whisper.data.audio import read_audio
from lora_whisper.data.sources import read_split
from lora_whisper.errors import UserError
from lora_whisper.recording.collection import Collection
from tests.browser.conftest import Browser, free_port

SENTENCES = ["Habari za asubuhi.", "Karibuni nyote.", "Asante sana.", "Kwa heri."]


def test_three_sentences_are_read_to_a_server_that_is_killed_in_between(
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES))
    port = free_port()
    typed = ["sentences=sentences.txt", "out=mine", "language=sw", f"port={port}"]
    first = subprocess.Popen(
        [sys.executable, "-m", "lora_whisper", "record", *typed],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # what it leaves when it is killed
    )
    request.addfinalizer(first.kill)
    wait_for(port)
    browser.open(f"http://127.0.0.1:{port}", ".recorder h1")
    browser.one("#new-name").send_keys("Amina")
    browser.click(".name .main")

    read(browser, SENTENCES[0])
    browser.text(".count", "1 of 4 sentences read")
    browser.one(".taken")
    assert browser.run("return document.querySelector('audio').duration") > 0.5, "it can be heard"
    browser.click("[data-do=next]")
    browser.text(".sentence", SENTENCES[1])
    browser.click("[data-do=skip]")
    browser.text(".count", "1 skipped")

    first.kill()
    first.wait()
    read(browser, SENTENCES[2])
    browser.text(".verdict", "The program does not answer. This take is kept here")
    collection = Collection(tmp_path / "mine", SENTENCES, "sw")
    assert [row.text for row in collection.rows] == [SENTENCES[0]]
    served = ServedConfig(port=port)
    # As in a process of its own, where the page's parts have the same numbers again.
    monkeypatch.setattr("gradio.context.Context.id", 0)
    with own_folder(), running(page(collection), served, MOST_BYTES) as address:
        browser.text(".count", "2 of 4 sentences read")  # sent by itself
        # And for whoever closed the page: it begins with the next one, not with those before.
        browser.open(address, ".recorder h1")
        read(browser, SENTENCES[3])
        browser.text(".count", "3 of 4 sentences read")
        browser.click("[data-do=back]")
        browser.text(".sentence", SENTENCES[2])
        assert "lora-whisper train" in browser.text(".command code", "data.path=mine")
    train = read_split(DataConfig(path=str(tmp_path / "mine")), "train")
    assert train is not None
    assert [one.text for one in train] == [SENTENCES[0], SENTENCES[2], SENTENCES[3]]
    assert all(len(read_audio(one.audio)) > 8_000 for one in train)


def page(collection: Collection):  # type: ignore[no-untyped-def]
    return record_page(collection, "Amina", lambda: "lora-whisper train data.path=mine")


def read(browser: Browser, sentence: str) -> None:
    browser.text(".sentence", sentence)
    browser.click("[data-do=record]")
    browser.text(".record .word", "Stop 0.8")
    browser.click("[data-do=record]")


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("no server")


def test_samples_that_are_none_or_too_many_are_refused() -> None:
    for encoded, found in (("no base64", "no samples"), ("A" * 10_000_000, "may last 30 s")):
        with pytest.raises(UserError, match=found):
            samples_of(encoded, 48_000)
    assert samples_of("AAAAgP9/", 48_000).tolist() == [0.0, -1.0, 32_767 / 32_768]
