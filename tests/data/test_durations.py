"""Durations are those of the slices, and are read again only where a file has changed."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora_whisper.data import durations, table
from lora_whisper.data.durations import measure
from lora_whisper.data.table import Defaults, Table, Utterances
from lora_whisper.data.utterance import EncodedAudio
from tests.toy_speech import tone, write_clip
from tests.toy_tables import toy_row

ENGLISH = Defaults("en", "transcribe")


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Whose headers were read; five rows are many, and two a portion."""
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "ROWS_ON_DISK", 5)
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
