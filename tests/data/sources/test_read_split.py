"""Which rows are which split: what the configuration names, what the source names, and shares."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_whisper.config import ColumnsConfig, DataConfig, MixConfig, Split
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.sources import hub, read_split, resolved
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_speech import write_manifest

CONFIG = replace(data_config(path="x"), train=None)
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
COUNT = 60


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "cache"))


def plain(number: int) -> dict[str, Any]:
    return {"audio": f"{number}.wav", "text": f"sentence {number}", "speaker": f"s{number}"}


def texts(found: Utterances | None) -> list[str] | None:
    return None if found is None else [one.text for one in found]


def by_split(config: DataConfig) -> dict[str, list[str] | None]:
    return {split: texts(read_split(config, split)) for split in SPLITS}


def write_splits(path: Path, *splits: str | None) -> Path:
    rows = [plain(number) | {"split": split} for number, split in enumerate(splits)]
    return write_manifest(path, rows)


# ── files of their own ───────────────────────────────────────────────────────────────────────


def test_rows_go_to_the_split_that_they_name(tmp_path: Path) -> None:
    names = ["train", "dev", "valid", "val", "validation", "Test", None, ""]
    path = str(write_splits(tmp_path / "a.jsonl", *names))
    found = by_split(replace(CONFIG, path=None, train=path, validation=path, test=path))
    numbers = {"train": [0, 6, 7], "validation": [1, 2, 3, 4, 6, 7], "test": [5, 6, 7]}
    assert found == {split: [f"sentence {n}" for n in ns] for split, ns in numbers.items()}


def test_what_is_not_given_is_not_there(tmp_path: Path) -> None:
    path = str(write_splits(tmp_path / "a.jsonl", None))
    found = by_split(replace(CONFIG, path=None, train=path))
    assert found == {"train": ["sentence 0"], "validation": None, "test": None}


def test_no_rows_for_a_split_that_was_asked_for(tmp_path: Path) -> None:
    path = str(write_splits(tmp_path / "a.jsonl", "train", "train", "test"))
    with pytest.raises(UserError, match=r"a\.jsonl has no rows.*'validation'.*train 2, test 1"):
        read_split(replace(CONFIG, path=None, train=path, validation=path), "validation")
    empty = tmp_path / "empty.csv"
    empty.touch()
    given = replace(CONFIG, path=None, train=str(empty), validation=str(empty))
    with pytest.raises(UserError, match=r"no rows at all\. Expected audio and text\.$"):
        read_split(given, "train")
    with pytest.raises(UserError, match=r"no rows at all.*data\.validation=null"):
        read_split(given, "validation")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl cannot be read"):
        read_split(replace(CONFIG, path=None, train="gone.jsonl"), "train")
    with pytest.raises(UserError, match=r"gone\.jsonl cannot be read"):
        read_split(replace(CONFIG, path="gone.jsonl"), "train")
    folders = replace(CONFIG, source="audiofolder", path=None, train="gone")
    with pytest.raises(UserError, match=r"data\.train=gone: no such file.*data\.path=…"):
        read_split(folders, "train")
    with pytest.raises(UserError, match=r"data\.train=gone: no such file"):
        read_split(replace(folders, source="hub"), "train")


@pytest.mark.parametrize("source", ["audiofolder", "common_voice", "subtitles", "nemo", "hub"])
def test_a_manifest_serves_as_a_split_of_any_source(tmp_path: Path, source: Any) -> None:
    row = {"audio_filepath": "1.wav", "text": "a"}
    path = write_manifest(tmp_path / "a.jsonl", [row])
    assert texts(read_split(replace(CONFIG, source=source, test=str(path)), "test")) == ["a"]


def test_language_and_task_of_the_configuration_hold_for_rows_without(tmp_path: Path) -> None:
    rows = [plain(0), plain(1) | {"language": "en", "task": "translate"}]
    path = write_manifest(tmp_path / "a.jsonl", rows)
    config = replace(CONFIG, path=None, train=str(path), language="sw")
    found = read_split(config, "train")
    assert found is not None
    assert [(one.language, one.task) for one in found] == [
        ("sw", "transcribe"),
        ("en", "translate"),
    ]
    assert pickle.loads(pickle.dumps(found))[1] == found[1]


# ── one path for all ─────────────────────────────────────────────────────────────────────────


def test_a_column_divides_what_the_path_holds(tmp_path: Path) -> None:
    path = write_splits(tmp_path / "a.jsonl", "train", "dev", "test", "other")
    found = by_split(replace(CONFIG, path=str(path)))
    assert found == {
        "train": ["sentence 0"],
        "validation": ["sentence 1"],
        "test": ["sentence 2"],
    }
    assert texts(read_split(replace(CONFIG, path=str(path), test="other"), "test")) == [
        "sentence 3"
    ]
    with pytest.raises(UserError, match=r"data\.test=odd.*it has: train 1, validation 1, test 1"):
        read_split(replace(CONFIG, path=str(path), test="odd"), "test")


def test_rows_of_a_split_that_nobody_asked_for_are_not_lost_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_splits(tmp_path / "a.jsonl", "train", "eval", "eval", "dev")
    by_split(replace(CONFIG, path=str(path)))
    assert caplog.text.count("left out: eval 2") == 1
    caplog.clear()
    by_split(replace(CONFIG, path=str(path), test="eval"))
    assert not caplog.text


def test_a_split_that_the_path_does_not_have(tmp_path: Path) -> None:
    path = write_splits(tmp_path / "a.jsonl", "train", "train")
    assert by_split(replace(CONFIG, path=str(path)))["test"] is None
    path = write_splits(tmp_path / "b.jsonl", "test")
    with pytest.raises(UserError, match=r"no part called train; it has: test 1"):
        read_split(replace(CONFIG, path=str(path)), "train")


def test_some_rows_that_name_a_split_and_some_that_do_not(tmp_path: Path) -> None:
    path = write_splits(tmp_path / "a.jsonl", "train", None, "test", None)
    with pytest.raises(UserError, match="2 rows that name no split") as error:
        read_split(replace(CONFIG, path=str(path)), "train")
    assert "a.jsonl:2" in str(error.value)
    assert "a.jsonl:4" in str(error.value)


def test_a_folder_of_manifests(tmp_path: Path) -> None:
    for name in ("train.jsonl", "dev.csv", "more.tsv"):
        mark = {".csv": ",", ".tsv": "\t"}.get(Path(name).suffix)
        table = f"audio{mark}text\n1.wav{mark}{name}\n"
        (tmp_path / name).write_text(table if mark else '{"audio": "1.wav", "text": "train.jsonl"}')
    config = replace(CONFIG, path=str(tmp_path))
    assert by_split(config) == {"train": ["train.jsonl"], "validation": ["dev.csv"], "test": None}
    assert texts(read_split(replace(config, test="more"), "test")) == ["more.tsv"]
    assert texts(read_split(replace(config, test="more.tsv"), "test")) == ["more.tsv"]
    with pytest.raises(UserError, match="it has: dev, more, train"):
        read_split(replace(config, test="extra"), "test")
    (tmp_path / "valid.csv").touch()
    with pytest.raises(
        UserError, match=r"There are dev\.csv and valid\.csv, each of which may be validation"
    ):
        read_split(config, "validation")


def test_a_sub_folder_by_name(tmp_path: Path) -> None:
    for name in ("coast", "inland"):
        folder = tmp_path / name
        write_manifest(folder / "metadata.jsonl", [{"file_name": "1.wav", "text": name}])
    config = replace(CONFIG, source="audiofolder", path=str(tmp_path), train="inland", test="coast")
    assert by_split(config) == {"train": ["inland"], "validation": None, "test": ["coast"]}


def test_a_folder_without_manifests(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no manifest.*data=audiofolder"):
        read_split(replace(CONFIG, path=str(tmp_path)), "train")


def test_paths_with_a_tilde_and_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_splits(tmp_path / "a.jsonl", None)
    found = read_split(replace(CONFIG, path=None, train="~/a.jsonl"), "train")
    assert found is not None
    assert found[0].audio == tmp_path / "0.wav"
    embedded = replace(CONFIG, path=None, train="embedded:speech/dictation/train.jsonl")
    found = read_split(embedded, "train")
    assert found is not None
    assert isinstance(found[0].audio, Path)
    assert found[0].audio.is_file()


# ── shares ───────────────────────────────────────────────────────────────────────────────────


def undivided(tmp_path: Path, **changes: Any) -> DataConfig:
    path = write_manifest(tmp_path / "all.jsonl", [plain(number) for number in range(COUNT)])
    return replace(CONFIG, path=str(path), **changes)


def test_a_source_without_splits_is_divided(tmp_path: Path) -> None:
    found = by_split(undivided(tmp_path))
    every = [text for rows in found.values() for text in rows or ()]
    assert sorted(every) == sorted(f"sentence {number}" for number in range(COUNT))
    assert all(found.values())


def test_nothing_is_set_aside_for_what_comes_from_elsewhere(tmp_path: Path) -> None:
    other = str(write_splits(tmp_path / "other.jsonl", None))
    found = by_split(undivided(tmp_path, test=other, validation_share=0.0))
    assert len(found["train"] or ()) == COUNT
    assert found["validation"] is None
    assert found["test"] == ["sentence 0"]


def test_what_is_named_is_not_divided(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no part called train; it has: none named 60"):
        read_split(undivided(tmp_path, train="train"), "train")
    other = str(write_splits(tmp_path / "other.jsonl", None))
    assert by_split(undivided(tmp_path, train=other))["test"] is None


def test_a_changed_source_is_read_anew(tmp_path: Path) -> None:
    path = write_splits(tmp_path / "a.jsonl", None)
    config = replace(CONFIG, path=None, train=str(path))
    assert len(read_split(config, "train") or ()) == 1
    write_splits(path, None, None)
    assert len(read_split(config, "train") or ()) == 2


# ── hub ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hub_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub is a manifest here; its own tests read data sets."""
    there = ["train"]
    path = write_manifest(tmp_path / "hub.jsonl", [plain(number) for number in range(COUNT)])

    def read(config: DataConfig, split: str) -> Utterances:
        found = read_split(replace(CONFIG, path=None, train=str(path)), "train")
        assert found is not None
        assert split in there
        return found

    monkeypatch.setattr(hub, "read", read)
    monkeypatch.setattr(hub, "split_names", lambda config: tuple(there))
    return there


