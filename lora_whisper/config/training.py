"""How an adapter is trained, and where its figures are sent."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Literal

from annotated_types import Le

from lora_whisper.config.types import Precision
from lora_whisper.schema import (
    Amount,
    Count,
    Field,
    Flag,
    Listed,
    NonNegative,
    Positive,
    Text,
    ValidationInfo,
    group,
    require,
    rule,
)


@group
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101) and its schedule."""

    learning_rate: Positive | None = Field(
        None,
        description="at the end of the warm-up; null: by the model's width, from 1.5e-3 for tiny "
        "through 4.3e-4 for small to 1.7e-4 for large",
    )
    lora_plus_ratio: Positive = Field(
        1.0,
        description="rate of the matrices B over that of A; 1: none. LoRA+, Hayou et al. 2024, "
        "https://arxiv.org/abs/2402.12354",
    )
    weight_decay: NonNegative = Field(
        0.0, description="of the adapter's matrices, decoupled from the gradient"
    )
    warmup: NonNegative = Field(
        0.1,
        description="over which the learning rate rises from 0: below 1 a share of all steps, from "
        "1 on so many steps; 0: none",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="what follows the warm-up: a fall to zero, or none"
    )
    max_gradient_norm: Positive = Field(
        1.0, description="gradients are scaled down to this L2 norm"
    )

    @rule("warmup")
    @classmethod
    def _is_share_or_steps(cls, warmup: float) -> float:
        is_either = warmup < 1 or warmup.is_integer()
        require(is_either, f"expected a share below 1 or a whole number of steps, found {warmup}")
        return warmup


@dataclasses.dataclass(frozen=True)
class Averaged:
    """Which checkpoints of a run are averaged."""

    of: str  # "last", or "best" by validation WER
    count: int


GLOBAL_BATCH = 16  # windows, where neither they nor seconds are given


@group
class TrainingConfig:
    """How long and in what portions the adapter is trained."""

    max_epochs: Positive | None = Field(
        None, description="passes over the training set; null: see max_steps"
    )
    max_steps: Count | None = Field(
        None,
        description="optimizer steps; with max_epochs, the smaller counts; both null: 8 epochs, "
        "and for tiny corpora at least 50 steps. A run that is resumed may be given another length "
        "if no step depends on it: schedule=constant, warm-up in steps or none, no adalora",
    )
    global_batch_seconds: Positive | None = Field(
        None,
        description="instead of global_batch: seconds in one optimizer step, over all processes, "
        "as much as the encoder computes: of a trimmed window the clip and its margin, of others "
        "all of it; an epoch is shared evenly among its steps",
    )
    global_batch: Count | None = Field(
        None,
        description="windows in one optimizer step, over all processes; null: 16, or as many as "
        "global_batch_seconds are",
    )
    micro_batch: Count | Literal["auto"] | None = Field(
        None,
        description="windows in one forward pass of one process; auto: as many as the GPU holds, "
        "which is tried out; null: 8, and 4 from small (width 768) on; on a CPU, both: from tiny "
        "on no more than 2 GB and half of the free memory hold (base: 1), else 8",
    )
    precision: Precision = Field(
        "auto",
        description="arithmetic of the forward pass; auto: bf16 on a GPU that has it, fp16 on "
        "another; on a CPU, from width 384 (tiny) on, bf16 where a run that begins finds it "
        "faster, else fp32; a run that goes on keeps what it began with",
    )
    gradient_checkpointing: Flag | None = Field(
        None,
        description="compute activations twice instead of keeping them; null: from medium (width "
        "1024) on",
    )
    checkpoint_every_steps: Count = Field(
        100, description="optimizer steps after which a run that is stopped can go on"
    )
    validate_every_steps: Count | None = Field(
        None, description="null: ten times in a run, or every 25 steps if that is rarer"
    )
    patience: Count | None = Field(
        None,
        description="so many validations in a row without a better one end the run; null: it goes "
        "on to its last step",
    )
    averaging: Text | None = Field(
        None,
        description="one more candidate at the end beside the best adapter, the mean of what so "
        "many checkpoints add to the weights: last-5, or best-3 by validation WER; null: none",
    )
    averaging_rank: Count | None = Field(
        None, description="of that mean, cut by SVD; null: the sum of their ranks, which is exact"
    )
    log_every_steps: Count = Field(
        5, description="optimizer steps between two lines of metrics.jsonl"
    )
    loader_workers: Annotated[Amount, Le(512)] = Field(
        2, description="processes that decode audio; 0: the training process itself"
    )
    encoder_cache_gigabytes: NonNegative = Field(
        10.0,
        description="disk, for all runs together, that may hold what the encoder's layers below "
        "the lowest adapter make of each window, which is then computed once; 0: none",
    )

    def whole_windows(self, window_seconds: float) -> int:
        """How many windows of full length there are in one step, over all processes."""
        if self.global_batch is not None:
            return self.global_batch
        assert self.global_batch_seconds is not None, "one of them is there"
        return max(1, int(self.global_batch_seconds / window_seconds))

    @property
    def averaged(self) -> Averaged | None:
        of, _, count = (self.averaging or "").partition("-")
        return Averaged(of, int(count)) if count else None

    @rule("global_batch")
    @classmethod
    def _is_given_once(cls, windows: int | None, info: ValidationInfo) -> int | None:
        seconds = info.data.get("global_batch_seconds")
        require(
            windows is None or seconds is None,
            f"{windows} windows are given, and so is training.global_batch_seconds={seconds}: type "
            "training.global_batch=null or training.global_batch_seconds=null",
        )
        return GLOBAL_BATCH if windows is None and seconds is None else windows

    @rule("averaging")
    @classmethod
    def _are_checkpoints(cls, averaging: str | None) -> str | None:
        match = re.fullmatch(r"(?:last|best)-(\d{1,4})", averaging or "last-2")
        holds = match is not None and int(match[1]) >= 2
        require(holds, f"expected such as last-5 or best-3, found {averaging!r}")
        return averaging

    @rule("averaging_rank")
    @classmethod
    def _is_of_a_mean(cls, rank: int | None, info: ValidationInfo) -> int | None:
        is_used = rank is None or info.data.get("averaging", "invalid") is not None
        require(is_used, "given, but nothing is averaged: type training.averaging=best-3, too")
        return rank


@group
class TrackingConfig:
    """Where the figures of metrics.jsonl are sent as well."""

    trackers: Listed[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        (), description="tracking=wandb and the like choose one"
    )
    project: Text = Field("lora_whisper", description="that the run is filed under")

    @rule("project")
    @classmethod
    def _is_named(cls, project: str) -> str:
        require(bool(project.strip()), "expected a name, found none")
        return project
