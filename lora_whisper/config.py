"""Every knob of lora_whisper: its unit, its range, and what it does.

Values live in `conf/`, meaning lives here. `composing.to_config` turns what Hydra composed into
these frozen dataclasses; below `cli/` nobody sees an OmegaConf object.
Neither torch nor transformers is imported, so that a typo is answered at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lora_whisper.composing import require, require_positive_counts
from lora_whisper.paths import is_plain_name, local_path

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def name_rule(name: str) -> tuple[bool, str]:
    """A folder below outputs/, and none above it nor of those that hold sweeps and searches."""
    holds = bool(name.strip("./ ")) and all(map(is_plain_name, name.split("/")))
    holds = holds and name not in ("sweeps", "searches")
    return holds, f"expected a folder name below outputs/, found {name!r}"


def seed_rule(seed: int) -> tuple[bool, str]:
    return 0 <= seed < 2**32, f"expected 0 … 4294967295, found {seed}"


HUB_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"


def hub_id_rule(given: str) -> tuple[bool, str]:
    """owner/name as the hub takes it: letters, digits, "-", "_" and ".", up to 96 of them."""
    holds = (
        re.fullmatch(f"{HUB_NAME}/{HUB_NAME}", given) is not None
        and len(given) <= 96
        and not any(part in given for part in ("--", ".."))
        and not given.endswith(".git")
    )
    return holds, f"expected owner/name as on the hub, found {given!r}"


Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def layers_rule(given: str | None, stack: str, adapted: str) -> tuple[bool, str]:
    """A range of layers, of a stack that gets an adapter."""
    if given is None:
        return True, ""
    if adapted not in (stack, "both"):
        return False, f"given, but the {stack} gets no adapter with adapter.stack={adapted}"
    holds = re.fullmatch(r"\d+|\d+-\d+|\d+-|-\d+", given) is not None
    return holds, f'expected "24-31", "24-", "-7" or "5", found {given!r}'


def share_rule(share: float) -> tuple[bool, str]:
    return 0 <= share <= 1, f"expected 0 … 1, found {share}"


@dataclass(frozen=True)
class ModelConfig:
    """The base checkpoint that an adapter is trained on."""

    checkpoint: str  # hub id, or a local folder; "embedded:nano" is the one in the package
    revision: str | None  # branch, tag or commit on the hub; null is its default branch
    dtype: Dtype
    # dtype of the frozen weights; auto: bfloat16 on a GPU that has it, else float32
    attention: Literal["auto", "sdpa", "flash"]  # auto: FlashAttention where it is installed and
    # the weights are in half precision on a GPU, else PyTorch's scaled dot product
    allow_pickle: bool  # read weights that are not in safetensors, which can run code

    def __post_init__(self) -> None:
        require(checkpoint=(bool(self.checkpoint), "expected a folder or a hub id, found nothing"))


@dataclass(frozen=True)
class QuantizationConfig:
    """How the frozen linear layers are stored while the adapter is trained."""

    kind: Literal["none", "int8", "nf4"]
    double_quantization: bool  # nf4: the scales of its blocks are quantized as well
    compute_dtype: Dtype  # nf4: of the products with weights read back; auto: model.dtype

    def __post_init__(self) -> None:
        is_nf4, found = self.kind == "nf4", f"only nf4 has this, found quantization={self.kind}"
        require(
            double_quantization=(is_nf4 or not self.double_quantization, found),
            compute_dtype=(is_nf4 or self.compute_dtype == "auto", found),
        )


@dataclass(frozen=True)
class AdaLoraConfig:
    """Ranks that are taken from where they matter least, until their mean is `adapter.rank`.

    Zhang et al. 2023, https://arxiv.org/abs/2303.10512. Shares are of the run's steps.
    """

    initial_rank: int | None  # of every layer; null: one and a half times adapter.rank
    start_share: float  # before it, every layer keeps its rank
    final_share: float  # at the end, in which ranks stay as they are
    interval_steps: int  # optimizer steps between two allocations
    orthogonality_weight: float  # of the term that keeps the singular vectors orthogonal

    def __post_init__(self) -> None:
        require(
            initial_rank=(
                self.initial_rank is None or self.initial_rank >= 1,
                f"expected 1 or more, found {self.initial_rank}",
            ),
            start_share=share_rule(self.start_share),
            final_share=(
                self.final_share >= 0 and self.start_share + self.final_share < 1,
                "expected 0 or more, and with start_share below 1",
            ),
            interval_steps=(
                self.interval_steps >= 1,
                f"expected 1 or more, found {self.interval_steps}",
            ),
            orthogonality_weight=(
                self.orthogonality_weight >= 0,
                f"expected 0 or more, found {self.orthogonality_weight}",
            ),
        )


@dataclass(frozen=True)
class EvaConfig:
    """A's rows are the directions in which the layers' inputs vary most.

    Paischer et al. 2024, https://arxiv.org/abs/2410.07170.
    """

    windows: int  # of the training set that the inputs are taken from, at most

    def __post_init__(self) -> None:
        require_positive_counts(self)


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank matrices beside the frozen linear layers: W' = W + alpha / rank · B·A.

    Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    """

    kind: Literal["lora", "rslora", "dora", "pissa", "eva", "adalora"]
    rank: int  # inner dimension of B·A
    encoder_rank: int | None  # in the encoder's layers; null: adapter.rank
    decoder_rank: int | None  # in the decoder's layers; null: adapter.rank
    alpha: float  # numerator of the scale alpha / rank (rslora: alpha / √rank)
    dropout: float  # share of the adapter's input that is dropped in training, 0 … <1
    targets: Literal["attention-qv", "attention", "all-linear"]  # which linear layers: queries and
    # values; all four of each attention; these and both of the feed-forward
    stack: Literal["encoder", "decoder", "both"]
    encoder_layers: str | None  # from 0: "24-31", "24-" (to the last), "-7", "5"; null: all
    decoder_layers: str | None  # the same of the decoder; null: all
    train_language_token: bool  # re-learn the embedding of data.language_token's token as well
    init_from: str | None  # a run, an adapter's folder or hub id to start from, kept exactly
    adalora: AdaLoraConfig | None  # adapter=adalora
    eva: EvaConfig | None  # adapter=eva

    def __post_init__(self) -> None:
        require(
            rank=(self.rank >= 1, f"expected 1 or more, found {self.rank}"),
            **{
                f"{stack}_rank": self._rank_rule(stack, getattr(self, f"{stack}_rank"))
                for stack in ("encoder", "decoder")
            },
            alpha=(self.alpha > 0, f"expected more than 0, found {self.alpha}"),
            dropout=(0 <= self.dropout < 1, f"expected 0 … below 1, found {self.dropout}"),
            **{
                f"{stack}_layers": layers_rule(getattr(self, f"{stack}_layers"), stack, self.stack)
                for stack in ("encoder", "decoder")
            },
            **{
                name: (
                    self.kind == name or getattr(self, name) is None,
                    f"these settings are of adapter={name}, found adapter={self.kind}",
                )
                for name in ("adalora", "eva")
            },
            init_from=(
                self.init_from is None or self.kind in ("lora", "rslora"),
                f"{self.kind} has a start of its own; type adapter=lora or adapter=rslora",
            ),
            **{"adalora.initial_rank": self._initial_rank_rule()},
        )

    def _initial_rank_rule(self) -> tuple[bool, str]:
        highest = self.adalora.initial_rank if self.adalora else None
        return highest is None or highest > self.rank, (
            f"expected more than adapter.rank={self.rank}, to which they go down, found {highest}"
        )

    def _rank_rule(self, stack: str, rank: int | None) -> tuple[bool, str]:
        """A rank of one stack, which gets an adapter whose ranks are not AdaLoRA's to give."""
        if rank is None:
            return True, ""
        if self.kind == "adalora":
            return False, "given, but adalora itself finds out which layers need how much rank"
        if self.stack not in (stack, "both"):
            return False, f"given, but the {stack} gets no adapter with adapter.stack={self.stack}"
        return rank >= 1, f"expected 1 or more, found {rank}"


