"""Whether a run that goes on has the settings, the steps and the speech that it began with.

    rows.npz    a hash for each row of each split, written when the run begins

What was trained, chosen or scored on other rows would else stand in one table with the rest.
"""

from __future__ import annotations

import io
import logging
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lora_whisper.config import TrainConfig
from lora_whisper.data.contents import Change, change, row_hashes
from lora_whisper.data.corpus import Corpus
from lora_whisper.data.speech import DatasetSplits
from lora_whisper.data.words import read_words
from lora_whisper.errors import UserError, listing
from lora_whisper.files import write_whole
from lora_whisper.paths import local_path
from lora_whisper.run_config import LENGTH, flat, free_to_change, plain_values, read_config
from lora_whisper.run_folder import RunFolder, further

log = logging.getLogger("lora_whisper")

Rows = Mapping[str, np.ndarray]  # by part: "train", "validation", "test", "mix 1", …
SCORED = ("validation", "test")  # whose sound counts by its bytes
SHOWN_ROWS = 5
AGAIN = {  # what becomes of a changed part where the run goes on all the same
    "test": "base and adapter are scored on the test set as it is now",
    "validation": "earlier validations are dropped, and the best adapter from here on ships",
}
SINCE = {  # what of a complete run is of a changed part as it was
    "test": "the scores are of what it",
    "validation": "the adapter was chosen by what it",
}
LEARNT = "the steps that are still to come train on the speech as it is now"


def rows_of(parts: Mapping[str, Corpus]) -> dict[str, np.ndarray]:
    """The hashes of what a run trains on, validates with and scores."""
    return {
        name: row_hashes(corpus.utterances, "bytes" if name in SCORED else "size")
        for name, corpus in parts.items()
    }


