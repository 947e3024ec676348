"""The commands that people speak to: `transcribe`, `record` and `demo`."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from lora_whisper.config.types import OF_PICKLE, Dtype, Scale, Task
from lora_whisper.schema import (
    Amount,
    Count,
    Field,
    Flag,
    Listed,
    Number,
    Text,
    ValidationInfo,
    Whole,
    group,
    require,
    rule,
)


@group
class TranscriptionConfig:
    """How recordings are transcribed, on the command line and in Python."""

    language: Text | None = Field(
        None, description="that is spoken, such as sw; null: it is detected in each first window"
    )
    task: Task = Field(
        "transcribe", description="translate: into English, as the base has learnt it"
    )
    prompt: Text | None = Field(
        None, description="text that stands before each window's, such as how names are written"
    )
    words: Text | None = Field(
        None, description="a file with a word or phrase a line, put behind the prompt"
    )
    beams: Count = Field(1, description="1 is greedy")
    temperature_fallback: Flag | None = Field(
        None,
        description="what repeats itself or is improbable is decoded again, by drawing at rising "
        "temperatures, and what seems to be silence has no text; null: true, but for CTranslate2, "
        "whose draws cannot be repeated",
    )
    timestamps: Flag = Field(
        True,
        description="Whisper's own, by which segments are told; false: what fits into a window is "
        "one segment, as evaluation decodes it. Longer recordings always have them",
    )
    previous_text: Flag = Field(
        False,
        description="of a recording over one window, what was heard is the next one's prompt",
    )
    vad: Flag = Field(
        False,
        description="Silero's detector (extra vad) finds speech first, and stretches of it are "
        "decoded in batches: faster for long recordings, and nothing is heard between them",
    )
    batch_size: Count | None = Field(
        None,
        description="windows decoded together, of several recordings, or of one with vad=true; "
        "null: 16, and 4 from medium (width 1024) on",
    )
    dtype: Dtype = Field(
        "auto",
        description="of the weights; auto: float32 on a CPU; on a GPU a checkpoint's own, and "
        "with an adapter that which it was trained on",
    )


TextFormat = Literal["text", "srt", "vtt", "tsv", "json"]


@group
class LoadedModelsConfig:
    """What is transcribed with."""

    run: Text | None = Field(None, description="folder that train wrote: its base and its adapter")
    checkpoint: Text | None = Field(
        None,
        description="in place of run, model=…: any checkpoint, such as small, a hub id, a merged "
        "folder, a folder of CTranslate2",
    )
    adapters: Listed[Text] = Field(
        (),
        description="adapter=…: runs, folders or hub ids, one or several, on that model or on "
        "their own base",
    )
    base: Text | None = Field(
        None, description="a folder or hub id in place of the base that run and adapter name"
    )
    allow_pickle: Flag = Field(False, description=OF_PICKLE)

    @rule("adapters")
    @classmethod
    def _has_a_model(cls, adapters: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        run, model = info.data.get("run"), info.data.get("checkpoint")
        is_one = not (run and model) and bool(run or model or adapters)
        require(is_one, "expected a run=…, a model=… or an adapter=…", at="run")
        return adapters


@group
class TranscriptsConfig(LoadedModelsConfig):
    """What is transcribed, and where the texts go."""

    audio: Listed[Text] = Field(
        (), description='files, folders, patterns such as "*.mp3"; films, too; "-": standard input'
    )
    scale: Scale = Field(1.0, description="of what the adapter adds; 1 is all of it, 0 the base")
    formats: Listed[TextFormat] = Field(
        (),
        description="json has word times as well; none: text and srt, of standard input text",
    )
    out: Text | None = Field(
        None,
        description="folder for the texts; null: beside each recording, and of standard input "
        "printed",
    )
    overwrite: Flag = Field(False, description="replace texts that are there; else they are kept")

    @rule("audio")
    @classmethod
    def _is_something(cls, audio: tuple[str, ...]) -> tuple[str, ...]:
        require(bool(audio), "expected audio=…: a file, a folder, a pattern, or - for input")
        return audio

    @rule("formats")
    @classmethod
    def _go_somewhere(
        cls, formats: tuple[TextFormat, ...], info: ValidationInfo
    ) -> tuple[TextFormat, ...]:
        twice = sorted({name for name in formats if formats.count(name) > 1})
        require(not twice, f"{', '.join(twice)} stands there twice")
        return formats


@group
class TranscribeConfig(TranscriptionConfig, TranscriptsConfig):
    """All of `lora-whisper transcribe`."""


# ── record and demo ──────────────────────────────────────────────────────────────────────────────

Port = Annotated[Whole, Ge(1), Le(65535)]


@group
class ServedConfig:
    """Where a page is served, and to whom."""

    host: Text = Field(
        "127.0.0.1", description="that is listened at: this machine alone; 0.0.0.0: others, too"
    )
    port: Port | None = Field(None, description="null: the first that is free from 7860")
    user: Text | None = Field(None, description="who is let in, with a password; null: anybody")
    password: Text | None = Field(
        None, description="of the user; ${oc.env:NAME} takes it from the environment"
    )
    share: Flag = Field(
        False, description="also at a public address, by way of gradio.live, for a week"
    )

    @rule("password")
    @classmethod
    def _is_of_a_user(cls, password: str | None, info: ValidationInfo) -> str | None:
        is_whole = bool(password) == bool(info.data.get("user"))
        require(is_whole, "expected a user=… and a password=…, or neither")
        return password


@group
class ReadingConfig:
    """What is read aloud, by whom, and where it is kept."""

    sentences: Text = Field(description="text file with a sentence a line, to be read aloud")
    out: Text = Field(description="folder for what is recorded; an earlier one goes on")
    speaker: Text | None = Field(None, description="who reads; null: the page asks")
    language: Text | None = Field(
        None, description='of the sentences, Whisper\'s code ("sw") or name; stands in each row'
    )


@group
class RecordConfig(ServedConfig, ReadingConfig):
    """All of `lora-whisper record`."""


@group
class TriedConfig(LoadedModelsConfig):
    """What is tried in the browser."""

    language: Text | None = Field(
        None, description="that is chosen at first, such as sw; null: it is detected"
    )
    examples: Listed[Text] = Field(
        (), description="recordings to be tried by a click; none: some of the run's test set"
    )
    test_examples: Amount = Field(
        3, description="that many of them, with what is said there; 0: nobody's voice is shown"
    )
    longest_minutes: Annotated[Number, Gt(0), Le(1440)] = Field(
        10.0, description="of a recording that is transcribed"
    )
    most_megabytes: Annotated[Number, Gt(0), Le(10_000)] = Field(
        100.0, description="of a file that is uploaded"
    )
    queue: Count = Field(20, description="of people who wait; others are asked to come again")


@group
class DemoConfig(ServedConfig, TriedConfig):
    """All of `lora-whisper demo`."""
