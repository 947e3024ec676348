"""A set of speech has the hashes of what is heard and said in it, wherever it lies."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.data.corpus import Corpus, with_codes
from lora_whisper.data.fingerprint import SpeechHashes, speech_hashes
from lora_whisper.data.table import Utterances
from tests.configs import data_config
from tests.data.test_vocabulary import toy_vocabulary
from tests.toy_speech import write_clip
from tests.toy_tables import toy_utterances

ROWS: list[dict[str, Any]] = [
    {"audio": "1.wav", "text": "moja"},
    {"audio": "2.wav", "text": "mbili", "start": 0.25, "end": 0.75},
]


def read(folder: Path, rows: list[dict[str, Any]], language: str = "sw") -> Utterances:
    return toy_utterances(folder, rows, data_config(language=language))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    for seconds in (1, 2):
        write_clip(tmp_path / "a" / f"{seconds}.wav", seconds)
    return tmp_path / "a"


def both(utterances: Utterances) -> list[SpeechHashes]:
    return [speech_hashes(utterances, by_content=by_content) for by_content in (False, True)]


def test_another_folder_or_time_of_change_is_the_same_speech(folder: Path) -> None:
    before = both(read(folder, ROWS))
    moved = shutil.copytree(folder, folder.with_name("b"))
    for path in moved.iterdir():
        os.utime(path, (1e9, 1e9))
    assert both(read(moved, ROWS)) == before


def _second(**values: object) -> list[dict[str, Any]]:
    return [ROWS[0], ROWS[1] | values]


@pytest.mark.parametrize(
    ("rows", "changed"),
    [
        (_second(text="mbilii"), {"texts"}),
        (_second(text="mbili\u200b"), {"texts"}),
        (_second(previous_text="moja"), {"texts"}),
        (_second(audio="1.wav"), {"rows"}),
        (_second(end=0.5), {"rows"}),
        (_second(language="en"), {"rows"}),
        (_second(task="translate"), {"rows"}),
        (ROWS[::-1], {"rows", "texts"}),
        (ROWS[:1], {"rows", "texts", "utterances"}),
    ],
)
def test_any_change_of_a_row_is_seen(
    folder: Path, rows: list[dict[str, Any]], changed: set[str]
) -> None:
    for before, after in zip(both(read(folder, ROWS)), both(read(folder, rows)), strict=True):
        found = {name for name, value in vars(before).items() if vars(after)[name] != value}
        assert found == changed


def test_only_its_content_tells_sound_of_the_same_name_and_size_apart(folder: Path) -> None:
    before = both(read(folder, ROWS))
    sound = folder / "1.wav"
    sound.write_bytes(sound.read_bytes()[:-1] + b"\x77")
    after = both(read(folder, ROWS))
    assert after[0] == before[0]
    assert after[1].rows != before[1].rows
    shutil.copy(folder / "2.wav", sound)
    assert both(read(folder, ROWS))[0] != before[0]


@pytest.mark.parametrize("multilingual", [True, False])
def test_the_vocabulary_that_reads_a_language_does_not_count(
    folder: Path, multilingual: bool
) -> None:
    rows = read(folder, ROWS, "English")
    coded = with_codes(Corpus(rows, {}), toy_vocabulary(multilingual=multilingual)).utterances
    assert speech_hashes(coded) == speech_hashes(rows) == speech_hashes(read(folder, ROWS, "en"))
