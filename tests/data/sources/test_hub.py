"""Data sets of the hub: folders as `hf download` leaves them stand for them, offline."""

import contextlib
import io
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from lora_whisper.config import ColumnsConfig, DataConfig
from lora_whisper.data.audio import AudioError, EncodedAudio, read_audio
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.sources import hub, read_split
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_hub import (
    PLAIN,
    VOXPOPULI,
    clip,
    encoded,
    write_card,
    write_fleurs,
    write_parquet,
    write_plain,
)
from tests.toy_speech import write_clip, write_manifest

NO_COLUMNS = ColumnsConfig(None, None, None, None, None, None)


pytestmark = pytest.mark.usefixtures("cache")


def columns(**names: str) -> ColumnsConfig:
    return ColumnsConfig(**(vars(NO_COLUMNS) | names))


def config(path: Path | str, **changes: Any) -> DataConfig:
    return data_config("hub", **({"path": str(path), "config": None} | changes))


def texts(utterances: Utterances) -> list[str]:
    return [utterance.text for utterance in utterances]


# ── what is read ─────────────────────────────────────────────────────────────────────────────


def test_fleurs_as_it_is_downloaded(tmp_path: Path) -> None:
    folder = write_fleurs(tmp_path / "fleurs", "sw_ke", {"train": 5, "validation": 2, "test": 2})
    fleurs = data_config("fleurs", path=str(folder), config="sw_ke")
    assert hub.split_names(fleurs) == ("train", "validation", "test")
    read = hub.read(fleurs, "train")
    assert texts(read) == [f"Habari ya train {number}." for number in range(5)]
    first = read[1]
    assert (first.language, first.speaker, first.start_seconds) == ("sw", None, None)
    assert first.columns["gender"] == "female"
    assert first.columns["lang_id"] == "sw_ke"
    assert "audio" not in first.columns
    assert first.row == f"{folder}/sw_ke train:1"
    assert len(read_audio(first.audio)) == round(0.6 * 16_000)


def test_a_card_names_the_configurations(tmp_path: Path) -> None:
    splits = ("train", "test")
    for name, rows in (("af_za", 3), ("cmn_hans_cn", 4)):
        write_fleurs(tmp_path, name, dict.fromkeys(splits, rows))
    write_card(
        tmp_path,
        {"af_za": splits, "cmn_hans_cn": splits},
        "parquet-data/{config}/{split}-*.parquet",
    )
    chinese = data_config("fleurs", path=str(tmp_path), config="cmn_hans_cn")
    assert len(hub.read(chinese, "test")) == 4
    assert hub.read(chinese, "test")[0].language == "zh"
    with pytest.raises(UserError) as wrong:
        hub.read(data_config("fleurs", path=str(tmp_path), config="sw"), "train")
    for words in ("data.config=sw", "af_za", "cmn_hans_cn"):
        assert words in str(wrong.value)
    with pytest.raises(UserError, match=r"no data\.config\. Type data\.config=NAME"):
        hub.read(config(tmp_path), "train")


def test_a_part_of_a_downloaded_data_set_is_enough(tmp_path: Path) -> None:
    """The card names configurations of which no file is here."""
    write_fleurs(tmp_path, "sw_ke", {"train": 2})
    pattern = "parquet-data/{config}/{split}-*.parquet"
    write_card(tmp_path, {"af_za": ["train"], "sw_ke": ["train"]}, pattern)
    assert len(hub.read(data_config("fleurs", path=str(tmp_path), config="sw_ke"), "train")) == 2