Padding = Literal["sound", "log-mel"]
Source = Literal["manifest", "audiofolder", "nemo", "common_voice", "subtitles", "hub"]
Task = Literal["transcribe", "translate"]


@dataclass(frozen=True)
class ColumnsConfig:
    """The column of a source that holds each part of a row; null: its usual names are tried."""

    audio: str | None
    text: str | None
    language: str | None
    speaker: str | None
    start: str | None  # seconds into the recording
    end: str | None


@dataclass(frozen=True)
class MixConfig:
    """One more source of training speech; what is null or left out is as in `DataConfig`."""

    weight: float  # windows drawn from it in an epoch for each window of data.train
    path: str | None  # as in DataConfig, but never inherited; nor are train and config
    train: str | None
    config: str | None
    source: Source | None
    columns: ColumnsConfig | None
    language: str | None
    language_token: str | None
    task: Task | None

    def __post_init__(self) -> None:
        require(
            weight=(self.weight > 0, f"expected more than 0, found {self.weight}"),
            train=(bool(self.train or self.path), "expected a train=… or a path=…, found neither"),
        )


@dataclass(frozen=True)
class DataConfig:
    """Where the speech comes from, and what becomes of it on its way into windows."""

    source: Source  # how `path` is read
    path: str | None  # what holds all splits: a file, a folder, or a hub id
    train: str | None  # a file of its own, or the split's name in `path`
    validation: (
        str | None
    )  # chooses the best adapter; null: as `path` has it, else the last is kept
    test: str | None  # scored at the end and never looked at before
    validation_share: float  # of what `path` holds, where it has no splits of its own; by hash
    test_share: float
    config: str | None  # hub: configuration of the data set, often a language
    revision: str | None  # hub: branch, tag or commit
    streaming: bool  # hub: read training speech over the network, and keep none of it
    columns: ColumnsConfig
    quoted: (
        bool  # CSV and TSV: cells may be quoted; false: a quotation mark is a letter of its text
    )
    language: str | None  # Whisper's code ("sw") or name ("swahili"); a row's own goes first
    language_token: str | None  # for a language that Whisper lacks: the one whose token it borrows
    task: Task  # a row's own goes first
    bad_audio: Literal["fail", "drop"]  # a file that is missing or does not decode
    long_audio: Literal["split", "drop", "fail"]  # clips longer than the model's window, and texts
    # longer than its decoder. drop: left out, named in the log and counted in the summary; split:
    # cut where the row has boundaries or the clip a silence that fits the text, else left out
    clean: tuple[Literal["annotations", "case", "punctuation", "digits"], ...]
    # done to training texts: [laughter] and the like are taken out, and so are capitals and
    # punctuation; digits are spelled
    windows: Literal["padded", "packed"]  # one utterance a window, or as many as fit into it
    timestamps_share: float | None  # of the windows; null: 0.2 of packed ones, 0.1 of padded ones
    previous_text_share: float | None  # of the windows that have some, as a prompt; null: 0.2 or 0
    no_speech_share: float | None  # generated ones for each window of speech; null: 0.02 or 0.05
    log_mel_padding_share: float  # of the training windows, padded as openai-whisper and
    # faster-whisper do it, the others as Transformers and whisper.cpp: see `evaluation.padding`
    mix: tuple[MixConfig, ...]

    def __post_init__(self) -> None:
        shares = ("validation_share", "test_share", "log_mel_padding_share")
        optional = ("timestamps_share", "previous_text_share", "no_speech_share")
        given = {name: getattr(self, name) for name in (*shares, *optional)}
        rules = {
            name: (value is None or 0 <= value <= 1, f"expected 0 … 1, found {value}")
            for name, value in given.items()
        }
        rules["test_share"] = (
            rules["test_share"][0] and self.validation_share + self.test_share < 1,
            "expected 0 or more, and with validation_share below 1",
        )
        rules["streaming"] = (
            not self.streaming or self.source == "hub",
            f"only hub data sets can be streamed, found source {self.source}",
        )
        require(**rules)

    def training_rule(self) -> tuple[bool, str]:
        """Of the commands that read a training set."""
        return bool(self.train or self.path), (
            "missing; type data.train=… (or data.path=… for what holds all splits)"
        )


