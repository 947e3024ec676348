"""Training, validation and test: what they are called, and dividing a source that has none.

Who stands where is decided by a hash of the speaker, or of the text where the speaker is unknown:
neither is ever on both sides, and a row stays where it is when others are added.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from lora_whisper.config import SPLITS
from lora_whisper.errors import UserError

log = logging.getLogger("lora_whisper")

SPLIT_NAMES = {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
}


def split_name(name: str) -> str:
    """One name for each split: "dev", "val" and "valid_manifest" are "validation"."""
    name = name.strip().lower()
    name = re.sub(r"(?<=.)[_-]manifest$", "", name)  # as NeMo's tutorials call their files
    return SPLIT_NAMES.get(name, name)


def folder_split(folder: Path, root: Path) -> str | None:
    """The split that a folder below `root` is called like, or the next one above it that is."""
    names = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    splits = (split_name(name) for name in reversed(names))
    return next((split for split in splits if split in SPLITS), None)


def split_of(key: str, validation_share: float, test_share: float) -> str:
    """The split of all rows with this key; a greater share only moves rows out of train."""
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64  # [0, 1)
    if place < test_share:
        return "test"
    return "validation" if place >= 1 - validation_share else "train"


def split_key(speaker: str | None, text: str) -> str:
    """What must not stand in two splits: the speaker; where unknown, the text in any spelling."""
    if speaker is not None:
        return f"speaker {speaker}"
    folded = unicodedata.normalize("NFC", text.strip()).casefold()
    return f"text {unicodedata.normalize('NFC', folded)}"


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
        for speaker, text in zip(_values(speakers), _values(texts), strict=True)
    ]
    shares = {"validation": validation_share, "test": test_share}
    shares["train"] = 1 - validation_share - test_share
    for split in {name for name, share in shares.items() if share > 0} - set(splits):
        raise UserError(_too_few(speakers, split, shares[split], place))
    if speakers.null_count and (validation_share or test_share):
        log.warning(
            "%-11s %s has none of its own and is divided by text, since %d rows do not name a "
            "speaker: the same voices may stand in training and test",
            *("splits", place, speakers.null_count),
        )
    return pa.chunked_array([splits], pa.string())


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    """One chunk after the other: all texts of a large source need not be in memory."""
    return chain.from_iterable(chunk.to_pylist() for chunk in column.chunks)


def _too_few(speakers: pa.ChunkedArray, split: str, share: float, place: str) -> str:
    rows = len(speakers)
    of_speakers = (
        f" of {len(speakers.unique())} speakers" if rows and not speakers.null_count else ""
    )
    key = "test_share" if split == "test" else "validation_share"
    return (
        f"{place} has no splits, and of its {rows} rows{of_speakers} none falls to {split} with a "
        f"share of {share:g}. Type another data.{key}=…, or 0 to do without; or name files: "
        f"data.train=FILE data.{split}=FILE. A column that says it has to be called split"
    )
