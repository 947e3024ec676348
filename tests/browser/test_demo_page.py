"""A recording tried in a real browser: both texts, the slider, the choice, subtitles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pysubs2
import pytest

pytest.importorskip("gradio")

from lora_whisper.browser.comparison import Comparer
from lora_whisper.browser.demo_page import DemoParts, Example, demo_page, report_of, shown
from lora_whisper.browser.server import own_folder, running
from lora_whisper.config import ServedConfig, TranscriptionConfig
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.transcription.transcriber import Transcriber
from tests.browser.asking import Server
from tests.browser.conftest import Browser, free_port, until
from tests.browser.test_comparison import transcript
from tests.cli.toy_run import toy_run
from tests.transcription.conftest import adapters, loaded  # noqa: F401

CLIP = Path(__file__).parents[2] / "lora_whisper/quickstart/speech/dictation/test/000.opus"


@dataclass(frozen=True)
class Served:
    """The page, and what stands behind it."""

    address: str
    comparer: Comparer
    server: Server

    def text(self, adapter: str | None, scale: float = 1.0) -> str:
        """What the page has to show, as it is scored."""
        options = TranscriptionConfig()
        found = self.comparer.compare(CLIP, CLIP.name, adapter, scale, options)
        return normalizer_for("en")(found.sides[-1].transcript.text)


@pytest.fixture(scope="module")
def served(
    loaded: Transcriber,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("demo"), free_port()
    run, _ = toy_run(folder / "a")
    run.report.write_text("<h1>How it went</h1>")
    comparer = Comparer(loaded, longest_seconds=60.0)
    with own_folder() as uploads:
        example = uploads / "examples/one.opus"
        example.parent.mkdir()
        example.write_bytes(CLIP.read_bytes())
        paths = dict.fromkeys(loaded.adapters, folder) | {loaded.adapters[0]: run.adapter}
        parts = DemoParts("nano", paths, "en", [Example(example, "start it")])
        page = demo_page(comparer, parts)
        with running(page, ServedConfig(port=port), 10_000_000) as address:
            yield Served(address, comparer, Server(port, folder, uploads))


def test_a_recording_is_uploaded_compared_and_taken_home(browser: Browser, served: Served) -> None:
    first, second = served.comparer.transcriber.adapters
    texts = {name: served.text(name) for name in (None, first, second)}
    assert len(set(texts.values())) == 3
    browser.open(served.address, "#transcribe")
    browser.send("#audio input[type=file]", str(CLIP))
    browser.one("#audio .controls, #audio audio, #audio [data-testid=waveform-Recording]")
    browser.click("#transcribe")
    assert marked(browser, 1, first) == words(texts[first])
    assert marked(browser, 0, "base") == words(texts[None])

    browser.send("#reference textarea", f"{texts[first]}\t")
    assert browser.text(".side:nth-child(2) .rate").startswith("WER 0.0 %")

    browser.run("arguments[0].scrollIntoView()", browser.one("#scale"))
    browser.drag_to_start("#scale input[type=range]")
    assert marked(browser, 1, f"{first} × 0") == words(texts[None])

    browser.click("#adapter label:nth-of-type(2)")
    browser.text(".side:nth-child(2) h3", f"{second} × 0")

    browser.click(".side:nth-child(1) .segments button")
    until(
        lambda: browser.run("return document.querySelector('#result audio').currentTime > 0"),
        "sound",
    )

    browser.click(".side:nth-child(1) .downloads a[download$='.srt']")
    subtitles = browser.driver.downloads / f"{CLIP.stem}.srt"
    until(subtitles.is_file, "subtitles")
    assert words(" ".join(cue.plaintext for cue in pysubs2.load(str(subtitles)))) == words(
        texts[None]
    )

    asked = browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    others = [one for one in asked if not one.startswith((served.address, "data:", "blob:"))]
    assert asked
    assert others == [], "it works without a network"


def test_what_the_microphone_heard_is_transcribed(browser: Browser, served: Served) -> None:
    browser.open(served.address, "#transcribe")
    browser.click("#audio button[aria-label='Record audio']")
    browser.click("#audio .record-button, #audio .record")
    until(lambda: browser.text("#audio time, #audio .timestamps", "0:01"), "a second")
    browser.click("#audio .stop-button, #audio .stop")
    browser.click("#transcribe")
    browser.one(".side:nth-child(2) .marked")
    browser.click("button[role=tab]:nth-of-type(2)")
    frame = browser.one("#scores iframe")
    assert "How it went" in frame.get_attribute("srcdoc")


def words(text: str) -> list[str]:
    return normalizer_for("en")(text).split()


def marked(browser: Browser, side: int, name: str) -> list[str]:
    """The words of one side, as soon as it is that of the name; those that it lacks left out."""
    browser.text(f".side:nth-child({side + 1}) h3", name)
    script = (
        "const shown = document.querySelectorAll('.marked')[arguments[0]].cloneNode(true);"
        "shown.querySelectorAll('del').forEach((one) => one.remove()); return shown.textContent"
    )
    return words(browser.run(script, side))


@pytest.mark.parametrize("road", ["upload", "path", "url", "link"])
def test_no_file_of_the_machine_is_transcribed(served: Served, road: str) -> None:
    """But for an upload: no path in place of one's, and no address of this machine's network."""
    server = served.server
    if road == "upload":
        given = server.upload(CLIP.name, CLIP.read_bytes())
    elif road == "url":
        given = f"http://127.0.0.1:{server.port}/config"
    elif road == "link":
        link = server.uploads / "link.opus"
        link.symlink_to(CLIP)
        given = str(link)
    else:
        given = str(CLIP)
    file = {"path": given, "url": given, "meta": {"_type": "gradio.FileData"}}
    _, config = server.ask("/config")
    called = next(
        one["id"] for one in json.loads(config)["dependencies"] if len(one["inputs"]) == 5
    )
    data = [file, served.comparer.transcriber.adapters[0], 1.0, "en", ""]
    joined = {"data": data, "fn_index": called, "session_hash": f"s{road}"}
    assert server.post("/gradio_api/queue/join", joined)[0] == 200
    _, answer = server.ask(f"/gradio_api/queue/data?session_hash=s{road}")
    is_allowed = road == "upload"
    assert (b'"success":true' in answer.replace(b" ", b"")) == is_allowed
    assert (b"sides" in answer) == is_allowed


def test_markup_in_texts_and_names_is_text() -> None:
    from lora_whisper.browser.comparison import compared

    evil = "<img src=x onerror=alert(1)>"
    html = shown(compared([transcript(evil)], [evil], evil), Path("/tmp/x.wav"), f"{evil}.wav")
    assert "<img" not in html
    assert "&lt;img src=x" in html


def test_a_report_is_that_of_the_adapters_run_alone(tmp_path: Path) -> None:
    run, _ = toy_run(tmp_path / "a")
    run.report.write_text("all of it")
    (tmp_path / "report.html").write_text("of something else")
    paths = {"a": run.adapter, "b": tmp_path / "adapter"}
    assert report_of(paths, "a") == "all of it"
    assert report_of(paths, "b") is report_of(paths, "../a") is report_of(paths, None) is None