@dataclass(frozen=True)
class SpeedConfig:
    """Resampled to another speed, pitch with it (Ko et al. 2015); timestamps follow."""

    share: float  # of the windows
    slowest: float  # 0.9 takes 1.11 times as long
    fastest: float

    def __post_init__(self) -> None:
        require(
            share=share_rule(self.share),
            slowest=(0.5 <= self.slowest <= self.fastest, f"expected 0.5 … {self.fastest}"),
            fastest=(self.fastest <= 2, f"expected at most 2, found {self.fastest}"),
        )


@dataclass(frozen=True)
class GainConfig:
    """Louder or softer."""

    share: float  # of the windows
    lowest_db: float
    highest_db: float

    def __post_init__(self) -> None:
        require(
            share=share_rule(self.share),
            lowest_db=(self.lowest_db <= self.highest_db, f"expected at most {self.highest_db}"),
        )


@dataclass(frozen=True)
class NoiseConfig:
    """Noise behind the speech."""

    share: float  # of the windows
    folder: str | None  # recordings of noise; null: generated, from white to brown
    lowest_snr_db: float  # speech over noise
    highest_snr_db: float

    def __post_init__(self) -> None:
        require(
            share=share_rule(self.share),
            lowest_snr_db=(
                self.lowest_snr_db <= self.highest_snr_db,
                f"expected at most {self.highest_snr_db}",
            ),
        )


@dataclass(frozen=True)
class ReverberationConfig:
    """The speech in a room."""

    share: float  # of the windows
    folder: str | None  # recorded impulse responses; null: generated
    shortest_rt60_seconds: float  # time in which a generated room's echo falls by 60 dB
    longest_rt60_seconds: float

    def __post_init__(self) -> None:
        require(
            share=share_rule(self.share),
            shortest_rt60_seconds=(
                0 < self.shortest_rt60_seconds <= self.longest_rt60_seconds,
                f"expected more than 0, up to {self.longest_rt60_seconds}",
            ),
            longest_rt60_seconds=(self.longest_rt60_seconds <= 3, "expected at most 3"),
        )


@dataclass(frozen=True)
class TelephoneConfig:
    """300 to 3400 Hz at 8 kHz, through a telephone's codec."""

    share: float  # of the windows
    codecs: tuple[str, ...]  # drawn from for each window

    def __post_init__(self) -> None:
        require(
            share=share_rule(self.share),
            codecs=(bool(self.codecs), "expected at least one name, found none"),
        )


@dataclass(frozen=True)
class SpecAugmentConfig:
    """Stripes of the log-mel that the model does not see. Park et al. 2019, arXiv:1904.08779."""

    share: float  # of the windows
    time_masks: int  # in each window
    longest_time_mask_seconds: float
    frequency_masks: int
    widest_frequency_mask: float  # share of the mel bins

    def __post_init__(self) -> None:
        require(
            share=share_rule(self.share),
            time_masks=(self.time_masks >= 0, "expected 0 or more"),
            longest_time_mask_seconds=(self.longest_time_mask_seconds > 0, "expected more than 0"),
            frequency_masks=(self.frequency_masks >= 0, "expected 0 or more"),
            widest_frequency_mask=(0 < self.widest_frequency_mask <= 1, "expected more than 0 … 1"),
        )


