"""What `train` says of a run before it begins: what is about to be trained on what."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_whisper import processes, terminal
from lora_whisper.config import TrainConfig
from lora_whisper.data.loader import TrainingWindows, shares
from lora_whisper.data.speech import Speech
from lora_whisper.errors import listing
from lora_whisper.model.base import Base
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import counted

if TYPE_CHECKING:
    from peft import PeftModel

    from lora_whisper.lora.adapter import TableRow

log = logging.getLogger("lora_whisper")


def announce(
    config: TrainConfig,
    folder: RunFolder,
    base: Base,
    speech: Speech,
    model: PeftModel,
) -> None:
    """Base, adapter and speech, a line each; what was left out is named."""
    log.info("run         %s", folder.path)
    if processes.count() > 1:
        log.info("processes   %d, which share each global batch", processes.count())
    _announce_model(config, base, model)
    _announce_speech(config, speech)
    _announce_test(speech)
    _announce_windows(config, base, speech)


def course(
    config: TrainConfig, windows: TrainingWindows, width: int, micro_batch: int, speech: Speech
) -> Iterator[str]:
    """What is about to be done, with what null and auto have become."""
    from lora_whisper.evaluation.scoring import scoring_batch_for_width
    from lora_whisper.model.device import choose_dtype
    from lora_whisper.training.defaults import (
        checkpoints_activations,
        learning_rate_for_width,
        total_steps,
        validate_every,
    )

    settings, optimizer = config.training, config.optimizer
    steps = total_steps(windows.per_epoch, settings)
    portions = f"{min(micro_batch, settings.global_batch)} in a forward pass"
    yield f"steps       {steps}, of {settings.global_batch} windows each, {portions}"
    if windows.per_epoch is not None and windows.steps_per_epoch is not None:
        epochs = steps / windows.steps_per_epoch
        yield f"epochs      {epochs:.3g}, of {counted(windows.per_epoch, 'window')} each"
    rate = optimizer.learning_rate or learning_rate_for_width(width)
    yield f"rate        {rate:.3g} at its peak, {optimizer.schedule}"
    dtype = str(choose_dtype("auto", settings.precision)).removeprefix("torch.")
    keeps = "computed twice" if checkpoints_activations(settings, width) else "kept"
    yield f"computed    in {dtype}; activations are {keeps} (training.gradient_checkpointing)"
    if speech.validation is not None:
        yield f"validation  every {counted(validate_every(steps, settings), 'step')}"
    if speech.test is not None:
        utterances = min(
            len(speech.test.utterances),
            config.evaluation.max_utterances or len(speech.test.utterances),
        )
        batch = config.evaluation.batch_size or scoring_batch_for_width(width)
        yield (
            f"scoring     {counted(utterances, 'utterance')}, {batch} at once: the base now, the "
            "adapter at the end"
        )


def _announce_model(config: TrainConfig, base: Base, model: PeftModel) -> None:
    from lora_whisper.lora.adapter import adapter_table, parameter_counts

    trainable, total = parameter_counts(model)
    log.info(
        "base        %s, %.1f M parameters, window %g s, quantization %s",
        base.checkpoint.name,
        (total - trainable) / 1e6,
        base.window_seconds,
        config.quantization.kind,
    )
    rows = adapter_table(model)
    log.info(
        "adapter     %s, rank %s, alpha %g, %s parameters (%s)",
        config.adapter.kind,
        _ranks(config, rows),
        config.adapter.alpha,
        f"{trainable:,}",
        terminal.percent(trainable / total),
    )
    for line in _table(rows):
        log.info("%s", line)
    if config.adapter.init_from is not None:
        log.info("start       %s", config.adapter.init_from)


def _ranks(config: TrainConfig, rows: list[TableRow]) -> str:
    """`16`, `8 and 16`, or what AdaLoRA begins and ends with."""
    ranks = sorted({row.rank for row in rows if row.rank is not None})
    text = " and ".join(map(str, ranks))
    return f"{text} going down to {config.adapter.rank}" if config.adapter.adalora else text


def _table(rows: list[TableRow]) -> Iterator[str]:
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
            terminal.percent(row.parameters / trained),
        )


def _announce_speech(config: TrainConfig, speech: Speech) -> None:
    from lora_whisper.data.audio import REMARKS

    if speech.train is None:
        log.info("train       streamed from %s, nothing of it is kept", config.data.path)
    for name, corpus in speech.parts.items():
        utterances = terminal.counted(len(corpus.utterances), "utterance")
        log.info("%-11s %s, %.2f h", name, utterances, corpus.hours)
        for reason, rows in corpus.left_out.items():
            log.warning(
                "%-11s left out %d: %s\n%s", name, len(rows), reason, listing(list(rows), 3)
            )
        for kind, rows in corpus.remarks.items():
            recordings = terminal.counted(len(rows), "recording")
            log.warning("%-11s %s %s\n%s", name, recordings, REMARKS[kind], listing(list(rows), 3))


def _announce_test(speech: Speech) -> None:
    if speech.test is None:
        log.warning(
            "test        none, so that nothing will be scored, neither before nor after: type "
            "data.test=… (a file, or the name of a split in data.path)"
        )


def _announce_windows(config: TrainConfig, base: Base, speech: Speech) -> None:
    """Say what an epoch is made of."""
    from lora_whisper.data.dataset import written_language
    from lora_whisper.data.text import cleaning_report

    data = config.data
    log.info("windows     %s", "; ".join(filter(None, [data.windows, str(shares(data))])))
    if data.clean:
        texts = (
            (one.text, written_language(base.vocabulary, one))
            for corpus in speech.learnt
            for one in corpus.utterances
        )
        log.info("texts       %s", cleaning_report(texts, data.clean))
    steps = [name for name, step in vars(config.augmentation).items() if step is not None]
    if steps:
        log.info("augmented   by %s", ", ".join(steps))
