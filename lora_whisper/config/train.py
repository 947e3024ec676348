"""The commands that take what a run is made of: `train`, `check`, `plan` and `search`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import AfterValidator

from lora_whisper.config.adapter import (
    AdapterConfig,
    FittingAdapter,
    ModelConfig,
    QuantizationConfig,
)
from lora_whisper.config.data import AugmentationConfig, DataConfig
from lora_whisper.config.evaluation import EvaluationConfig
from lora_whisper.config.training import OptimizerConfig, TrackingConfig, TrainingConfig
from lora_whisper.config.types import USUAL_SEED, Bounds, Choices, Dropped, Name, Targets
from lora_whisper.schema import (
    Amount,
    Count,
    Field,
    Flag,
    Positive,
    Seed,
    Text,
    ValidationInfo,
    Whole,
    group,
    hints_of,
    require,
    rule,
)


def _in_the_models_dtype(training: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
    """Weights of a dtype that is computed with."""
    dtype = getattr(info.data.get("model"), "dtype", "auto")
    require(
        (dtype, training.precision) not in (("float16", "bf16"), ("bfloat16", "fp16")),
        f"weights in {dtype} are not computed with in {training.precision}; leave "
        "model.dtype out, which follows training.precision",
        at="model",
    )
    return training


def _with_training_set(data: DataConfig) -> DataConfig:
    """Of the commands that read one."""
    has_place = bool(data.train or data.path)
    advice = "missing; type data.train=… (or data.path=… for what holds all splits)"
    require(has_place, advice, at="data.train")
    return data


TrainingData = Annotated[DataConfig, AfterValidator(_with_training_set)]
FittingTraining = Annotated[TrainingConfig, AfterValidator(_in_the_models_dtype)]


@group
class SpeechCommandConfig:
    """What `train` and `check` take alike."""

    name: Name = Field(description="of the run or report, and of its folder below outputs/")
    seed: Seed = Field(
        USUAL_SEED,
        description="fixes data order, augmentation, adapter initialisation and dropout",
    )
    overwrite: Flag = Field(False, description="replace an existing run or report of this name")
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: TrainingData = Field(default_factory=DataConfig)
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)


@group
class TrainConfig(SpeechCommandConfig):
    """All of `lora-whisper train`."""

    resume: Literal["auto", "anyway"] | None = Field(
        None,
        description="auto: continue an existing run of this name; anyway: also where its speech "
        "has changed since, which is then scored anew, or its best adapter is damaged, in whose "
        "place the best from here on ships",
    )
    quantization: QuantizationConfig = Field(default_factory=QuantizationConfig)
    adapter: FittingAdapter = Field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    training: FittingTraining = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    card: Flag = Field(
        True,
        description="where a test set is scored, also say what is lost for certain of languages, "
        "timestamps, punctuation and silence: 64 windows more of base and adapter",
    )

    @rule("resume")
    @classmethod
    def _does_not_overwrite(cls, resume: str | None, info: ValidationInfo) -> str | None:
        require(
            not (info.data.get("overwrite") and resume),
            f"resume={resume} and overwrite=true contradict each other; give one of them",
        )
        return resume

    @rule("training")
    @classmethod
    def _averages_what_adds(cls, training: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
        require(
            getattr(info.data.get("adapter"), "kind", "lora") != "dora"
            or training.averaging is None,
            "averaging is for adapters that add to the weights, and each DoRA scales them as well. "
            "Type training.averaging=null or adapter=lora.",
        )
        return training


@group
class LabelsConfig:
    """How `check labels=true` listens to the training speech."""

    folds: Annotated[Whole, Ge(0), Le(20)] | None = Field(
        None,
        description="parts, each of which an adapter listens to that was trained on the others; "
        "0: the base listens to all; null: the base where it knows the language, else 2",
    )
    epochs: Positive = Field(5.0, description="passes over the other parts, for such an adapter")

    @rule("folds")
    @classmethod
    def _has_others(cls, folds: int | None) -> int | None:
        require(folds != 1, "expected 0, or 2 or more: an adapter is trained on the other parts")
        return folds


@group
class CheckConfig(SpeechCommandConfig):
    """All of `lora-whisper check`: what `train` takes, as far as its speech hangs on it."""

    ignored = frozenset(hints_of(TrainConfig)) - frozenset(hints_of(SpeechCommandConfig))
    strict: Flag = Field(False, description="exit with 1 where something was found")
    labels: Flag | LabelsConfig = Field(
        False,
        description="true: listen to the training speech for transcripts that are not its own; or "
        "a group such as {folds: 2, epochs: 5}, see `labels` there",
    )
    fix: Text | None = Field(None, description="folder for manifests without what was found")
    decisions: Text | None = Field(
        None,
        description="file that the page of labels=true saved: what was accepted is mended by fix, "
        "transcripts of two rows exchanged, others left out",
    )
    listen: Amount = Field(
        0,
        description="training windows to write as sound files, augmented as they would be",
    )


BYTES = {"B": 1, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


def memory_bytes(given: str) -> int | None:
    """8GB, 7.5 GiB or 6000MB in bytes; None of anything else. A number alone has no unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", given.strip())
    if match is None or match[2].upper() not in BYTES:
        return None
    return round(float(match[1]) * BYTES[match[2].upper()]) or None


