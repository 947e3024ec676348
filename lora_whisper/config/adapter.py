"""The base checkpoint, how it is quantized, and the adapter that is trained on it."""

from __future__ import annotations

import contextlib
from typing import Annotated, Literal

from pydantic import AfterValidator

from lora_whisper.config.types import OF_PICKLE, Dropped, Dtype, Targets
from lora_whisper.layers import ALL, as_text, ranges_in
from lora_whisper.schema import (
    Count,
    Field,
    Flag,
    Misfit,
    Positive,
    Text,
    ValidationInfo,
    group,
    require,
    rule,
)

MAX_RANK, MAX_ALPHA = 65_536, 1_000_000  # that an adapter's file may name


@group
class ModelConfig:
    """The base checkpoint that an adapter is trained on."""

    checkpoint: Text = Field(
        "openai/whisper-small",
        description='hub id, or a local folder; "embedded:nano" is the one in the package',
    )
    revision: Text | None = Field(
        None, description="branch, tag or commit on the hub; null is its default branch"
    )
    dtype: Dtype = Field(
        "auto",
        description="of the frozen weights; auto: bfloat16 on a GPU that has it, else float32",
    )
    attention: Literal["auto", "sdpa", "flash"] = Field(
        "auto",
        description="auto: FlashAttention where it is installed and the weights are in half "
        "precision on a GPU, else PyTorch's scaled dot product",
    )
    allow_pickle: Flag = Field(False, description=OF_PICKLE)

    @rule("checkpoint")
    @classmethod
    def _is_named(cls, checkpoint: str) -> str:
        require(bool(checkpoint), "expected a folder or a hub id, found nothing")
        return checkpoint


@group
class QuantizationConfig:
    """How the frozen linear layers are stored while the adapter is trained."""

    kind: Literal["none", "int8", "nf4"] = Field(
        "none", description="int8: LLM.int8; nf4: 4 bits as in QLoRA, for large checkpoints"
    )


NOT_QUANTIZED = QuantizationConfig(kind="none")


def in_own_dtype(
    checkpoint: str, revision: str | None = None, allow_pickle: bool = False
) -> ModelConfig:
    """A checkpoint in its own dtype."""
    return ModelConfig(checkpoint, revision, allow_pickle=allow_pickle)


@group
class AdapterConfig:
    """Low-rank matrices beside the frozen linear layers: W' = W + alpha / rank · B·A.

    Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    """

    kind: Literal["lora", "rslora", "dora", "pissa", "eva", "adalora"] = Field(
        "lora", description="adapter=dora and the like choose it, with values that suit it"
    )
    rank: Count = Field(16, description="inner dimension of B·A")
    layers: Text = Field(
        "all",
        description="which of them get one: all, encoder or decoder; or some of one, from 0: "
        "encoder.24-31, encoder.24- (to the last), decoder.-7, decoder.5; + joins two: "
        "encoder.24-31+decoder",
    )
    encoder_rank: Count | None = Field(
        None, description="in the encoder's layers; null: adapter.rank"
    )
    decoder_rank: Count | None = Field(
        None, description="in the decoder's layers; null: adapter.rank"
    )
    alpha: Positive = Field(
        32.0, description="numerator of the scale alpha / rank (rslora: alpha / √rank)"
    )
    dropout: Dropped = Field(
        0.05, description="share of the adapter's input that is dropped in training"
    )
    targets: Targets = Field(
        "all-linear",
        description="which linear layers: queries and values; all four of each attention; these "
        "and both of the feed-forward",
    )
    train_language_token: Flag = Field(
        False, description="re-learn the embedding of data.language_token's token as well"
    )
    init_from: Text | None = Field(
        None, description="a run, an adapter's folder or hub id to start from, kept exactly"
    )

    @property
    def ranges(self) -> dict[str, str]:
        """The layers that get one, {"encoder": "24-31", "decoder": "-"}; see layers.py."""
        return ranges_in(self.layers)

    @rule("layers")
    @classmethod
    def _are_layers(cls, layers: str) -> str:
        with contextlib.suppress(ValueError):
            return as_text(ranges_in(layers))
        raise Misfit(
            "expected all, or such as decoder or encoder.24-31+decoder, each of them once and its "
            f"layers upwards, found {layers!r}"
        )

    @rule("rank", "encoder_rank", "decoder_rank", "alpha")
    @classmethod
    def _can_be_read_again(cls, value: float | None, info: ValidationInfo) -> float | None:
        most = MAX_ALPHA if info.field_name == "alpha" else MAX_RANK
        require(value is None or value <= most, f"expected at most {most}, found {value}")
        return value

    @rule("encoder_rank", "decoder_rank")
    @classmethod
    def _rank_is_used(cls, rank: int | None, info: ValidationInfo) -> int | None:
        """A rank of one module, which gets an adapter whose ranks are not AdaLoRA's to give."""
        if rank is not None and info.data.get("kind") == "adalora":
            raise Misfit("given, but adalora itself finds out which layers need how much rank")
        module, layers = str(info.field_name).partition("_")[0], info.data.get("layers", ALL)
        require(
            rank is None or module in ranges_in(layers),
            f"given, but the {module} gets no adapter with adapter.layers={layers}",
        )
        return rank

    @rule("init_from")
    @classmethod
    def _has_no_other_start(cls, init_from: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind", "lora")
        require(
            init_from is None or kind in ("lora", "rslora"),
            f"{kind} has a start of its own; type adapter=lora or adapter=rslora",
        )
        return init_from


# Adapters that do not train on a quantization, and why (tests/lora/test_variants.py has the proof).
UNSUPPORTED = {
    ("pissa", "int8"): "PiSSA splits the weights themselves, which are rounded to 8 bits",
    ("pissa", "nf4"): "PiSSA splits the weights themselves, which are rounded to 4 bits",
    ("dora", "int8"): "PEFT's DoRA fails on 8-bit layers at the second forward pass",
}


def _on_its_quantization(adapter: AdapterConfig, info: ValidationInfo) -> AdapterConfig:
    """A kind of adapter that trains on the quantization."""
    quantization = info.data.get("quantization") or QuantizationConfig()
    reason = UNSUPPORTED.get((adapter.kind, quantization.kind))
    require(
        reason is None,
        f"{adapter.kind} does not train on quantization={quantization.kind}: {reason}. "
        "Type adapter=lora or quantization=none.",
    )
    return adapter


FittingAdapter = Annotated[AdapterConfig, AfterValidator(_on_its_quantization)]
