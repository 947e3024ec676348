"""Every knob of lora_whisper: its unit, its range, and what it does.

Values live in `conf/`, meaning lives here. `to_config` turns what Hydra composed into these frozen
dataclasses and reports all problems at once; below `commands/` nobody sees an OmegaConf object.
Neither torch nor transformers is imported, so that a typo is answered at once.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union

from lora_whisper.errors import UserError, listing

Config = TypeVar("Config")


class RangeError(ValueError):
    """The values of one group that are out of range, one problem a line."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


def require(**rules: tuple[bool, str]) -> None:
    """Raise `RangeError` with every rule that is broken: `field=(holds, "what is expected")`."""
    broken = [f"{name}: {expected}" for name, (holds, expected) in rules.items() if not holds]
    if broken:
        raise RangeError(broken)


def require_positive_counts(group: Any) -> None:
    """Every whole number in `group` has to be at least 1; null stands for "not given"."""
    counts = {name: value for name, value in vars(group).items() if isinstance(value, int)}
    require(
        **{
            name: (value >= 1, f"expected 1 or more, found {value}")
            for name, value in counts.items()
        }
    )


@dataclass(frozen=True)
class ModelConfig:
    """The base checkpoint that an adapter is trained on."""

    checkpoint: str  # hub id, or a local folder; "embedded:nano" is the one in the package
    revision: str | None  # branch, tag or commit on the hub; null is its default branch
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    # dtype of the frozen weights; auto: bfloat16 on a GPU that has it, else float32

    def __post_init__(self) -> None:
        require(checkpoint=(bool(self.checkpoint), "expected a folder or a hub id, found nothing"))


@dataclass(frozen=True)
class QuantizationConfig:
    """How the frozen linear layers are stored while the adapter is trained."""

    kind: Literal["none", "int8", "nf4"]


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank matrices beside the frozen linear layers: W' = W + alpha / rank · B·A.

    Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    """

    kind: Literal["lora"]
    rank: int  # inner dimension of B·A
    alpha: float  # numerator of the scale alpha / rank
    dropout: float  # share of the adapter's input that is dropped in training, 0 … <1
    target_modules: tuple[str, ...]  # names of linear layers in encoder and decoder, e.g. q_proj

    def __post_init__(self) -> None:
        require(
            rank=(self.rank >= 1, f"expected 1 or more, found {self.rank}"),
            alpha=(self.alpha > 0, f"expected more than 0, found {self.alpha}"),
            dropout=(0 <= self.dropout < 1, f"expected 0 … below 1, found {self.dropout}"),
            target_modules=(bool(self.target_modules), "expected at least one name, found none"),
        )


@dataclass(frozen=True)
class DataConfig:
    """Which speech is read, and what is done with what cannot be used."""

    train: str  # manifest, one JSON object a line
    validation: str | None  # manifest that chooses the best adapter; null: the last one is kept
    test: str | None  # manifest that is scored at the end and never looked at before
    language: str | None  # Whisper's code ("sw") or name ("swahili"); a row's own goes first
    task: Literal["transcribe", "translate"]  # a row's own goes first
    on_bad_audio: Literal["fail", "skip"]  # a file that is missing or does not decode
    on_long_audio: Literal["fail", "skip"]  # a clip longer than the model's window
    # skip: left out, named in the log and counted in the summary


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101) and its schedule."""

    learning_rate: float | None  # at the end of the warm-up; null: by the model's width, see
    # training/defaults.py
    weight_decay: float
    warmup_share: float  # share of all steps over which the learning rate rises from 0
    schedule: Literal["constant", "linear", "cosine"]  # what follows the warm-up
    max_gradient_norm: float  # gradients are scaled down to this L2 norm

    def __post_init__(self) -> None:
        require(
            learning_rate=(
                self.learning_rate is None or self.learning_rate > 0,
                f"expected more than 0, found {self.learning_rate}",
            ),
            weight_decay=(self.weight_decay >= 0, f"expected 0 or more, found {self.weight_decay}"),
            warmup_share=(
                0 <= self.warmup_share <= 1,
                f"expected 0 … 1, found {self.warmup_share}",
            ),
            max_gradient_norm=(
                self.max_gradient_norm > 0,
                f"expected more than 0, found {self.max_gradient_norm}",
            ),
        )


@dataclass(frozen=True)
class TrainingConfig:
    """How long and in what portions the adapter is trained."""

    max_epochs: float | None  # passes over the training set
    max_steps: int | None  # optimizer steps; with max_epochs, the smaller counts; both null: 15
    # epochs, and for tiny corpora at least 150 steps
    global_batch: int  # windows in one optimizer step, over all processes
    micro_batch: (
        int | None
    )  # windows in one forward pass of one process; null: by the model's width
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    # arithmetic of the forward pass; auto: bf16 on a GPU that has it, fp16 on another, else fp32
    gradient_checkpointing: bool | None  # compute activations twice instead of keeping them; null:
    # from medium (width 1024) on
    checkpoint_every_steps: int
    keep_checkpoints: int  # how many of the last ones stay on disk
    validate_every_steps: int | None  # null: ten times in a run, fewer in a run of under 250 steps
    log_every_steps: int  # optimizer steps between two lines of metrics.jsonl
    loader_workers: int  # processes that decode audio; 0: the training process itself

    def __post_init__(self) -> None:
        positive = ("global_batch", "checkpoint_every_steps", "log_every_steps")
        optional = ("max_epochs", "max_steps", "micro_batch", "validate_every_steps")
        at_least_one = {name: getattr(self, name) for name in positive} | {
            name: getattr(self, name) for name in optional if getattr(self, name) is not None
        }
        expected = {
            name: (value > 0, f"expected more than 0, found {value}")
            for name, value in at_least_one.items()
        }
        expected["keep_checkpoints"] = (
            self.keep_checkpoints >= 1,
            f"expected 1 or more, found {self.keep_checkpoints}",
        )
        expected["loader_workers"] = (
            self.loader_workers >= 0,
            f"expected 0 or more, found {self.loader_workers}",
        )
        require(**expected)


