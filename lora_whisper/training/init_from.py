"""What a new adapter is begun with: another run's, some windows of speech, a token of its own.

Of `adapter.init_from`, before anything is loaded: is it there, does it fit, what was it trained on?
A run remembers that, so that its adapter is not scored on it by another run.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper.config import TrainConfig
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.durations import measure
from lora_whisper.data.loader import TrainingWindows
from lora_whisper.data.sources import resolved
from lora_whisper.data.speech import Inputs, refuse_training_data, train_rows
from lora_whisper.errors import UserError
from lora_whisper.lora.provenance import is_trained_adapter
from lora_whisper.lora.saved import SavedAdapter, open_adapter, require_sum
from lora_whisper.lora.validation import (
    require_fit,
    require_same_base,
    resolve_initial,
)
from lora_whisper.model.base import Base, load_config
from lora_whisper.model.published import FRAMES_PER_POSITION
from lora_whisper.model.tokenizer import language_code
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RunFolder

if TYPE_CHECKING:
    from lora_whisper.lora.initialization import WatchedWindow

log = logging.getLogger("lora_whisper")


def saved_start(config: TrainConfig, path: Path) -> SavedAdapter | None:
    """The headers of the adapter that a new run in `path` is to start from, if it names one.

    Raises:
        UserError: it is not there, is no plain LoRA, or lies in the run that is to be replaced.
    """
    if config.adapter.init_from is None:
        return None
    folder = resolve_initial(config.adapter.init_from, config.model.allow_pickle)
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
    base, speech = inputs.base, inputs.speech
    languages, tokens = base.special_tokens.languages, trained_tokens(config, base)
    require_fit(saved, config.adapter, load_config(base.checkpoint), languages, tokens)
    require_same_base(saved, base.checkpoint)
    scored = {name: corpus for name, corpus in speech.splits.items() if name != "train"}
    trained_on: list[Utterances] = []
    try:
        for run in _earlier_runs(saved.folder):
            if run.data.streaming:
                raise UserError(f"the run {run.name} read a stream")
            sources = [run.data, *(resolved(run.data, mix) for mix in run.data.mix)]
            trained_on += [measure(train_rows(source))[0] for source in sources]
    except UserError as error:
        reason = str(error).splitlines()[0]
        log.warning("start       nobody can look for test speech in what it has learnt: %s", reason)
        return
    refuse_training_data(
        scored,
        trained_on,
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
        yield from _earlier_runs(
            resolve_initial(config.adapter.init_from, config.model.allow_pickle)
        )


def trained_tokens(config: TrainConfig, base: Base) -> tuple[int, ...]:
    """The token that `data.language` borrows, where the adapter is to re-learn it.

    Raises:
        UserError: the checkpoint has no tokens of languages.
    """
    if not config.adapter.train_language_token:
        return ()
    code = language_code(base.special_tokens, config.data.language_token)
    if code is None:
        raise UserError("adapter.train_language_token=true: .en checkpoints have no such token")
    return (base.special_tokens.languages[code],)


def watched_windows(
    config: TrainConfig, base: Base, windows: TrainingWindows
) -> Iterator[WatchedWindow]:
    """The first windows of the run, as it will be trained on them; in each process the same.

    Each with the padding of a whole window, and how much of it is sound.
    """
    from lora_whisper.lora.initialization import EVA_WINDOWS, WatchedWindow
    from lora_whisper.model.features import positions_with_sound
    from lora_whisper.training.memory import split

    steps = math.ceil(EVA_WINDOWS / config.training.whole_windows(base.window_seconds))
    steps_batches = windows.load_whole(0, steps, 1)
    singles = (single for step in steps_batches for single in split(step, 1) if single.rows)
    for single in islice(singles, EVA_WINDOWS):
        whole = dataclasses.replace(single, positions=None)
        (features,) = whole.input_features(base.features).cpu()
        positions = positions_with_sound(single.waveforms.shape[1])
        most = features.shape[1] // FRAMES_PER_POSITION
        yield WatchedWindow(features, single.decoder_input[0], min(positions, most))