def test_voxpopuli(tmp_path: Path) -> None:
    """Its raw_text is empty in some rows whose normalized_text is not."""
    write_parquet(
        tmp_path / "de" / "train-00000-of-00001.parquet",
        VOXPOPULI,
        {
            "audio_id": ["a", "b"],
            "language": [1, 2],
            "audio": [clip(0, 0.5, "OPUS"), clip(1, 0.5, "FLAC")],
            "raw_text": ["", "Guten Tag."],
            "normalized_text": ["guten morgen", "guten tag"],
            "gender": ["male", "female"],
            "speaker_id": ["1234", "None"],
            "is_gold_transcript": [True, False],
            "accent": ["None", "None"],
        },
    )
    read = hub.read(data_config("voxpopuli", path=str(tmp_path), config="de"), "train")
    assert texts(read) == ["guten morgen", "guten tag"]
    assert [utterance.speaker for utterance in read] == ["1234", None]
    assert [utterance.language for utterance in read] == ["de", "en"]
    assert [len(read_audio(utterance.audio)) for utterance in read] == [8_000, 8_000]


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train[:30%]", [0, 1, 2]),
        ("train[8:]", [8, 9]),
        ("train[-1:]", [9]),
        ("train[:1]+test+train[5:6]", [0, 100, 101, 5]),
    ],
)
def test_split_expressions(tmp_path: Path, split: str, numbers: list[int]) -> None:
    write_plain(tmp_path, "train", [0.2] * 10)
    write_plain(tmp_path, "test", [0.2] * 2, first=100)
    read = hub.read(config(tmp_path), split)
    assert texts(read) == [f"number {number}" for number in numbers]
    if split == "train[8:]":
        assert read[0].row.endswith("train:8")
        assert isinstance(read[0].audio, EncodedAudio)
        assert read[0].audio.load() == encoded(0.2)


def test_only_the_splits_that_are_asked_for_are_prepared(tmp_path: Path, cache: Path) -> None:
    write_plain(tmp_path / "set", "train", [0.2] * 3)
    write_plain(tmp_path / "set", "test", [0.2] * 3)
    hub.read(config(tmp_path / "set"), "test")
    arrow = [file.name for file in cache.rglob("*.arrow")]
    assert arrow == ["set-test.arrow"]


def test_changed_files_are_read_anew(tmp_path: Path) -> None:
    write_plain(tmp_path, "train", [0.2] * 2)
    assert len(hub.read(config(tmp_path), "train")) == 2
    hub._builder.cache_clear()  # as another process would begin
    write_plain(tmp_path, "train", [0.2] * 3)
    assert len(hub.read(config(tmp_path), "train")) == 3


