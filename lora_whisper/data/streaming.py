"""Training speech as it comes over the network: nothing is written to the disk.

    files in seeded order, some in turn ─► seeded buffer ─► global batches of rows ─► windows

Global batch `step` is rows step·B … (step + 1)·B - 1 of an endless stream, in which one epoch
follows the other, each shuffled otherwise. It is the same whatever the processes and workers are:
each process reads the whole stream and decodes every `world`-th row of a batch. A run that is
resumed reads its way to the step, without decoding what it passes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets.config
import fsspec
import numpy as np
import pyarrow as pa
from datasets import IterableDataset
from torch.utils.data import Dataset

from lora_whisper.config import DataConfig, TrainingConfig
from lora_whisper.data.audio import AudioError, EncodedAudio, read_header, slice_seconds
from lora_whisper.data.batches import Batch, collate, step_loader
from lora_whisper.data.dataset import Row, Table, Utterance, Utterances, token_language
from lora_whisper.data.sampler import unpacked
from lora_whisper.data.sources import hub
from lora_whisper.data.sources.hub_rows import RowReader
from lora_whisper.data.text import require_cleanable
from lora_whisper.data.windows import (
    BadAudio,
    LeftOut,
    Window,
    WindowMaker,
    WindowSource,
    window_tokens,
)
from lora_whisper.errors import UserError, listing
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import check_task

# Rows that wait for their turn, with their audio in memory: half a minute at 48 kHz is 2.9 MB.
SHUFFLED_ROWS = 256
# Files that are read in turn. Each has a row group in memory, 100 rows in most audio data sets.
SHARDS_AT_A_TIME = 4
# With fewer files their row groups are shuffled, which takes reading the end of each file first.
FEWEST_SHARDS = 16
ROWS_AT_A_TIME = 32
ROWS_OF_NO_ACCIDENT = 4  # bad ones in one step, without a good one among them
LONGEST_PROMPT_TOKENS = 4  # sot, language, task, no timestamps


def check_stream(config: DataConfig, training: TrainingConfig) -> None:
    """Find what would keep a stream from being trained on, before anything is loaded.

    Raises:
        UserError: a setting that needs to know all rows; a clean-up that the language has no words
            for; a data set that cannot be read.
    """
    problems = []
    if training.max_steps is None or training.max_epochs is not None:
        problems.append("its length is unknown: type training.max_steps=… and no max_epochs")
    if config.windows == "packed":
        problems.append("neighbours are shuffled apart: type data.windows=padded")
    if config.windows == "trimmed":
        problems.append("clips of like lengths cannot be put together: type data.windows=padded")
    if config.long_audio != "drop":
        problems.append(
            f"long clips are met in the middle of the run, too late to {config.long_audio}: type "
            "data.long_audio=drop"
        )
    if config.mix:
        problems.append("it cannot be mixed with other sources: leave data.mix out")
    if problems:
        raise UserError(
            f"data.streaming=true cannot be:\n{listing(problems)}\n"
            "Or type data.streaming=false, which downloads the splits that are used."
        )
    require_cleanable(config.clean, ["en" if config.task == "translate" else config.language])
    hub.open_stream(config, str(config.train))


def stream_loader(
    dataset: StreamDataset, first_step: int, last_step: int, workers: int
) -> Iterator[list[Batch]]:
    """Load the steps first_step … last_step - 1 in order.

    There is one loader process however many `workers` are asked for, since each would read the
    whole stream: they become its threads, which decode. 0 stays in this process, with one thread.

    Raises:
        UserError: the data set cannot be read, or not any more.
    """
    threaded = replace(dataset, threads=max(1, workers))
    try:
        yield from step_loader(threaded, first_step, last_step, min(1, workers))
    except UserError as error:  # a loader process puts its traceback in front of the message
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


@dataclass
class StreamDataset(Dataset[list[Batch]]):
    """Item `step` is what this process computes in that optimizer step, as micro-batches.

    Steps are cheap in their order only. The stream is opened where the first one is asked for, so
    that the dataset can be sent to a loader process.

    A row that cannot be used is missing from its batch and named in `Batch.bad`: as `BadAudio` if
    its audio does not decode, as `LeftOut` if it is too long or has no text.
    """

    config: DataConfig
    maker: WindowMaker
    no_speech_share: float  # generated windows for each one of speech
    global_batch: int  # windows in one optimizer step, over all processes
    micro_batch: int  # windows in one forward pass
    seed: int
    rank: int = 0
    world: int = 1
    threads: int = 1
    _rows: _Rows | None = field(default=None, repr=False)

    def __getitem__(self, step: int) -> list[Batch]:
        own = self._windows(step)
        return [
            collate(own[first : first + self.micro_batch], self.maker.special_tokens.eot)
            for first in range(0, len(own), self.micro_batch)
        ]

    def _windows(self, step: int) -> list[Window | BadAudio]:
        first, end = self._speech_before(step), self._speech_before(step + 1)
        if self._rows is None:
            self._rows = _Rows(self.config, self.seed)
        rows, reader = self._rows.between(first, end), self._rows.reader
        make = partial(self._window, rows, reader, step)
        # Augmentation draws from random states that all threads of a process share.
        threads = self.threads if self.maker.augmenter is None else 1
        with ThreadPoolExecutor(threads) as pool:
            windows = list(pool.map(make, range(self.rank, self.global_batch, self.world)))
        # Some bad rows are an accident; nothing but bad ones are a wrong column or language.
        bad = [one for one in windows if isinstance(one, BadAudio)]
        if len(bad) == len(windows) >= ROWS_OF_NO_ACCIDENT:
            by_reason = {one.reason: f"{one.row}: {one.reason}" for one in reversed(bad)}
            raise UserError(
                f"Nothing in step {step + 1} of the stream can be used:\n"
                f"{listing(list(by_reason.values()))}\n"
                "Say what is otherwise: data.language=…, data.columns.text=…, data.columns.audio=…"
            )
        return windows

    def _speech_before(self, step: int) -> int:
        """Rows that the steps before this one take; the other windows have no speech."""
        share = min(self.no_speech_share, self.global_batch - 1)  # some speech in every step
        return round(step * self.global_batch / (1 + share))

    def _window(
        self, rows: pa.Table, reader: RowReader, step: int, index: int
    ) -> Window | BadAudio:
        """Window `index` of the global batch: the rows come first, what has no speech follows."""
        utterance = _utterance(rows, index % len(rows), reader, self.config)
        if isinstance(utterance, BadAudio):
            return utterance
        seconds = _seconds(utterance, self.maker)
        if isinstance(seconds, BadAudio):
            return seconds
        if index < len(rows):
            return self.maker.of([utterance], key=(step, 0, index))
        return self.maker.no_speech(
            WindowSource([utterance], unpacked(np.array([seconds]))), 0, step, index
        )


# ── one row ──────────────────────────────────────────────────────────────────────────────────


def _utterance(
    rows: pa.Table, index: int, reader: RowReader, config: DataConfig
) -> Utterance | BadAudio:
    try:
        values = rows.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError as error:  # Parquet itself checks nothing
        return BadAudio(reader.place, f"a row that is not UTF-8: {error}")
    file = {} if reader.audio_is_path else values[reader.audio] or {}
    row = reader.row(file.get("path") or "?", values | {reader.text: values[reader.text] or ""})
    if values[reader.text] is None:
        return LeftOut(row.place, f"has no {reader.text}")
    audio_of = None if reader.audio_is_path else partial(_audio, row, file, reader)
    return Utterances([Table.from_rows([row], audio_of)], hub.defaults(config))[0]


def _audio(row: Row, file: dict[str, Any], reader: RowReader, number: int) -> Path | EncodedAudio:
    """The audio as it came, or where it lies."""
    path = file.get("path")
    if file.get("bytes") is not None or not path:
        return EncodedAudio(row.place, partial(bytes, file.get("bytes") or b""))
    if reader.folder is not None and "://" not in path:
        return Path(reader.path(path))
    return EncodedAudio(row.place, partial(_fetch, path))


def _fetch(url: str) -> bytes:
    """A file of the data set that its rows only name, "hf://datasets/…"."""
    with fsspec.open(url, "rb") as file:
        return file.read()  # type: ignore[no-any-return]


def _seconds(utterance: Utterance, maker: WindowMaker) -> float | BadAudio:
    """How long the utterance is, if there is room for it and its text."""
    try:
        token_language(maker.special_tokens, utterance)
        check_task(maker.special_tokens, utterance.task)
        header = read_header(utterance.audio)
        start, end = slice_seconds(
            utterance.audio, header, utterance.start_seconds, utterance.end_seconds
        )
    except UserError as error:
        return LeftOut(utterance.row, str(error))
    except AudioError as error:
        return BadAudio(utterance.row, str(error))
    if round((end - start) * SAMPLING_RATE) > round(maker.window_seconds * SAMPLING_RATE):
        reason = f"{end - start:.2f} s, longer than the window of {maker.window_seconds:g} s"
        return LeftOut(utterance.row, reason)
    tokens = _tokens(utterance, maker)
    if tokens > maker.special_tokens.max_tokens:
        room = maker.special_tokens.max_tokens
        return LeftOut(utterance.row, f"a text of {tokens} tokens, longer than {room}")
    return end - start


def _tokens(utterance: Utterance, maker: WindowMaker) -> int:
    """At least how many; counted only where a text has so many bytes that it matters."""
    text = unicodedata.normalize("NFC", utterance.text)
    most = len(text.encode("utf-8")) + 1 + LONGEST_PROMPT_TOKENS  # 1: the space in front
    if most <= maker.special_tokens.max_tokens:
        return 0
    return len(window_tokens(utterance, maker.tokenizer, maker.special_tokens)) - 1


# ── all rows ─────────────────────────────────────────────────────────────────────────────────


class _Rows:
    """The endless stream of rows, read from one global batch to the next."""

    def __init__(self, config: DataConfig, seed: int) -> None:
        # For a fault of pyarrow up to 24 (apache/arrow#45214), datasets 5.2 sleeps for 5 s at the
        # end of every epoch, with whatever pyarrow.
        if datasets.config.PYARROW_VERSION.major > 24:
            datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
        stream, self.reader = hub.open_stream(config, str(config.train))
        columns = dict.fromkeys([*self.reader.values, self.reader.audio])
        stream = stream.select_columns(list(columns))
        if stream.num_shards < FEWEST_SHARDS:
            with _explained():
                stream = stream.reshard()
        self.stream = stream.shuffle(
            seed, buffer_size=SHUFFLED_ROWS, max_buffer_input_shards=SHARDS_AT_A_TIME
        )
        self._next_row = 0
        self._rest = pa.table({})
        self._tables = _endless(self.stream, 0)

    def between(self, first: int, end: int) -> pa.Table:
        """Rows first … end - 1; cheap if they follow the last ones that were asked for."""
        if first != self._next_row:
            self._rest, self._tables = pa.table({}), _endless(self.stream, first)
        pieces, missing = [], end - first
        while missing:
            table = self._rest if len(self._rest) else next(self._tables)
            pieces.append(table.slice(0, missing))
            self._rest = table.slice(len(pieces[-1]))
            missing -= len(pieces[-1])
        self._next_row = end
        return pa.concat_tables(pieces)


def _endless(stream: IterableDataset, skipped_rows: int) -> Iterator[pa.Table]:
    """One epoch after the other, but for the first rows, which are passed by.

    `iter` and not a `for`: in a loader process that would shuffle otherwise than in this one.
    """
    arrow, epoch = stream.with_format("arrow"), 0
    while True:
        arrow.set_epoch(epoch)
        rows = 0
        for table in _tables(arrow):
            rows += len(table)
            passed = min(skipped_rows, len(table))
            skipped_rows -= passed
            if passed < len(table):
                yield table.slice(passed)
        if not rows:
            raise UserError("The training split has no rows. Type data.train=… with one that has.")
        # Epochs are equally long, so that whole ones need not be read again only to be passed by.
        passed_epochs, skipped_rows = divmod(skipped_rows, rows)
        epoch += 1 + passed_epochs


def _tables(stream: IterableDataset) -> Iterator[pa.Table]:
    """The rows of one epoch, some at a time."""
    with _explained():
        yield from stream.iter(ROWS_AT_A_TIME)


@contextmanager
def _explained() -> Iterator[None]:
    """What goes wrong on the way from the hub, which `datasets` has tried again for minutes."""
    try:
        yield
    except Exception as error:
        words = str(error).strip().partition("\n")[0]
        raise UserError(
            f"The stream of training speech broke off: {type(error).__name__}: {words}\n"
            "If it was the network, the same command with resume=auto goes on from the last "
            "checkpoint; else look at the data set's files."
        ) from error