@dataclass(frozen=True)
class AugmentationConfig:
    """What training windows go through; in this order, each with its own draw. null: off."""

    speed: SpeedConfig | None
    gain: GainConfig | None
    reverberation: ReverberationConfig | None
    noise: NoiseConfig | None
    telephone: TelephoneConfig | None
    spec_augment: SpecAugmentConfig | None


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101) and its schedule."""

    learning_rate: float | None  # at the end of the warm-up; null: by the model's width, from
    # 1.5e-3 for tiny through 4.3e-4 for small to 1.7e-4 for large
    lora_plus_ratio: float  # rate of the matrices B over that of A; 1: none. LoRA+, Hayou et al.
    # 2024, https://arxiv.org/abs/2402.12354
    weight_decay: float
    warmup_share: float  # share of all steps over which the learning rate rises from 0
    warmup_steps: int | None  # the same in steps, which goes first; null: by the share
    schedule: Literal["constant", "linear", "cosine"]  # what follows the warm-up
    max_gradient_norm: float  # gradients are scaled down to this L2 norm

    def __post_init__(self) -> None:
        require(
            learning_rate=(
                self.learning_rate is None or self.learning_rate > 0,
                f"expected more than 0, found {self.learning_rate}",
            ),
            lora_plus_ratio=(
                self.lora_plus_ratio > 0,
                f"expected more than 0, found {self.lora_plus_ratio}",
            ),
            weight_decay=(self.weight_decay >= 0, f"expected 0 or more, found {self.weight_decay}"),
            warmup_share=share_rule(self.warmup_share),
            warmup_steps=(
                self.warmup_steps is None or self.warmup_steps >= 0,
                f"expected 0 or more, found {self.warmup_steps}",
            ),
            max_gradient_norm=(
                self.max_gradient_norm > 0,
                f"expected more than 0, found {self.max_gradient_norm}",
            ),
        )


@dataclass(frozen=True)
class AveragingConfig:
    """Several adapters of a run in one: the mean of what they add to the weights."""

    of: Literal["last", "best"]  # checkpoints; best: by validation WER
    count: int
    rank: int | None  # of the mean, cut by SVD; null: the sum of their ranks, which is exact

    def __post_init__(self) -> None:
        require(
            count=(self.count >= 2, f"expected 2 or more, found {self.count}"),
            rank=(self.rank is None or self.rank >= 1, f"expected 1 or more, found {self.rank}"),
        )


@dataclass(frozen=True)
class TrainingConfig:
    """How long and in what portions the adapter is trained."""

    max_epochs: float | None  # passes over the training set; null: see max_steps
    max_steps: int | None  # optimizer steps; with max_epochs, the smaller counts; both null: 8
    # epochs, and for tiny corpora at least 50 steps. A run that is resumed may be given another
    # length if no step depends on it: schedule=constant, warm-up in steps or none, no adalora
    global_batch: int  # windows in one optimizer step, over all processes
    micro_batch: int | Literal["auto"] | None  # windows in one forward pass of one process; auto:
    # as many as the GPU holds, which is tried out; null: 8, and 4 from small (width 768) on; on a
    # CPU, both: from tiny on no more than 2 GB and half of the free memory hold (base: 1), else 8
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    # arithmetic of the forward pass; auto: bf16 on a GPU that has it, fp16 on another, else fp32
    gradient_checkpointing: bool | None  # compute activations twice instead of keeping them; null:
    # from medium (width 1024) on
    checkpoint_every_steps: int
    keep_checkpoints: int  # how many of the last ones stay on disk
    validate_every_steps: int | None  # null: ten times in a run, or every 25 steps if that is rarer
    patience: int | None  # so many validations in a row without a better one end the run; null:
    # it goes on to its last step
    averaging: AveragingConfig | None  # one more candidate at the end, beside the best adapter;
    # null: none
    log_every_steps: int  # optimizer steps between two lines of metrics.jsonl
    loader_workers: int  # processes that decode audio; 0: the training process itself

    def __post_init__(self) -> None:
        positive = ("global_batch", "checkpoint_every_steps", "log_every_steps")
        optional = ("max_epochs", "max_steps", "micro_batch", "validate_every_steps", "patience")
        at_least_one = {name: getattr(self, name) for name in positive} | {
            name: getattr(self, name)
            for name in optional
            if getattr(self, name) not in (None, "auto")
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

    batch_size: int | None  # windows decoded together, which does not change the text; null: 16,
    # and 4 from medium (width 1024) on
    beams: int  # 1 is greedy
    temperature_fallback: bool  # what repeats itself or is improbable is decoded again, by drawing
    # from the distribution at rising temperatures: Radford et al. 2022, section 4.5
    timestamps: bool  # decode with them; they are left out of the text that is scored
    previous_text: bool  # of a recording over one window, what was heard is the next one's prompt
    padding: Padding  # behind a clip. sound: silence, as Transformers and whisper.cpp hear it;
    # log-mel: 0.0 in the log-mel, which is louder, as openai-whisper and faster-whisper do
    max_utterances: int | None  # a fixed, seeded sample of the test set; null: all of it
    max_validation_utterances: int | None  # the same for the validation set during training
    group_by: tuple[str, ...]  # what is scored apart as well: columns of the manifest, or duration
    keywords: str | None  # a file with a word or phrase a line, whose recall is measured
    bootstrap_samples: int  # resamplings of speakers or utterances for the 95 % interval

    def __post_init__(self) -> None:
        require_positive_counts(self)


# What of it decides on a hypothesis.
DECODING = ("beams", "temperature_fallback", "timestamps", "previous_text", "padding")


@dataclass(frozen=True)
class TrackingConfig:
    """Where the figures of metrics.jsonl are sent as well."""

    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...]
    project: str  # that the run is filed under

    def __post_init__(self) -> None:
        require(project=(bool(self.project.strip()), "expected a name, found none"))


# Adapters that do not train on a quantization, and why (tests/model/test_kinds.py has the proof).
UNSUPPORTED = {
    ("pissa", "int8"): "PiSSA splits the weights themselves, which are rounded to 8 bits",
    ("pissa", "nf4"): "PiSSA splits the weights themselves, which are rounded to 4 bits",
    ("dora", "int8"): "PEFT's DoRA fails on 8-bit layers at the second forward pass",
}


def dtype_rule(model: ModelConfig | None, training: TrainingConfig | None) -> tuple[bool, str]:
    """Whether weights are of a dtype that is computed with. None: broken, as is said elsewhere."""
    if model is None or training is None:
        return True, ""
    return (model.dtype, training.precision) not in (("float16", "bf16"), ("bfloat16", "fp16")), (
        f"weights in {model.dtype} are not computed with in {training.precision}; leave "
        "model.dtype out, which follows training.precision"
    )


def pairing_rule(
    adapter: AdapterConfig | None, quantization: QuantizationConfig | None
) -> tuple[bool, str]:
    """Whether a kind of adapter trains on a quantization. None: as in `dtype_rule`."""
    if adapter is None or quantization is None:
        return True, ""
    reason = UNSUPPORTED.get((adapter.kind, quantization.kind))
    return reason is None, (
        f"{adapter.kind} does not train on quantization={quantization.kind}: {reason}. "
        "Type adapter=lora or quantization=none."
    )


@dataclass(frozen=True)
class TrainConfig:
    """All of `lora-whisper train`."""

    name: str  # the run's name, and its folder's below outputs/
    seed: int  # fixes data order, adapter initialisation and dropout
    overwrite: bool  # replace an existing run of this name
    resume: Literal["auto", "anyway"] | None  # auto: continue an existing run of this name; anyway:
    # also where its speech has changed since, which is then scored anew, or its best adapter is
    # damaged, in whose place the best from here on ships
    model: ModelConfig
    quantization: QuantizationConfig
    adapter: AdapterConfig
    data: DataConfig
    augmentation: AugmentationConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig

    def __post_init__(self) -> None:
        require(**self._rules())

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "name": name_rule(self.name),
            "seed": seed_rule(self.seed),
            "model": dtype_rule(self.model, self.training),
            "adapter": pairing_rule(self.adapter, self.quantization),
            "training": self._averaging_rule(),
            "data.train": self.data.training_rule() if self.data else (True, ""),
            "resume": (
                not (self.overwrite and self.resume),
                f"resume={self.resume} and overwrite=true contradict each other; give one of them",
            ),
        }

    def _averaging_rule(self) -> tuple[bool, str]:
        if self.adapter is None or self.training is None:
            return True, ""
        return self.adapter.kind != "dora" or self.training.averaging is None, (
            "averaging is for adapters that add to the weights, and each DoRA scales them as well. "
            "Type training.averaging=null or adapter=lora."
        )


@dataclass(frozen=True)
class SpaceConfig:
    """What the trials of a search differ in; null: all of them have what `train` would have."""

    learning_rate: tuple[float, ...] | Literal["auto"] | None  # [lowest, highest], drawn evenly on
    # a logarithmic scale; auto: from a quarter of what `train` would take to four times that
    rank: tuple[int, ...] | None  # choices
    alpha_per_rank: tuple[float, ...] | None  # choices; adapter.alpha is so many times the rank
    dropout: tuple[float, ...] | None  # [lowest, highest]
    targets: tuple[Literal["attention-qv", "attention", "all-linear"], ...] | None  # choices

    def __post_init__(self) -> None:
        rates = None if self.learning_rate == "auto" else self.learning_rate
        require(
            learning_rate=_bounds_rule(rates, "more than 0", lambda rate: rate > 0),
            rank=_choices_rule(self.rank, "1 or more each", lambda rank: rank >= 1),
            alpha_per_rank=_choices_rule(
                self.alpha_per_rank, "more than 0 each", lambda factor: factor > 0
            ),
            dropout=_bounds_rule(self.dropout, "0 … below 1", lambda share: 0 <= share < 1),
            targets=_choices_rule(self.targets, "at least one", lambda name: True),
        )


def _bounds_rule(
    bounds: Sequence[float] | None, expected: str, holds: Callable[[float], bool]
) -> tuple[bool, str]:
    if bounds is None:
        return True, ""
    is_range = len(bounds) == 2 and bounds[0] <= bounds[1] and all(map(holds, bounds))
    return is_range, f"expected [lowest, highest], {expected}, found {list(bounds)}"


def _choices_rule(
    choices: Sequence[Any] | None, expected: str, holds: Callable[[Any], bool]
) -> tuple[bool, str]:
    if choices is None:
        return True, ""
    is_fit = 0 < len(choices) == len(set(choices)) and all(map(holds, choices))
    return is_fit, f"expected a list of choices, {expected}, none twice, found {list(choices)}"


@dataclass(frozen=True)
class SearchingConfig:
    """How `lora-whisper search` looks for good values, on Optuna: https://optuna.org."""

    trials: int  # of the whole search, whichever processes carry them out; can be raised later
    timeout_hours: float | None  # after which this process begins no further trial
    pruning: Literal["median", "hyperband", "none"]  # of trials, which are ended early:
    # where the best validation WER so far is above the median of the others at that step; or not
    # among the best third of them, at steps three times apart (Li et al. 2018, arXiv:1603.06560)
    pruning_after_trials: int  # median: that were carried out to their end
    pruning_after_share: float  # of a trial's steps, before which it is not ended early
    space: SpaceConfig

    def __post_init__(self) -> None:
        hours = self.timeout_hours
        require(
            trials=(self.trials >= 1, f"expected 1 or more, found {self.trials}"),
            timeout_hours=(hours is None or hours > 0, f"expected more than 0, found {hours}"),
            pruning_after_trials=(
                self.pruning_after_trials >= 1,
                f"expected 1 or more, found {self.pruning_after_trials}",
            ),
            pruning_after_share=share_rule(self.pruning_after_share),
            space=(
                self.space is None or any(value is not None for value in vars(self.space).values()),
                "expected something to search, found null in every key",
            ),
        )