@group
class PlanConfig:
    """All of `lora-whisper plan`: what `train` takes, as far as memory hangs on it."""

    ignored = frozenset(
        {"name", "seed", "overwrite", "resume", "data", "augmentation", "evaluation", "tracking"}
        | {"card"}
    )
    gpu_memory: Text | None = Field(
        None,
        description='of the card, "8GB", "7.5GiB" or "6000MB"; null: this machine\'s GPU. A GB is '
        "10^9 bytes: of a card sold as 8 GB, which has 8 GiB, 0.6 GB are left to the driver and "
        "the screen",
    )
    tokens: Count | None = Field(
        None,
        description="of each window's text; null: as many as the decoder takes, the worst case",
    )
    json: Flag = Field(False, description="print JSON and nothing else")
    model: ModelConfig | None = Field(
        None, description="null: the table of all published checkpoints"
    )
    quantization: QuantizationConfig | None = Field(
        None, description="null: none, and in the table all three"
    )
    adapter: FittingAdapter = Field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    training: FittingTraining = Field(default_factory=TrainingConfig)

    @rule("gpu_memory")
    @classmethod
    def _is_an_amount(cls, given: str | None) -> str | None:
        require(
            given is None or memory_bytes(given) is not None,
            f'expected an amount with its unit, such as "8GB", found {given!r}',
        )
        return given


# ── search ───────────────────────────────────────────────────────────────────────────────────────


@group
class SpaceConfig:
    """What the trials of a search differ in; null: all of them have what `train` would have."""

    learning_rate: Bounds[Positive] | Literal["auto"] | None = Field(
        "auto",
        description="[lowest, highest], drawn evenly on a logarithmic scale; auto: from a quarter "
        "of what train would take to four times that",
    )
    rank: Choices[Count] | None = Field((4, 8, 16, 32, 64), description="choices")
    alpha_per_rank: Choices[Positive] | None = Field(
        (1.0, 2.0, 4.0), description="choices; adapter.alpha is so many times the rank"
    )
    dropout: Bounds[Dropped] | None = Field((0.0, 0.2), description="[lowest, highest]")
    targets: Choices[Targets] | None = Field(
        ("attention-qv", "attention", "all-linear"), description="choices"
    )


@group
class SearchingConfig:
    """How `lora-whisper search` looks for good values, on Optuna: https://optuna.org."""

    trials: Count = Field(
        20,
        description="of the whole search, whichever processes carry them out; can be raised later",
    )
    timeout_hours: Positive | None = Field(
        None, description="after which this process begins no further trial"
    )
    pruning: Literal["median", "hyperband", "none"] = Field(
        "median",
        description="of trials, which are ended early: where the best validation WER so far is "
        "above the median of the others at that step; or not among the best third of them, at "
        "steps three times apart (Li et al. 2018, arXiv:1603.06560)",
    )
    space: SpaceConfig = Field(default_factory=SpaceConfig)

    @rule("space")
    @classmethod
    def _has_something_to_search(cls, space: SpaceConfig) -> SpaceConfig:
        is_given = any(value is not None for value in vars(space).values())
        require(is_given, "expected something to search, found null in every key")
        return space


@group
class SearchConfig(TrainConfig):
    """All of `lora-whisper search`: what `train` takes is what its trials have in common.

    `overwrite` begins the whole search anew. An existing one goes on without `resume`.
    """

    search: SearchingConfig = Field(default_factory=SearchingConfig)

    @rule("search")
    @classmethod
    def _changes_something(cls, search: SearchingConfig, info: ValidationInfo) -> SearchingConfig:
        space, adapter = search.space, info.data.get("adapter") or AdapterConfig()
        require(
            space.rank is None or None in (adapter.encoder_rank, adapter.decoder_rank),
            "it would change nothing, since adapter.encoder_rank and adapter.decoder_rank go "
            "first. Type search.space.rank=null, or leave one of them out.",
            at="search.space.rank",
        )
        require(
            space.alpha_per_rank is None or adapter.kind != "adalora",
            "adalora's alpha is no matter of its rank. Type search.space.alpha_per_rank=null.",
            at="search.space.alpha_per_rank",
        )
        return search
