"""`lora-whisper demo`: try base and adapters in the browser, side by side.

    lora-whisper demo run=outputs/mine
    lora-whisper demo model=small 'adapter=[outputs/a,outputs/b]' language=sw

The base is loaded once, and each adapter put into it when it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper.browser.server import require_served, serve
from lora_whisper.cli.command import Command
from lora_whisper.config import DemoConfig
from lora_whisper.data.audio import AudioError, EncodedAudio, read_audio
from lora_whisper.data.sources import read_split
from lora_whisper.errors import Problems, UserError
from lora_whisper.files import write_whole
from lora_whisper.lora.resolve import name_of, resolve_run
from lora_whisper.model.tokenizer import code_of
from lora_whisper.paths import local_path, plain_name
from lora_whisper.recording.collection import flac
from lora_whisper.run_config import read_config
from lora_whisper.transcription.models import LoadingPlan, find_models

if TYPE_CHECKING:
    from lora_whisper.browser.demo_page import DemoParts

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class Tried:
    """A recording, or a slice of one, that the page offers."""

    audio: Path | EncodedAudio
    reference: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class DemoPlan:
    """What is loaded, and what the page offers."""

    config: DemoConfig
    models: LoadingPlan
    tried: list[Tried]


def prepare(config: DemoConfig, path: Path | None = None) -> DemoPlan:
    """Find everything that can refuse, before the model is loaded.

    Raises:
        UserError: a model, an adapter or an example that is not there, a port that is taken; or
            Gradio is not installed.
    """
    models = find_models(
        config.run, config.checkpoint, config.adapters, config.base, config.allow_pickle
    )
    tried = list(_given(config)) if config.examples else list(_of_the_test_set(config))
    require_served(config)
    return DemoPlan(config, models, tried)


def _given(config: DemoConfig) -> Iterator[Tried]:
    problems = Problems()
    for given in config.examples:
        path = local_path(given)
        with problems.noted():
            if not path.is_file():
                raise UserError(f"examples={given}: there is no such file.")
        yield Tried(path)
    problems.raise_any()


def _of_the_test_set(config: DemoConfig) -> Iterator[Tried]:
    """The first utterances of the run's test set, if it is still there."""
    if config.run is None or not config.test_examples:
        return
    try:
        rows = read_split(read_config(resolve_run(config.run, "transcribe")).data, "test")
    except UserError as error:
        log.warning("%-11s none: %s", "examples", str(error).splitlines()[0])
        return
    for one in islice(rows or (), config.test_examples):
        yield Tried(one.audio, one.text, one.start_seconds, one.end_seconds)


def run(plan: DemoPlan) -> None:
    """Load the model, and serve the page until Ctrl-C."""
    from lora_whisper.browser.comparison import Comparer
    from lora_whisper.browser.demo_page import demo_page
    from lora_whisper.transcription.transcriber import Transcriber

    config, models = plan.config, plan.models
    log.info("%-11s %s", "loading", models.entry.what)
    comparer = Comparer(Transcriber(models), 60 * config.longest_minutes)
    languages = comparer.transcriber.languages
    if config.language is not None and code_of(config.language) not in languages:
        known = ", ".join(sorted(languages)) or "none: it is English alone"
        raise UserError(f"language={config.language}: the model knows {known}.")
    serve(
        lambda folder: demo_page(comparer, parts_of(plan, folder)),
        config,
        "demo",
        round(1e6 * config.most_megabytes),
    )


def parts_of(plan: DemoPlan, folder: Path) -> DemoParts:
    """What the page shows; examples are written into the folder, as the model hears them."""
    from lora_whisper.browser.demo_page import DemoParts, Example

    config, models, examples = plan.config, plan.models, []
    for number, one in enumerate(plan.tried, 1):
        clip = folder / "examples" / str(number) / f"{plain_name(Path(one.audio.name).stem)}.flac"
        try:
            write_whole(clip, flac(read_audio(one.audio, one.start_seconds, one.end_seconds)))
        except AudioError as error:
            log.warning("%-11s %s", "left out", error)
            continue
        examples.append(Example(clip, one.reference))
    given = config.run or config.checkpoint or config.adapters[0]
    base = "" if models.entry.model is None else models.entry.model.checkpoint
    return DemoParts(
        name_of(given),
        models.adapters,
        config.language and code_of(config.language),
        examples,
        config.queue,
        f"on {base}" if base and base != given else "",
    )


COMMAND = Command(
    "demo",
    DemoConfig,
    prepare,
    run,
    aliases={"model": "checkpoint", "adapter": "adapters"},  # which Hydra takes for groups
)
