"""Durations are those of the slices, and are read again only where a file has changed."""

from __future__ import annotations

import io
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora_whisper.data import dataset, durations
from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.corpus import load_corpus
from lora_whisper.data.dataset import Defaults, Table, Utterances
from lora_whisper.data.durations import absent, measure, why_absent
from lora_whisper.data.quality_measures import measure_sound
from lora_whisper.data.sources.manifest import rows
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_speech import tone, write_clip, write_manifest
from tests.toy_utterances import manifest_utterances, toy_row

ENGLISH = Defaults("en", "transcribe")


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Whose headers were read; five rows are many, and two a portion."""
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dataset, "ROWS_ON_DISK", 5)
    monkeypatch.setattr(durations, "ROWS_AT_A_TIME", 4)
    paths: list[Path] = []
    read_header = durations.read_header
    monkeypatch.setattr(
        durations, "read_header", lambda path: (paths.append(path), read_header(path))[1]
    )
    return paths


def speech(folder: Path) -> Utterances:
    """Three slices of one file, four files, and one that is not there."""
    write_clip(folder / "long.wav", 5.0)
    slices = [{"start": 1.0, "end": 3.5}, {"start": 4.0}, {"end": 0.25}]
    rows = [toy_row(number, audio=folder / "long.wav", **one) for number, one in enumerate(slices)]
    for number in range(3, 7):
        rows.append(toy_row(number, audio=write_clip(folder / f"{number}.wav", number / 2)))
    rows.append(toy_row(7, audio=folder / "gone.wav"))
    return Utterances([Table.cached("a-1", lambda: rows)], ENGLISH)


EXPECTED = [2.5, 1.0, 0.25, 1.5, 2.0, 2.5, 3.0]


def test_a_file_is_opened_once_for_its_slices(tmp_path: Path, opened: list[Path]) -> None:
    measured, problems, _ = measure(speech(tmp_path))
    assert measured.durations_seconds[:7].tolist() == EXPECTED
    assert np.isnan(measured.durations_seconds[7])
    assert list(problems) == [7]
    assert "no such file" in str(problems[7])
    assert sorted(path.name for path in opened) == [
        "3.wav", "4.wav", "5.wav", "6.wav", "gone.wav", "long.wav"
    ]  # fmt: skip


def test_the_next_run_reads_only_what_failed_or_changed(tmp_path: Path, opened: list[Path]) -> None:
    measure(speech(tmp_path).select([7, 3, 4]))
    opened.clear()
    utterances = speech(tmp_path)
    write_clip(tmp_path / "4.wav", 0.5)
    os.utime(tmp_path / "3.wav", ns=(1, 1))
    measured, problems, _ = measure(utterances.select([4, 3, 7, 5]))
    assert measured.durations_seconds[:2].tolist() == [0.5, 1.5]
    assert list(problems) == [2]
    assert {path.name for path in opened} == {"3.wav", "4.wav", "5.wav", "gone.wav"}
    opened.clear()
    (tmp_path / "5.wav").unlink()
    write_clip(tmp_path / "gone.wav", 7.0)
    measured, problems, _ = measure(utterances)
    assert measured.durations_seconds[[0, 3, 4, 7]].tolist() == [2.5, 1.5, 0.5, 7.0]
    assert list(problems) == [5]
    assert {path.name for path in opened} == {"long.wav", "5.wav", "6.wav", "gone.wav"}


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x93NUMPY\x01\x00", None])
def test_damaged_durations_are_measured_again(
    tmp_path: Path, opened: list[Path], content: bytes | None
) -> None:
    measure(speech(tmp_path))
    kept = tmp_path / "cache" / "tables" / "a-1.durations.npy"
    if content is None:
        np.save(kept, np.zeros(3))
    else:
        kept.write_bytes(content)
    measured, _, _ = measure(speech(tmp_path))
    assert measured.durations_seconds[:7].tolist() == EXPECTED


def test_what_is_measured_is_not_measured_again(tmp_path: Path, opened: list[Path]) -> None:
    once = measure(speech(tmp_path)[:7]).utterances
    opened.clear()
    again, problems, _ = measure(once)
    assert again.durations_seconds.tolist() == EXPECTED
    assert (opened, problems) == ([], {})


@dataclass(frozen=True)
class Stored:
    def __call__(self, number: int) -> EncodedAudio:
        return EncodedAudio(f"set:{number}", lambda: encoded(1.0 + number))


def encoded(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds), 16_000, format="FLAC")
    return file.getvalue()


def test_audio_inside_a_data_set(opened: list[Path]) -> None:
    rows = [toy_row(number, audio="") for number in range(6)]
    stored = Utterances([Table.cached("hub-1", lambda: rows, Stored())], ENGLISH)
    expected = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert measure(stored)[0].durations_seconds.tolist() == expected
    opened.clear()
    assert measure(stored)[0].durations_seconds.tolist() == expected
    assert opened == []


# ── files that are not there ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of recordings, and a manifest beside it to be."""
    for name in (
        "s1.wav",
        unicodedata.normalize("NFD", "é.wav"),
        "a b.wav",
        "Ünï.FLAC",
        "bird.wav",
    ):
        (tmp_path / "home" / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / "audio" / name).touch()
    return tmp_path / "home"


