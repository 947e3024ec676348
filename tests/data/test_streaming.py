"""Streamed speech: the same samples as memory-mapped, in an order that only the seed decides."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch._utils import ExceptionWrapper

from lora_whisper.config import DataConfig, TrainingConfig
from lora_whisper.data import streaming
from lora_whisper.data.audio import read_audio
from lora_whisper.data.batches import Batch
from lora_whisper.data.sources import hub
from lora_whisper.data.streaming import StreamDataset, check_stream, stream_loader
from lora_whisper.data.windows import BadAudio, LeftOut, WindowMaker
from lora_whisper.errors import UserError
from lora_whisper.schema import from_values
from tests.composed import train_values
from tests.configs import data_config
from tests.model.test_tokenizer import toy_special_tokens
from tests.toy_hub import PLAIN, clip, encoded, write_parquet, write_plain
from tests.toy_tokenizers import toy_tokenizer

ROWS = 20


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Twenty clips of 0.2 … 2.1 s in three files, each of another length."""
    write_plain(tmp_path, "train", [0.2 + 0.1 * number for number in range(ROWS)], files=3)
    return streamed(tmp_path)


def streamed(path: Path, **changes: Any) -> DataConfig:
    given = {"path": str(path), "config": None, "streaming": True, "language": "en"}
    return data_config("hub", **(given | changes))


def maker(**changes: Any) -> WindowMaker:
    return WindowMaker(toy_tokenizer(), toy_special_tokens(), window_seconds=5.0, seed=3, **changes)


def dataset(config: DataConfig, **changes: Any) -> StreamDataset:
    settings = {"global_batch": 6, "micro_batch": 4, "seed": 7, "no_speech_share": 0.0} | changes
    return StreamDataset(config, maker(), **settings)


def rows(batches: list[Batch]) -> list[str]:
    return [row for batch in batches for row in batch.rows]


def equal(one: list[Batch], other: list[Batch]) -> bool:
    """Whether two steps hold the same rows, samples and tokens."""
    if rows(one) != rows(other) or len(one) != len(other):
        return False
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("waveforms", "decoder_input", "labels")
    )


def test_streamed_and_memory_mapped_samples_are_the_same(config: DataConfig) -> None:
    mapped = {
        tuple(read_audio(utterance.audio).tolist()): utterance.text
        for utterance in hub.read(config, "train")
    }
    steps = dataset(config, global_batch=ROWS, micro_batch=1)[0]
    labels = {
        text: maker()._tokens(replace(hub.read(config, "train")[0], text=text))
        for text in mapped.values()
    }
    assert len(mapped) == len(steps) == ROWS
    for batch in steps:
        text = mapped.pop(tuple(batch.waveforms[0].tolist()))
        assert batch.labels[0].tolist()[3:-1] == labels[text]


