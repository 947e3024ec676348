"""What a test set shares with the training set of a run: recordings, texts, speakers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_whisper.config import TrainConfig
from lora_whisper.data.contents import Recordings, Texts
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.durations import measure
from lora_whisper.data.sources import resolved
from lora_whisper.data.speech import train_rows
from lora_whisper.errors import UserError

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class Leaks:
    """What of a test set a run has learnt; a shared recording is a fault, a speaker a limit."""

    run: str
    recordings: int  # utterances of the test set
    texts: int  # utterances, too
    speakers: int


def learnt_speech(run: str, config: TrainConfig) -> list[Utterances] | None:
    """All that a run was trained on, measured; None, with a warning, where it is gone.

    What is not to be heard any more counts without its length: its text was learnt all the same.
    """
    if config.data.streaming:
        log.warning("leaks       %s was trained on a stream, which nobody can look through", run)
        return None
    try:
        sources = [config.data, *(resolved(config.data, mix) for mix in config.data.mix)]
        return [measure(train_rows(source))[0] for source in sources]
    except UserError as error:
        reason = str(error).splitlines()[0]
        log.warning("leaks       the training set of %s cannot be looked through: %s", run, reason)
        return None


def find_leaks(
    run: str, learnt: Sequence[Utterances], sets: Mapping[str, Utterances]
) -> dict[str, Leaks]:
    """Look for each set's utterances in what a run was trained on."""
    recordings, texts = Recordings(learnt), Texts(learnt)
    heard = set().union(*map(speakers, learnt))
    return {
        name: Leaks(
            run=run,
            recordings=len(recordings.shared_with(utterances)),
            texts=len(texts.shared_with(utterances)),
            speakers=len(speakers(utterances) & heard),
        )
        for name, utterances in sets.items()
    }


def speakers(utterances: Utterances) -> set[str]:
    """Who speaks, as far as the rows say."""
    return {name for name in utterances.column("speaker").unique().to_pylist() if name}