def resolved(folder: Path, audio: str) -> str:
    """The path that a manifest in `folder` makes of a cell."""
    manifest = write_manifest(folder / "a.jsonl", [{"audio": audio, "text": "a"}])
    (row,) = rows(manifest)
    return row.audio


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        ("audio/é.wav", "composed in another way"),
        ("audio/S1.WAV", "audio/s1.wav, in other capitals"),
        ("Audio/s1.wav", "audio/s1.wav, in other capitals"),
        ("audio /s1.wav", "audio/s1.wav, without the space"),
        ("audio\\s1.wav", "backslashes: write / for each \\, "),
        (".\\audio\\S1.wav", "backslashes"),
        ("audio\bird.wav", "audio/bird.wav is there"),
        ("audio\new.wav", "it holds \\n, which one backslash became: write / instead"),
        ("C:\\Users\\me\\s1.wav", "a path of Windows"),
        ("https://example.org/s1.wav", "; https://example.org/s1.wav is a URL"),
        ("s3://bucket/s1.wav", "; s3://bucket/s1.wav is a URL"),
        ("audio/s1.wav ", "audio/s1.wav, without the space"),
        (" audio/s1.wav", "audio/s1.wav, without the space"),
        ("audio/\ufeffs1.wav", "without the characters that are not seen"),
        ("audio/a%20b.wav", "audio/a b.wav, without percent signs"),
        ("audio/s1.wav?download=1", "audio/s1.wav, without its ?"),
        ("audio/s1", "audio/s1.wav, with another ending"),
        ("audio/s1.mp3", "audio/s1.wav, with another ending"),
        ("audio/ünï.flac", "in other capitals"),
        ("s1.wav", "audio/s1.wav: paths are relative to the manifest"),
        ("home/audio/s1.wav", "audio/s1.wav: paths are relative to the manifest"),
        ("data/audio/s1.wav", "audio/s1.wav: paths are relative to the manifest"),
        ("$SPEECH/s1.wav", "$SPEECH in it is not replaced"),
        ("${SPEECH}/s1.wav", "; there is {audio}/s1.wav"),
        ("audio/~/s1.wav", "~ in it is not replaced"),
    ],
)
def test_what_is_meant_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, audio: str, expected: str
) -> None:
    monkeypatch.setenv("SPEECH", str(home / "audio"))
    assert expected.format(audio=home / "audio") in absent(resolved(home, audio))


def test_a_path_relative_to_where_we_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = home / "lists"
    manifests.mkdir()
    monkeypatch.chdir(home / "audio")
    assert f"there is {home}/audio/s1.wav" in absent(resolved(manifests, "s1.wav"))


@pytest.mark.parametrize(
    "name", ["audio/other.wav", "nowhere/else/alone.wav", "audio/\0.wav", "x" * 300]
)
def test_nothing_near_nothing_said(home: Path, name: str) -> None:
    assert absent(home / name) == ""


def test_a_link_to_nothing_is_named_as_one(home: Path) -> None:
    """It was said to be there, in other letters: its folder lists it."""
    (home / "audio" / "link.wav").symlink_to("moved/s1.wav")
    assert absent(home / "audio" / "link.wav") == ", but a link to moved/s1.wav, which is not there"


def test_a_file_url_is_a_path(home: Path) -> None:
    there = home / "audio" / "a b.wav"
    assert resolved(home, there.as_uri()) == str(there)


def test_what_is_there_or_in_a_data_set_is_not_absent(home: Path) -> None:
    assert why_absent(home / "audio" / "s1.wav") == ""
    assert why_absent(EncodedAudio("some/set:1", bytes)) == ""


def test_many_missing_files_of_a_folder_are_quick(home: Path) -> None:
    """Folders are looked at once: a thousand take a moment."""
    for number in range(2_000):
        assert absent(f"{home}/gone/{number}.wav") == ""


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (500, 1500, "milliseconds? Expected seconds: 0.5, 1.5"),
        (8000, 24_000, "samples at 16000 a second? Expected seconds: 0.5, 1.5"),
        (1.0, 7.0, ""),
    ],
)
def test_times_in_another_unit(tmp_path: Path, start: float, end: float, expected: str) -> None:
    write_clip(tmp_path / "1.wav", 2.0)
    row = {"audio": "1.wav", "text": "a", "start": start, "end": end}
    config = data_config()
    utterances = manifest_utterances(tmp_path, [row], config)
    with pytest.raises(UserError, match=r"2\.00 s") as error:
        load_corpus(utterances, "train", config, 30.0)
    assert expected in str(error.value)
    assert ("Expected seconds" in str(error.value)) == bool(expected)
    assert expected in measure_sound(utterances[0]).detail
