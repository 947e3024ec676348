"""Data sets of the Hugging Face hub, or folders with one, through `datasets`: memory-mapped.

Only the splits that are asked for are downloaded, and kept as Arrow files below the cache of
`datasets` ($HF_DATASETS_CACHE, lora_whisper/SPLIT/…). What was read once is found there again
without a network.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.config import DataConfig
from lora_whisper.data.dataset import Defaults, Table, Utterances, table_key
from lora_whisper.data.sources.hub_rows import (
    EmbeddedAudio,
    RowReader,
    row_reader,
    rows,
    transcribed,
    without_decoding,
)
from lora_whisper.errors import UserError, listing

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, IterableDataset

log = logging.getLogger("lora_whisper")

READER_VERSION = 1  # of what becomes of a row; cached tables of another are made anew
ANSWER_SECONDS = 5.0  # in which the hub has to answer; `datasets` alone takes 23 s to give up
USUAL_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev")}
HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w.-]+)?")
PARQUET_BRANCH = "refs/convert/parquet"  # the hub's own conversion of data sets that were scripts
PREPARED = "lora_whisper"  # folder below the cache of `datasets`


@dataclass(frozen=True)
class HubDataset:
    """A data set that `datasets` reads."""

    path: str  # an id on the hub, a folder, or a file
    name: str | None  # of one of its configurations
    revision: str | None

    @classmethod
    def of(cls, config: DataConfig) -> HubDataset:
        assert config.path is not None, "conf/data/hub.yaml asks for it"
        return cls(config.path, config.config, config.revision)

    def __str__(self) -> str:
        return f"{self.path}/{self.name}" if self.name else self.path

    @property
    def folder(self) -> str | None:
        """Where it lies, if it is here; what the paths in it are relative to."""
        place = Path(self.path).expanduser()
        if place.is_file():
            return str(place.parent.resolve())
        return str(place.resolve()) if place.is_dir() else None

    @property
    def download(self) -> str:
        """What to type where it is not here, and cannot be read over the network."""
        folder = self.path.rpartition("/")[2]
        chosen = f' --include "*{self.name}/*.parquet"' if self.name else ""
        return (
            f"On a machine with a network, type\n  {_hf_download(self.path, folder)}{chosen}\n"
            f"and give the folder to this command: data.path={folder}"
        )


def read(config: DataConfig, split: str) -> Utterances:
    """The rows of "train", "train[:10%]", "train+validation", …; audio is read when it is wanted.

    Raises:
        UserError: there is no such data set, configuration, split or column, or no network to
            fetch it over.
    """
    source, columns = HubDataset.of(config), vars(config.columns)
    tables = [_table(one, source, columns) for one in _slices(source, split)]
    return Utterances(tables, defaults(config))


def defaults(config: DataConfig) -> Defaults:
    """What holds for all rows of a source that do not say otherwise."""
    return Defaults(config.language, config.task, config.language_token)


def split_names(config: DataConfig) -> tuple[str, ...]:
    """The splits that the data set has."""
    return _split_names(HubDataset.of(config))


def named_split(config: DataConfig, split: str) -> str | None:
    """What the configuration calls this split, else the data set; None where it has none."""
    given: str | None = getattr(config, split)
    if given is not None:
        return given
    usual = USUAL_SPLITS.get(split, (split,))
    return next((name for name in usual if name in split_names(config)), None)


def open_stream(config: DataConfig, split: str) -> tuple[IterableDataset, RowReader]:
    """The rows of "train" or "train+validation" as they come over the network; nothing is kept.

    Raises:
        UserError: as `read`; or the split is sliced, which takes knowing how long it is.
    """
    from datasets import concatenate_datasets

    source = HubDataset.of(config)
    names = _required_splits(source, split)
    if "[" in split:
        raise UserError(
            f"data.train={split} cannot be streamed: whole splits can, {_listed(names)}. "
            "Or type data.streaming=false."
        )
    builder = _builder(source)
    if isinstance(builder, dict):
        stream = concatenate_datasets([builder[name] for name in names]).to_iterable_dataset()
    else:
        try:
            stream = builder.as_streaming_dataset("+".join(names))
        except Exception as error:
            raise UserError(_broken(source, split, error)) from error
    if stream.features is None:
        raise UserError(
            f"{source} does not say what its columns hold, so it cannot be streamed. "
            "Type data.streaming=false."
        )
    columns = vars(config.columns)
    reader = row_reader(stream.features, columns, f"{source} {split}", source.folder)
    return without_decoding(stream, reader.audio), reader


# ── memory-mapped ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Slice:
    """A slice of a split, or all of it."""

    split: str
    first: int
    dataset: Dataset


def _table(part: _Slice, source: HubDataset, columns: Mapping[str, str | None]) -> Table:
    place = f"{source} {part.split}"
    reader = row_reader(part.dataset.features, columns, place, source.folder)
    if reader.audio_is_path and source.folder is None:
        raise UserError(
            f"Column {reader.audio} of {source} holds paths, and `datasets` fetches no files of "
            f"which a data set only knows the paths.\n{source.download}"
        )
    dataset = without_decoding(part.dataset, reader.audio)
    numbers, empty = transcribed(dataset, reader.text)
    if len(numbers) < len(dataset):
        missing = len(dataset) - len(numbers)
        log.warning("%-11s left out %d: without a %s", place, missing, reader.text)
    if empty:
        log.warning(
            "%-11s %d of %d rows have an empty %s, which says that nobody speaks in them; if "
            "another column has their text, type data.columns.text=…",
            *(place, empty, len(numbers), reader.text),
        )
    files = [Path(each["filename"]) for each in dataset.cache_files]
    column = dataset.select_columns([reader.audio]).with_format("arrow")
    settings = (place, part.first, len(dataset), reader, dataset._fingerprint)
    try:
        return Table.cached(
            table_key("hub", READER_VERSION, files, settings),
            lambda: rows(dataset, reader, part.first, numbers),
            None if reader.audio_is_path else EmbeddedAudio(column, numbers, reader, part.first),
        )
    except UnicodeDecodeError as error:  # a damaged file; Parquet itself checks nothing
        raise UserError(_broken(source, part.split, error)) from error


def _slices(source: HubDataset, split: str) -> Iterator[_Slice]:
    """The slices that the expression asks for, in its order."""
    from datasets import ReadInstruction

    names = _required_splits(source, split)
    prepared = {name: _prepared(source, name) for name in dict.fromkeys(names)}
    lengths = {name: len(dataset) for name, dataset in prepared.items()}
    try:
        slices = ReadInstruction.from_spec(split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        there = ", ".join(f"{name} ({count} rows)" for name, count in lengths.items())
        raise UserError(
            f"The split {split} of {source} cannot be read: {error}\nExpected NAME, "
            f"NAME[:10%], NAME[100:200] or a sum of them; it has {there}."
        ) from None
    for one in slices:
        whole = prepared[one.splitname]
        first, end = one.from_ or 0, len(whole) if one.to is None else one.to
        yield _Slice(one.splitname, first, whole.select(range(first, end)))


def _required_splits(source: HubDataset, split: str) -> list[str]:
    """The names in a split expression, all of which the data set has."""
    names = [part.strip().partition("[")[0] for part in split.split("+")]
    there = _split_names(source)
    unknown = [name for name in names if name not in there]
    # Without a network, the splits that are known are those that were read before.
    is_here = source.folder is not None
    if unknown and not (is_here or _is_reachable(source.path, source.revision)):
        raise UserError(_out_of_reach(f"The split {_listed(unknown)} of {source}", source))
    if unknown:
        raise UserError(
            f"{source} has no split {_listed(unknown)}; it has {_listed(there)}. "
            "Type data.train=… data.validation=… data.test=… with what it has."
        )
    return names


def _prepared(source: HubDataset, split: str) -> Dataset:
    """One split as a memory-mapped data set; its files alone are downloaded, if they are not here.

    `load_dataset(split=…)` would download all splits, however large.
    """
    builder = _builder(source, split)
    if isinstance(builder, dict):
        return builder[split]
    if builder.config.data_files is None:  # what `datasets` has in its cache
        return builder.as_dataset(split)
    one = copy.copy(builder)
    files = type(builder.config.data_files)({split: builder.config.data_files[split]})
    one.config = dataclasses.replace(builder.config, data_files=files)
    one.info = builder.info.copy()
    try:
        # "no_checks": it would miss the other splits, which the data set's card lists
        one.download_and_prepare(verification_mode="no_checks")
    except Exception as error:
        raise UserError(_broken(source, split, error)) from error
    return one.as_dataset(split)


def _broken(source: HubDataset, split: str, error: Exception) -> str:
    reason = error.__cause__ or error
    words = str(reason).strip().partition("\n")[0][:300]
    return (
        f"The split {split} of {source} cannot be read: {type(reason).__name__}: {words}\n"
        f"Look at its files, or fetch them anew.\n{'' if source.folder else source.download}"
    ).strip()


# ── finding it ───────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=32)
def _builder(source: HubDataset, split: str | None = None) -> DatasetBuilder | dict[str, Dataset]:
    """What `datasets` reads the data set with; the data sets themselves where they were saved.

    Raises:
        UserError: it is not there, or not without a network.
    """
    path, name = source.path, source.name
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _saved(folder) or _required_kind(_local_builder(folder, name, split), path)
    if folder.is_file():
        with folder.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"  # whatever it is called
        if is_parquet:  # all of it is for training; what is held out is divided off by hash
            try:
                return _load_builder("parquet", None, split, data_files={"train": str(folder)})
            except (ValueError, OSError) as error:
                one_file = HubDataset(str(folder), None, None)
                raise UserError(_unreadable(one_file, error)) from None
    if not HUB_ID.fullmatch(path):
        kind = "a file" if folder.exists() else "no folder"
        raise UserError(
            f"data.path={path} is {kind}, and no id on the hub. Expected OWNER/NAME, or a folder "
            "with Parquet files or with what `save_to_disk` wrote, or one such file."
        )
    if not _is_reachable(path, source.revision):
        return _cached_builder(source, split)
    return _required_kind(_hub_builder(source, split), path)


def _required_kind(builder: DatasetBuilder, path: str) -> DatasetBuilder:
    """A builder of tables; others want torchcodec for audio that they do not even decode."""
    from datasets import ArrowBasedBuilder

    if isinstance(builder, ArrowBasedBuilder) or find_spec("torchcodec"):
        return builder
    is_folder = Path(path).expanduser().is_dir()
    folder = path if is_folder else path.rpartition("/")[2]
    raise UserError(
        f"{path} holds sound files ({builder.name}) and no tables with the sound in them. If a "
        f"metadata.csv or .jsonl is beside them, type\n  data=audiofolder data.path={folder}"
        + ("" if is_folder else f"\nafter\n  {_hf_download(path, folder)}")
    )


def _saved(folder: Path) -> dict[str, Dataset] | None:
    """What `save_to_disk` wrote, by split."""
    from datasets import DatasetDict, load_from_disk

    if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    saved = load_from_disk(str(folder))
    return dict(saved) if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}


def _local_builder(folder: Path, name: str | None, split: str | None) -> DatasetBuilder:
    """Its card says what configurations it has; without one, sub-folders are."""
    named = [folder / name, *sorted(folder.glob(f"*/{name}"))] if name else []
    below = next((found for found in named if found.is_dir()), None)
    try:
        return _load_builder(str(folder), name, split)
    except (ValueError, OSError) as error:
        if below is not None:
            inside = str(below.relative_to(folder))
            return _load_builder(str(folder), None, split, data_dir=inside)
        raise UserError(_unreadable(HubDataset(str(folder), name, None), error)) from None


def _hub_builder(source: HubDataset, split: str | None) -> DatasetBuilder:
    path, name = source.path, source.name
    try:
        return _load_builder(path, name, split, revision=source.revision)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
    except (ValueError, OSError) as error:
        raise UserError(_unreadable(source, error)) from None
    try:  # the hub's conversion, which has a folder for each configuration
        return _load_builder(path, None, split, revision=PARQUET_BRANCH, data_dir=name or "default")
    except (ValueError, OSError, RuntimeError):
        raise UserError(
            f"The data set {path} is a Python script, which `datasets` runs no more, and the hub "
            f"has no Parquet conversion of {name or 'it'} on its branch {PARQUET_BRANCH}.\n"
            "Take another copy of it, or download its files and write a manifest (data=manifest)."
        ) from None


def _load_builder(path: str, name: str | None, split: str | None, **more: Any) -> DatasetBuilder:
    from datasets import load_dataset_builder

    cache = None if split is None else _cache(split)
    return load_dataset_builder(path, name, cache_dir=cache, **more)


def _cached_builder(source: HubDataset, split: str | None) -> DatasetBuilder:
    """What an earlier run read, else what `datasets` itself has in its cache."""
    from datasets.packaged_modules.cache.cache import Cache

    path = source.path
    folders = [None, *_prepared_splits(path).values()] if split is None else [_cache(split), None]
    for folder in folders:
        with contextlib.suppress(ValueError):  # that is not there
            dataset = path.partition("/")[2] or path
            return Cache(folder, dataset, source.name, "auto", "auto", repo_id=path)
    raise UserError(_out_of_reach(path, source))


def _prepared_splits(path: str) -> dict[str, str]:
    """By split, the cache that an earlier run put a data set into."""
    below = path.replace("/", "___")
    caches = sorted(Path(_cache("any")).parent.glob(f"*/{below}"))
    return {found.parent.name: str(found.parent) for found in caches}


def _cache(split: str) -> str:
    """A cache for each split: in one for all of them, the first that is read would hide others."""
    from datasets import config

    return str(Path(config.HF_DATASETS_CACHE).expanduser() / PREPARED / split)


@lru_cache(maxsize=32)
def _split_names(source: HubDataset) -> tuple[str, ...]:
    builder = _builder(source)
    if isinstance(builder, dict):
        return tuple(builder)
    if builder.config.data_files is not None:
        return tuple(map(str, builder.config.data_files))
    return tuple(dict.fromkeys([*(builder.info.splits or {}), *_prepared_splits(source.path)]))


@lru_cache(maxsize=32)
def _is_reachable(path: str, revision: str | None) -> bool:
    """Ask the hub for the data set, once; False if there is no network.

    Raises:
        UserError: the hub does not have it, or does not give it to everybody.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().dataset_info(path, revision=revision, timeout=ANSWER_SECONDS)
    except GatedRepoError:
        raise UserError(
            f"{path} is given to those who ask for it: do so at "
            f"https://huggingface.co/datasets/{path}, then type `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"The hub has no data set {path}, or none that you may read: look for it at "
            "https://huggingface.co/datasets; if it is private, type `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"{path} has no revision {revision}; see the branches and tags at "
            f"https://huggingface.co/datasets/{path}/tree/main, or type data.revision=null."
        ) from None
    except Exception as error:  # also of the HTTP library, of which several are in use
        reason = str(error).partition("\n")[0]
        log.warning("data        %s is not looked for on the hub: %s", path, reason)
        return False
    return True


# ── messages ─────────────────────────────────────────────────────────────────────────────────


def _unreadable(source: HubDataset, error: Exception) -> str:
    from datasets import get_dataset_config_names

    path, name = source.path, source.name
    try:
        names = get_dataset_config_names(path, revision=source.revision)
    except Exception:  # the error that led here says more
        names = []
    if len(names) > 1 or (names and name and name not in names):
        given = f"data.config={name}" if name else "no data.config"
        return (
            f"{path} has other configurations, and you gave {given}. Type data.config=NAME with "
            f"one of its {len(names)}:\n{listing(sorted(names))}"
        )
    words = str(error).strip().partition("\n")[0]
    return (
        f"{path} cannot be read: {words}\nExpected Parquet files (or others that `datasets` knows) "
        "with audio and text, named after their splits, or what `save_to_disk` wrote."
    )


def _out_of_reach(what: str, source: HubDataset) -> str:
    return (
        f"{what} is not on this machine (no folder here, and not in the cache of `datasets`), and "
        "the hub cannot be reached (no network, or HF_HUB_OFFLINE is set).\n"
        f"{source.download}"
    )


def _hf_download(path: str, folder: str) -> str:
    return f"hf download {path} --repo-type dataset --local-dir {folder}"


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