@dataclass(frozen=True)
class SearchConfig(TrainConfig):
    """All of `lora-whisper search`: what `train` takes is what its trials have in common.

    `overwrite` begins the whole search anew. An existing one goes on without `resume`.
    """

    search: SearchingConfig

    def _rules(self) -> dict[str, tuple[bool, str]]:
        rules = super()._rules()
        if self.search is None or self.search.space is None or self.adapter is None:
            return rules  # one of them is broken, which is said elsewhere
        space, adapter = self.search.space, self.adapter
        return rules | {
            "search.space.rank": (
                space.rank is None or None in (adapter.encoder_rank, adapter.decoder_rank),
                "it would change nothing, since adapter.encoder_rank and adapter.decoder_rank go "
                "first. Type search.space.rank=null, or leave one of them out.",
            ),
            "search.space.alpha_per_rank": (
                space.alpha_per_rank is None or adapter.kind != "adalora",
                "adalora's alpha is no matter of its rank. Type search.space.alpha_per_rank=null.",
            ),
        }


@dataclass(frozen=True)
class TestDataConfig:
    """The speech that `lora-whisper evaluate` scores: `DataConfig`, but null is as the run has it.

    What is for training alone is here because `data=fleurs` and the like bring it; nobody reads it.
    """

    __test__ = False  # tells pytest that this is not a class of tests
    source: Source | None
    path: str | None
    train: str | None
    validation: str | None
    test: str | None  # null: the run's own, which summary.json speaks of
    validation_share: float | None
    test_share: float | None
    config: str | None
    revision: str | None
    streaming: bool | None
    columns: ColumnsConfig
    quoted: bool | None
    language: str | None
    language_token: str | None
    task: Task | None
    bad_audio: Literal["fail", "drop"] | None
    long_audio: Literal["split", "drop", "fail"] | None
    clean: tuple[str, ...] | None
    windows: Literal["padded", "packed"] | None
    timestamps_share: float | None
    previous_text_share: float | None
    no_speech_share: float | None
    log_mel_padding_share: float | None
    mix: tuple[MixConfig, ...] | None


