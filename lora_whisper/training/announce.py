"""What `train` says of a run before it begins: what is trained on what, and how long it takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import WhisperForConditionalGeneration

from lora_whisper import processes
from lora_whisper.config import TrainConfig, TrimmedConfig
from lora_whisper.data.audio import REMARKS
from lora_whisper.data.corpus import sample
from lora_whisper.data.dataset import written_language
from lora_whisper.data.loader import TrainingWindows, shares, window_kind, words_spoken
from lora_whisper.data.speech import DatasetSplits
from lora_whisper.data.text import cleaning_report
from lora_whisper.data.words import read_words
from lora_whisper.errors import listing
from lora_whisper.evaluation.capability_material import CLIPS, WINDOW_TOKENS
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.evaluation.estimate import (
    SAMPLE_UTTERANCES,
    Pace,
    Texts,
    decoding_seconds,
    pace_of_all,
    texts_of,
    windows_of,
)
from lora_whisper.evaluation.loading import scoring_batch_for_width
from lora_whisper.evaluation.scoring import validation_sample
from lora_whisper.evaluation.significance import LEAST_UNITS
from lora_whisper.lora.adapter import TableRow, adapter_table, parameter_counts
from lora_whisper.model.base import Base
from lora_whisper.model.device import choose_dtype, choose_precision
from lora_whisper.paths import file_name, local_path
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import about, counted, gigabytes, passes, percent
from lora_whisper.training.defaults import (
    checkpoints_activations,
    learning_rate_for_width,
    total_steps,
    validate_every,
)
from lora_whisper.training.memory_estimator import Setup
from lora_whisper.training.memory_plan import MemoryPlan, decoding_bytes

log = logging.getLogger("lora_whisper")


def announce(
    config: TrainConfig, folder: RunFolder, base: Base, speech: DatasetSplits, model: PeftModel
) -> None:
    """Base, adapter and speech, a line each; what was left out is named."""
    log.info("run         %s", folder.path)
    if processes.count() > 1:
        log.info("processes   %d, which share each global batch", processes.count())
    trainable, total = parameter_counts(model)
    log.info(
        "base        %s, %.1f M parameters, window %g s, quantization %s",
        base.checkpoint.name,
        (total - trainable) / 1e6,
        base.window_seconds,
        config.quantization.kind,
    )
    layers, settings = adapter_table(model), config.adapter
    ranks = " and ".join(map(str, sorted({row.rank for row in layers if row.rank is not None})))
    if settings.kind == "adalora":
        ranks = f"{ranks} going down to {settings.rank}"
    log.info(
        "adapter     %s, rank %s, alpha %g, %s parameters (%s)",
        *(settings.kind, ranks, settings.alpha),
        *(f"{trainable:,}", percent(trainable / total)),
    )
    for line in layer_lines(layers):
        log.info("%s", line)
    if settings.init_from is not None:
        log.info("start       %s", settings.init_from)
    _announce_speech(config, speech)
    _announce_windows(config, base, speech)


def layer_lines(rows: list[TableRow]) -> Iterator[str]:
    """What is trained, by kind of layer; 78 columns, and lines of the log as any other."""
    columns = "  {:<30} {:>5} {:>12} {:>5} {:>12} {:>7}"
    yield columns.format("layers", "count", "weight", "rank", "trained", "share")
    trained = sum(row.parameters for row in rows)
    for row in rows:
        yield columns.format(
            row.name,
            row.count,
            " × ".join(map(str, row.shape)),
            row.rank or "",
            f"{row.parameters:,}",
            percent(row.parameters / trained),
        )


def _announce_speech(config: TrainConfig, speech: DatasetSplits) -> None:
    if speech.train is None:
        log.info("train       streamed from %s, nothing of it is kept", config.data.path)
    for name, corpus in speech.parts.items():
        log.info(
            "%-11s %s, %.2f h", name, counted(len(corpus.utterances), "utterance"), corpus.hours
        )
        for reason, rows in corpus.left_out.items():
            log.warning(
                "%-11s left out %d: %s\n%s", name, len(rows), reason, listing(list(rows), 3)
            )
        for kind, rows in corpus.remarks.items():
            recordings = counted(len(rows), "recording")
            log.warning("%-11s %s %s\n%s", name, recordings, REMARKS[kind], listing(list(rows), 3))
    if speech.test is None:
        log.warning(
            "test        none, so that nothing will be scored, neither before nor after: type "
            "data.test=… (a file, or the name of a split in data.path)"
        )


def _announce_windows(config: TrainConfig, base: Base, speech: DatasetSplits) -> None:
    """Say what an epoch is made of."""
    data = config.data
    kind = window_kind(config, base, speech)
    behind, *parts = _trimmed(data.trimmed) if kind.name == "trimmed" else [""]
    reason = f", as {kind.reason}" if kind.reason else ""
    log.info("windows     %s%s%s", kind.name, behind, reason)
    if with_shares := str(shares(data, kind)):
        parts.append(f"  shares    {with_shares}")
    for part in parts:
        log.info("%s", part)
    if data.words is not None:
        log.info("words       %s", _words(data.words, data.words_share, speech))
    if data.clean:
        texts = (
            (utterance.text, written_language(base.special_tokens, utterance))
            for corpus in speech.training
            for utterance in corpus.utterances
        )
        log.info("texts       %s", cleaning_report(texts, data.clean))
    steps = [name for name, step in vars(config.augmentation).items() if step is not None]
    if steps:
        log.info("augmented   by %s", ", ".join(steps))


def _words(place: str, share: float, speech: DatasetSplits) -> str:
    """How many of a list are said, and in how many utterances."""
    words = read_words(local_path(place), "data.words")
    listed = f"{counted(len(words), 'word')} of {file_name(place)}"
    if speech.train is not None:
        spoken = words_spoken(words, speech)
        listed += (
            f", {len(spoken.times):,} of them said in {spoken.texts:,} of "
            f"{counted(spoken.of_texts, 'utterance')}"
        )
    return f"{listed}; as a prompt in {100 * share:.0f} % of the windows"


def _trimmed(asked: TrimmedConfig) -> list[str]:
    """How much is left behind clips, and a line for each of what is not trimmed so."""
    shortest, longest = asked.margin_seconds
    whole, packed = asked.whole_share, asked.packed_share
    parts = {
        f"  whole     {100 * whole:.0f} % of them": whole,
        f"  packed    {100 * packed:.0f} % of the speech, once more": packed,
    }
    given = [line for line, share in parts.items() if share]
    return [f" {shortest:g} – {longest:g} s behind a clip", *given]


def course(
    config: TrainConfig,
    base: Base,
    windows: TrainingWindows,
    width: int,
    micro_batch: int,
    speech: DatasetSplits,
) -> Iterator[str]:
    """What is about to be done, with what null and auto have become."""
    settings, optimizer = config.training, config.optimizer
    limits = settings.max_epochs, settings.max_steps
    steps = total_steps(windows.steps_per_epoch, *limits)
    more = ", or more that are short" if windows.kind.name == "trimmed" else ""
    whole = settings.whole_windows(base.window_seconds)
    portions = f"{min(micro_batch, math.ceil(whole / processes.count()))} in a forward pass{more}"
    each = counted(whole, "window")
    if settings.global_batch_seconds and windows.per_epoch and windows.steps_per_epoch:
        number = round(windows.per_epoch / windows.steps_per_epoch)
        each = f"{settings.global_batch_seconds:g} s or about {counted(number, 'window')}"
    yield f"steps       {steps}, of {each} each, {portions}"
    if windows.per_epoch is not None and windows.steps_per_epoch is not None:
        epochs = passes(steps / windows.steps_per_epoch)
        yield f"epochs      {epochs}, of {counted(windows.per_epoch, 'window')} each"
    rate = optimizer.learning_rate or learning_rate_for_width(width)
    yield f"rate        {rate:.3g} at its peak, {optimizer.schedule}"
    dtype = str(choose_dtype("auto", settings.precision)).removeprefix("torch.")
    keeps = (
        "computed twice"
        if checkpoints_activations(settings.gradient_checkpointing, width)
        else "kept"
    )
    yield f"computed    in {dtype}; activations are {keeps} (training.gradient_checkpointing)"
    if speech.validation is not None:
        every = validate_every(steps, settings.validate_every_steps)
        often = f"every {counted(every, 'step')}" if every < steps else "once, at the end"
        yield f"validation  {often}"
    if speech.test is not None:
        there = len(speech.test.utterances)
        utterances = counted(min(there, config.evaluation.max_utterances or there), "utterance")
        batch = config.evaluation.batch_size or scoring_batch_for_width(width)
        yield f"scoring     {utterances}, {batch} at once: the base now, the adapter at the end"


# ── how long it takes, and how much memory ───────────────────────────────────────────────────

SHORT_SECONDS = 60.0  # a run that is over by then needs no more words
LOSS_SHARE = 1 / 3  # of a window's time: the way there without the way back


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
    card_seconds: float = 0.0  # of what base and adapter are asked beside the scores

    @property
    def seconds(self) -> float:
        scoring = self.base_seconds + self.scoring_seconds + self.card_seconds
        return self.training_seconds + scoring


def estimate(
    config: TrainConfig,
    base: Base,
    speech: DatasetSplits,
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
    in_step: float = config.training.whole_windows(base.window_seconds)
    if windows.per_epoch is not None and windows.steps_per_epoch is not None:
        in_step = windows.per_epoch / windows.steps_per_epoch  # the last of an epoch may be short
    training = len(left.steps) * in_step * window_seconds
    validation = validation_sample(config, speech)
    if validation is not None:
        once = decoding_seconds(validation, base, config.evaluation.beams, pace)
        once += LOSS_SHARE * len(validation) * window_seconds
        training += once * validations(left.steps, config.training.validate_every_steps)
    scoring, count, asked = 0.0, 0, 0.0
    if speech.test is not None:
        chosen = sample(speech.test.utterances, config.evaluation.max_utterances, config.seed)
        scoring = decoding_seconds(chosen, base, config.evaluation.beams, pace)
        count = len(chosen)
        if config.card and count >= LEAST_UNITS:
            asked_windows = 2 * (min(count, CLIPS) + CLIPS)  # of speech, and of silence
            asked = pace.seconds(asked_windows, WINDOW_TOKENS * asked_windows)
    return Estimate(training, scoring, left.base * scoring, count, asked)


def validations(steps: range, given: int | None) -> int:
    """How many there are in these steps of a run, whose last one is followed by one.

    Args:
        given: steps between two of them, see `validate_every`.
    """
    every = validate_every(steps.stop, given)
    return sum(
        step % every == 0 or step == steps.stop for step in range(steps.start + 1, steps.stop + 1)
    )


def texts_of_windows(
    config: TrainConfig, base: Base, speech: DatasetSplits, windows: TrainingWindows
) -> Texts:
    """Of the training windows; those of a stream, which nobody knows, count as full."""
    prompt, room = (
        base.special_tokens.max_tokens - base.special_tokens.room_tokens,
        base.special_tokens.max_tokens,
    )
    if speech.train is None or windows.per_epoch is None:
        return Texts(room / 2, room)
    texts, words = texts_of(speech.train.utterances, base), _words_before(base, windows)
    if windows.kind.name != "packed":
        longest = min(room, prompt + texts.longest + words.longest)
        return Texts(prompt + texts.mean + words.mean, longest)
    in_window = sum(len(corpus.utterances) for corpus in speech.training) / windows.per_epoch
    return Texts(min(room, prompt + in_window * texts.mean + words.mean), room)


def _words_before(base: Base, windows: TrainingWindows) -> Texts:
    """The prompts of words that some windows have, and of which nothing is learnt.

    For the memory they count as if it were: a few logits more than there are.
    """
    words = windows.dataset.maker.words if windows.dataset is not None else None
    if words is None:
        return Texts(0.0, 0)
    mean, longest = words.lengths_tokens(base.special_tokens.prompt_tokens)
    return Texts(words.share * mean, longest)


def scoring_pace(
    config: TrainConfig, base: Base, speech: DatasetSplits, whisper: WhisperForConditionalGeneration
) -> Pace:
    """Of decoding on this machine, all processes at once; nothing where nothing is decoded."""
    if speech.test is None and speech.validation is None:
        return Pace(0.0, 0.0)
    decoder = WhisperDecoder(whisper, base.processor, base.special_tokens, base.features)
    return pace_of_all(decoder, scoring_batch(config, whisper))


def scoring_batch(config: TrainConfig, whisper: WhisperForConditionalGeneration) -> int:
    return config.evaluation.batch_size or scoring_batch_for_width(whisper.config.d_model)


def setup_of(
    config: TrainConfig, whisper: WhisperForConditionalGeneration, device: torch.device
) -> Setup:
    """What the run trains, for the plan of its memory: of a GPU, or of the CPU that trains here."""
    return Setup(
        whisper.config,
        config.quantization,
        config.adapter,
        whisper.dtype,
        choose_precision(config.training.precision),
        "cuda" if device.type == "cuda" else "cpu",
    )


def windows_decoded(config: TrainConfig, base: Base, speech: DatasetSplits) -> int:
    """In the larger one of validation and test set; 0 without any."""
    validation, test = validation_sample(config, speech), speech.test
    sets = [validation] if validation is not None else []
    if test is not None:
        sets.append(sample(test.utterances, config.evaluation.max_utterances, config.seed))
    return max((windows_of(utterances, base) for utterances in sets), default=0)


def memory_needed(
    plan: MemoryPlan,
    config: TrainConfig,
    whisper: WhisperForConditionalGeneration,
    micro_batch: int,
    windows: int,
) -> float:
    """Bytes of training or of scoring, whichever takes more; on a CPU, of both.

    Args:
        windows: that are decoded in the larger one of validation and test set; 0: nothing is.

    On a CPU little of what training freed serves decoding: whisper-base had 3.7 GB resident after
    three steps, and 4.9 after its validation and a part of the scoring, for which this tells 4.4.
    """
    (checkpointing,) = plan.peaks
    training = plan.memory(micro_batch, checkpointing)
    rows = min(windows, scoring_batch(config, whisper))
    scoring = decoding_bytes(whisper.config, rows, whisper.dtype.itemsize)
    if plan.device == "cpu":
        return training.total + scoring
    return max(training.total, training.weights + training.context + scoring)


def estimate_lines(
    time: Estimate, left: Left, memory_bytes: Callable[[], float] | None
) -> Iterator[str]:
    """What will take how long, and what to type for less; a short run needs no more words.

    Args:
        memory_bytes: what the run needs, which takes a second or two to find; None: next to nothing
            beside the libraries.
    """
    if time.seconds < SHORT_SECONDS:
        yield f"estimate    {about(time.seconds)}"
        return
    memory = f", about {gigabytes(round(memory_bytes()))} of memory" if memory_bytes else ""
    yield f"estimate    {about(time.seconds)} on this machine{memory}"
    if left.base and time.utterances:
        yield f"  base      {about(time.base_seconds)} to score"
    yield f"  training  {about(time.training_seconds)}"
    if time.utterances:
        yield f"  adapter   {about(time.scoring_seconds)} to score"
        if time.card_seconds:
            yield f"  card      {about(time.card_seconds)} for what it keeps (card=false: none)"
    if time.utterances > SAMPLE_UTTERANCES:
        takes = about(SAMPLE_UTTERANCES / time.utterances * time.scoring_seconds)
        sample_of = f"evaluation.max_utterances={SAMPLE_UTTERANCES} scores a sample"
        yield f"  shorter   {sample_of} in {takes}"
    if left.steps.start == 0 and len(left.steps) > 1:  # the length of a resumed run is given
        half = about(time.training_seconds / 2)
        yield f"  shorter   training.max_steps={len(left.steps) // 2} trains for {half}"
