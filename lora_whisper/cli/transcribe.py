"""`lora-whisper transcribe`: recordings to texts and subtitles, by a run's model or any other.

    lora-whisper transcribe run=outputs/mine audio=interview.mp3
    lora-whisper transcribe model=small audio=recordings language=sw 'formats=[vtt,json]'
    lora-whisper transcribe model=small 'adapter=[outputs/a,outputs/b]' 'audio=*.mp3'

Texts lie beside the recordings, or in out=FOLDER; those that are there are kept. An adapter is
merged in memory. A recording that fails is named, and the others go on.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper.cli.command import Command
from lora_whisper.config import TranscribeConfig
from lora_whisper.errors import UserError, listing
from lora_whisper.files import make_folder, write_whole
from lora_whisper.paths import local_path, short
from lora_whisper.terminal import clock, console, counted, print_result, work
from lora_whisper.transcription.models import LoadingPlan, find_models
from lora_whisper.transcription.recordings import Source, find_recordings, places

if TYPE_CHECKING:
    from lora_whisper.transcription.results import Transcript
    from lora_whisper.transcription.sound import FileSound
    from lora_whisper.transcription.transcriber import Transcriber

log = logging.getLogger("lora_whisper")

SHOWN_CHARACTERS = 50  # of a text, in its line of the log


@dataclass(frozen=True)
class Job:
    """A recording, the model that transcribes it, and where its text goes."""

    source: Source
    adapter: str | None  # None: the only one there is
    places: dict[str, Path]  # by format; empty: standard output

    def without_what_is_there(self) -> Job | None:
        """With the places of texts that are missing; None where none is."""
        missing = {name: place for name, place in self.places.items() if not place.exists()}
        return None if self.places and not missing else replace(self, places=missing)


@dataclass(frozen=True)
class TranscribePlan:
    """What is transcribed, with what."""

    config: TranscribeConfig
    models: LoadingPlan
    jobs: list[Job]

    @property
    def is_printed(self) -> bool:
        """Whether the text is what the command prints, and nothing else."""
        return any(not job.places for job in self.jobs)


def prepare(config: TranscribeConfig, path: Path | None = None) -> TranscribePlan:
    """Find models and recordings, and see where texts go.

    Raises:
        UserError: something is not there, or two texts would go to the same place.
    """
    sources = find_recordings(config.audio)
    if config.vad:
        from lora_whisper.transcription.speech import model_file

        model_file()
    models = find_models(
        config.run, config.checkpoint, config.adapters, config.base, config.allow_pickle
    )
    if config.scale != 1.0 and not models.adapters:
        raise UserError("scale: of what an adapter adds, and there is none. Type adapter=…")
    folder = None if config.out is None else local_path(config.out)
    if sources[0].path is None and folder is None:
        if len(models.adapters) > 1:
            raise UserError("audio=-: several adapters write files. Type out=FOLDER.")
        if len(config.formats) > 1:
            raise UserError("audio=-: one format is printed. Type one, or out=FOLDER.")
        return TranscribePlan(config, models, [Job(sources[0], None, {})])
    formats = config.formats or ("text", "srt")
    jobs = [Job(*one) for one in places(sources, folder, formats, list(models.adapters))]
    _refuse_folders(jobs)
    return TranscribePlan(config, models, jobs)


def _refuse_folders(jobs: Sequence[Job]) -> None:
    """See that no folder has the name of a text."""
    folders = [place for job in jobs for place in job.places.values() if place.is_dir()]
    if folders:
        raise UserError(
            f"Texts would go to {listing(list(map(str, folders)))}\nwhich are folders. Type out=…"
        )


def run(plan: TranscribePlan) -> int:
    """Transcribe all; the exit code is 1 where some failed, and where all did, that is an error."""
    from lora_whisper.transcription.transcriber import Transcriber

    todo = plan.jobs
    if not plan.config.overwrite:
        todo = [left for job in plan.jobs if (left := job.without_what_is_there()) is not None]
    if kept := len(plan.jobs) - len(todo):
        texts = f"{counted(kept, 'text')} {'is' if kept == 1 else 'are'}"
        log.info("kept        %s there already; overwrite=true replaces them", texts)
    if not todo:
        return 0
    for folder in {place.parent for job in todo for place in job.places.values()}:
        make_folder(folder)
    with _quiet(plan.is_printed), _Session(plan, todo) as session:
        session.load(Transcriber)
        for adapter in dict.fromkeys(job.adapter for job in todo):
            session.transcribe(adapter)
        return session.exit_code()


@contextmanager
def _quiet(is_printed: bool) -> Iterator[None]:
    """Where the text goes to standard output, nothing else does."""
    before, console.quiet = console.quiet, console.quiet or is_printed
    try:
        yield
    finally:
        console.quiet = before


@dataclass
class _Session:
    """All of a command's recordings, on their way."""

    plan: TranscribePlan
    todo: list[Job]
    failed: list[str] = field(default_factory=list)
    done: int = 0
    audio_seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)
    _spool: Path | None = None

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spool is not None:
            self._spool.unlink(missing_ok=True)

    def load(self, kind: type[Transcriber]) -> None:
        self.transcriber = kind(self.plan.models, self.plan.config.dtype)
        self.began = time.monotonic()

    def transcribe(self, adapter: str | None) -> None:
        """Those of one adapter, the longest first; each is written as soon as it is done."""
        config, transcriber = self.plan.config, self.transcriber
        if transcriber.adapters:
            transcriber.use(adapter or transcriber.adapters[0], config.scale)
        jobs = [job for job in self.todo if job.adapter == adapter]
        sounds = [self._sound(job.source) for job in jobs]
        seconds = [_seconds(sound) for sound in sounds]
        order = sorted(range(len(jobs)), key=lambda index: -seconds[index])
        total = max(1, round(sum(seconds)))
        with work("transcribing", total) as bar:
            found = transcriber.transcribe_all(
                [sounds[index] for index in order],
                config,
                word_times="json" in config.formats,
                on_progress=lambda done: bar.update(min(round(done), total), "s"),
            )
            for index, result in found:
                self._take(jobs[order[index]], result)

    def _sound(self, source: Source) -> FileSound:
        from lora_whisper.transcription.sound import FileSound

        if source.path is not None:
            return FileSound(source.path, source.name)
        if self._spool is None:
            with tempfile.NamedTemporaryFile(delete=False) as spool:
                self._spool = Path(spool.name)
                while data := sys.stdin.buffer.read(1 << 20):
                    spool.write(data)
        return FileSound(self._spool, source.name)

    def _take(self, job: Job, result: object) -> None:
        from lora_whisper.transcription.results import Failed, Transcript

        if isinstance(result, Failed):
            self.failed.append(result.reason)
            if len(self.todo) > 1:
                log.warning("failed      %s", result.reason)
            return
        assert isinstance(result, Transcript)
        self.done += 1
        self.audio_seconds += result.seconds
        for remark in result.remarks:
            log.warning("remark      %s: %s", job.source.name, remark)
        self._write(job, result)

    def _write(self, job: Job, transcript: Transcript) -> None:
        from lora_whisper.transcription.subtitles import rendered

        if not job.places:
            (printed,) = self.plan.config.formats or ("text",)
            print_result(rendered(transcript, printed).decode("utf-8", "replace").rstrip("\n"))
            return
        for format, place in job.places.items():
            write_whole(place, rendered(transcript, format))
        language = f", {transcript.language}" if transcript.language else ""
        first, *others = job.places.values()
        log.info(
            "written     %s (%s%s): %s",
            ", ".join([short(first), *(other.suffix for other in others)]),
            clock(transcript.seconds),
            language,
            textwrap.shorten(transcript.text, SHOWN_CHARACTERS, placeholder=" …") or "no speech",
        )

    def exit_code(self) -> int:
        """Raises UserError: nothing was transcribed."""
        if not self.done and self.failed:
            one = self.failed[0]
            raise UserError(
                one if len(self.failed) == 1 else f"Nothing could be read:\n{listing(self.failed)}"
            )
        seconds = time.monotonic() - self.began
        log.info(
            "transcribed %s of audio in %s, %.1f times as fast as it was spoken%s",
            clock(self.audio_seconds),
            clock(seconds),
            self.audio_seconds / max(seconds, 1e-3),
            f"; {len(self.failed)} of {len(self.todo)} failed" if self.failed else "",
        )
        return 1 if self.failed else 0


def _seconds(sound: FileSound) -> float:
    """As the header says; what cannot be read fails when it is its turn."""
    from lora_whisper.data.audio import AudioError

    try:
        return sound.seconds
    except AudioError:
        return 0.0


COMMAND = Command(
    "transcribe",
    TranscribeConfig,
    prepare,
    run,
    aliases={"model": "checkpoint", "adapter": "adapters"},  # which Hydra takes for groups
)