def write_rows(path: Path, rows: Rows) -> None:
    buffer, arrays = io.BytesIO(), dict[str, Any](rows)
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def read_rows(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_rows` wrote; None where nothing was.

    Raises:
        UserError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as e:
        raise UserError(
            f"{path} is damaged, so that nobody can tell whether the run's speech is still what it "
            "began with.\nIf you know that it is, delete that file and type the same command again."
        ) from e


def changes(path: Path, rows: Rows) -> dict[str, Change]:
    """How the speech differs from that with which the run began, by part; empty if it does not.

    Raises:
        UserError: what was written of it is damaged.
    """
    before = read_rows(path)
    if before is None:
        return {}
    none = np.zeros(0, "<u8")
    differences = {
        name: change(before.get(name, none), rows.get(name, none)) for name in {**before, **rows}
    }
    return {name: difference for name, difference in differences.items() if difference is not None}


def require_unchanged(
    folder: Path, changed: Mapping[str, Change], parts: Mapping[str, Corpus]
) -> None:
    """Refuse to go on with other speech.

    Raises:
        UserError: names each part that changed, and rows.
    """
    if not changed:
        return
    lines = [_described(name, difference, parts.get(name)) for name, difference in changed.items()]
    anyway = dict.fromkeys(AGAIN.get(name, LEARNT) for name in changed)
    raise UserError(
        f"The speech of {folder} is not what it was when the run began:\n{listing(lines)}\n"
        "Bring it back as it was, and type the same command again. Or type one of\n"
        f"  resume=anyway   to go on: {'; '.join(anyway)}\n"
        "  overwrite=true  instead of resume, to begin anew"
    )


def say_changed(changed: Mapping[str, Change], parts: Mapping[str, Corpus]) -> None:
    """Of a run that goes on all the same."""
    for name, difference in changed.items():
        log.warning(
            "changed     %s: %s",
            _described(name, difference, parts.get(name)),
            AGAIN.get(name, LEARNT),
        )


def say_changed_since(
    folder: Path, changed: Mapping[str, Change], parts: Mapping[str, Corpus]
) -> None:
    """Of a complete run: nothing of it is made anew unasked."""
    again = f"lora-whisper evaluate {shlex.quote(f'run={folder}')} overwrite=true"
    for name, difference in changed.items():
        log.warning(
            "changed     %s: %s was. Type %s",
            _described(name, difference, parts.get(name)),
            SINCE.get(name, "the adapter was trained on what it"),
            again if name == "test" else "overwrite=true instead of resume to begin anew",
        )


def _described(name: str, difference: Change, corpus: Corpus | None) -> str:
    """With the places of some rows that are not as they were."""
    if corpus is None or not difference.new:
        return f"{name}: {difference}"
    some = [corpus.utterances.row(index).place for index in difference.new[:SHOWN_ROWS]]
    more = ", …" if len(difference.new) > SHOWN_ROWS else ""
    return f"{name}: {difference} ({', '.join(some)}{more})"


def require_same(folder: RunFolder, config: TrainConfig) -> None:
    """Refuse to continue, or report as complete, a run of a configuration with another result.

    Raises:
        UserError: names every key that differs, with both values.
    """
    before, now = flat(plain_values(read_config(folder))), flat(plain_values(config))
    free = free_to_change(config)
    changed = [
        f"{key}: was {before.get(key)}, is {now.get(key)}{_why_not(key, config)}"
        for key in before | now
        if key not in free and before.get(key) != now.get(key)
    ]
    if changed:
        is_longer = folder.is_complete() and all(line.startswith(tuple(LENGTH)) for line in changed)
        first = f"Type {further(folder.path)}, or g" if is_longer else "G"
        raise UserError(
            f"The run {folder.path} has another configuration:\n{listing(changed)}\n"
            f"{first}ive it the same values, type another name=…, or overwrite=true to begin anew."
        )


def require_same_speech(config: TrainConfig, folder: RunFolder, speech: DatasetSplits) -> None:
    """Refuse to go on with other speech than the run began with, unless that was asked for.

    Raises:
        UserError: names the splits that changed, and rows.
    """

    if config.resume == "auto":
        changed = changes(folder.rows, rows_of(speech.parts))
        require_unchanged(folder.path, changed, speech.parts)


def require_same_words(config: TrainConfig, folder: RunFolder) -> None:
    """Refuse to go on with another list than the run began with.

    Raises:
        UserError: some of its words were not there, or are not any more.
    """
    if config.resume != "auto" or config.data.words is None or not folder.words.is_file():
        return
    before = read_words(folder.words, "data.words")
    now = read_words(local_path(config.data.words), "data.words")
    if before != now:
        other = sorted({*before} ^ {*now}) or ["their order"]
        raise UserError(
            f"data.words={config.data.words} is not what the run began with:\n"
            f"{listing(other)}\nWhat it was is {folder.words}: copy it back and type the same "
            "command again, or overwrite=true instead of resume to begin anew."
        )


def has_other_length(folder: RunFolder, config: TrainConfig) -> bool:
    """Whether a run that can be made longer is asked to be of another length than it was."""
    before, now = read_config(folder).training, config.training
    return (before.max_steps, before.max_epochs) != (now.max_steps, now.max_epochs)


def require_checkpoint(folder: RunFolder) -> None:
    """Refuse to go on with a complete run that would have to begin anew."""
    if folder.last_checkpoint() is None:
        raise UserError(
            f"{folder.path} is complete, and its checkpoints were removed, so that it cannot be "
            "made longer.\nType another name=…, or overwrite=true to begin anew."
        )


def require_steps_left(folder: RunFolder, done_steps: int, total_steps: int) -> None:
    """Refuse to go on with a run that is to have fewer steps than it has done.

    Raises:
        UserError: it has done more.
    """
    if done_steps > total_steps:
        raise UserError(
            f"The run {folder.path} has done {done_steps} steps, and is now to have "
            f"{total_steps}.\nType training.max_steps={done_steps} or more, another name=…, or "
            "overwrite=true to begin anew."
        )


def _why_not(key: str, config: TrainConfig) -> str:
    """Why a run's length cannot be changed any more."""
    if key not in LENGTH:
        return ""
    if config.adapter.kind == "adalora":
        return " (adalora's ranks fall by a plan for the whole run)"
    return (
        " (the learning rate of each step depends on it; it does not with "
        "optimizer.schedule=constant and a warm-up in steps)"
    )
