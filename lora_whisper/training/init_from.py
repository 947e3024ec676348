"""`adapter.init_from` before anything is loaded: is it there, does it fit, what has it heard?

A run remembers what it was trained on, so that its adapter is not scored on that by another run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from lora_whisper.config import TrainConfig
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.durations import measure
from lora_whisper.data.sources import resolved
from lora_whisper.data.speech import Inputs, refuse_learnt, train_rows
from lora_whisper.errors import UserError
from lora_whisper.lora.provenance import is_trained_adapter
from lora_whisper.lora.saved import SavedAdapter, open_adapter, require_sum
from lora_whisper.lora.validation import find_start, require_fit, require_same_base
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RunFolder
from lora_whisper.training.run import trained_tokens

log = logging.getLogger("lora_whisper")


def saved_start(config: TrainConfig, path: Path) -> SavedAdapter | None:
    """The headers of the adapter that a new run in `path` is to start from, if it names one.

    Raises:
        UserError: it is not there, is no plain LoRA, or lies in the run that is to be replaced.
    """
    if config.adapter.init_from is None:
        return None
    folder = find_start(config.adapter.init_from, config.model.allow_pickle)
    if folder.is_relative_to(path.absolute()):
        raise UserError(
            f"adapter.init_from={folder} is of the run that overwrite=true replaces.\n"
            "Type another name=…, so that it stays."
        )
    saved = open_adapter(folder)
    require_sum(saved)
    return saved


def require_start(config: TrainConfig, saved: SavedAdapter, inputs: Inputs) -> None:
    """See that the run can start from `saved`, and that nothing is scored that it has learnt.

    Raises:
        UserError: it is of another base, has no room in this run's adapter, or has heard the
            validation or test set.
    """
    from lora_whisper.model.base import load_config

    base, speech = inputs.base, inputs.speech
    languages, tokens = base.vocabulary.languages, trained_tokens(config, base)
    require_fit(saved, config.adapter, load_config(base.checkpoint), languages, tokens)
    require_same_base(saved, base.checkpoint)
    scored = {name: corpus for name, corpus in speech.splits.items() if name != "train"}
    try:
        learnt = [rows for run in _earlier_runs(saved.folder) for rows in _learnt(run)]
    except UserError as error:
        reason = str(error).splitlines()[0]
        log.warning("start       nobody can look for test speech in what it has learnt: %s", reason)
        return
    refuse_learnt(
        scored,
        learnt,
        f"what {config.adapter.init_from} was trained on",
        "Take these rows out, or type adapter.init_from=null.",
    )


def _earlier_runs(folder: Path) -> Iterator[TrainConfig]:
    """The run whose adapter is in `folder`, the one that it started from, and so on.

    Raises:
        UserError: one of them is not there.
    """
    run = RunFolder(folder.parent)
    if folder != run.adapter or not run.is_run() or not is_trained_adapter(run):
        raise UserError(f"{folder} is not of a run")
    config = read_config(run)
    yield config
    if config.adapter.init_from is not None:
        yield from _earlier_runs(find_start(config.adapter.init_from, config.model.allow_pickle))


def _learnt(config: TrainConfig) -> list[Utterances]:
    """What a run was trained on, with durations."""
    if config.data.streaming:
        raise UserError(f"the run {config.name} read a stream")
    sources = [config.data, *(resolved(config.data, mix) for mix in config.data.mix)]
    return [measure(train_rows(source))[0] for source in sources]
