"""Rows come back as they were given, from memory and from the disk, however they are chosen."""

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data import dataset as table_module
from lora_whisper.data.audio import EncodedAudio
from lora_whisper.data.dataset import (
    SCHEMA,
    Defaults,
    Row,
    Table,
    Utterances,
    table_key,
)
from lora_whisper.paths import cache_folder
from tests.configs import data_config
from tests.toy_utterances import toy_row

SOME = [toy_row(1), toy_row(2, language="sw", task="translate", start=1.5), toy_row(3, speaker="a")]
SWAHILI = Defaults("sw", "transcribe")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own cache, and ten rows are many."""
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table_module, "ROWS_ON_DISK", 10)
    return tmp_path / "cache" / "tables"


def reader(count: int) -> Callable[[], Iterator[Row]]:
    return lambda: (toy_row(number, split="test") for number in range(1, count + 1))


def never() -> Iterator[Row]:
    raise AssertionError("read again")


texts = st.text(st.characters(exclude_categories=["Cs"]))
optional = st.none() | texts.filter(bool)
seconds = st.none() | st.floats(0, 1e9)
rows = st.builds(
    Row, texts, texts, texts, optional, optional, seconds, seconds, optional, optional, optional
    , texts
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(rows, max_size=25))
def test_rows_come_back_as_they_were(given: list[Row]) -> None:
    table = Table.from_rows(given)
    assert [table.row(number) for number in range(len(table))] == given
    assert table.column("text").to_pylist() == [row.text for row in given]


@pytest.mark.parametrize("count", [0, 9, 10, 11, 20, 35])
def test_only_large_tables_go_to_the_disk(cache: Path, count: int) -> None:
    table = Table.cached("a-1", reader(count))
    assert [table.row(number) for number in range(count)] == list(reader(count)())
    assert (cache / "a-1.arrow").exists() == (count >= 10)
    again = pickle.loads(pickle.dumps(table))
    assert again.path == table.path
    assert [again.row(number) for number in range(count)] == list(reader(count)())


def test_what_is_cached_is_not_read_again(cache: Path) -> None:
    first = Table.cached("a-1", reader(35))
    again = Table.cached("a-1", never)
    assert again.row(34) == first.row(34)
    assert len(pickle.dumps(again)) < 500, "a path, and no rows"


def test_tables_of_what_the_source_was_before_are_removed(cache: Path) -> None:
    old, other = Table.cached("a-1", reader(12)), Table.cached("b-1", reader(12))
    (cache / "a-1.durations.npy").touch()
    (cache / "left.tmp").touch()
    os.utime(cache / "left.tmp", (0, 0))
    (cache / "new.tmp").touch()
    Table.cached("a-2", reader(13))
    assert {path.name for path in cache.iterdir()} == {"a-2.arrow", "b-1.arrow", "new.tmp"}
    assert old.row(11).place == other.row(11).place == "a.jsonl:12", "still mapped"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"no table",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:-300] + bytes(300),
        lambda content: bytes(len(content)),
    ],
)
def test_a_damaged_cache_is_written_anew(
    cache: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path = Table.cached("a-1", reader(35)).path
    assert path is not None
    sound = path.read_bytes()
    path.unlink()  # and not in the place of what is mapped
    path.write_bytes(damage(sound))
    assert Table.cached("a-1", reader(35)).row(34) == toy_row(35, split="test")
    assert path.read_bytes() == sound


def test_texts_that_would_end_beyond_their_buffer_are_not_read(cache: Path) -> None:
    """Arrow's own quick validation lets it pass; reading such a text may end the process."""
    offsets = pa.py_buffer(np.array([0, 5, 2, 6], np.int32).tobytes())
    broken = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"abcdef"))
    columns = [
        broken if kind == pa.string() else pa.array([None] * 3, kind) for kind in SCHEMA.types
    ]
    cache.mkdir(parents=True)
    with pa.ipc.new_file(str(cache / "a-1.arrow"), SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    assert len(Table.cached("a-1", reader(35))) == 35


def test_a_table_of_other_columns_is_written_anew(cache: Path) -> None:
    cache.mkdir(parents=True)
    other = pa.table({"text": ["a"]})
    with pa.ipc.new_file(str(cache / "a-1.arrow"), other.schema) as writer:
        writer.write_table(other)
    assert len(Table.cached("a-1", reader(35))) == 35


def test_without_a_cache_rows_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(tmp_path / "file"))
    table = Table.cached("a-1", reader(35))
    assert (table.path, len(table)) == (None, 35)


def test_an_interrupted_reader_leaves_nothing(cache: Path) -> None:
    def interrupted() -> Iterator[Row]:
        yield from reader(25)()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Table.cached("a-1", interrupted)
    assert list(cache.iterdir()) == []