@dataclass(frozen=True)
class TestSetConfig:
    """One more set to score; what is null or left out is as in `data`."""

    __test__ = False
    shorthand = "test"  # a text alone in a list of these
    test: str | None  # a manifest, or the name of a split in `path`
    path: str | None
    source: Source | None
    config: str | None
    columns: ColumnsConfig | None
    language: str | None
    language_token: str | None
    task: Task | None

    def __post_init__(self) -> None:
        require(test=(bool(self.test or self.path), "expected a test=… or a path=…, found neither"))


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


@dataclass(frozen=True)
class RescoringConfig:
    """Changes to a run's `EvaluationConfig`, where null leaves the run's own value; and more tests.

    Without a run, the values of conf/evaluation/default.yaml are changed.
    """

    batch_size: int | None
    beams: int | None
    temperature_fallback: bool | None
    timestamps: bool | None
    previous_text: bool | None
    padding: Padding | None
    max_utterances: int | None
    group_by: tuple[str, ...] | None
    keywords: str | None
    bootstrap_samples: int | None
    conditions: tuple[Condition, ...]  # in which the test sets are heard, beside clean
    retention: tuple[TestSetConfig, ...]  # speech that must not be recognized worse than before
    adapter_scales: tuple[float, ...]  # of what the adapter adds; 0 is the base, 1 the adapter
    training_utterances: int  # a sample of the run's training set that is scored beside the test
    probe_clips: int  # of each kind of sound without speech, in which nothing should be heard
    players: bool  # evaluation.html has the sound of each set's worst utterances; false: nobody's
    # voice is passed on with it
    cache: bool  # take hypotheses of the same model, speech and decoding from an earlier command

    def applied_to(self, settings: EvaluationConfig) -> EvaluationConfig:
        """The run's settings with these changes; its range checks hold here too."""
        known = {field.name for field in dataclasses.fields(EvaluationConfig)}
        changes = {
            name: value for name, value in vars(self).items() if name in known and value is not None
        }
        return dataclasses.replace(settings, **changes)

    def __post_init__(self) -> None:
        counts = ("batch_size", "beams", "max_utterances", "bootstrap_samples")
        given = {name: getattr(self, name) for name in counts}
        rules = {
            name: (value is None or value >= 1, f"expected 1 or more, found {value}")
            for name, value in given.items()
        }
        amounts = {name: getattr(self, name) for name in OFF_AT_ZERO}
        rules |= {
            name: (amount >= 0, f"expected 0 or more, found {amount}")
            for name, amount in amounts.items()
        }
        rules["adapter_scales"] = (
            all(0 <= scale <= 2 for scale in self.adapter_scales),
            f"expected 0 … 2 each, found {list(self.adapter_scales)}",
        )
        require(**rules)


