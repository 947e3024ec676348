"""What `train` says of time and memory before the first step, while stopping it costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_whisper import processes
from lora_whisper.config import TrainConfig, TrainingConfig
from lora_whisper.data.corpus import sample
from lora_whisper.data.loader import TrainingWindows
from lora_whisper.data.speech import Speech
from lora_whisper.evaluation.scoring import validation_sample
from lora_whisper.model.base import Base
from lora_whisper.terminal import about, gigabytes

if TYPE_CHECKING:
    import torch
    from transformers import WhisperForConditionalGeneration

    from lora_whisper.data.dataset import Utterances
    from lora_whisper.evaluation.pace import Pace
    from lora_whisper.training.planning import Plan

log = logging.getLogger("lora_whisper")

SAMPLE_UTTERANCES = 100  # that texts are measured on, and that are advised to be scored
SHORT_SECONDS = 60.0  # a run that is over by then needs no more words
LOSS_SHARE = 1 / 3  # of a window's time: the way there without the way back


@dataclass(frozen=True)
class Texts:
    """How long they are, in tokens."""

    mean: float
    longest: int


@dataclass(frozen=True)
class Left:
    """What a run, new or resumed, has still to do."""

    steps: range
    base: bool  # whether the base has to be decoded


@dataclass(frozen=True)
class Estimate:
    """Of a run from here to its end."""

    training_seconds: float  # with its validations
    scoring_seconds: float  # of one model; 0 without a test set
    base_seconds: float  # the same, or 0 where the base was decoded before
    utterances: int  # that are scored

    @property
    def seconds(self) -> float:
        return self.base_seconds + self.training_seconds + self.scoring_seconds


def estimate(
    config: TrainConfig,
    base: Base,
    speech: Speech,
    windows: TrainingWindows,
    left: Left,
    window_seconds: float,
    pace: Pace,
) -> Estimate:
    """How long what is left of a run takes.

    Args:
        window_seconds: that a training window takes, there and back.
        pace: of decoding.
    """
    in_step: float = config.training.global_batch
    if windows.per_epoch is not None and windows.steps_per_epoch is not None:
        in_step = windows.per_epoch / windows.steps_per_epoch  # the last of an epoch may be short
    training = len(left.steps) * in_step * window_seconds
    validation = validation_sample(config, speech)
    if validation is not None:
        once = decoding_seconds(validation, base, config, pace)
        once += LOSS_SHARE * len(validation) * window_seconds
        training += once * validations(left.steps, config.training)
    scoring, count = 0.0, 0
    if speech.test is not None:
        chosen = sample(speech.test.utterances, config.evaluation.max_utterances, config.seed)
        scoring, count = decoding_seconds(chosen, base, config, pace), len(chosen)
    return Estimate(training, scoring, left.base * scoring, count)


def validations(steps: range, settings: TrainingConfig) -> int:
    """How many there are in these steps of a run, whose last one is followed by one."""
    from lora_whisper.training.defaults import validate_every

    every = validate_every(steps.stop, settings)
    return sum(
        step % every == 0 or step == steps.stop for step in range(steps.start + 1, steps.stop + 1)
    )


def decoding_seconds(utterances: Utterances, base: Base, config: TrainConfig, pace: Pace) -> float:
    """Of texts as long as those that they should be; a base that repeats itself takes longer."""
    windows = np.ceil(utterances.durations_seconds / base.window_seconds).clip(min=1).sum()
    tokens = len(utterances) * (1 + texts_of(utterances, base).mean)
    return pace.seconds(float(windows), config.evaluation.beams * tokens)


def texts_of(utterances: Utterances, base: Base) -> Texts:
    """Of a sample, which is the same in every process."""
    from lora_whisper.data.dataset import written_language
    from lora_whisper.model.tokenizer import text_tokens

    tokenizer, vocabulary = base.processor.tokenizer, base.vocabulary
    lengths = [
        len(text_tokens(tokenizer, one.text, written_language(vocabulary, one)))
        for one in sample(utterances, SAMPLE_UTTERANCES, seed=0)
    ]
    return Texts(float(np.mean(lengths)), max(lengths))


def texts_of_windows(
    config: TrainConfig, base: Base, speech: Speech, windows: TrainingWindows
) -> Texts:
    """Of the training windows; those of a stream, which nobody knows, count as full."""
    prompt, room = (
        base.vocabulary.max_tokens - base.vocabulary.room_tokens,
        base.vocabulary.max_tokens,
    )
    if speech.train is None or windows.per_epoch is None:
        return Texts(room / 2, room)
    texts = texts_of(speech.train.utterances, base)
    if config.data.windows == "padded":
        return Texts(prompt + texts.mean, min(room, prompt + texts.longest))
    in_window = sum(len(one.utterances) for one in speech.learnt) / windows.per_epoch
    return Texts(min(room, prompt + in_window * texts.mean), room)


# ── what it hangs on ─────────────────────────────────────────────────────────────────────────


def scoring_pace(
    config: TrainConfig, base: Base, speech: Speech, whisper: WhisperForConditionalGeneration
) -> Pace:
    """Of decoding on this machine, all processes at once; nothing where nothing is decoded."""
    from lora_whisper.evaluation.pace import Pace, measured_pace
    from lora_whisper.evaluation.whisper_recognizer import WhisperRecognizer

    if speech.test is None and speech.validation is None:
        return Pace(0.0, 0.0)
    recognizer = WhisperRecognizer(whisper, base.processor, base.vocabulary, base.features)
    paces = processes.gather([measured_pace(recognizer, scoring_batch(config, whisper))])
    slowest = (max(getattr(pace, name) for pace in paces) for name in vars(paces[0]))
    return Pace(*(seconds / len(paces) for seconds in slowest))


def scoring_batch(config: TrainConfig, whisper: WhisperForConditionalGeneration) -> int:
    from lora_whisper.evaluation.scoring import scoring_batch_for_width

    return config.evaluation.batch_size or scoring_batch_for_width(whisper.config.d_model)


def memory_plan(
    config: TrainConfig,
    whisper: WhisperForConditionalGeneration,
    device: torch.device,
    checkpointing: bool,
    tokens: int,
) -> Plan:
    """What `plan` would say of a GPU, or the same of the CPU that trains here."""
    from lora_whisper.model.device import choose_precision
    from lora_whisper.training.memory_plan import Setup
    from lora_whisper.training.planning import make_plan

    setup = Setup(
        whisper.config,
        config.quantization,
        config.adapter,
        whisper.dtype,
        choose_precision(config.training.precision),
        "cuda" if device.type == "cuda" else "cpu",
    )
    return make_plan(setup, tokens, (checkpointing,))


def memory_needed(
    plan: Plan, config: TrainConfig, whisper: WhisperForConditionalGeneration, micro_batch: int
) -> float:
    """Bytes of training or of scoring, whichever takes more; on a CPU, of both.

    There little of what training freed serves decoding: whisper-base had 3.7 GB resident after
    three steps, and 4.9 after its validation and a part of the scoring, for which this tells 4.4.
    """
    from lora_whisper.training.planning import decoding_bytes

    (checkpointing,) = plan.peaks
    training = plan.memory(micro_batch, checkpointing)
    rows = scoring_batch(config, whisper)
    scoring = decoding_bytes(whisper.config, rows, whisper.dtype.itemsize)
    if plan.device == "cpu":
        return training.total + scoring
    return max(training.total, training.weights + training.context + scoring)


# ── what is said ─────────────────────────────────────────────────────────────────────────────


def announce_estimate(
    found: Estimate, left: Left, memory_bytes: Callable[[], float] | None
) -> None:
    for line in estimate_lines(found, left, memory_bytes):
        log.info("%s", line)


def estimate_lines(
    found: Estimate, left: Left, memory_bytes: Callable[[], float] | None
) -> Iterator[str]:
    """What will take how long, and what to type for less; a short run needs no more words.

    Args:
        memory_bytes: what the run needs, which takes a second or two to find; None: next to nothing
            beside the libraries.
    """
    if found.seconds < SHORT_SECONDS:
        yield f"estimate    {about(found.seconds)}"
        return
    memory = f", about {gigabytes(round(memory_bytes()))} of memory" if memory_bytes else ""
    yield f"estimate    {about(found.seconds)} on this machine{memory}"
    if left.base and found.utterances:
        yield f"  base      {about(found.base_seconds)} to score"
    yield f"  training  {about(found.training_seconds)}"
    if found.utterances:
        yield f"  adapter   {about(found.scoring_seconds)} to score"
    yield from _shorter(found, left)


def _shorter(found: Estimate, left: Left) -> Iterator[str]:
    """What to type for less; the length of a resumed run is given."""
    if found.utterances > SAMPLE_UTTERANCES:
        share = SAMPLE_UTTERANCES / found.utterances
        yield (
            f"  shorter   evaluation.max_utterances={SAMPLE_UTTERANCES} scores a sample in "
            f"{about(share * found.scoring_seconds)}"
        )
    if left.steps.start == 0 and len(left.steps) > 1:
        yield (
            f"  shorter   training.max_steps={len(left.steps) // 2} trains for "
            f"{about(found.training_seconds / 2)}"
        )