def test_nothing_is_written(config: DataConfig, cache: Path) -> None:
    dataset(config)[0]
    assert not [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_every_row_once_an_epoch_and_each_epoch_in_another_order(config: DataConfig) -> None:
    """Global batches go on over the end of an epoch: 20 rows are 3 1/3 batches of 6."""
    steps = dataset(config)
    seen = [row for step in range(10) for row in rows(steps[step])]
    epochs = [seen[:ROWS], seen[ROWS : 2 * ROWS], seen[2 * ROWS :]]
    assert [Counter(epoch) for epoch in epochs] == [Counter(epochs[0])] * 3
    assert len(set(epochs[0])) == ROWS
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_is_the_seeds(config: DataConfig) -> None:
    assert rows(dataset(config)[0]) == rows(dataset(config)[0])
    assert rows(dataset(config)[0]) != rows(dataset(config, seed=8)[0])


@pytest.mark.parametrize("step", [1, 3, 8, 25])
def test_a_resumed_run_sees_what_it_would_have_seen(config: DataConfig, step: int) -> None:
    """In the first epoch, over its end, and some epochs later."""
    whole = dataset(config)
    for earlier in range(step):
        whole[earlier]
    assert equal(whole[step], dataset(config)[step])


def test_nothing_is_decoded_on_the_way_to_a_step(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    real = streaming.read_header
    monkeypatch.setattr(streaming, "read_header", lambda audio: decoded.append(1) or real(audio))
    dataset(config)[8]
    assert len(decoded) == 6


def test_whole_epochs_are_counted_and_not_read_again(config: DataConfig) -> None:
    steps = dataset(config)
    opened = []
    steps._rows = streaming._Rows(config, steps.seed)
    set_epoch = steps._rows.stream.set_epoch
    arrow = steps._rows.stream.with_format("arrow")
    arrow.set_epoch = lambda epoch: opened.append(epoch) or set_epoch(epoch)  # type: ignore[method-assign]
    steps._rows.stream.with_format = lambda kind: arrow  # type: ignore[method-assign]
    steps[100]
    assert opened == [0, 100 * 6 // ROWS]


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_see_one_global_batch(config: DataConfig, world: int) -> None:
    alone = dataset(config)
    ranks = [dataset(config, rank=rank, world=world) for rank in range(world)]
    for step in range(5):
        parts = [rows(rank[step]) for rank in ranks]
        together = [part[place] for place in range(6 // world) for part in parts]
        assert together == rows(alone[step])


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(config: DataConfig, workers: int) -> None:
    here, there = (
        list(stream_loader(dataset(config), 2, 7, workers=count)) for count in (0, workers)
    )
    assert len(here) == 5
    assert all(equal(one, other) for one, other in zip(here, there, strict=True))


def test_what_cannot_be_used_is_missing_and_named(tmp_path: Path) -> None:
    sound = clip(0, 1.0)
    audio = [
        sound,
        {"bytes": b"no audio", "path": "bad.wav"},
        {"bytes": encoded(5.5), "path": "long.wav"},
        {"bytes": encoded(0.5), "path": "wordy.wav"},
        {"bytes": encoded(0.5), "path": "textless.wav"},
        None,
        {"bytes": encoded(0.05), "path": "short.wav"},
    ]
    text = ["fine", "a", "b", "x" * 500, None, "c", "d"]
    write_parquet(tmp_path / "train.parquet", PLAIN, {"audio": audio, "text": text})
    (batch,) = dataset(streamed(tmp_path), global_batch=7, micro_batch=7)[0]
    assert len(batch.rows) == len(batch.waveforms) == 1
    reasons = {bad.row.rpartition(":")[2]: bad for bad in batch.bad}
    assert reasons.keys() == {"bad.wav", "long.wav", "wordy.wav", "textless.wav", "?", "short.wav"}
    assert "5.50 s, longer than the window of 5 s" in reasons["long.wav"].reason
    assert "tokens" in reasons["wordy.wav"].reason
    assert "has no text" in reasons["textless.wav"].reason
    left_out = {name for name, bad in reasons.items() if isinstance(bad, LeftOut)}
    assert left_out == {"long.wav", "wordy.wav", "textless.wav"}
    assert all(isinstance(bad, BadAudio) for bad in reasons.values())


def test_text_that_is_no_text(tmp_path: Path) -> None:
    broken = pa.array([b"one", b"n\xa8mber"]).view(pa.string())
    write_parquet(tmp_path / "train.parquet", PLAIN, {"audio": [clip(0, 0.2)] * 2, "text": broken})
    (batch,) = dataset(streamed(tmp_path), global_batch=2)[0]
    assert len(batch.rows) == 1
    assert "not UTF-8" in batch.bad[0].reason


def test_a_step_with_nothing_but_bad_rows_is_no_accident(tmp_path: Path) -> None:
    write_plain(tmp_path, "train", [0.5] * 4)
    unknown = streamed(tmp_path, language="xx")
    (batch,) = dataset(unknown, global_batch=1)[0]
    assert batch.rows == ()
    assert "'xx'" in batch.bad[0].reason
    with pytest.raises(UserError, match=r"Nothing in step 1 .*\n.*'xx'"):
        list(stream_loader(dataset(unknown, global_batch=4), 0, 2, workers=0))


def test_what_a_loader_process_raises_is_one_message(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch puts the worker's traceback in front of it."""

    def loader(*_: object) -> Iterator[list[Batch]]:
        try:
            raise UserError("given: found\ntype this")
        except UserError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()
        yield []

    monkeypatch.setattr(streaming, "step_loader", loader)
    with pytest.raises(UserError) as raised:
        list(stream_loader(dataset(config), 0, 2, workers=1))
    assert str(raised.value) == "given: found\ntype this"


def test_windows_without_speech(config: DataConfig) -> None:
    """One for each two of speech, in the same global batch whatever the processes are."""
    steps = dataset(config, no_speech_share=0.5)
    kinds = [row.startswith("no speech") for step in range(10) for row in rows(steps[step])]
    assert kinds.count(True) == 20
    assert kinds.count(False) == 40
    parts = [dataset(config, no_speech_share=0.5, rank=rank, world=2) for rank in range(2)]
    together = [
        row for pair in zip(*(rows(part[4]) for part in parts), strict=True) for row in pair
    ]
    assert together == rows(steps[4])
    assert not rows(dataset(config, no_speech_share=1.0, global_batch=1)[3])[0].startswith("no ")


def test_paths_in_a_local_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(encoded(0.5))
    columns = {"audio": [{"bytes": None, "path": "a.flac"}], "text": ["a"]}
    write_parquet(tmp_path / "data" / "train.parquet", PLAIN, columns)
    (batch,) = dataset(streamed(tmp_path), global_batch=1)[0]
    assert batch.waveforms.shape == (1, 8_000)


def test_several_splits_in_a_row(tmp_path: Path) -> None:
    write_plain(tmp_path, "train", [0.2] * 2)
    write_plain(tmp_path, "test", [0.3] * 2, first=10)
    (batch,) = dataset(streamed(tmp_path, train="train+test"), global_batch=4)[0]
    assert sorted(batch.rows) == sorted(
        f"{tmp_path} train+test:{number}.flac" for number in (0, 1, 10, 11)
    )


# ── what cannot be streamed ──────────────────────────────────────────────────────────────────


def training(**changes: Any) -> TrainingConfig:
    values = train_values()["training"]
    return replace(from_values(TrainingConfig, values), **({"max_steps": 10} | changes))


@pytest.mark.parametrize(
    ("data", "settings", "to_type"),
    [
        ({}, {"max_steps": None}, "training.max_steps="),
        ({}, {"max_epochs": 2.0}, "no max_epochs"),
        ({"windows": "packed"}, {}, "data.windows=padded"),
        ({"windows": "trimmed"}, {}, "data.windows=padded"),
        ({"long_audio": "split"}, {}, "data.long_audio=drop"),
        ({"train": "train[:10%]"}, {}, "data.streaming=false"),
        ({"train": "dev"}, {}, "it has train"),
        ({"clean": ("digits",), "language": "luo"}, {}, "cannot be spelled in luo"),
    ],
)
def test_settings_that_a_stream_cannot_follow(
    config: DataConfig, data: dict[str, Any], settings: dict[str, Any], to_type: str
) -> None:
    check_stream(config, training())
    with pytest.raises(UserError, match=to_type.replace("[", r"\[")):
        check_stream(replace(config, **data), training(**settings))


def test_a_split_without_rows(tmp_path: Path) -> None:
    pq.ParquetWriter(tmp_path / "train.parquet", PLAIN.arrow_schema).close()
    with pytest.raises(UserError, match="no rows"):
        dataset(streamed(tmp_path))[0]


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    one, other = (
        Dataset(pa.table({"audio": [clip(0, 0.3)], "text": [text]}, PLAIN.arrow_schema))
        for text in ("a", "b")
    )
    DatasetDict(train=one, test=other).save_to_disk(tmp_path)
    (batch,) = dataset(streamed(tmp_path, train="train+test"), global_batch=2)[0]
    assert batch.waveforms.shape == (2, 4_800)


def test_a_stream_that_breaks_off(tmp_path: Path) -> None:
    """What a Parquet file says of itself at its end is whole; what stands before it is not."""
    write_plain(tmp_path, "train", [1.0 + 0.1 * number for number in range(9)])
    (file,) = (tmp_path / "data").iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:100] + bytes(2_000) + data[2_100:])
    with pytest.raises(UserError, match="broke off"):
        dataset(streamed(tmp_path))[0]


def test_memory_does_not_grow_from_epoch_to_epoch(tmp_path: Path) -> None:
    """60 rows of 64 kB; by the third epoch nothing of the first may be held."""
    import resource

    write_plain(tmp_path, "train", [2.0] * 60, files=2)
    steps = dataset(streamed(tmp_path), global_batch=12)
    for step in range(5):
        steps[step]
    before_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for step in range(5, 20):
        steps[step]
    grown_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kilobytes
    assert grown_kilobytes < 12_000, "three epochs of samples are 23 MB"
