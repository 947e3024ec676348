"""A file that is not there: what there is that looks the same, or is meant."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from lora_whisper.data.absent import absent, why_absent
from lora_whisper.data.corpus import load_corpus
from lora_whisper.data.quality_measures import measure_sound
from lora_whisper.data.sources.manifest import rows
from lora_whisper.data.utterance import EncodedAudio
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_speech import write_clip, write_manifest
from tests.toy_tables import toy_utterances


@pytest.fixture
def speech(tmp_path: Path) -> Path:
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
    (row,) = rows(manifest, data_config().columns)
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
    speech: Path, monkeypatch: pytest.MonkeyPatch, audio: str, expected: str
) -> None:
    monkeypatch.setenv("SPEECH", str(speech / "audio"))
    assert expected.format(audio=speech / "audio") in absent(resolved(speech, audio))


def test_a_path_relative_to_where_we_are(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = speech / "lists"
    manifests.mkdir()
    monkeypatch.chdir(speech / "audio")
    assert f"there is {speech}/audio/s1.wav" in absent(resolved(manifests, "s1.wav"))


@pytest.mark.parametrize(
    "name", ["audio/other.wav", "nowhere/else/a.wav", "audio/\0.wav", "x" * 300]
)
def test_nothing_near_nothing_said(speech: Path, name: str) -> None:
    assert absent(speech / name) == ""


def test_a_link_to_nothing_is_named_as_one(speech: Path) -> None:
    """It was said to be there, in other letters: its folder lists it."""
    (speech / "audio" / "link.wav").symlink_to("moved/s1.wav")
    assert (
        absent(speech / "audio" / "link.wav") == ", but a link to moved/s1.wav, which is not there"
    )


def test_a_file_url_is_a_path(speech: Path) -> None:
    there = speech / "audio" / "a b.wav"
    assert resolved(speech, there.as_uri()) == str(there)


def test_what_is_there_or_in_a_data_set_is_not_absent(speech: Path) -> None:
    assert why_absent(speech / "audio" / "s1.wav") == ""
    assert why_absent(EncodedAudio("some/set:1", bytes)) == ""


def test_many_missing_files_of_a_folder_are_quick(speech: Path) -> None:
    """Folders are looked at once: a thousand take a moment."""
    for number in range(2_000):
        assert absent(f"{speech}/gone/{number}.wav") == ""


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
    utterances = toy_utterances(tmp_path, [row], config)
    with pytest.raises(UserError, match=r"2\.00 s") as error:
        load_corpus(utterances, "train", config, 30.0)
    assert expected in str(error.value)
    assert ("Expected seconds" in str(error.value)) == bool(expected)
    assert expected in measure_sound(utterances[0]).detail
