"""`lora-whisper transcribe`: whatever is given, a text or a reason."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pysubs2
import pytest
import soundfile
import soxr

import lora_whisper as lw
from lora_whisper.data.audio import read_audio
from tests.cli.conftest import Line, Refusal
from tests.evaluation.toy_decoder import GENERAL, general_speech, joined
from tests.toy_containers import KINDS, encode
from tests.toy_speech import tone, write_clip
from tests.transcription.conftest import nano_adapter

NANO = ("model=nano", "language=en")


def clip(place: str | Path, number: int = 61) -> Path:
    """Speech: "Lucy lifted the rotten coat.\""""
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(GENERAL / f"test/{number:03}.opus", path)
    return path


def test_every_kind_of_file_has_a_text_or_a_reason(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    clip("in/mahojiano ya leo (2).opus")
    clip("in/below/名前 ñ.opus")
    samples = soundfile.read(write_clip(Path("tone.wav"), 1.0))[0]
    for name, sound, rate in (
        ("channels", np.stack([samples] * 8, axis=1), 16_000),
        ("fast", tone(1.0, 192_000), 192_000),
        ("silence", np.zeros(32_000), 16_000),
        ("noise", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000),
        ("short", samples[:800], 16_000),
    ):
        soundfile.write(f"in/{name}.wav", sound, rate)
    whole = Path("tone.wav").read_bytes()
    for name, content in (
        ("text.mp3", b"This is no sound.\n"),
        ("empty.wav", b""),
        ("cut.wav", whole[: len(whole) // 2]),
        ("corrupt.mp4", b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40),
        (".hidden.wav", b""),
        ("notes.txt", b"no recording"),
    ):
        Path("in", name).write_bytes(content)
    assert line("transcribe", *NANO, "audio=in") == 1
    said = " ".join(capsys.readouterr().out.split())
    for name, reason in (
        ("short.wav", "0.05 s"),
        ("text.mp3", "does not decode"),
        ("empty.wav", "the file is empty"),
        ("cut.wav", "cut off"),
        ("corrupt.mp4", "does not decode"),
    ):
        assert f"failed in/{name}: " in said
        assert reason in said
    assert "5 of 11 failed" in said
    texts = {path.name for path in Path("in").rglob("*.txt")} - {"notes.txt"}
    assert texts == {
        *("mahojiano ya leo (2).txt", "名前 ñ.txt", "channels.txt", "fast.txt"),
        *("silence.txt", "noise.txt"),
    }
    assert Path("in/below/名前 ñ.txt").read_text() == "Lucy lifted the rotten coat.\n"


def test_subtitles_are_read_back_as_they_were_meant(line: Line, tmp_path: Path) -> None:
    joined(general_speech(8), tmp_path / "long.flac")
    given = (*NANO, "audio=long.flac", "formats=[text,srt,vtt,tsv,json]", "out=texts/all")
    assert line("transcribe", *given, "temperature_fallback=false") == 0
    found = json.loads(Path("texts/all/long.json").read_text())
    expected = lw.Transcriber.from_model("nano").transcribe(
        "long.flac", language="en", temperature_fallback=False, word_times=True
    )
    assert found["text"] == expected.text
    assert found["duration"] == expected.seconds
    cues = [
        (round(1000 * one.start_seconds), round(1000 * one.end_seconds), one.text)
        for one in expected.segments
    ]
    for format in ("srt", "vtt"):
        file = pysubs2.load(f"texts/all/long.{format}")
        assert [(one.start, one.end, one.plaintext) for one in file] == cues
    rows = Path("texts/all/long.tsv").read_text().splitlines()
    assert rows[0] == "start\tend\ttext"
    assert [tuple(row.split("\t")) for row in rows[1:]] == [
        (str(start), str(end), text) for start, end, text in cues
    ]
    assert Path("texts/all/long.txt").read_text().splitlines() == [text for _, _, text in cues]
    words = [word["word"] for segment in found["segments"] for word in segment["words"]]
    assert " ".join(words) == " ".join(text for _, _, text in cues)


def test_a_film_is_a_recording(line: Line) -> None:
    samples = read_audio(clip("a.opus"))
    encode(Path("film.mp4"), soxr.resample(samples, 16_000, KINDS["mp4"].rate), KINDS["mp4"])
    assert line("transcribe", *NANO, "audio=film.mp4", "formats=text") == 0
    assert Path("film.txt").read_text() == "Lucy lifted the rotten coat.\n"


def test_recordings_that_share_a_name_have_a_text_each(line: Line) -> None:
    for name in ("same.wav", "same.flac", "alone.wav", "below/same.wav"):
        write_clip(Path("in", name), 0.2)
    assert line("transcribe", *NANO, "audio=in", "formats=text") == 0
    assert line("transcribe", *NANO, "audio=in", "formats=text", "out=texts") == 0
    for folder in ("in", "texts"):
        texts = {str(path.relative_to(folder)) for path in Path(folder).rglob("*.txt")}
        assert texts == {"same.wav.txt", "same.flac.txt", "alone.txt", "below/same.txt"}


def test_texts_that_are_there_are_kept(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a full disk: what is missing of a recording is made, and nothing else."""
    clip("a.opus")
    clip("b.opus", 62)
    given = ("transcribe", *NANO, "audio=*.opus")
    Path("a.srt").write_text("mine")
    Path("b.srt").write_text("mine")
    Path("b.txt").write_text("mine, too")
    assert line(*given) == 0
    assert "kept 1 text is there already" in " ".join(capsys.readouterr().out.split())
    assert Path("a.txt").read_text() == "Lucy lifted the rotten coat.\n"
    assert Path("a.srt").read_text() == "mine"
    assert Path("b.txt").read_text() == "mine, too"
    assert line(*given, "overwrite=true") == 0
    assert Path("a.txt").read_text() == "Lucy lifted the rotten coat.\n"


def test_a_text_does_not_hang_on_the_name_of_its_recording(line: Line) -> None:
    """Where a text is improbable, tokens are drawn; nor need a name be UTF-8.

    Such a name is a process's of its own: those of the tests tell each other in UTF-8 what was
    printed.
    """
    soundfile.write("one.wav", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    other = Path("in", os.fsdecode(b"two\xff.wav"))
    other.parent.mkdir()
    shutil.copy("one.wav", other)
    assert line("transcribe", *NANO, "audio=one.wav", "formats=text") == 0
    command = [sys.executable, "-m", "lora_whisper", "transcribe", *NANO, "audio=in"]
    subprocess.run([*command, "formats=text"], capture_output=True, check=True)
    assert Path("one.txt").read_text() == other.with_suffix(".txt").read_text()


def test_standard_input_is_answered_on_standard_output_alone(
    line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = clip("a.opus").read_bytes()
    for data, code, said in ((content, 0, "Lucy lifted the rotten coat.\n"), (b"", 2, "")):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        assert line("transcribe", *NANO, "audio=-") == code
        shown = capsys.readouterr()
        assert shown.out == said
    assert shown.err == "error: standard input: does not decode (the file is empty)\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert line("transcribe", *NANO, "audio=-", "out=texts", "formats=srt") == 0
    assert len(pysubs2.load("texts/stdin.srt")) == 1


def test_each_of_several_adapters_has_its_texts(line: Line, tmp_path: Path) -> None:
    clip("a.opus")
    for seed, name in enumerate(("one", "two")):
        nano_adapter(tmp_path / name, seed + 1)
    given = ("transcribe", "language=en", "audio=a.opus", "formats=text")
    assert line(*given, "adapter=[one,two]") == 0
    texts = [Path(f"a.{name}.txt").read_text() for name in ("one", "two")]
    assert line(*given, "model=nano", "adapter=two") == 0
    assert Path("a.txt").read_text() == texts[1]
    assert line(*given, "model=nano", "adapter=two", "scale=0", "out=base") == 0
    assert Path("base/a.txt").read_text() == "Lucy lifted the rotten coat.\n"
    assert len({*texts, "Lucy lifted the rotten coat.\n"}) == 3


def test_a_run_s_text_is_that_of_its_merged_model(finished: list[str], line: Line) -> None:
    write_clip(Path("a.wav"), 1.5)
    assert line("merge", "run=outputs/a") == 0
    given = ("transcribe", "audio=a.wav", "language=en", "formats=json")
    for name, model in (
        ("adapter", "run=outputs/a"),
        ("merged", "model=outputs/a/merged"),
        ("named", "model=outputs/a"),
    ):
        assert line(*given, model, f"out={name}") == 0
    texts = [Path(name, "a.json").read_text() for name in ("adapter", "merged", "named")]
    assert texts[0] == texts[1] == texts[2]
    assert json.loads(texts[0])["text"]


def test_an_exported_model_transcribes_as_what_it_was_made_of(
    finished: list[str], line: Line, refusal: Refusal
) -> None:
    write_clip(Path("a.wav"), 1.5)
    write_clip(Path("b.wav"), 5.0)
    exported = ("format=ctranslate2", "dtype=float32", "parity.utterances=0")
    assert line("export", "run=outputs/a", *exported) == 0
    model = "model=outputs/a/export/ctranslate2"
    given = ("transcribe", "audio=*.wav", "language=en", "formats=json")
    assert line(*given, model, "out=exported") == 0
    assert line(*given, "run=outputs/a", "out=run", "temperature_fallback=false") == 0
    for name in "ab":
        found, expected = (
            json.loads(Path(folder, f"{name}.json").read_text()) for folder in ("exported", "run")
        )
        assert found["text"] == expected["text"]
        for one, other in zip(found["segments"], expected["segments"], strict=True):
            assert (one["start"], one["end"], one["text"]) == (
                *(other["start"], other["end"]),
                other["text"],
            )
            words = [(word["word"], word["start"]) for word in one["words"]]
            assert [word for word, _ in words] == [word["word"] for word in other["words"]]
            assert words == sorted(words, key=lambda word: word[1])
    assert "no adapter goes" in refusal(*given, model, "adapter=outputs/a")
    assert "cannot draw" in refusal(*given, model, "temperature_fallback=true", "out=drawn")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["audio=https://somewhere.org/talk.mp3"], "curl -L -o talk.mp3 https://somewhere.org/"),
        (["audio=[gone.mp3,away.mp3]"], "audio=away.mp3: no such file or folder"),
        (["audio=pipe"], "no regular file"),
        (["audio=b/a.opus", "out=full"], "full/a.txt"),
        (["audio=*.ogg"], "audio=*.ogg: no file has such a name"),
        (["audio=nothing"], "the folder holds no file with an ending of sound"),
        (["audio=[-,a.opus]"], "standard input is read alone"),
        (["audio=[a.opus,b/a.opus]", "out=texts"], "texts/a.opus.txt"),
        (["audio=a.opus", "out=/proc/nowhere"], "/proc/nowhere cannot be written to"),
        (["audio=a.opus", "run=outputs/a"], "expected a run=…, a model=… or an adapter=…"),
        (["audio=a.opus", "scale=0.5"], "there is none"),
        (["audio=a.opus", "formats=[srt,srt]"], "srt stands there twice"),
        (["audio=a.opus", "words=gone.txt"], "gone.txt: no such file"),
        (["audio=a.opus", "language=xx"], "does not know the language 'xx'"),
        (["audio=text.mp3"], "text.mp3: does not decode"),
        ([], "audio: expected audio=…"),
    ],
)
def test_what_cannot_be_transcribed_is_one_message(
    refusal: Refusal, line: Line, typed: list[str], said: str
) -> None:
    clip("a.opus")
    clip("b/a.opus")
    Path("nothing").mkdir()
    Path("nothing/notes.txt").write_text("words")
    Path("text.mp3").write_text("words")
    Path("full/a.txt").mkdir(parents=True)
    os.mkfifo("pipe")
    before = {*Path().rglob("*")}
    assert said in refusal("transcribe", "model=nano", *typed)
    assert {*Path().rglob("*")} - before <= {Path("texts")}


def test_other_things_in_place_of_a_model_are_named(refusal: Refusal, tmp_path: Path) -> None:
    clip("a.opus")
    nano_adapter(tmp_path / "mine", 1)
    given = ("transcribe", "audio=a.opus")
    assert "Type adapter=mine" in refusal(*given, "run=mine")
    assert "model=nowhere" in refusal(*given, "model=nowhere")
    assert "adapter=nowhere" in refusal(*given, "model=nano", "adapter=nowhere")
    assert "Type model=embedded:nano" in refusal(*given, "adapter=embedded:nano")
