"""Speech that changed while a run was stopped: named, refused, or taken as it is when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_whisper.config import TrainConfig
from lora_whisper.data.corpus import Corpus
from lora_whisper.errors import UserError
from lora_whisper.options import configured
from lora_whisper.run_folder import RunFolder
from lora_whisper.training.resume import (
    changes,
    read_rows,
    require_same_words,
    require_unchanged,
    rows_of,
    write_rows,
)
from tests.toy_utterances import toy_utterances


def corpus(*texts: str) -> Corpus:
    return Corpus(toy_utterances([{"text": text} for text in texts]), {})


def written(folder: Path, **parts: Corpus) -> Path:
    write_rows(folder / "rows.npz", rows_of(parts))
    return folder / "rows.npz"


def test_what_is_as_it_was_goes_on(tmp_path: Path) -> None:
    parts = {"train": corpus("a", "b"), "test": corpus("c"), "mix 1": corpus("d")}
    path = written(tmp_path, **parts)
    assert changes(path, rows_of(parts)) == {}
    require_unchanged(tmp_path, {}, parts)
    assert changes(tmp_path / "none.npz", rows_of(parts)) == {}, "of an older version"


def test_each_part_that_changed_is_named_with_its_rows(tmp_path: Path) -> None:
    path = written(tmp_path, train=corpus("a", "b", "c"), test=corpus("d", "e"), mix=corpus("f"))
    now = {"train": corpus("a"), "test": corpus("d", "E"), "validation": corpus("g")}
    changed = changes(path, rows_of(now))
    with pytest.raises(UserError) as refused:
        require_unchanged(tmp_path, changed, now)
    message = str(refused.value)
    for line in (
        "train: 3 rows before, 1 now: 2 not there any more",
        "test: 2 rows before, 2 now: 1 with another text, sound or slice (a.jsonl:2)",
        "validation: 0 rows before, 1 now: 1 new (a.jsonl:1)",
        "mix: 1 rows before, 0 now",
        "resume=anyway",
        "overwrite=true",
        "base and adapter are scored on the test set as it is now",
    ):
        assert line in message


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, train=corpus("a", "b"))
    whole = path.read_bytes()
    flipped = whole[:150] + bytes([whole[150] ^ 1]) + whole[151:]
    for damaged in (whole[:-30], b"", whole[: len(whole) // 2], b"PK" + whole[9:], flipped):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"rows.npz is damaged.*\n.*delete that file"):
            read_rows(path)


def test_another_list_of_words_is_refused(tmp_path: Path) -> None:
    folder, path = RunFolder(tmp_path / "run"), tmp_path / "drugs.txt"
    folder.path.mkdir()
    folder.words.write_text("aspirin\nwarfarin\n")
    given = {"name": "a", "resume": "auto", "data": {"train": "a.jsonl", "words": str(path)}}
    config = configured(TrainConfig, given)
    path.write_text("aspirin\n\nwarfarin")
    require_same_words(config, folder)
    for other, named in (("aspirin\nmetformin", "metformin"), ("warfarin\naspirin", "order")):
        path.write_text(other)
        with pytest.raises(UserError, match=f"data.words=(.|\n)*{named}"):
            require_same_words(config, folder)
    require_same_words(configured(TrainConfig, given | {"resume": "anyway"}), folder)
