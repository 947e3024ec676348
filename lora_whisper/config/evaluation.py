"""How hypotheses are decoded and scored, of which speech, in which conditions."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import model_validator

from lora_whisper.config.data import ColumnsConfig, DataConfig, Padding, with_a_place
from lora_whisper.schema import (
    Count,
    Field,
    Flag,
    Listed,
    Number,
    Text,
    ValidationInfo,
    changes_to,
    given_in,
    group,
    hints_of,
    rule,
)


@group
class EvaluationConfig:
    """How hypotheses are decoded and scored."""

    batch_size: Count | None = Field(
        None,
        description="windows decoded together, which does not change the text; null: 16, and 4 "
        "from medium (width 1024) on",
    )
    beams: Count = Field(1, description="1 is greedy")
    temperature_fallback: Flag = Field(
        False,
        description="what repeats itself or is improbable is decoded again, by drawing from the "
        "distribution at rising temperatures: Radford et al. 2022, section 4.5",
    )
    timestamps: Flag = Field(
        False, description="decode with them; they are left out of the text that is scored"
    )
    previous_text: Flag = Field(
        False,
        description="of a recording over one window, what was heard is the next one's prompt",
    )
    padding: Padding = Field(
        "sound",
        description="behind a clip. sound: silence, as Transformers and whisper.cpp hear it; "
        "log-mel: 0.0 in the log-mel, which is louder, as openai-whisper and faster-whisper do",
    )
    max_utterances: Count | None = Field(
        None, description="a fixed, seeded sample of the test set; null: all of it"
    )
    max_validation_utterances: Count | None = Field(
        100, description="the same for the validation set during training"
    )
    group_by: Listed[Text] = Field(
        (), description="what is scored apart as well: columns of the manifest, or duration"
    )
    words: Text | None = Field(
        None,
        description="a file with a word or phrase a line: evaluate tells how many of them are "
        "found, and how many are written that nobody said, with the list as a prompt and without",
    )


# What of it decides on a hypothesis.
DECODING = ("beams", "temperature_fallback", "timestamps", "previous_text", "padding")


if TYPE_CHECKING:
    TestSetChanges = DataConfig
    TestDataChanges = DataConfig
else:
    OF_A_SET = "source path config columns language language_token task test"
    MORE = "validation_share test_share revision quoted bad_audio long_audio"
    TestSetChanges = changes_to(DataConfig, OF_A_SET)
    TestDataChanges = changes_to(DataConfig, f"{OF_A_SET} {MORE}")


@group
class TestSetConfig(TestSetChanges):
    """One more set to score; but for its place, what is null is as in `data`."""

    __test__ = False  # tells pytest that this is not a class of tests

    @model_validator(mode="before")
    @classmethod
    def _of_a_text(cls, values: Any) -> Any:
        """A text alone is the test set."""
        return {"test": values} if isinstance(values, str) else values

    @rule("test")
    @classmethod
    def _has_a_place(cls, test: str | None, info: ValidationInfo) -> str | None:
        return with_a_place(test, info)


@group
class TestDataConfig(TestDataChanges):
    """The speech that is scored; what is null is as the run has it, else as in `DataConfig`."""

    __test__ = False
    # What `data=fleurs` and the like bring for training alone.
    ignored = frozenset(hints_of(DataConfig)) - frozenset(hints_of(TestDataChanges))
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if key not in cls.ignored}


Condition = Literal[
    "all",
    "clean",
    "noise-20db",
    "noise-10db",
    "noise-5db",
    "noise-0db",
    "reverberation",
    "telephone",
    "8khz",
    "speed-0.9",
    "speed-1.1",
    "padded-sound",
    "padded-log-mel",
]
CLEAN: Condition = "clean"  # as recorded


if TYPE_CHECKING:
    EvaluationChanges = EvaluationConfig
else:
    EvaluationChanges = changes_to(
        EvaluationConfig,
        "batch_size beams temperature_fallback timestamps previous_text padding max_utterances "
        "group_by words",
    )


@group
class RescoringConfig(EvaluationChanges):
    """Changes to a run's `EvaluationConfig`, where null leaves the run's own value; and more tests.

    Without a run, its defaults are changed.
    """

    conditions: Listed[Condition] = Field(
        (), description="in which the test sets are heard, beside clean"
    )
    retention: Listed[TestSetConfig] = Field(
        (), description="speech that must not be recognized worse than before"
    )
    adapter_scales: tuple[Annotated[Number, Ge(0), Le(2)], ...] = Field(
        (), description="of what the adapter adds; 0 is the base, 1 the adapter"
    )
    diagnostics: Flag = Field(
        True,
        description="also score 50 utterances of the run's training set, and 4 clips of each kind "
        "of sound without speech, in which nothing should be heard; false: the sets alone",
    )
    players: Flag = Field(
        True,
        description="evaluation.html has the sound of each set's worst utterances; false: nobody's "
        "voice is passed on with it",
    )
    cache: Flag = Field(
        True,
        description="take hypotheses of the same model, speech and decoding from an earlier "
        "command",
    )

    def applied_to(self, settings: EvaluationConfig) -> EvaluationConfig:
        """The run's settings with these changes."""
        known, given = hints_of(EvaluationConfig), given_in(self)
        return dataclasses.replace(settings, **{k: v for k, v in given.items() if k in known})
