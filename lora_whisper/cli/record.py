"""`lora-whisper record`: make a data set in the browser, by reading sentences aloud.

    lora-whisper record sentences=sentences.txt speaker=amina out=mine language=sw

A sentence after the other is shown, recorded, judged and kept: as FLAC, and as a row of
`recordings.jsonl`, which `train` takes. The same command goes on where it stopped; another
speaker=… adds a voice.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from lora_whisper.browser.server import require_served, serve
from lora_whisper.cli.command import Command
from lora_whisper.config import RecordConfig
from lora_whisper.locks import locked, require_free
from lora_whisper.paths import local_path, program, short
from lora_whisper.recording.collection import (
    MANIFEST,
    Collection,
    read_rows,
    require_own,
    speaker_name,
    training_command,
)
from lora_whisper.recording.sentences import read_sentences
from lora_whisper.terminal import counted

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class RecordPlan:
    """What is read, and where it is kept."""

    config: RecordConfig
    folder: Path
    sentences: list[str]


def prepare(config: RecordConfig, path: Path | None = None) -> RecordPlan:
    """Find everything that can refuse, before anything is written.

    Raises:
        UserError: nothing to read, a folder of something else, a speaker that is none, a port that
            is taken; or Gradio is not installed.
    """
    sentences, folder = read_sentences(local_path(config.sentences)), local_path(config.out)
    if config.speaker is not None:
        speaker_name(config.speaker)
    require_own(folder)
    read_rows(folder / MANIFEST)
    require_free(folder)
    require_served(config)
    return RecordPlan(config, folder, sentences)


def run(plan: RecordPlan) -> None:
    """Serve the page until Ctrl-C, and say what was recorded."""
    from lora_whisper.browser.record_page import MOST_BYTES, record_page

    config = plan.config
    with locked(plan.folder):
        collection = Collection(plan.folder, plan.sentences, config.language)
        before = len(collection.rows)

        def command() -> str:
            return training_command(program(), short(plan.folder), collection.rows)

        serve(
            lambda _: record_page(collection, config.speaker, command),
            config,
            "record",
            MOST_BYTES,
        )
    rows = collection.rows
    if not rows:
        log.info("recorded    nothing")
        return
    new, manifest = len(rows) - before, short(plan.folder / MANIFEST)
    log.info("recorded    %s, %d of them new, in %s", counted(len(rows), "take"), new, manifest)
    log.info("next        type %s", command())


COMMAND = Command("record", RecordConfig, prepare, run)
