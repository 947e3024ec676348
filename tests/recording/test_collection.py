"""A folder of takes: what is in it after each, after a crash, and what `train` finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora_whisper import files
from lora_whisper.config import DataConfig
from lora_whisper.data.sources import read_split
from lora_whisper.errors import UserError
from lora_whisper.recording.collection import (
    MANIFEST,
    SKIPPED,
    Collection,
    Row,
    splits_of,
    training_command,
)
from tests.toy_speech import tone

RATE = 48_000
SENTENCES = [f"Sentence number {number}." for number in range(12)]
SILENCE = np.zeros(RATE // 4, np.float32)
SOUND = np.concatenate([SILENCE, tone(1.0, RATE), SILENCE])


def recorded(folder: Path, count: int, speaker: str = "amina") -> Collection:
    collection = Collection(folder, SENTENCES, "sw")
    for _ in range(count):
        text = collection.progress(speaker).next
        assert text is not None
        assert collection.keep(speaker, text, SOUND, RATE).refusal is None
    return collection


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_a_take_is_a_flac_file_and_a_row(tmp_path: Path) -> None:
    recorded(tmp_path / "mine", 1, "Ámina wa Mtwara")
    (row,) = lines(tmp_path / "mine")
    assert row.pop("audio") == "clips/Ámina-wa-Mtwara/00001.flac"
    assert row == {
        "text": SENTENCES[0],
        "speaker": "Ámina wa Mtwara",
        "split": "train",
        "language": "sw",
        "duration": 1.5,
    }
    sound = soundfile.info(tmp_path / "mine/clips/Ámina-wa-Mtwara/00001.flac")
    assert (sound.samplerate, sound.channels, sound.subtype) == (16_000, 1, "PCM_16")
    assert sound.frames == 24_000


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    recorded(tmp_path, 2).skip("amina", SENTENCES[2])
    again = Collection(tmp_path, SENTENCES, "sw")
    progress = again.progress("amina")
    assert (progress.read, progress.skipped, progress.next) == (2, 1, SENTENCES[3])
    assert progress.seconds == 3.0
    recorded(tmp_path, 9)
    assert again.progress("amina").takes == 2, "what another object wrote is its own"
    assert Collection(tmp_path, SENTENCES).progress("amina").next is None


def test_another_speaker_begins_with_what_nobody_has_read(tmp_path: Path) -> None:
    collection = recorded(tmp_path, 3)
    assert collection.progress("juma").next == SENTENCES[3]
    recorded(tmp_path, 12, "juma")
    texts = [row["text"] for row in lines(tmp_path) if row["speaker"] == "juma"]
    assert texts[-3:] == SENTENCES[:3]


def test_a_take_that_is_read_again_replaces_the_one_before(tmp_path: Path) -> None:
    collection = recorded(tmp_path, 2)
    assert collection.keep("amina", SENTENCES[0], SOUND[: RATE * 5 // 4], RATE).warnings
    first, second = lines(tmp_path)
    assert (first["text"], first["duration"]) == (SENTENCES[0], 1.25)
    assert first["warnings"] == [
        "It ends in the midst of a sound. Wait a moment before pressing stop."
    ]
    assert second["text"] == SENTENCES[1]
    clips = {path.name for path in tmp_path.glob("clips/amina/*")}
    assert clips == {Path(str(row["audio"])).name for row in (first, second)}
    assert collection.progress("amina").read == 2


def test_a_take_without_sound_leaves_everything_as_it_was(tmp_path: Path) -> None:
    collection = recorded(tmp_path, 1)
    before = (tmp_path / MANIFEST).read_bytes()
    assert collection.keep("amina", SENTENCES[0], np.zeros(RATE, np.float32), RATE).refusal
    assert (tmp_path / MANIFEST).read_bytes() == before
    assert collection.sound("amina", SENTENCES[0])


def test_wherever_it_is_killed_every_row_has_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each file that is put in its place, before and after."""

    class Killed(BaseException):
        pass

    for at in range(4):
        folder = tmp_path / str(at)
        collection, replaced = recorded(folder, 2), iter(range(100))

        def dying(source: Path, target: Path, at: int = at, count=replaced) -> None:  # type: ignore[no-untyped-def]
            if next(count) == at // 2:
                if at % 2:
                    os.rename(source, target)
                raise Killed
            os.rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", dying)
            with pytest.raises(Killed):
                collection.keep("amina", SENTENCES[2], SOUND, RATE)
        again = recorded(folder, 1)
        assert again.progress("amina").read in (3, 4)
        assert all(soundfile.info(folder / row.audio).frames == 24_000 for row in again.rows)