def test_names_of_splits_that_the_configuration_leaves_open(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write_plain(tmp_path, split, [0.2])
    write_card(tmp_path, {"default": ["train", "dev", "test"]}, "data/{split}-*")
    assert hub.named_split(config(tmp_path), "validation") == "dev"
    assert hub.named_split(config(tmp_path), "test") == "test"
    assert hub.named_split(config(tmp_path, test="dev"), "test") == "dev"


def saved() -> Dataset:
    table = pa.table(
        {"audio": [clip(0, 0.3), clip(1, 0.4)], "text": ["one", "two"]}, PLAIN.arrow_schema
    )
    return Dataset(table)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    saved().save_to_disk(tmp_path / "one")
    assert texts(hub.read(config(tmp_path / "one"), "train")) == ["one", "two"]
    DatasetDict(train=saved(), test=saved().select([1])).save_to_disk(tmp_path / "several")
    read = hub.read(config(tmp_path / "several"), "test")
    assert texts(read) == ["two"]
    assert len(read_audio(read[0].audio)) == 6_400


def test_paths_instead_of_bytes(tmp_path: Path) -> None:
    """As a structure and as plain text, relative to the data set."""
    write_clip(tmp_path / "clips" / "a.wav", 0.5)
    plain = Features({"file": Value("string"), "text": Value("string")})
    write_parquet(
        tmp_path / "plain" / "train.parquet", plain, {"file": ["../clips/a.wav"], "text": ["a"]}
    )
    write_parquet(
        tmp_path / "nested" / "train.parquet",
        PLAIN,
        {"audio": [{"bytes": None, "path": str(tmp_path / "clips" / "a.wav")}], "text": ["a"]},
    )
    for name in ("plain", "nested"):
        audio = hub.read(config(tmp_path / name), "train")[0].audio
        assert isinstance(audio, Path)
        assert len(read_audio(audio)) == 8_000


def test_rows_may_say_more(tmp_path: Path) -> None:
    more = Features(
        {
            **PLAIN,
            "task": Value("string"),
            "previous_text": Value("string"),
            "client_id": Value("int64"),
            "locale": Value("string"),
            "begin": Value("float32"),
            "until": Value("int32"),
            "start": Value("float64"),  # of the clip in some recording
        }
    )
    rows = {
        "audio": [clip(0, 3.0), None],
        "text": ["a", ""],
        "task": ["translate", "asr"],
        "previous_text": ["before", None],
        "client_id": [7, None],
        "locale": ["pt-BR", " "],
        "begin": [0.5, None],
        "until": [2, None],
        "start": [812.5, 900.0],
    }
    write_parquet(tmp_path / "train.parquet", more, rows)
    asked = config(tmp_path, columns=columns(start="begin", end="until"), language="sw")
    one, empty = hub.read(asked, "train")
    assert (one.task, one.previous_text, one.speaker, one.language) == (
        "translate",
        "before",
        "7",
        "pt",
    )
    assert (one.start_seconds, one.end_seconds) == (0.5, 2.0)
    assert (empty.task, empty.speaker, empty.language) == ("transcribe", None, "sw")
    assert isinstance(empty.audio, EncodedAudio)
    assert empty.audio.load() == b""
    assert hub.read(config(tmp_path), "train")[0].start_seconds is None


def test_rows_without_a_text_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audio = [clip(number, 0.2 + number / 10) for number in range(4)]
    rows = {"audio": audio, "text": [None, "a", None, ""]}
    write_parquet(tmp_path / "train.parquet", PLAIN, rows)
    read = hub.read(config(tmp_path), "train")
    assert texts(read) == ["a", ""]
    assert [utterance.row[-2:] for utterance in read] == [":1", ":3"]
    assert [len(read_audio(utterance.audio)) for utterance in read] == [4_800, 8_000]
    assert "left out 2: without a text" in caplog.text
    assert "1 of 2 rows have an empty text" in caplog.text


def test_labels_that_say_nothing(tmp_path: Path) -> None:
    labelled = Features({**PLAIN, "language": ClassLabel(names=["sw_ke"])})
    rows = {"audio": [clip(0, 0.2)] * 2, "text": ["a", "b"], "language": [-1, 0]}
    write_parquet(tmp_path / "train.parquet", labelled, rows)
    read = hub.read(config(tmp_path), "train")
    assert [utterance.language for utterance in read] == [None, "sw"]


def test_many_rows_lie_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_whisper.data.dataset.ROWS_ON_DISK", 10)
    write_plain(tmp_path, "train", [0.2] * 25)
    for _ in range(2):
        read = hub.read(config(tmp_path), "train")
        assert texts(read) == [f"number {number}" for number in range(25)]
        assert read.tables[0].path is not None


def lengths(utterances: Utterances) -> list[int]:
    return [len(read_audio(utterance.audio)) for utterance in utterances]


def test_workers_read_audio_from_the_memory_map(tmp_path: Path) -> None:
    """Sending utterances to another process sends no audio."""
    write_plain(tmp_path, "train", [2.0, 2.5, 3.0])
    read = hub.read(config(tmp_path), "train")
    assert len(pickle.dumps(read)) < 12_000 < len(encoded(2.0))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(lengths, (read,)) == [32_000, 40_000, 48_000]


# ── what cannot be read ──────────────────────────────────────────────────────────────────────


def refusal(asked: DataConfig, split: str = "train") -> str:
    with pytest.raises(UserError) as refused:
        hub.read(asked, split)
    return str(refused.value)


def test_without_a_network_it_says_what_to_download() -> None:
    message = refusal(data_config("fleurs", path="google/fleurs", config="sw_ke"))
    assert "hf download google/fleurs --repo-type dataset --local-dir fleurs" in message
    assert '--include "*sw_ke/*.parquet"' in message
    assert "data.path=fleurs" in message


def test_neither_folder_nor_id(tmp_path: Path) -> None:
    assert "no folder" in refusal(config(tmp_path / "nowhere"))
    (tmp_path / "a.jsonl").touch()
    assert "is a file" in refusal(config(tmp_path / "a.jsonl"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1, and no more")
    assert "a.parquet" in refusal(config(tmp_path / "a.parquet"))


def test_one_file_among_others(tmp_path: Path) -> None:
    folder = write_fleurs(tmp_path / "fleurs", "sw_ke", {"train": 5, "validation": 2, "test": 2})
    (file,) = folder.rglob("validation*.parquet")
    file = file.rename(tmp_path / "a.jsonl")
    one = config(file, columns=columns(text="transcription"))
    assert hub.split_names(one) == ("train",)
    assert len(hub.read(one, "train")) == 2


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "Expected Parquet files" in refusal(config(tmp_path))


def test_sound_files_beside_a_table_have_a_reader_of_their_own(tmp_path: Path) -> None:
    """`datasets` would want torchcodec, which is not installed with us."""
    write_clip(tmp_path / "train" / "a.wav", 0.5)
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\na.wav,hello\n")
    assert f"data=audiofolder data.path={tmp_path}" in refusal(config(tmp_path))


def test_unknown_splits(tmp_path: Path) -> None:
    write_plain(tmp_path, "train", [0.2] * 2)
    message = refusal(config(tmp_path), "train+dev")
    assert "no split dev" in message
    assert "it has train" in message
    for expression in ("train[:", "train[:200%]", "train[1:0.5]"):
        assert "train (2 rows)" in refusal(config(tmp_path), expression)


@pytest.mark.parametrize(
    ("features", "asked", "expected"),
    [
        ({"audio": PLAIN["audio"], "words": Value("string")}, {}, "no column holds the text"),
        ({"sound": PLAIN["audio"], "text": Value("string")}, {}, "no column holds the audio"),
        (PLAIN, {"text": "words"}, "data.columns.text=words: there is no such column"),
        ({**PLAIN, "text": Value("int64")}, {}, "column text is int64, expected text"),
        ({**PLAIN, "audio": Value("float64")}, {}, "column audio is float64, expected audio"),
        ({**PLAIN, "who": PLAIN["audio"]}, {"speaker": "who"}, "column who is"),
        ({**PLAIN, "from": Value("string")}, {"start": "from"}, "column from is string"),
    ],
)
def test_columns_that_are_missing_or_of_another_type(
    tmp_path: Path, features: dict[str, Any], asked: dict[str, str], expected: str
) -> None:
    file = tmp_path / "train.parquet"
    write_parquet(file, Features(features), {name: [None] for name in features})
    message = refusal(config(tmp_path, columns=columns(**asked)))
    assert expected in message
    assert all(name in message for name in features), "it lists what is there"
    assert "data.columns." in message


def test_damaged_files(tmp_path: Path) -> None:
    write_plain(tmp_path, "train", [0.5] * 5)
    (file,) = (tmp_path / "data").iterdir()
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 100 :])
    message = refusal(config(tmp_path))
    assert "split train" in message or "cannot be read" in message


def test_text_that_is_no_text(tmp_path: Path) -> None:
    broken = pa.array([b"one", b"n\xa8mber"]).view(pa.string())
    write_parquet(tmp_path / "train.parquet", PLAIN, {"audio": [clip(0, 0.2)] * 2, "text": broken})
    assert "UnicodeDecodeError" in refusal(config(tmp_path))


@pytest.mark.parametrize("seed", range(12))
def test_files_with_changed_bytes_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    """Neither a crash nor another exception; what is read can be heard, or says why not."""
    write_plain(tmp_path, "train", [0.3 + 0.1 * number for number in range(4)])
    (file,) = (tmp_path / "data").iterdir()
    generator = np.random.default_rng(seed)
    damaged = bytearray(file.read_bytes())
    for place in generator.integers(len(damaged), size=1 + seed):
        damaged[place] = generator.integers(256)
    file.write_bytes(damaged[: generator.integers(len(damaged))] if seed % 4 == 0 else damaged)
    with contextlib.suppress(UserError):
        for utterance in hub.read(config(tmp_path), "train"):
            with contextlib.suppress(AudioError):
                read_audio(utterance.audio)


def test_bytes_that_are_no_audio(tmp_path: Path) -> None:
    rows = {"audio": [{"bytes": b"nothing", "path": "a.wav"}], "text": ["a"]}
    write_parquet(tmp_path / "train.parquet", PLAIN, rows)
    audio = hub.read(config(tmp_path), "train")[0].audio
    assert isinstance(audio, EncodedAudio)
    with pytest.raises(soundfile.SoundFileError):
        soundfile.info(io.BytesIO(audio.load()))


def test_a_manifest_beside_a_data_set_has_columns_of_its_own(tmp_path: Path) -> None:
    """FLEURS' text is in raw_transcription, which no manifest of one's own has."""
    folder = write_fleurs(tmp_path / "fleurs", "sw_ke", {"train": 3, "test": 2})
    own = write_manifest(tmp_path / "own.jsonl", [{"audio": "a.wav", "text": "yangu"}])
    config = data_config("fleurs", path=str(folder), config="sw_ke", test=str(own))
    found = read_split(config, "test")
    assert found is not None
    assert [one.text for one in found] == ["yangu"]
    assert len(read_split(config, "train") or ()) == 3