OFF_AT_ZERO = ("training_utterances", "probe_clips")


@dataclass(frozen=True)
class EvaluateConfig:
    """All of `lora-whisper evaluate`."""

    run: str | None  # folder that `train` wrote: its base, its adapter and, if there, merged/
    models: tuple[str, ...]  # or these: "base", runs, adapters, checkpoints, CTranslate2 folders
    base: str | None  # a folder or hub id in place of the base that runs and adapters name
    name: str  # the report's folder below outputs/; with run=, "evaluation" is the run's own
    overwrite: bool  # replace a report that was asked for with other values
    seed: int | None  # of intervals, samples, noise and drawn texts; null: the run's, or 1
    dtype: Dtype  # of checkpoints; auto: their own, but float32 for float16 on a CPU. Bases and
    # adapters of runs are scored as they were trained
    allow_pickle: bool  # read weights that are not in safetensors, which can run code
    data: TestDataConfig
    sets: tuple[TestSetConfig, ...]  # more test sets beside data.test, or instead of the run's own
    evaluation: RescoringConfig

    def __post_init__(self) -> None:
        require(
            run=(
                bool(self.run) != bool(self.models),
                "expected a run=… or models=[…], one of them",
            ),
            name=name_rule(self.name),
            seed=seed_rule(self.seed or 0),
        )


@dataclass(frozen=True)
class PartConfig:
    """One of the adapters that are merged together."""

    shorthand = "path"  # a text alone in a list of these
    path: str  # a run, an adapter's folder or a hub id
    weight: float | None  # of what it adds; null: all parts the same, together 1

    def __post_init__(self) -> None:
        weight = self.weight
        require(
            weight=(weight is None or -10 <= weight <= 10, f"expected -10 … 10, found {weight}")
        )


@dataclass(frozen=True)
class MergeConfig:
    """All of `lora-whisper merge`."""

    run: str | None  # folder that `train` wrote; gets merged/
    adapters: tuple[PartConfig, ...]  # or adapter=…: one or several, for outputs/NAME/merged
    name: str | None  # without run=: of the folder below outputs/; null: the adapter's own
    base: str | None  # a folder or hub id in place of the base that the adapter names
    dtype: Literal["float32", "float16", "bfloat16"]  # of the merged weights
    scale: float  # of what the adapters add; 1 is all of it
    into: Literal["full", "nf4-dequantized"]  # the base's weights as they are, or as nf4 had them
    # while the adapter was trained
    force: bool  # merge into other weights than those that the adapter was trained on
    allow_pickle: bool  # read weights that are not in safetensors, which can run code
    overwrite: bool  # replace an existing merged/

    def __post_init__(self) -> None:
        require(
            run=(
                bool(self.run) != bool(self.adapters),
                "expected a run=… or an adapter=…, one of them",
            ),
            name=self._name_rule(),
            scale=(0 <= self.scale <= 10, f"expected 0 … 10, found {self.scale}"),
            into=(
                self.into == "full" or bool(self.run),
                "nf4-dequantized takes a run=…, which knows how its base was quantized",
            ),
            adapter=(
                len({one.weight is None for one in self.adapters}) <= 1,
                "expected a weight of each adapter or of none",
            ),
        )

    def _name_rule(self) -> tuple[bool, str]:
        if self.name is None:
            return len(self.adapters) <= 1, "expected a name=… for what several adapters become"
        if self.run:
            return False, "given, but with run=… the merged model goes into the run's folder"
        return name_rule(self.name)


Format = Literal["ctranslate2", "ggml", "onnx", "openai", "adapter"]
EXPORT_DTYPES: dict[str, tuple[str, ...]] = {  # of the written weights; the first is the usual one
    "ctranslate2": ("float16", "float32", "int8", "int8_float16"),
    "ggml": ("f16", "f32"),
    "onnx": ("float32", "float16"),
    "openai": ("float16", "float32"),
    "adapter": ("float32", "float16", "bfloat16"),
}


@dataclass(frozen=True)
class ParityConfig:
    """What is written is tried in the program that it is for, beside the model that was scored."""

    utterances: int  # of the test set, drawn; 0: it is not tried
    tolerance: float  # difference of the WER (or CER, where it leads) from the merged model's, as a
    # fraction; over it, the exit code is 1

    def __post_init__(self) -> None:
        require(
            utterances=(self.utterances >= 0, f"expected 0 or more, found {self.utterances}"),
            tolerance=share_rule(self.tolerance),
        )


