"""Where speech comes from, and what becomes of it on its way into training windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from lora_whisper.config.types import Bounds, Decibels, Task
from lora_whisper.schema import (
    Amount,
    Field,
    Flag,
    Listed,
    Number,
    Positive,
    Share,
    Text,
    ValidationInfo,
    changes_to,
    group,
    require,
    rule,
)

Padding = Literal["sound", "log-mel"]
Source = Literal["manifest", "audiofolder", "nemo", "common_voice", "subtitles", "hub"]


@group
class ColumnsConfig:
    """The column of a source that holds each part of a row; null: its usual names are tried."""

    audio: Text | None = Field(None, description="the sound, or the path of its file")
    text: Text | None = Field(None, description="the transcript")
    language: Text | None = Field(None, description="the row's own language")
    speaker: Text | None = Field(None, description="who speaks")
    start: Text | None = Field(None, description="seconds into the recording")
    end: Text | None = Field(None, description="seconds into the recording")


@group
class SourceConfig:
    """One source of speech to train on."""

    source: Source = Field("manifest", description="how path is read")
    path: Text | None = Field(
        None, description="what holds all splits: a file, a folder, or a hub id"
    )
    train: Text | None = Field(None, description="a file of its own, or the split's name in path")
    config: Text | None = Field(
        None, description="hub: configuration of the data set, often a language"
    )
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    language: Text | None = Field(
        None, description='Whisper\'s code ("sw") or name ("swahili"); a row\'s own goes first'
    )
    language_token: Text | None = Field(
        None, description="for a language that Whisper lacks: the one whose token it borrows"
    )
    task: Task = Field("transcribe", description="a row's own goes first")


if TYPE_CHECKING:  # mypy takes a change for what it changes
    SourceChanges = SourceConfig
else:
    SourceChanges = changes_to(SourceConfig)


@group
class MixConfig(SourceChanges):
    """One more source of training speech; but for its place, what is null is as in `data`."""

    weight: Positive = Field(
        description="windows drawn from it in an epoch for each window of data.train"
    )

    @rule("train")
    @classmethod
    def _has_a_place(cls, train: str | None, info: ValidationInfo) -> str | None:
        return with_a_place(train, info)


def with_a_place(split: str | None, info: ValidationInfo) -> str | None:
    """A file of its own, or a part of what `path` holds."""
    has_place = bool(split or info.data.get("path", True))
    require(has_place, f"expected a {info.field_name}=… or a path=…, found neither")
    return split


@group
class TrimmedConfig:
    """Windows that end soon after their clip: arithmetic is spent on speech, and not on padding.

    The windows of a step that are of like length end together, a margin behind the longest clip.
    Whoever uses the model gives it whole windows, which some of the training therefore has, too.
    """

    whole_share: Share = Field(
        0.02, description="of the windows, which stay whole, with padding behind the clip"
    )
    packed_share: Share = Field(
        0.25, description="of the speech, met once more in each epoch, in packed windows"
    )
    margin_seconds: Bounds[Annotated[Number, Ge(0), Le(30)]] = Field(
        (0.64, 2.56),
        description="[shortest, longest] of padding behind the longest clip, drawn for each step",
    )


@group
class DataConfig(SourceConfig):
    """Where the speech comes from, and what becomes of it on its way into windows."""

    validation: Text | None = Field(
        None,
        description="the same, to choose the best adapter; null: as path has it, else the last is "
        "kept",
    )
    test: Text | None = Field(
        None,
        description="a file of its own, or the split's name in path; scored at the end and never "
        "looked at before",
    )
    validation_share: Share = Field(
        0.1, description="of what path holds, where it has no splits of its own; by hash"
    )
    test_share: Share = Field(0.1, description="as much again for the test set")
    revision: Text | None = Field(None, description="hub: branch, tag or commit")
    streaming: Flag = Field(
        False, description="hub: read training speech over the network, and keep none of it"
    )
    quoted: Flag = Field(
        True,
        description="CSV and TSV: cells may be quoted; false: a quotation mark is a letter of its "
        "text",
    )
    bad_audio: Literal["fail", "drop"] = Field(
        "fail", description="a file that is missing or does not decode, a broken cue"
    )
    long_audio: Literal["split", "drop", "fail"] = Field(
        "drop",
        description="clips longer than the model's window, and texts longer than its decoder. "
        "drop: left out, named in the log and counted in the summary; split: cut where the row has "
        "boundaries or the clip a silence that fits the text, else left out",
    )
    exclude: Text | None = Field(
        None,
        description="file of decisions that `check labels=true` had saved: training rows whose "
        "findings were accepted there are left out",
    )
    clean: Listed[Literal["annotations", "case", "punctuation", "digits"]] = Field(
        (),
        description="done to training texts: [laughter] and the like are taken out, and so are "
        "capitals and punctuation; digits are spelled",
    )
    windows: Literal["auto", "padded", "packed", "trimmed"] = Field(
        "auto",
        description="one utterance a window; as many as fit into it; or one in a window that ends "
        "soon after it, which is fastest, see data.trimmed; auto: trimmed where clips are short, "
        "else padded",
    )
    trimmed: TrimmedConfig = Field(default_factory=TrimmedConfig)
    timestamps_share: Share | None = Field(
        None,
        description="of the windows; null: 0.2 of packed ones, 0.1 of padded ones, and half of "
        "the packed ones beside trimmed ones",
    )
    previous_text_share: Share | None = Field(
        None, description="of the windows that have some, as a prompt; null: 0.2 packed, else 0"
    )
    words: Text | None = Field(
        None,
        description="a file with a word or phrase a line: some training windows have a prompt of "
        "those that are said in them and of others, so that a prompt of words is obeyed",
    )
    words_share: Share = Field(
        0.5, description="of the windows, which have a prompt of words where data.words is given"
    )
    no_speech_share: Share | None = Field(
        None,
        description="generated ones for each window of speech; null: 0.02 packed, 0.03 trimmed, "
        "else 0.05",
    )
    log_mel_padding_share: Share = Field(
        0.5,
        description="of the training windows, padded as openai-whisper and faster-whisper do it, "
        "the others as Transformers and whisper.cpp: see evaluation.padding",
    )
    mix: tuple[MixConfig, ...] = Field(
        (), description="further sources of training speech, each with its weight"
    )

    @rule("test_share")
    @classmethod
    def _leaves_some_for_training(cls, share: float, info: ValidationInfo) -> float:
        require(
            info.data.get("validation_share", 0) + share < 1,
            "expected 0 or more, and with validation_share below 1",
        )
        return share

    @rule("streaming")
    @classmethod
    def _is_of_the_hub(cls, streaming: bool, info: ValidationInfo) -> bool:
        source = info.data.get("source", "hub")
        require(
            not streaming or source == "hub",
            f"only hub data sets can be streamed, found source {source}",
        )
        return streaming

    @rule("exclude")
    @classmethod
    def _is_of_known_rows(cls, exclude: str | None, info: ValidationInfo) -> str | None:
        is_streamed = exclude is not None and info.data.get("streaming")
        require(not is_streamed, "rows that are streamed are not known before; stream without it")
        return exclude


# ── what training windows go through ─────────────────────────────────────────────────────────────


@group
class AugmentedConfig:
    share: Share = Field(description="of the windows")


@group
class SpeedConfig(AugmentedConfig):
    """Resampled to another speed, pitch with it (Ko et al. 2015); timestamps follow."""

    factors: Bounds[Annotated[Number, Ge(0.5), Le(2)]] = Field(
        description="[slowest, fastest]; 0.9 takes 1.11 times as long, 1.1 takes 0.91 times"
    )


@group
class GainConfig(AugmentedConfig):
    """Louder or softer."""

    db: Bounds[Decibels] = Field(
        description="[lowest, highest]; below 0 is softer, and none goes beyond full scale"
    )


@group
class NoiseConfig(AugmentedConfig):
    """Noise behind the speech."""

    folder: Text | None = Field(
        description="recordings of noise; null: generated, from white to brown"
    )
    snr_db: Bounds[Decibels] = Field(description="[lowest, highest] of speech over noise")


@group
class ReverberationConfig(AugmentedConfig):
    """The speech in a room."""

    folder: Text | None = Field(description="recorded impulse responses; null: generated")
    rt60_seconds: Bounds[Annotated[Number, Gt(0), Le(3)]] = Field(
        description="[shortest, longest] time in which a generated room's echo falls by 60 dB"
    )


@group
class TelephoneConfig(AugmentedConfig):
    """300 to 3400 Hz at 8 kHz, and one of a telephone's codecs for each window."""


@group
class SpecAugmentConfig(AugmentedConfig):
    """Stripes of the log-mel that the model does not see. Park et al. 2019, arXiv:1904.08779."""

    time_masks: Amount = Field(
        description="in each window, of up to half a second; beside them two in frequency"
    )


@group
class AugmentationConfig:
    """What training windows go through; in this order, each with its own draw. null: off."""

    speed: SpeedConfig | None = None
    gain: GainConfig | None = None
    reverberation: ReverberationConfig | None = None
    noise: NoiseConfig | None = None
    telephone: TelephoneConfig | None = None
    spec_augment: SpecAugmentConfig | None = None
