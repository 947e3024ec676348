"""`lora-whisper train`: score the base, train the adapter, score it, and sum up.

    lora-whisper train model=small name=mine data.language=sw \\
        data.train=train.jsonl data.validation=validation.jsonl data.test=test.jsonl
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from lora_whisper import processes, terminal
from lora_whisper.cli.command import Command
from lora_whisper.config import GLOBAL_BATCH, DataConfig, TrainConfig, TrainingConfig
from lora_whisper.data.contents import speech_hashes
from lora_whisper.data.corpus import Corpus, sample
from lora_whisper.data.loader import new_augmenter, training_windows, word_prompts
from lora_whisper.data.speech import DatasetSplits, Inputs, read_inputs
from lora_whisper.data.words import read_words
from lora_whisper.errors import Problems, UserError
from lora_whisper.evaluation.run_summary import read_as_written
from lora_whisper.evaluation.test_sets import group_labels
from lora_whisper.locks import locked, require_free
from lora_whisper.lora.validation import final_steps, require_possible
from lora_whisper.model.base import load_config, load_shape
from lora_whisper.paths import local_path
from lora_whisper.reports.summary import show_summary
from lora_whisper.reports.sweep_table import show_sweep
from lora_whisper.run_config import LENGTH, begin_run, free_to_change, with_absolute_paths
from lora_whisper.run_folder import RunFolder, Start, rerun_rule
from lora_whisper.training.defaults import total_steps
from lora_whisper.training.init_from import require_start, saved_start, trained_tokens
from lora_whisper.training.precision import with_recorded_precision, with_tried_precision
from lora_whisper.training.resume import (
    changes,
    has_other_length,
    require_checkpoint,
    require_same,
    require_same_speech,
    require_same_words,
    rows_of,
    say_changed_since,
)
from lora_whisper.training.stopping import ended_by_signals, failures_explained
from lora_whisper.training.tracking import require_packages

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class RunPlan:
    """A run that can be carried out."""

    config: TrainConfig  # with absolute paths
    folder: RunFolder
    start: Start
    inputs: Inputs | None  # None of a complete run, which needs none


def prepare(config: TrainConfig, path: Path, earlier: RunPlan | None = None) -> RunPlan:
    """Find everything that would stop the run in the folder `path`, before anything is written.

    Args:
        earlier: the plan of another run, from which this one has what both read.

    Raises:
        UserError: the run exists, its speech or checkpoint cannot be used, or the adapter that is
            asked for cannot be trained on it.
    """
    config, folder = with_absolute_paths(config), RunFolder(path)
    inputs = earlier.inputs if earlier else None
    processes.from_main(lambda: require_free(path))
    problems, start = Problems(), None
    with problems.noted():
        config = with_recorded_precision(config, folder)
        start = processes.from_main(lambda: _start(config, folder))
    if start is None:  # beside it, what else was typed in vain, but for what takes long to read
        with problems.noted():
            require_possible(config.adapter, load_shape(config.model))
        problems.raise_any()
    assert start is not None, "else there was a problem"
    if start == "complete":
        return RunPlan(config, folder, start, inputs)
    with problems.noted():
        require_packages(config.tracking.trackers)
    with problems.noted():
        _require_token_to_learn(config)
    with problems.noted():
        _check_arithmetic(config)
    saved = None
    with problems.noted():
        saved = saved_start(config, path) if start == "new" else None
    with problems.noted():
        inputs = _readable_inputs(config, inputs)
        with problems.noted():
            _check_speech(config, inputs)
        with problems.noted():
            _check_adapter(config, inputs)
        if start == "resume":
            require_same_speech(config, folder, inputs.speech)
            require_same_words(config, folder)
        if saved is not None:
            require_start(config, saved, inputs)
    problems.raise_any()
    if start == "new":
        assert inputs is not None, "else there was a problem"
        config = with_tried_precision(config, load_config(inputs.base.checkpoint).d_model)
    return RunPlan(config, folder, start, inputs)


def _start(config: TrainConfig, folder: RunFolder) -> Start:
    """What the run does with its folder, which is the main process's to look at."""
    can_be_longer = free_to_change(config) >= LENGTH
    start = rerun_rule(folder, config.overwrite, config.resume is not None, can_be_longer)
    if start in ("resume", "complete"):
        require_same(folder, config)
    if start == "complete" and has_other_length(folder, config):
        require_checkpoint(folder)
        return "resume"
    return start


def _require_token_to_learn(config: TrainConfig) -> None:
    """See that the language is named whose token is to be re-learnt."""
    if config.adapter.train_language_token and config.data.language_token is None:
        raise UserError(
            "adapter.train_language_token=true re-learns the token of data.language_token, but "
            "that is not given. Type data.language_token=CODE, the language whose token is "
            "borrowed, or adapter.train_language_token=false."
        )


def _check_arithmetic(config: TrainConfig) -> None:
    """See that this machine has it; only who asks for it has to wait for torch so early.

    Raises:
        UserError: fp16 without a GPU, or FlashAttention where it does not run.
    """
    if config.training.precision == "fp16":
        from lora_whisper.model.device import choose_precision

        choose_precision(config.training.precision)
    if config.model.attention != "flash":
        return
    import torch

    from lora_whisper.model.device import choose_attention, choose_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(config.model.dtype, config.training.precision)
    choose_attention(config.model.attention, dtype, device)


def _readable_inputs(config: TrainConfig, earlier: Inputs | None) -> Inputs:
    """The base and the speech; of a stream, which is not read yet, that it can be."""
    if config.data.streaming:
        from lora_whisper.data.streaming import check_stream

        check_stream(config.data, config.training)
    return read_inputs(config.model, config.data, earlier)