HUB = replace(CONFIG, source="hub", path="owner/name", train="train")


def test_a_hub_data_set_with_one_split_is_divided(hub_splits: list[str]) -> None:
    found = by_split(HUB)
    every = [text for rows in found.values() for text in rows or ()]
    assert len(every) == len(set(every)) == COUNT
    assert all(found.values())
    whole = by_split(replace(HUB, validation_share=0.0, test_share=0.0))
    assert len(whole["train"] or ()) == COUNT
    assert whole["test"] is None
    streamed = by_split(replace(HUB, streaming=True))
    assert len(streamed["train"] or ()) == COUNT
    assert streamed["validation"] is None


def test_a_hub_data_set_with_splits_keeps_them(hub_splits: list[str]) -> None:
    hub_splits.append("dev")
    found = by_split(HUB)
    assert {split: len(rows or ()) for split, rows in found.items()} == {
        "train": COUNT,
        "validation": COUNT,
        "test": 0,
    }
    hub_splits[:] = ["dev", "more"]
    with pytest.raises(UserError, match=r"no split train; it has dev, more"):
        read_split(replace(HUB, train=None), "train")


# ── mix ──────────────────────────────────────────────────────────────────────────────────────


def mix(**changes: Any) -> MixConfig:
    names = (name for name in MixConfig.__dataclass_fields__ if name != "weight")
    return MixConfig(**({"weight": 0.5} | dict.fromkeys(names) | changes))