@dataclass(frozen=True)
class EvaluationConfig:
    """How hypotheses are decoded and scored."""

    batch_size: int | None  # windows decoded together, which does not change the text; null: by the
    # model's width
    beams: int  # 1 is greedy
    max_utterances: int | None  # a fixed, seeded sample of the test set; null: all of it
    max_validation_utterances: int | None  # the same for the validation set during training
    group_by: str | None  # a manifest column whose values are scored apart as well
    bootstrap_samples: int  # resamplings of the utterances for the 95 % interval

    def __post_init__(self) -> None:
        require_positive_counts(self)


@dataclass(frozen=True)
class TrainConfig:
    """All of `lora-whisper train`."""

    name: str  # the run's name, and its folder's below outputs/
    seed: int  # fixes data order, adapter initialisation and dropout
    overwrite: bool  # replace an existing run of this name
    resume: Literal["auto"] | None  # auto: continue an existing run of this name
    model: ModelConfig
    quantization: QuantizationConfig
    adapter: AdapterConfig
    data: DataConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        require(
            name=(
                bool(self.name.strip("./ ")) and not {"..", ""} & set(self.name.split("/")),
                f"expected a folder name below outputs/, found {self.name!r}",
            ),
            seed=(0 <= self.seed < 2**32, f"expected 0 … 4294967295, found {self.seed}"),
            resume=(
                not (self.overwrite and self.resume),
                "resume=auto and overwrite=true contradict each other; give one of them",
            ),
        )


@dataclass(frozen=True)
class TestSetConfig:
    """The speech that `lora-whisper evaluate` scores."""

    __test__ = False  # tells pytest that this is not a class of tests
    test: str | None  # manifest; null: the run's own data.test, which summary.json speaks of


@dataclass(frozen=True)
class RescoringConfig:
    """Changes to a run's `EvaluationConfig`; null leaves the run's own value."""

    batch_size: int | None
    beams: int | None
    max_utterances: int | None
    group_by: str | None
    bootstrap_samples: int | None

    def applied_to(self, settings: EvaluationConfig) -> EvaluationConfig:
        """The run's settings with these changes; its range checks hold here too."""
        changes = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(settings, **changes)

    def __post_init__(self) -> None:
        require_positive_counts(self)


@dataclass(frozen=True)
class EvaluateConfig:
    """All of `lora-whisper evaluate`."""

    run: str  # folder that `train` wrote
    data: TestSetConfig
    evaluation: RescoringConfig


@dataclass(frozen=True)
class MergeConfig:
    """All of `lora-whisper merge`."""

    run: str  # folder that `train` wrote
    dtype: Literal["float32", "float16", "bfloat16"]  # of the merged weights
    overwrite: bool  # replace an existing merged/


def to_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build the dataclass `kind` from nested plain values.

    Raises:
        UserError: names every missing, unknown, mistyped and out-of-range value at once.
    """
    problems: list[str] = []
    config = _build(kind, values, "", problems)
    if problems:
        raise UserError(
            "The configuration cannot be used:\n" + listing(problems, shown=len(problems))
        )
    return typing.cast(Config, config)


def _build(kind: type, values: Any, path: str, problems: list[str]) -> Any:
    """Build one group; problems of all its fields and of their groups are collected.

    A group whose fields could all be converted has its ranges checked even if a group inside it is
    broken: with None in its place, which no range rule looks at.
    """
    if not isinstance(values, Mapping):
        problems.append(f"{path or 'configuration'}: expected a group of keys, found {values!r}")
        return None
    hints = typing.get_type_hints(kind)
    prefix = f"{path}." if path else ""
    problems += [f"{prefix}{key}: unknown key" for key in values if key not in hints]
    fields: dict[str, Any] = {}
    own: list[str] = []
    for name, hint in hints.items():
        if name not in values:
            own.append(f"{prefix}{name}: missing; type {prefix}{name}=…")
        elif dataclasses.is_dataclass(hint):
            fields[name] = _build(typing.cast(type, hint), values[name], prefix + name, problems)
        else:
            fields[name] = _convert(values[name], hint, prefix + name, own)
    problems += own
    if own:
        return None
    try:
        return kind(**fields)
    except RangeError as error:
        problems += [prefix + problem for problem in error.problems]
        return None


def _convert(value: Any, hint: Any, path: str, problems: list[str]) -> Any:
    """Convert one YAML value to the type of its field, without guessing beyond int → float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value == "???":
        problems.append(f"{path}: missing; type {path}=…")
    elif origin in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _convert(value, hint, path, problems)
    elif origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        problems.append(f"{path}: expected {' or '.join(arguments)}, found {_shown(value)}")
    elif origin is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        problems.append(f"{path}: expected a list of names, found {_shown(value)}")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
        problems.append(f"{path}: expected a finite number, found {value}")
    elif hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    elif type(value) is hint:
        return value
    elif hint is str and isinstance(value, bool):
        problems.append(f"{path}: expected text, found {value}; quote it if it was no, yes or on")
    else:
        expected = {int: "a whole number", float: "a number", bool: "true or false"}
        problems.append(f"{path}: expected {expected.get(hint, 'text')}, found {_shown(value)}")
    return None


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
