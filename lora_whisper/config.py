"""Every knob of lora_whisper: its type and range, its default, and what it does in which unit.

`--help` prints these sentences, and a wrong value is answered with them. `conf/` has the options of
groups that are chosen by name, such as `adapter=dora`, each as what differs from the defaults here.
Neither torch nor transformers is imported, so that a typo is answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator, model_validator

from lora_whisper.layers import ALL, as_text, ranges_in
from lora_whisper.paths import is_plain_name, local_path
from lora_whisper.schema import (
    Amount,
    Count,
    Field,
    Flag,
    Item,
    Listed,
    Misfit,
    NonNegative,
    Number,
    Positive,
    Seed,
    Share,
    Text,
    ValidationInfo,
    Whole,
    as_typed,
    changes_to,
    given_in,
    group,
    hints_of,
    require,
    rule,
)

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

MAX_RANK, MAX_ALPHA = 65_536, 1_000_000  # that an adapter's file may name

HUB_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"


def _below_outputs(name: str) -> str:
    """None above outputs/, nor of those in it that hold sweeps and searches."""
    is_folder = bool(name.strip("./ ")) and all(map(is_plain_name, name.split("/")))
    holds = is_folder and name not in ("sweeps", "searches")
    require(holds, f"expected a folder name below outputs/, found {name!r}")
    return name


def _owner_and_name(given: str) -> str:
    """As the hub takes it: letters, digits, "-", "_" and ".", up to 96 of them."""
    holds = (
        re.fullmatch(f"{HUB_NAME}/{HUB_NAME}", given) is not None
        and len(given) <= 96
        and not any(part in given for part in ("--", ".."))
        and not given.endswith(".git")
    )
    require(holds, f"expected owner/name as on the hub, found {given!r}")
    return given


def _are_two(bounds: Any) -> Any:
    is_pair = isinstance(bounds, list | tuple) and len(bounds) == 2
    require(is_pair, f"expected [lowest, highest], found {as_typed(bounds)}")
    return bounds


def _are_in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    require(bounds[0] <= bounds[1], f"expected [lowest, highest], found {as_typed(bounds)}")
    return bounds


# Of two numbers each, which both lie in what the item may be.
Bounds = Annotated[tuple[Item, Item], BeforeValidator(_are_two), AfterValidator(_are_in_order)]


def _are_choices(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    are_fit = 0 < len(choices) == len(set(choices))
    require(are_fit, f"expected a list of choices, none twice, found {list(choices)}")
    return choices


Choices = Annotated[Listed[Item], AfterValidator(_are_choices)]
Decibels = Annotated[Number, Ge(-100), Le(100)]  # 16 bits hold 96
Dropped = Annotated[Number, Ge(0), Lt(1)]
Name = Annotated[Text, AfterValidator(_below_outputs)]
HubId = Annotated[Text, AfterValidator(_owner_and_name)]
USUAL_SEED = 1
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Targets = Literal["attention-qv", "attention", "all-linear"]


# ── a run's model and adapter ────────────────────────────────────────────────────────────────────


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
    allow_pickle: Flag = Field(
        False, description="read weights that are not in safetensors, which can run code"
    )

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


# ── its speech ───────────────────────────────────────────────────────────────────────────────────


Padding = Literal["sound", "log-mel"]
Source = Literal["manifest", "audiofolder", "nemo", "common_voice", "subtitles", "hub"]
Task = Literal["transcribe", "translate"]


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
        return _with_a_place(train, info)


def _with_a_place(split: str | None, info: ValidationInfo) -> str | None:
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


# ── training, evaluation, tracking ───────────────────────────────────────────────────────────────


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


# ── train, and what takes the same: check and plan ───────────────────────────────────────────────


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
FittingAdapter = Annotated[AdapterConfig, AfterValidator(_on_its_quantization)]
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


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────────


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
        return _with_a_place(test, info)


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


def _require_one(first: str, others: Sequence[Any], info: ValidationInfo, expected: str) -> None:
    is_one = first not in info.data or bool(info.data[first]) != bool(others)
    require(is_one, f"expected {expected}", at=first)


@group
class ModelsCommandConfig:
    """What `evaluate` and `merge` take alike."""

    run: Text | None = Field(
        None, description="folder that train wrote: its base, its adapter and its merged/"
    )
    base: Text | None = Field(
        None, description="a folder or hub id in place of the base that runs and adapters name"
    )
    allow_pickle: Flag = Field(
        False, description="read weights that are not in safetensors, which can run code"
    )
    overwrite: Flag = Field(
        False, description="replace merged/, or a report that was asked for with other values"
    )


@group
class EvaluateConfig(ModelsCommandConfig):
    """All of `lora-whisper evaluate`."""

    models: Listed[Text] = Field(
        (),
        description='in place of run: "base", runs, adapters, checkpoints, CTranslate2 folders',
    )
    name: Name = Field(
        "evaluation",
        description="the report's folder below outputs/; with run=, evaluation is the run's own",
    )
    seed: Seed | None = Field(
        None,
        description="of intervals, samples, noise and drawn texts; null: the run's, or 1",
    )
    dtype: Dtype = Field(
        "auto",
        description="of checkpoints; auto: their own, but float32 for float16 on a CPU. Bases and "
        "adapters of runs are scored as they were trained",
    )
    data: TestDataConfig = Field(default_factory=TestDataConfig)
    sets: Listed[TestSetConfig] = Field(
        (), description="more test sets beside data.test, or instead of the run's own"
    )
    card: Flag = Field(
        False,
        description="also find out what was kept, lost and gained beside words: languages, "
        "timestamps, long recordings, silence, prompts, translation, punctuation; some 200 windows "
        "more of each model",
    )
    evaluation: RescoringConfig = Field(default_factory=RescoringConfig)

    @rule("models")
    @classmethod
    def _is_one_of_them(cls, models: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        _require_one("run", models, info, "a run=… or models=[…], one of them")
        return models


# ── merge and export ─────────────────────────────────────────────────────────────────────────────


@group
class PartConfig:
    """One of the adapters that are merged together."""

    path: Text = Field(description="a run, an adapter's folder or a hub id")
    weight: Annotated[Number, Ge(-10), Le(10)] | None = Field(
        None, description="of what it adds; null: all parts the same, together 1"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_text(cls, values: Any) -> Any:
        """A text alone is the path."""
        return {"path": values} if isinstance(values, str) else values


@group
class MergeConfig(ModelsCommandConfig):
    """All of `lora-whisper merge`."""

    adapters: Listed[PartConfig] = Field(
        (), description="in place of run, adapter=…: one or several, for outputs/NAME/merged"
    )
    name: Text | None = Field(
        None,
        description="without run=: of the folder below outputs/; null: the adapter's own",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of the merged weights"
    )
    scale: Annotated[Number, Ge(0), Le(10)] = Field(
        1.0, description="of what the adapters add; 1 is all of it"
    )
    into: Literal["full", "nf4-dequantized"] = Field(
        "full",
        description="the base's weights as they are, or as nf4 had them while the adapter was "
        "trained",
    )
    force: Flag = Field(
        False, description="merge into other weights than those that the adapter was trained on"
    )

    @rule("adapters")
    @classmethod
    def _go_together(
        cls, adapters: tuple[PartConfig, ...], info: ValidationInfo
    ) -> tuple[PartConfig, ...]:
        _require_one("run", adapters, info, "a run=… or an adapter=…, one of them")
        are_alike = len({part.weight is None for part in adapters}) <= 1
        require(are_alike, "expected a weight of each adapter or of none", at="adapter")
        return adapters

    @rule("name")
    @classmethod
    def _is_of_a_folder(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None:
            is_known = len(info.data.get("adapters", ())) <= 1
            require(is_known, "expected a name=… for what several adapters become")
        elif info.data.get("run"):
            raise Misfit("given, but with run=… the merged model goes into the run's folder")
        else:
            _below_outputs(name)
        return name

    @rule("into")
    @classmethod
    def _is_of_a_run(cls, into: str, info: ValidationInfo) -> str:
        require(
            into == "full" or bool(info.data.get("run", True)),
            "nf4-dequantized takes a run=…, which knows how its base was quantized",
        )
        return into


Format = Literal["ctranslate2", "ggml", "onnx", "openai", "adapter"]
EXPORT_DTYPES: dict[str, tuple[str, ...]] = {  # of the written weights; the first is the usual one
    "ctranslate2": ("float16", "float32", "int8", "int8_float16"),
    "ggml": ("f16", "f32"),
    "onnx": ("float32", "float16"),
    "openai": ("float16", "float32"),
    "adapter": ("float32", "float16", "bfloat16"),
}


@group
class ParityConfig:
    """What is written is tried in the program that it is for, beside the model that was scored."""

    utterances: Amount = Field(32, description="of the test set, drawn; 0: it is not tried")
    tolerance: Share = Field(
        0.01,
        description="difference of the WER (or CER, where it leads) from the merged model's, as a "
        "fraction; over it, the exit code is 1",
    )


@group
class ExportConfig:
    """All of `lora-whisper export`."""

    run: Text = Field(description="folder that train wrote, or one that merge adapter=… did")
    format: Listed[Format] = Field(description="one or several")
    dtype: Text | None = Field(
        None, description="of the written weights; null: a format's usual one"
    )
    base: Text | None = Field(
        None, description="a folder in place of the run's base; format=adapter: its hub id"
    )
    overwrite: Flag = Field(False, description="replace what was exported before")
    data: TestDataConfig = Field(default_factory=TestDataConfig)
    parity: ParityConfig = Field(default_factory=ParityConfig)

    @rule("format")
    @classmethod
    def _are_formats(cls, format: tuple[Format, ...]) -> tuple[Format, ...]:
        require(bool(format), f"expected {' or '.join(EXPORT_DTYPES)}, found nothing")
        twice = sorted({name for name in format if format.count(name) > 1})
        require(not twice, f"{', '.join(twice)} stands there twice")
        return format

    @rule("dtype")
    @classmethod
    def _is_of_each_format(cls, dtype: str | None, info: ValidationInfo) -> str | None:
        formats = info.data.get("format", ()) if dtype is not None else ()
        unfit = [
            f"{name} has {', '.join(EXPORT_DTYPES[name])}, found {dtype}"
            for name in formats
            if dtype not in EXPORT_DTYPES[name]
        ]
        require(not unfit, "; ".join(unfit))
        return dtype

    @rule("base")
    @classmethod
    def _is_folder_or_on_the_hub(cls, base: str | None) -> str | None:
        return base if base is None or local_path(base).is_dir() else _owner_and_name(base)

    def dtype_for(self, name: str) -> str:
        return self.dtype or EXPORT_DTYPES[name][0]


# ── transcribe ───────────────────────────────────────────────────────────────────────────────────


@group
class TranscriptionConfig:
    """How recordings are transcribed, on the command line and in Python."""

    language: Text | None = Field(
        None, description="that is spoken, such as sw; null: it is detected in each first window"
    )
    task: Literal["transcribe", "translate"] = Field(
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
    allow_pickle: Flag = Field(
        False, description="read weights that are not in safetensors, which can run code"
    )

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
    scale: Annotated[Number, Ge(0), Le(10)] = Field(
        1.0, description="of what the adapter adds; 1 is all of it, 0 the base"
    )
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


# ── push and report ──────────────────────────────────────────────────────────────────────────────


@group
class PushConfig:
    """All of `lora-whisper push`."""

    run: Text = Field(description="folder that train wrote")
    repo: HubId = Field(description="owner/name on the hub; it is made where it does not exist")
    what: Literal["adapter", "merged", "both"] = Field(
        "adapter", description="both: the adapter in a folder of that name"
    )
    private: Flag = Field(
        True,
        description="whether only its owner sees it; a repository that is there is not changed",
    )
    base: HubId | None = Field(
        None, description="hub id of the base, where it was trained from a folder"
    )
    dry_run: Flag = Field(False, description="print what would be sent, and send nothing")


@group
class ReportConfig:
    """All of `lora-whisper report`."""

    sweep: Text | None = Field(
        None, description="folder of a sweep, which may be typed without its key"
    )
    runs: Listed[Text] = Field((), description="or these: folders that train wrote")
    name: Name = Field("report", description="without sweep=: the report's folder below outputs/")
    overwrite: Flag = Field(False, description="replace a report of other runs")

    @rule("runs")
    @classmethod
    def _is_one_of_them(cls, runs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        folder = "the folder of a sweep, such as outputs/sweeps/ranks"
        _require_one("sweep", runs, info, f"{folder}, or runs=[…]")
        return runs
