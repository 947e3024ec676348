"""Dividing a source: disjoint, stable, in proportion."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.dataset import folder_split, split_key, split_name
from lora_whisper.data.sources import divide, split_of
from lora_whisper.errors import UserError

TEXTS = [f"sentensi ya {number}" for number in range(2_000)]


def names(
    speakers: list[str | None], texts: list[str], validation: float = 0.1, test: float = 0.1
) -> list[str]:
    columns = pa.chunked_array([speakers], pa.string()), pa.chunked_array([texts], pa.string())
    found: list[str] = divide(*columns, validation, test, "a.jsonl").to_pylist()
    return found


def test_shares_are_about_those_asked_for() -> None:
    counts = Counter(names([None] * 2_000, TEXTS, validation=0.2, test=0.1))
    # 4 standard deviations of a binomial distribution are 72 and 54 rows
    assert abs(counts["validation"] - 400) < 72
    assert abs(counts["test"] - 200) < 54


def test_no_speaker_stands_in_two_splits() -> None:
    speakers = [f"speaker {number % 40}" for number in range(2_000)]
    splits = defaultdict(set)
    for speaker, split in zip(speakers, names(speakers, TEXTS), strict=True):
        splits[speaker].add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_equal_sentences_stand_together_however_they_are_spelled() -> None:
    spellings = [" Café ", "CAFÉ", "café", unicodedata.normalize("NFD", "Café")]
    assert len({split_key(None, text) for text in spellings}) == 1
    assert split_key("café", "x") != split_key(None, "café")


def test_rows_stay_where_they_are_when_others_are_added() -> None:
    before = names([None] * 1_000, TEXTS[500:1_500])
    after = names([None] * 2_000, TEXTS)
    assert after[500:1_500] == before


@settings(max_examples=200)
@given(key=st.text(), share=st.floats(0, 0.4), more=st.floats(0, 0.1))
def test_a_greater_share_takes_rows_from_train_only(key: str, share: float, more: float) -> None:
    before, after = split_of(key, share, share), split_of(key, share + more, share + more)
    assert after == before or before == "train"


def test_it_is_the_same_on_every_machine() -> None:
    """Changing the hash would move test rows into the training of whoever continues."""
    expected = "validation train train validation train test test train"
    assert [split_of(f"speaker {number}", 0.2, 0.2) for number in range(8)] == expected.split()


def test_unknown_speakers_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        names(["asha"] * 100 + [f"{number}" for number in range(100)], TEXTS[:200])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        names([None, *map(str, range(199))], TEXTS[:200])
    assert "a.jsonl" in caplog.text
    assert "1 rows do not name a speaker" in caplog.text


def test_without_shares_all_is_training_and_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert names([None] * 10, TEXTS[:10], 0.0, 0.0) == ["train"] * 10
    assert not caplog.records


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.0, 0.001), r"none falls to test with a share of 0\.001.*data\.test_share"),
        ((0.001, 0.0), r"none falls to validation.*data\.validation_share=.*data\.train=FILE"),
    ],
)
def test_a_split_without_rows(shares: tuple[float, float], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        names(["asha"] * 3, TEXTS[:3], *shares)
    with pytest.raises(UserError, match="3 rows of 1 speakers"):
        names(["asha"] * 3, TEXTS[:3], *shares)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Dev", "validation"),
        (" val ", "validation"),
        ("valid", "validation"),
        ("TRAIN", "train"),
        ("train_manifest", "train"),
        ("dev-manifest", "validation"),
        ("manifest", "manifest"),
    ],
)
def test_names_of_splits(name: str, split: str) -> None:
    assert split_name(name) == split


def test_folders_called_like_splits(tmp_path: Path) -> None:
    root = tmp_path / "test"
    assert folder_split(root / "train" / "clips", root) == "train"
    assert folder_split(root / "train" / "dev", root) == "validation"
    assert folder_split(root / "clips", root) is None
    assert folder_split(tmp_path / "train", root) is None