def test_train_takes_it(tmp_path: Path) -> None:
    """Of one speaker, each tenth sentence is for the test, and each tenth for the validation."""
    recorded(tmp_path, 12)
    data = DataConfig(path=str(tmp_path))
    counts = {split: read_split(data, split) for split in ("train", "validation", "test")}
    assert {split: len(rows or ()) for split, rows in counts.items()} == {
        "train": 10,
        "validation": 1,
        "test": 1,
    }
    train = counts["train"]
    assert train is not None
    assert (train[0].text, train[0].speaker, train[0].language) == (SENTENCES[0], "amina", "sw")
    assert train[0].audio == tmp_path / "clips/amina/00001.flac"


def rows(speakers: str, takes: int = 10) -> list[Row]:
    """So many takes of each, one speaker a letter, who read other sentences."""
    return [
        Row(f"{name}{take}.flac", f"{name} {take}", name)
        for name in speakers
        for take in range(takes)
    ]


def test_whole_speakers_are_set_aside_and_stay_there_when_others_join() -> None:
    before: dict[str, set[str]] = {}
    for count in range(3, 9):
        names = "abcdefgh"[:count]
        found: dict[str, set[str]] = {}
        for row, split in zip(rows(names), splits_of(rows(names)), strict=True):
            found.setdefault(row.speaker, set()).add(split)
        assert found["c"] == {"test"}
        assert found["a"] == ({"train", "validation"} if count == 3 else {"train"})
        assert {name: found[name] for name in before if name in "cd"} == {
            name: before[name] for name in before if name in "cd"
        }
        before = found
    assert before["d"] == {"validation"}
    assert before["h"] == {"test"}


def test_of_few_speakers_a_sentence_is_in_one_split_whoever_reads_it() -> None:
    two = [Row(f"{name}{n}", f"text {n}", name) for name in "ab" for n in range(30)]
    split_of: dict[str, str] = {}
    for row, split in zip(two, splits_of(two), strict=True):
        assert split_of.setdefault(row.text, split) == split
    assert sorted(split_of.values()).count("test") == 3


def test_a_visitor_with_few_takes_is_no_test_set() -> None:
    some = [*rows("ab"), *rows("c", takes=9)]
    assert {s for r, s in zip(some, splits_of(some), strict=True) if r.speaker == "c"} >= {"train"}


def test_what_somebody_added_to_a_row_stays(tmp_path: Path) -> None:
    recorded(tmp_path, 1)
    (row,) = lines(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps(row | {"accent": "Mtwara"}) + "\n")
    recorded(tmp_path, 1)
    assert [row.get("accent") for row in lines(tmp_path)] == ["Mtwara", None]


def test_only_sounds_of_the_folder_are_given_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret.flac"
    secret.write_bytes(b"secret")
    recorded(tmp_path / "mine", 1)
    (row,) = lines(tmp_path / "mine")
    for audio in ("../secret.flac", str(secret), "clips/link.flac"):
        (tmp_path / "mine/clips/link.flac").unlink(missing_ok=True)
        (tmp_path / "mine/clips/link.flac").symlink_to(secret)
        (tmp_path / "mine" / MANIFEST).write_text(json.dumps(row | {"audio": audio}) + "\n")
        assert Collection(tmp_path / "mine", SENTENCES).sound("amina", SENTENCES[0]) is None
    assert secret.exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\\b", "x" * 61, "a\x1b[2J"])
def test_a_speaker_needs_a_name_that_a_folder_can_have(tmp_path: Path, name: str) -> None:
    collection = Collection(tmp_path, SENTENCES)
    with pytest.raises(UserError, match="expected a name"):
        collection.keep(name, SENTENCES[0], SOUND, RATE)


def test_a_sentence_that_nobody_asked_for_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not among those"):
        Collection(tmp_path, SENTENCES).keep("amina", "another", SOUND, RATE)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(UserError, match=r"a manifest of its own, train\.jsonl"):
        Collection(tmp_path, SENTENCES)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        Collection(tmp_path / "file", SENTENCES)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MANIFEST).write_text('{"audio": "a.wav"}\n')
    with pytest.raises(UserError, match=f"{MANIFEST}:1 is no take"):
        Collection(tmp_path / "other", SENTENCES)


def test_skipped_sentences_are_kept_by_name(tmp_path: Path) -> None:
    collection = Collection(tmp_path, SENTENCES)
    collection.skip("amina", SENTENCES[0])
    collection.skip("amina", "none of them")
    assert (tmp_path / SKIPPED).read_text() == f"amina\t{SENTENCES[0]}\n"
    assert collection.progress("juma").next == SENTENCES[0]


def test_the_command_names_what_is_to_be_filled_in() -> None:
    some = rows("a", 1)
    assert training_command("lora-whisper", "my set", some) == (
        "lora-whisper train model=small name=my-set data.path='my set' data.language=…"
    )