def test_a_mixed_source_inherits_what_it_does_not_say() -> None:
    config = replace(CONFIG, path="main", train="train", test="test", config="sw", revision="v1")
    config = replace(config, language="luo", language_token="sw", mix=(mix(path="x"),))
    found = resolved(config, config.mix[0])
    assert found == replace(
        config, path="x", train=None, test=None, config=None, revision=None,
        validation_share=0.0, test_share=0.0, mix=(),
    )  # fmt: skip
    columns = ColumnsConfig("a", "t", None, None, None, None)
    own = mix(
        train="b", config="en", source="hub", columns=columns, language="en", task="translate"
    )
    found = resolved(config, own)
    assert (found.path, found.train, found.config, found.source) == (None, "b", "en", "hub")
    assert (found.columns, found.language, found.task) == (columns, "en", "translate")
    assert found.language_token is None, "English has a token of its own"


def test_a_mixed_source_without_splits_is_mixed_in_whole(tmp_path: Path) -> None:
    config = undivided(tmp_path)
    found = resolved(replace(CONFIG, path="main"), mix(path=config.path))
    assert len(read_split(found, "train") or ()) == COUNT


# ── splits of other names ────────────────────────────────────────────────────────────────────


def test_other_parts_of_a_folder_are_named_and_how_to_use_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "validation", "test_seen", "test_unseen"):
        write_splits(tmp_path / f"{name}.jsonl", None)
    config = replace(CONFIG, path=str(tmp_path))
    assert texts(read_split(config, "train")) == ["sentence 0"]
    assert read_split(config, "test") is None
    assert "test_seen, test_unseen" in caplog.text
    assert "data.test=NAME" in caplog.text
    caplog.clear()
    config = replace(config, test="test_seen")  # as it says
    read_split(config, "train")
    assert texts(read_split(config, "test")) == ["sentence 0"]
    assert "left out: test_unseen" in caplog.text


def test_other_folders_of_an_audio_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "test_seen", "test_unseen"):
        (tmp_path / name).mkdir()
        row = {"file_name": f"{name}.wav", "text": name}
        write_manifest(tmp_path / name / "metadata.jsonl", [row])
    config = replace(data_config("audiofolder"), path=str(tmp_path), train=None)
    assert texts(read_split(config, "train")) == ["train"]
    assert "test_seen 1, test_unseen 1; data.test=NAME" in caplog.text
    assert texts(read_split(replace(config, test="test_unseen"), "test")) == ["test_unseen"]
