"""What is both trained on and scored, by whatever name or in whatever cut."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lora_whisper.data.leaks import Recordings, Texts
from lora_whisper.data.table import Defaults, Table, Utterances
from lora_whisper.data.utterance import EncodedAudio
from tests.toy_tables import toy_row

Slice = tuple[str, float, float]  # file, start and end in seconds


def slices(folder: Path, *given: Slice) -> Utterances:
    rows = []
    for number, (name, start, end) in enumerate(given):
        (folder / name).touch()
        rows.append(toy_row(number, audio=folder / name, start=start or None, end=end))
    seconds = np.array([end - start for _, start, end in given])
    return Utterances([Table.from_rows(rows)], Defaults("en", "transcribe")).with_durations(seconds)


@pytest.mark.parametrize(
    ("scored", "is_shared"),
    [
        (("a.wav", 0.0, 10.0), True),
        (("a.wav", 2.0, 3.0), True),
        (("a.wav", 9.9, 12.0), False),  # subtitles may overlap a little
        (("a.wav", 8.0, 11.0), True),
        (("a.wav", 10.0, 30.0), True),  # all of 20 … 22 is in it
        (("a.wav", 10.0, 20.0), False),
        (("b.wav", 0.0, 10.0), False),
        (("c.wav", 5.0, 6.0), True),
    ],
)
def test_stretches_that_overlap(tmp_path: Path, scored: Slice, is_shared: bool) -> None:
    first = slices(tmp_path, ("x.wav", 0.0, 1.0), ("a.wav", 20.0, 22.0), ("a.wav", 0.0, 10.0))
    learnt = Recordings([first, slices(tmp_path, ("c.wav", 0.0, 9.0))])
    others = [("d.wav", 0.0, 1.0), scored, ("e.wav", 0.0, 1.0)]
    assert learnt.shared_with(slices(tmp_path, *others)) == [1] * is_shared


def test_a_link_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    learnt = slices(tmp_path, ("a.wav", 0.0, 1.0), ("b.wav", 0.0, 1.0))
    (tmp_path / "other").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "other" / "link.wav").symlink_to(tmp_path / "a.wav")
    os.link(tmp_path / "b.wav", tmp_path / "other" / "hard.wav")
    names = ("other/link.wav", "other/hard.wav", "folder/a.wav", "other/../a.wav", "other/new.wav")
    scored = slices(tmp_path, *((name, 0.0, 1.0) for name in names))
    assert Recordings([learnt]).shared_with(scored) == [0, 1, 2, 3]


@dataclass(frozen=True)
class Stored:
    first: int

    def __call__(self, number: int) -> EncodedAudio:
        return EncodedAudio(f"set:{self.first + number}", bytes)


def test_rows_of_a_data_set_are_known_by_name() -> None:
    def rows(first: int, last: int) -> Utterances:
        table = Table.from_rows((toy_row(audio="") for _ in range(first, last)), Stored(first))
        seconds = np.ones(last - first)
        return Utterances([table], Defaults("en", "transcribe")).with_durations(seconds)

    assert Recordings([rows(0, 10)]).shared_with(rows(10, 12)) == []
    assert Recordings([rows(0, 10), rows(20, 30)]).shared_with(rows(8, 21)) == [0, 1, 12]


def test_texts_are_the_same_in_any_case_and_encoding() -> None:
    def said(*texts: str) -> Utterances:
        table = Table.from_rows(toy_row(text=text) for text in texts)
        return Utterances([table], Defaults("en", "transcribe"))

    learnt = Texts([said("Hello there", "Straße", ""), said("cafe\u0301")])
    scored = said("hello THERE ", "STRASSE", "café", "other", "", " ")
    assert learnt.shared_with(scored) == [0, 1, 2]
