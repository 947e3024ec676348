"""Whether a set is still the same: its rows, texts and sound, and nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.contents import (
    HashedBy,
    Recordings,
    Texts,
    change,
    hash_of,
    row_hashes,
    speech_hashes,
)
from lora_whisper.data.corpus import Corpus, with_codes
from lora_whisper.data.dataset import Defaults, Table, Utterances
from tests.model.test_tokenizer import toy_special_tokens
from tests.toy_utterances import toy_row, toy_utterances


def contents_hash(utterances: Utterances, sound: HashedBy = "bytes") -> str:
    return hash_of(row_hashes(utterances, sound))


def three(folder: Path, **changed: Any) -> Utterances:
    """Three rows with a file of sound each; `changed` are fields of the second."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (folder / f"{number}.wav").write_bytes(b"sound" + bytes([number]))
    rows = [{"audio": str(folder / f"{number}.wav"), "text": f"t{number}"} for number in range(3)]
    rows[1] |= changed
    return toy_utterances(rows)


@pytest.mark.parametrize(
    "changed",
    [
        {"text": "t1 "},
        {"text": "T1"},
        {"language": "sw"},
        {"task": "translate"},
        {"start": 0.5},
        {"end": 1.5},
        {"speaker": "ana"},
        {"previous_text": "t0"},
        {"audio": "/absent/1.wav"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_decides_on_a_row_changes_its_hash(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    before = row_hashes(three(tmp_path), "bytes")
    now = row_hashes(three(tmp_path, **changed), "bytes")
    assert (before != now).tolist() == [False, True, False]


def test_a_set_that_was_moved_is_the_same(tmp_path: Path) -> None:
    one, other = three(tmp_path / "a"), three(tmp_path / "b", place="b.csv:7")
    assert one.row(1).place != other.row(1).place
    assert contents_hash(one) == contents_hash(other)
    assert contents_hash(one, "size") == contents_hash(other, "size")


def test_order_and_number_of_rows_count(tmp_path: Path) -> None:
    whole = three(tmp_path)
    found = {contents_hash(whole.select(rows)) for rows in ([0, 1, 2], [0, 2, 1], [0, 1], [])}
    assert len(found) == 4


def test_sound_of_the_same_length_under_the_same_name(tmp_path: Path) -> None:
    """Scored speech is read for it, training speech is not."""
    before = [contents_hash(three(tmp_path), sound) for sound in ("bytes", "size")]
    one = three(tmp_path)
    (tmp_path / "1.wav").write_bytes(b"noise\x01")
    now = [contents_hash(one, sound) for sound in ("bytes", "size")]
    assert [old == new for old, new in zip(before, now, strict=True)] == [False, True]
    (tmp_path / "1.wav").write_bytes(b"longer sound")
    assert contents_hash(one, "size") != before[1]


def test_sound_inside_a_data_set_counts_by_its_bytes() -> None:
    def in_data_set(sound: bytes) -> Utterances:
        utterances = toy_utterances([{"audio": ""}])
        utterances.tables[0].audio_of = lambda row: EncodedAudio("set train:0", lambda: sound)
        return utterances

    assert contents_hash(in_data_set(b"a")) == contents_hash(in_data_set(b"a"))
    assert contents_hash(in_data_set(b"a")) != contents_hash(in_data_set(b"b"))


def test_the_default_language_counts_as_that_of_the_rows(tmp_path: Path) -> None:
    whole = three(tmp_path)
    assert contents_hash(whole.with_codes({"en": "de"}, None)) != contents_hash(whole)
    assert contents_hash(whole.with_codes({"en": "en"}, "fr")) != contents_hash(whole)


@pytest.mark.parametrize("multilingual", [True, False])
def test_the_checkpoint_that_reads_a_language_does_not_count(
    tmp_path: Path, multilingual: bool
) -> None:
    """Those for English alone know no languages, and are scored beside others."""
    whole = three(tmp_path)
    coded = with_codes(Corpus(whole, {}), toy_special_tokens(multilingual=multilingual)).utterances
    assert contents_hash(coded) == contents_hash(whole)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({"text": "T1"}, "texts"), ({"previous_text": "t"}, "texts"), ({"end": 1.5}, "rows")],
)
def test_what_is_heard_and_what_is_said_are_told_apart(
    tmp_path: Path, changed: dict[str, Any], expected: str
) -> None:
    before, now = speech_hashes(three(tmp_path)), speech_hashes(three(tmp_path, **changed))
    assert [name for name, value in vars(before).items() if vars(now)[name] != value] == [expected]


def test_what_changed_is_counted() -> None:
    before = np.array([1, 2, 2, 3], "<u8")
    assert change(before, before.copy()) is None
    found = change(before, np.array([1, 2, 4, 3, 5], "<u8"))
    assert found is not None
    assert (found.before, found.now, found.new, found.gone) == (4, 5, (2, 4), 1)
    assert str(found).endswith("4 rows before, 5 now: 1 not there any more and 2 new")
    reordered = change(before, before[::-1])
    assert reordered is not None
    assert "in another order" in str(reordered)


def test_the_row_is_all_that_counts() -> None:
    """A field of `Row` that is new has to be decided on here."""
    decided = {"place", "audio", "split", "columns"}  # do not count, or by another way
    fields = {"start", "end", "text", "language", "task", "speaker", "previous_text"}
    assert set(toy_row().__slots__) == decided | fields


# ── what is in training, and scored all the same ─────────────────────────────────────────────────


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