def _check_speech(config: TrainConfig, inputs: Inputs) -> None:
    """See that it can be augmented, and that what is asked of the scores can be had."""
    speech, evaluation = inputs.speech, config.evaluation
    new_augmenter(config.augmentation, inputs.base)
    _require_a_window(config.training, inputs.base.window_seconds)
    word_prompts(config.data, inputs.base, speech)
    _require_borrowers(config.data, speech)
    if speech.validation is None:
        _refuse_validating(config.training)
    if speech.test is not None:  # hours before they are scored
        group_labels(speech.test.utterances, evaluation.group_by)
        if evaluation.words is not None:
            read_words(local_path(evaluation.words), "evaluation.words")


def _check_adapter(config: TrainConfig, inputs: Inputs) -> None:
    """See that the checkpoint can get the adapter, and that the run is long enough for it."""
    require_possible(config.adapter, load_config(inputs.base.checkpoint))
    if config.data.language_token is not None:  # else that is what is wrong
        trained_tokens(config, inputs.base)
    if config.adapter.kind == "adalora":
        settings, in_epoch = config.training, None  # counted where its length depends on it
        if settings.max_steps is None or settings.max_epochs is not None:
            in_epoch = training_windows(config, inputs.base, inputs.speech).steps_per_epoch
        final_steps(total_steps(in_epoch, settings.max_epochs, settings.max_steps))


def _require_a_window(training: TrainingConfig, window_seconds: float) -> None:
    """See that a step's seconds have room for one that is whole, as some always are."""
    seconds = training.global_batch_seconds
    if seconds is not None and seconds < window_seconds:
        raise UserError(
            f"training.global_batch_seconds={seconds:g} is less than one window of "
            f"{window_seconds:g} s. Type {window_seconds:g} or more; "
            f"training.global_batch={GLOBAL_BATCH} is {GLOBAL_BATCH * window_seconds:g}."
        )


def _refuse_validating(settings: TrainingConfig) -> None:
    """See that nothing was asked for that needs the validation set which the run has not."""
    without = {}  # what was asked for, and what to type to have it not
    if settings.averaged is not None and settings.averaged.of == "best":
        count = settings.averaged.count
        without[f"training.averaging={settings.averaging}"] = f"training.averaging=last-{count}"
    if settings.patience is not None:
        without["training.patience"] = "training.patience=null"
    if without:
        raise UserError(
            f"{' and '.join(without)}: the run has no data.validation, by whose WER adapters are "
            f"compared.\nType data.validation=…, or {' '.join(without.values())}."
        )


def _require_borrowers(data: DataConfig, speech: DatasetSplits) -> None:
    """See that there is speech in the language that borrows a token; rows may name another."""
    if data.language_token is None or speech.train is None:
        return
    spoken = speech.train.utterances.column("language").unique().to_pylist()
    if data.language not in spoken:
        raise UserError(
            f"data.language_token={data.language_token} is for speech in data.language="
            f"{data.language}, but no row of data.train is in {data.language}, but in "
            f"{', '.join(map(str, spoken))}: a row's own language goes first.\n"
            "Type data.language=… as the rows call it, or take the language out of the rows."
        )


def run(plan: RunPlan) -> None:
    """Carry out the run, or go on with it, or say that it is complete."""
    config, folder = plan.config, plan.folder
    with processes.entered_by_main(locked(folder.path)):
        start = processes.from_main(lambda: _start(config, folder))  # now that nobody else is there
        if start == "complete":
            log.info("%s is complete; overwrite=true trains it anew", folder.path)
            processes.from_main(lambda: _say_what_changed(plan))
        else:
            from lora_whisper.training.run import Run

            with (
                ended_by_signals("the same command with resume=auto goes on from here"),
                failures_explained(folder, config),
            ):
                inputs = read_inputs(config.model, config.data, plan.inputs)
                training = Run(config, folder, inputs)  # loads it all: failing here costs nothing
                processes.from_main(lambda: begin_run(config, folder, start))
                with terminal.log_to_file(folder.log):
                    training.carry_out()
    if processes.is_main():
        show_summary(folder)


def _say_what_changed(plan: RunPlan) -> None:
    """Say of a complete run in what its speech is not what it was; where it is gone, that it is."""
    config, folder = plan.config, plan.folder
    try:
        speech = read_inputs(config.model, config.data, plan.inputs).speech
        changed = dict(changes(folder.rows, rows_of(speech.parts)))
    except UserError as error:
        log.warning(
            "not compared with the speech that is there now: %s", str(error).splitlines()[0]
        )
        return
    if speech.test is not None and is_scored_on(config, folder, speech.test):
        changed.pop("test", None)
    say_changed_since(folder.path, changed, speech.parts)


def is_scored_on(config: TrainConfig, folder: RunFolder, test: Corpus) -> bool:
    """Whether the adapter's score is of the test set as it is now, up to date by `evaluate`."""
    score = read_as_written(folder).adapter
    now = speech_hashes(sample(test.utterances, config.evaluation.max_utterances, config.seed))
    of = score.of if score else None  # which older scores lack
    return of is not None and (of.rows, of.texts) == (now.rows, now.texts)


def report_sweep(folders: list[Path]) -> None:
    show_sweep(folders)


COMMAND = Command(
    "train",
    TrainConfig,
    prepare,
    run,
    report_sweep,
    is_finished=lambda plan: plan.start == "complete",
    is_shared=True,
    shares_inputs=True,
)