def test_the_key_tells_whatever_decides_what_is_read(tmp_path: Path) -> None:
    file, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    file.write_text("one")
    other.write_text("two")

    def source_and_state(*given: object) -> tuple[str, str]:
        source, state = table_key(*given).split("-")  # type: ignore[arg-type]
        return source, state

    first = source_and_state("manifest", 1, [file, other], data_config().columns)
    assert source_and_state("manifest", 1, [other, file], data_config().columns) == first
    newer = source_and_state("manifest", 2, [file, other], data_config().columns)
    file.write_text("more")
    changed = source_and_state("manifest", 1, [file, other], data_config().columns)
    assert newer[0] == changed[0] == first[0], "the same source"
    assert len({newer, changed, first}) == 3
    assert source_and_state("manifest", 1, [file], data_config().columns)[0] != first[0]
    columns = replace(data_config().columns, text="other")
    assert source_and_state("manifest", 1, [file, other], columns)[0] != first[0]
    assert source_and_state("nemo", 1, [file, other], data_config().columns)[0] != first[0]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_WHISPER_CACHE", "/own")
    assert cache_folder("tables") == Path("/own/tables")
    monkeypatch.delenv("LORA_WHISPER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder("tables") == Path("/xdg/lora_whisper/tables")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("tables") == Path.home() / ".cache/lora_whisper/tables"


# ── utterances ───────────────────────────────────────────────────────────────────────────────


def two_tables() -> Utterances:
    """Places a.jsonl:1 … 25, then 1 … 7 again, of speaker "b"."""
    many = Table.from_rows(reader(25)())
    few = Table.from_rows(toy_row(number, speaker="b") for number in range(1, 8))
    return Utterances([many, few], SWAHILI)


@settings(deadline=None)
@given(st.lists(st.integers(0, 31)), st.slices(32))
def test_selections_are_those_of_a_list(indices: list[int], part: slice) -> None:
    utterances = two_tables()
    plain = list(utterances)
    assert len(plain) == 32
    assert [utterances.row(index).place for index in range(32)] == [one.row for one in plain]
    assert list(utterances[part]) == plain[part]
    chosen = utterances.select(indices)
    assert list(chosen) == [plain[index] for index in indices]
    assert chosen.column("place").to_pylist() == [one.row for one in chosen]
    assert chosen.column("speaker").to_pylist() == [one.speaker for one in chosen]
    assert list(pickle.loads(pickle.dumps(chosen))) == list(chosen)
    found: dict[int, str] = {}
    for table, positions, numbers in chosen.by_table():
        found |= {
            int(at): table.row(int(to)).place for at, to in zip(positions, numbers, strict=True)
        }
    assert [found[index] for index in range(len(indices))] == [one.row for one in chosen]


def test_it_ends_where_a_list_ends() -> None:
    utterances = two_tables()
    assert utterances[-1] == utterances[31]
    for index in (32, -33):
        with pytest.raises(IndexError):
            utterances[index]
    mask = np.arange(32) % 2 == 0
    assert list(utterances.select(mask)) == list(utterances)[::2]
    assert not utterances[:0]


def test_rows_go_before_the_configuration() -> None:
    utterances = Utterances([Table.from_rows(SOME)], Defaults("luo", "transcribe", "sw"))
    assert [one.language for one in utterances] == ["luo", "sw", "luo"]
    assert [one.language_token for one in utterances] == ["sw", None, "sw"]
    assert [one.task for one in utterances] == ["transcribe", "translate", "transcribe"]
    assert [one.start_seconds for one in utterances] == [None, 1.5, None]
    for name in ("language", "task"):
        assert utterances.column(name).to_pylist() == [getattr(one, name) for one in utterances]
    named = Utterances([Table.from_rows([toy_row(language="luo")])], utterances.defaults)
    assert named[0].language_token == "sw", "whether the row says so or not"


def test_languages_are_called_by_code_from_then_on() -> None:
    rows = [toy_row(), toy_row(language="Chinese"), toy_row(language="zh")]
    coded = Utterances([Table.from_rows(rows)], Defaults("english", "transcribe")).with_codes(
        {"english": "en", "Chinese": "zh", "zh": "zh"}, None
    )
    assert [one.language for one in coded] == ["en", "zh", "zh"]
    assert coded.column("language").to_pylist() == ["en", "zh", "zh"]
    english_only = coded.with_codes({"english": None, "Chinese": None, "zh": None}, None)
    assert [one.language for one in english_only] == [None] * 3
    assert english_only.column("language").to_pylist() == [None] * 3


def test_columns_are_those_of_the_row() -> None:
    (one,) = Utterances([Table.from_rows([toy_row(text="ā", note={"a": [1]})])], SWAHILI)
    assert one.columns == {"text": "ā", "note": {"a": [1]}}


@dataclass(frozen=True)
class Stored:
    """The audio of a data set on the hub: every second one is a file."""

    def __call__(self, number: int) -> Path | EncodedAudio:
        return Path(f"/{number}.wav") if number % 2 else EncodedAudio(f"set:{number}", bytes)


def test_audio_inside_a_data_set() -> None:
    table = Table.from_rows([toy_row(number, audio="") for number in range(4)], audio_of=Stored())
    utterances = Utterances([table], SWAHILI).select([3, 0, 2])
    expected = [Path("/3.wav"), EncodedAudio("set:0", bytes), EncodedAudio("set:2", bytes)]
    assert [one.audio for one in pickle.loads(pickle.dumps(utterances))] == expected
    pieces = utterances.with_pieces({1: [utterances[1], utterances[1]]})
    assert [one.audio for one in pickle.loads(pickle.dumps(pieces))] == [
        expected[0], expected[1], expected[1], expected[2]
    ]  # fmt: skip


def test_pieces_stand_where_the_whole_was() -> None:
    utterances = two_tables().with_durations(np.arange(32.0))
    whole = list(utterances)
    pieces = {
        index: [
            replace(
                whole[index],
                text=f"part {part}",
                start_seconds=part,
                duration_seconds=0.5,
                columns={"part": part},
            )
            for part in range(count)
        ]
        for index, count in {30: 3, 2: 2, 0: 1}.items()
    }
    cut = utterances.with_pieces(pieces)
    expected = [one for index, each in enumerate(whole) for one in pieces.get(index, [each])]
    assert list(map(astuple, cut)) == list(map(astuple, expected))
    assert cut.durations_seconds.tolist() == [one.duration_seconds for one in expected]
    assert cut.column("text").to_pylist() == [one.text for one in expected]
    assert list(cut[3:9]) == expected[3:9]
