"""Where speech comes from, by a reader for each source, and which rows are which split.

A split that the configuration names, `data.train=…`, is a manifest if a file is called so, whatever
the source; else it is the part of `data.path` that is called so: a table (common_voice), a file or
a sub-folder (manifest, nemo, audiofolder, subtitles), the rows with that value in their column
`split`, or a split of a hub data set.
A split that it does not name is the one of `data.path` with the usual name (for validation: also
valid, val, dev). Where `data.path` has no splits at all and the configuration names none of its
parts, it is divided: `validation_share` and `test_share` of it are set aside,
unless they come from elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lora_whisper.config import SPLITS, ColumnsConfig, DataConfig, MixConfig, Split
from lora_whisper.data.dataset import Table, Utterances, split_key, split_name
from lora_whisper.data.decisions import without_excluded
from lora_whisper.data.sources import hub, manifest, subtitles
from lora_whisper.data.sources.rows import USUAL_NAMES, Part
from lora_whisper.errors import UserError, listing
from lora_whisper.paths import local_path
from lora_whisper.schema import given_in

log = logging.getLogger("lora_whisper")

NAMES = {  # of the columns of each source that has some
    "manifest": USUAL_NAMES,
    "nemo": manifest.NEMO_NAMES,
    "audiofolder": manifest.AUDIOFOLDER_NAMES,
    "common_voice": manifest.COMMON_VOICE_NAMES,
}


def resolved(config: DataConfig, mix: MixConfig) -> DataConfig:
    """A mixed source with all that it inherits; a source without splits is mixed in whole.

    Another language than `config`'s does not borrow its token, and another path not its revision.
    """
    own = given_in(mix)
    del own["weight"]
    source = mix.source or config.source
    inherited = replace(
        config,
        source=source,
        path=mix.path,
        train=mix.train,
        config=mix.config,
        revision=None,
        streaming=config.streaming and source == "hub",
        language_token=None if mix.language else config.language_token,
        validation=None,
        test=None,
        validation_share=0.0,
        test_share=0.0,
        mix=(),
    )
    return replace(inherited, **own)


def read_split(config: DataConfig, split: Split) -> Utterances | None:
    """The rows of a split; None for a validation or test set that the source does not have.

    Raises:
        UserError: a source that is missing or cannot be read; a split that was asked for, or train,
            which is missing or has no rows; decisions that are no such file.
    """
    rows = _read_split(config, split)
    if rows is None or split != "train" or config.exclude is None:
        return rows
    return without_excluded([rows], config.exclude)[0]


def _read_split(config: DataConfig, split: Split) -> Utterances | None:
    given: str | None = getattr(config, split)
    file = None if given is None else _manifest_of(config, given)
    if file is not None:
        own = beside(config)
        names = NAMES[own.source].chosen(vars(own.columns))
        return _own_rows(manifest.part("", file, names, own.quoted), split, config)
    if config.path is None:
        if given is None:
            return None
        raise UserError(
            f"data.{split}={given}: no such file; for a part of a {config.source} source, "
            "type data.path=… as well (a folder, or a hub id)."
        )
    if config.source == "hub":
        return _hub_split(config, split)
    return _path_split(config, split, local_path(config.path))


def _manifest_of(config: DataConfig, given: str) -> Path | None:
    """The manifest that is given for a split; None if a part of `path` is."""
    file = local_path(given)
    if config.source in ("manifest", "nemo"):
        if config.path is None:
            return file
        inside = local_path(config.path) / given
        file = inside if inside.is_file() else file
    return file if file.is_file() else None


def _parts(path: Path, config: DataConfig) -> list[Part]:
    """What there is in a file or a folder, by the reader of its source."""
    if config.source == "subtitles":
        drop_bad = config.bad_audio == "drop"
        return subtitles.parts(path, config.language, config.task, drop_bad)
    names = NAMES[config.source].chosen(vars(config.columns))
    if config.source == "audiofolder":
        return manifest.audiofolder_parts(path, names, config.quoted)
    if config.source == "common_voice":
        return manifest.common_voice_parts(path, names)
    return manifest.parts(path, names, config.quoted)


def beside(config: DataConfig) -> DataConfig:
    """For a manifest beside another source: it has the usual columns, and not those of `config`."""
    if config.source in ("manifest", "nemo"):
        return config
    usual = ColumnsConfig(**dict.fromkeys(vars(config.columns)))
    return replace(config, source="manifest", streaming=False, columns=usual)


def _path_split(config: DataConfig, split: Split, path: Path) -> Utterances | None:
    """The split of `data.path`, by the name that the configuration gives it, or by its own."""
    given = getattr(config, split)
    parts = _parts(path, config)
    named = _named(parts, given or split)
    if named is not None:
        if split == "train" and config.source != "common_voice":  # which has others every time
            _warn_of_others(config, path, "others", {part.name: part.name for part in parts})
        return _own_rows(named, split_name(given or split), config)
    rows = _rows_by_column(config, split, parts[0], path) if not parts[0].name else None
    if rows is None and given is not None and (path / given).is_dir():
        inner = _parts(path / given, config)
        if len(inner) > 1:
            names = ", ".join(part.name for part in inner)
            raise UserError(
                f"The folder {path / given} has several manifests, {names}. Name one of them."
            )
        return _own_rows(inner[0], split_name(given), config)
    if rows is None and (given is not None or split == "train"):
        named_parts = ", ".join(part.name for part in parts)
        known = named_parts if parts[0].name else _counts(_table(parts[0]))
        asked = f"data.{split}={given}: there is no such file, and " if given else ""
        raise UserError(
            f"{asked}{path} has no part called {given or split}; it has: {known}. "
            f"Type data.{split}=NAME with one of them, or a file."
        )
    return rows


def _warn_of_others(config: DataConfig, path: Path, others: str, labels: Mapping[str, str]) -> None:
    """Splits that nobody asked for, "eval" for "test", are not lost without a word."""
    asked = {split_name(getattr(config, split) or split) for split in SPLITS}
    left_out = [label for name, label in labels.items() if name and split_name(name) not in asked]
    if left_out:
        log.warning(
            "%-11s %s has %s, which are left out: %s; data.test=NAME scores one",
            *("splits", path, others, ", ".join(left_out)),
        )


def _named(parts: Sequence[Part], name: str) -> Part | None:
    """The part of this name, or of another name for the same split."""
    same = [part for part in parts if part.name == name]
    same = same or [part for part in parts if split_name(part.name) == split_name(name)]
    if len(same) > 1:
        places = " and ".join(Path(part.place).name for part in same)
        raise UserError(f"There are {places}, each of which may be {name}. Keep one of them.")
    return same[0] if same else None


def _rows_by_column(config: DataConfig, split: Split, part: Part, path: Path) -> Utterances | None:
    """The rows that name the split; or those that fall to it, where no row names any."""
    table = _table(part)
    splits = table.column("split")
    if len(table) == 0:
        raise UserError(_no_rows(str(path), split, table))
    if splits.null_count == len(table):
        if config.train is not None:
            return None
        names = _division(part, *_shares(config))
        return _chosen(table, config, pc.equal(names, split)) or None  # its share may be 0
    if splits.null_count:
        without = np.flatnonzero(pc.is_null(splits).to_numpy())
        first = listing([table.row(int(number)).place for number in without[:10]])
        raise UserError(
            f"{path} has {len(without)} rows that name no split, beside others that do "
            f"({_counts(table)}):\n{first}\n"
            'Give each row a "split", or name a file for each: data.train=FILE data.test=FILE'
        )
    if split == "train":
        counts = splits.value_counts().to_pylist()
        labels = {each["values"]: f"{each['values']} {each['counts']}" for each in counts}
        _warn_of_others(config, path, "rows of others", labels)
    wanted = split_name(getattr(config, split) or split)
    return _chosen(table, config, pc.equal(splits, wanted)) or None


def _own_rows(part: Part, split: str, config: DataConfig) -> Utterances:
    """What is given for a split: the rows that name it, and those that name none."""
    table = _table(part)
    mask = pc.fill_null(pc.equal(table.column("split"), split), True)
    rows = _chosen(table, config, mask)
    if not rows:
        raise UserError(_no_rows(part.place, split, table))
    return rows


@lru_cache(maxsize=8)  # the splits of a source are asked for one after the other
def _table(part: Part) -> Table:
    return Table.cached(part.key, part.rows)


def _chosen(table: Table, config: DataConfig, mask: pa.ChunkedArray) -> Utterances:
    return Utterances([table], hub.defaults(config), np.flatnonzero(mask.to_numpy()))


# ── sources without splits ───────────────────────────────────────────────────────────────────


def _shares(config: DataConfig) -> tuple[float, float]:
    """What is set aside for validation and test, as far as that does not come from elsewhere."""
    validation_share = config.validation_share if config.validation is None else 0.0
    return validation_share, config.test_share if config.test is None else 0.0


@lru_cache(maxsize=4)
def _division(part: Part, validation_share: float, test_share: float) -> pa.ChunkedArray:
    table = _table(part)
    speakers, texts = table.column("speaker"), table.column("text")
    return divide(speakers, texts, validation_share, test_share, part.place)


def split_of(key: str, validation_share: float, test_share: float) -> str:
    """The split of all rows with this key; a greater share only moves rows out of train."""
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64  # [0, 1)
    if position < test_share:
        return "test"
    return "validation" if position >= 1 - validation_share else "train"


def divide(
    speakers: pa.ChunkedArray,
    texts: pa.ChunkedArray,
    validation_share: float,
    test_share: float,
    place: str,
) -> pa.ChunkedArray:
    """The split of each row of a source that has none; `place` names it in messages.

    Raises:
        UserError: a split that should have rows gets none.
    """
    splits = [
        split_of(split_key(speaker, text), validation_share, test_share)
        for speaker, text in zip(_in_turn(speakers), _in_turn(texts), strict=True)
    ]
    shares = {"validation": validation_share, "test": test_share}
    shares["train"] = 1 - validation_share - test_share
    for split in {name for name, share in shares.items() if share > 0} - set(splits):
        are_known = len(speakers) and not speakers.null_count
        of_speakers = f" of {len(speakers.unique())} speakers" if are_known else ""
        key = "test_share" if split == "test" else "validation_share"
        raise UserError(
            f"{place} has no splits, and of its {len(speakers)} rows{of_speakers} none falls to "
            f"{split} with a share of {shares[split]:g}. Type another data.{key}=…, or 0 to do "
            f"without; or name files: data.train=FILE data.{split}=FILE. A column that says it has "
            "to be called split"
        )
    if speakers.null_count and (validation_share or test_share):
        log.warning(
            "%-11s %s has none of its own and is divided by text, since %d rows do not name a "
            "speaker: the same voices may stand in training and test",
            *("splits", place, speakers.null_count),
        )
    return pa.chunked_array([splits], pa.string())


def _in_turn(column: pa.ChunkedArray) -> Iterator[Any]:
    """One chunk after the other: all texts of a large source need not be in memory."""
    return chain.from_iterable(chunk.to_pylist() for chunk in column.chunks)


def _hub_split(config: DataConfig, split: Split) -> Utterances | None:
    """As the data set has it; one with a single split is divided, unless it is streamed."""
    is_divided = not config.streaming and any(_shares(config))
    names = hub.split_names(config) if is_divided else ()
    if len(names) != 1 or config.train not in (None, names[0]):
        name = hub.named_split(config, split)
        if name is not None:
            return hub.read(config, name)
        if split == "train":
            there = ", ".join(hub.split_names(config))
            raise UserError(f"{config.path} has no split train; it has {there}. Type data.train=…")
        return None
    utterances = hub.read(config, names[0])
    speakers, texts = utterances.column("speaker"), utterances.column("text")
    splits = divide(speakers, texts, *_shares(config), f"{config.path} {names[0]}")
    return utterances.select(np.flatnonzero(pc.equal(splits, split).to_numpy())) or None


# ── messages ─────────────────────────────────────────────────────────────────────────────────


def _no_rows(place: str, split: str, table: Table) -> str:
    if len(table) == 0:
        do_without = f"; to do without, remove it and type data.{split}=null"
        return (
            f"{place} has no rows at all. Expected audio and text"
            f"{'' if split == 'train' else do_without}."
        )
    return (
        f"The manifest {place} has no rows for the split {split!r}; it has: {_counts(table)}. "
        'A row belongs to the split that its key "split" names; without that key it belongs to the '
        "split that the manifest is given for."
    )


def _counts(table: Table) -> str:
    counts = table.column("split").value_counts().to_pylist()
    return ", ".join(f"{each['values'] or 'none named'} {each['counts']}" for each in counts)