@dataclass(frozen=True)
class ExportConfig:
    """All of `lora-whisper export`."""

    run: str  # folder that `train` wrote, or one that `merge adapter=…` did
    format: tuple[Format, ...]  # one or several
    dtype: str | None  # of the written weights; null: a format's usual one
    base: str | None  # a folder in place of the run's base; format=adapter: its hub id
    overwrite: bool  # replace what was exported before
    data: TestDataConfig  # null: the run's own test set
    parity: ParityConfig

    def __post_init__(self) -> None:
        require(
            format=self._format_rule(),
            dtype=self._dtype_rule(),
            base=self._base_rule(),
        )

    def _format_rule(self) -> tuple[bool, str]:
        if not self.format:
            return False, f"expected {' or '.join(EXPORT_DTYPES)}, found nothing"
        twice = sorted({name for name in self.format if self.format.count(name) > 1})
        return not twice, f"{', '.join(twice)} stands there twice"

    def _base_rule(self) -> tuple[bool, str]:
        if self.base is None or local_path(self.base).is_dir():
            return True, ""
        return hub_id_rule(self.base)

    def _dtype_rule(self) -> tuple[bool, str]:
        if self.dtype is None:
            return True, ""
        unfit = [name for name in self.format if self.dtype not in EXPORT_DTYPES[name]]
        return not unfit, "; ".join(
            f"{name} has {', '.join(EXPORT_DTYPES[name])}, found {self.dtype}" for name in unfit
        )

    def dtype_for(self, name: str) -> str:
        return self.dtype or EXPORT_DTYPES[name][0]


@dataclass(frozen=True)
class CheckConfig:
    """All of `lora-whisper check`: what `train` takes, as far as its speech hangs on it."""

    ignored = frozenset(
        {"quantization", "adapter", "optimizer", "training", "evaluation", "tracking", "resume"}
    )
    name: str  # the report's folder below outputs/
    seed: int  # fixes which windows are written by `listen`
    overwrite: bool  # replace an existing report of this name
    strict: bool  # exit with 1 where something was found
    fix: str | None  # folder for manifests without what was found
    listen: int  # training windows to write as sound files, augmented as they would be
    model: ModelConfig  # of which only tokenizer and configuration are read
    data: DataConfig
    augmentation: AugmentationConfig

    def __post_init__(self) -> None:
        require(
            name=name_rule(self.name),
            seed=seed_rule(self.seed),
            listen=(self.listen >= 0, f"expected 0 or more, found {self.listen}"),
            **{"data.train": self.data.training_rule() if self.data else (True, "")},
        )


@dataclass(frozen=True)
class PushConfig:
    """All of `lora-whisper push`."""

    run: str  # folder that `train` wrote
    repo: str  # owner/name on the hub; it is made where it does not exist
    what: Literal["adapter", "merged", "both"]  # both: the adapter in a folder of that name
    private: bool  # whether only its owner sees it; a repository that is there is not changed
    base: str | None  # hub id of the base, where it was trained from a folder
    dry_run: bool  # print what would be sent, and send nothing
    message: str | None  # of the commit; null: what was sent, and of which run

    def __post_init__(self) -> None:
        require(
            repo=hub_id_rule(self.repo),
            base=hub_id_rule(self.base) if self.base is not None else (True, ""),
            message=(self.message is None or bool(self.message.strip()), "expected a text"),
        )


@dataclass(frozen=True)
class ReportConfig:
    """All of `lora-whisper report`."""

    sweep: str | None  # folder of a sweep, which may be typed without its key
    runs: tuple[str, ...]  # or these: folders that `train` wrote
    name: str  # without sweep=: the report's folder below outputs/
    overwrite: bool  # replace a report of other runs

    def __post_init__(self) -> None:
        require(
            sweep=(
                bool(self.sweep) != bool(self.runs),
                "expected the folder of a sweep, such as outputs/sweeps/ranks, or runs=[…]",
            ),
            name=name_rule(self.name),
        )


BYTES = {"B": 1, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


def memory_bytes(given: str) -> int | None:
    """8GB, 7.5 GiB or 6000MB in bytes; None of anything else. A number alone has no unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", given.strip())
    if match is None or match[2].upper() not in BYTES:
        return None
    return round(float(match[1]) * BYTES[match[2].upper()]) or None


@dataclass(frozen=True)
class PlanConfig:
    """All of `lora-whisper plan`: what `train` takes, as far as memory hangs on it."""

    ignored = frozenset(
        {"name", "seed", "overwrite", "resume", "data", "augmentation", "evaluation", "tracking"}
    )
    gpu_memory: str | None  # of the card, "8GB", "7.5GiB" or "6000MB"; null: this machine's GPU. A
    # GB is 10^9 bytes: of a card sold as 8 GB, which has 8 GiB, 0.6 GB are left to the driver and
    # the screen
    tokens: int | None  # of each window's text; null: as many as the decoder takes, the worst case
    json: bool  # print JSON and nothing else
    model: ModelConfig | None  # null: the table of all published checkpoints
    quantization: QuantizationConfig | None  # null: none, and in the table all three
    adapter: AdapterConfig
    optimizer: OptimizerConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        given = self.gpu_memory
        require(
            gpu_memory=(
                given is None or memory_bytes(given) is not None,
                f'expected an amount with its unit, such as "8GB", found {given!r}',
            ),
            tokens=(
                self.tokens is None or self.tokens >= 1,
                f"expected 1 or more, found {self.tokens}",
            ),
            model=dtype_rule(self.model, self.training),
            adapter=pairing_rule(self.adapter, self.quantization),
        )


AS_IT_IS = QuantizationConfig(kind="none", double_quantization=False, compute_dtype="auto")


def as_it_is(
    checkpoint: str, revision: str | None = None, allow_pickle: bool = False
) -> ModelConfig:
    """A checkpoint in its own dtype."""
    return ModelConfig(checkpoint, revision, "auto", "auto", allow_pickle)
