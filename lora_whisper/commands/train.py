"""`lora-whisper train`: score the base, train the adapter, score it, and sum up.

    lora-whisper train model=small name=mine data.language=sw \\
        data.train=train.jsonl data.validation=validation.jsonl data.test=test.jsonl
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper import terminal
from lora_whisper.commands._hydra import Command, run_command
from lora_whisper.commands._inputs import (
    Base,
    Speech,
    read_base,
    read_speech,
    require_same,
    with_absolute_paths,
    write_config,
)
from lora_whisper.commands._scoring import (
    decode,
    earlier_score,
    load_whisper,
    report_bad_audio,
    score_model,
    whisper_inside,
)
from lora_whisper.commands._windows import (
    TrainingWindows,
    new_augmenter,
    shares,
    training_windows,
    validation_windows,
)
from lora_whisper.config import DataConfig, TrainConfig
from lora_whisper.data.corpus import sample
from lora_whisper.errors import UserError, listing
from lora_whisper.run_folder import RunFolder, locked, rerun_rule, write_json

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel

    from lora_whisper.data.batches import Batch
    from lora_whisper.data.table import Utterances
    from lora_whisper.training.checkpoints import TrainingState
    from lora_whisper.training.loop import Trainer
    from lora_whisper.training.recorder import Recorder

log = logging.getLogger("lora_whisper")

Scored = dict[str, Any] | None  # what score.json holds; None without a test set


def check(config: TrainConfig, path: Path) -> None:
    """Find everything that would stop the run, before anything is written.

    Raises:
        UserError: the run exists, or its speech or checkpoint cannot be used.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("A run uses one process. Type lora-whisper train without a launcher.")
    _require_language_token(config)
    config, folder = with_absolute_paths(config), RunFolder(path)
    start = rerun_rule(folder, config.overwrite, config.resume == "auto")
    if start in ("resume", "complete"):
        require_same(folder, config)
    if start != "complete":
        _check_speech(config)


def _require_language_token(config: TrainConfig) -> None:
    if config.adapter.train_language_token and config.data.language_token is None:
        raise UserError(
            "adapter.train_language_token=true re-learns the token of data.language_token, but "
            "that is not given. Type data.language_token=CODE, the language whose token is "
            "borrowed, or adapter.train_language_token=false."
        )


def _check_speech(config: TrainConfig) -> None:
    if config.data.streaming:
        from lora_whisper.data.stream import check_stream

        check_stream(config.data, config.training)
    speech = read_speech(config.model, config.data)
    new_augmenter(config.augmentation, read_base(config.model))
    _require_borrowers(config.data, speech)
    if speech.test is not None:
        from lora_whisper.evaluation.evaluate import group_labels

        group_labels(speech.test.utterances, config.evaluation.group_by)


def _require_borrowers(data: DataConfig, speech: Speech) -> None:
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


def run(config: TrainConfig, path: Path) -> None:
    """Carry out one run in the folder `path`, or go on with it, or say that it is complete."""
    from lora_whisper.commands._summary import show_summary

    config, folder = with_absolute_paths(config), RunFolder(path)
    with locked(path):
        start = rerun_rule(folder, config.overwrite, config.resume == "auto")
        if start == "complete":
            log.info("%s is complete; overwrite=true trains it anew", path)
        else:
            with out_of_memory_explained(config):
                one = _Run(config, folder)  # loads everything: what fails here costs nothing
                if start == "new":
                    begin(config, folder)
                with terminal.log_to_file(folder.log):
                    one.carry_out()
    show_summary(folder)


def begin(config: TrainConfig, folder: RunFolder) -> None:
    """Make the run's folder, in place of the run that `overwrite=true` gave up."""
    if folder.is_run():
        folder.remove()
    write_config(folder, config)


class _Run:
    """One run, from wherever its folder stands to the summary."""

    def __init__(self, config: TrainConfig, folder: RunFolder):
        from lora_whisper.training.accelerator import new_accelerator

        self.config, self.folder = config, folder
        self.base: Base = read_base(config.model)
        self.speech: Speech = read_speech(config.model, config.data)
        self.accelerator: Accelerator = new_accelerator(config.training.precision)
        self.base.features.to(self.accelerator.device)
        self.model: PeftModel = self._load_model()
        self.windows: TrainingWindows = training_windows(
            config, self.base, self.speech, self._micro_batch()
        )

    def carry_out(self) -> None:
        from lora_whisper.training.loop import main_loop

        self._announce()
        base_score = self._score_base()
        trainer = self._trainer()
        recorder = self._recorder(trainer)
        state = recorder.resume()
        with terminal.work("training", trainer.total_steps, state.step) as recorder.work:
            self.model.train()
            batches = self._usable(self.windows.load(state.step, trainer.total_steps))
            main_loop(trainer, batches, state, recorder.log, recorder.validate, recorder.checkpoint)
        recorder.warn_of_slow_validation(state)
        self._keep_adapter(trainer, state)
        self._finish(state, base_score, self._score_adapter())

    def _load_model(self) -> PeftModel:
        from lora_whisper.model.adapter import attach
        from lora_whisper.training.defaults import checkpointing_for_width

        config = self.config
        whisper = load_whisper(config, self.base, self.accelerator.device)
        checkpointing = config.training.gradient_checkpointing
        if checkpointing is None:
            checkpointing = checkpointing_for_width(whisper.config.d_model)
        return attach(
            whisper,
            config.adapter,
            config.quantization.kind,
            checkpointing,
            config.seed,
            self._trained_tokens(),
        )

    def _trained_tokens(self) -> tuple[int, ...]:
        """The token that `data.language` borrows, where the adapter is to re-learn it."""
        from lora_whisper.data.vocabulary import language_code

        if not self.config.adapter.train_language_token:
            return ()
        code = language_code(self.base.vocabulary, self.config.data.language_token)
        if code is None:
            raise UserError("adapter.train_language_token=true: .en checkpoints have no such token")
        return (self.base.vocabulary.languages[code],)

    def _announce(self) -> None:
        """Say what is about to be trained on what."""
        from lora_whisper.model.adapter import parameter_counts

        trainable, total = parameter_counts(self.model)
        config, speech = self.config, self.speech
        log.info("run         %s", self.folder.path)
        log.info(
            "base        %s, %.1f M parameters, window %g s, quantization %s",
            self.base.checkpoint.name,
            (total - trainable) / 1e6,
            self.base.window_seconds,
            config.quantization.kind,
        )
        log.info(
            "adapter     %s, rank %d, alpha %g, %s parameters (%s)",
            config.adapter.kind,
            config.adapter.rank,
            config.adapter.alpha,
            f"{trainable:,}",
            terminal.percent(trainable / total),
        )
        if speech.train is None:
            log.info("train       streamed from %s, nothing of it is kept", config.data.path)
        for name, corpus in speech.parts.items():
            log.info("%-11s %d utterances, %.2f h", name, len(corpus.utterances), corpus.hours)
            for reason, rows in corpus.left_out.items():
                log.warning(
                    "%-11s left out %d: %s\n%s", name, len(rows), reason, listing(list(rows), 3)
                )
        self._announce_windows()

    def _announce_windows(self) -> None:
        """Say what an epoch is made of, where that is not one utterance a window as it stands."""
        from lora_whisper.data.text import cleaning_report
        from lora_whisper.data.vocabulary import written_language

        data, learnt = self.config.data, self.speech.learnt
        asked = shares(data)
        if data.windows == "packed" or data.mix:
            log.info("windows     %s, %s an epoch", data.windows, self.windows.per_epoch)
        if any(vars(asked).values()):
            log.info("shares      %s", asked)
        if data.clean:
            texts = (
                (one.text, written_language(self.base.vocabulary, one))
                for corpus in learnt
                for one in corpus.utterances
            )
            log.info("texts       %s", cleaning_report(texts, data.clean))
        steps = [name for name, step in vars(self.config.augmentation).items() if step is not None]
        if steps:
            log.info("augmented   by %s", ", ".join(steps))

    # ── training ─────────────────────────────────────────────────────────────────────────────

    def _trainer(self) -> Trainer:
        import torch

        from lora_whisper.model.adapter import adapter_parameters, is_token_embedding
        from lora_whisper.training.defaults import learning_rate_for_width, total_steps
        from lora_whisper.training.loop import Trainer

        config, whisper = self.config, whisper_inside(self.model)
        parameters = adapter_parameters(self.model)
        peak = config.optimizer.learning_rate or learning_rate_for_width(whisper.config.d_model)
        tokens = [value for name, value in parameters.items() if is_token_embedding(name)]
        matrices = [value for name, value in parameters.items() if not is_token_embedding(name)]
        groups: list[dict[str, Any]] = [{"params": matrices}]
        if tokens:  # they replace rows of the base, and are not to decay towards zero
            groups.append({"params": tokens, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(
            groups, peak, weight_decay=config.optimizer.weight_decay, fused=True
        )
        return Trainer(
            accelerator=self.accelerator,
            whisper=whisper,
            parameters=parameters,
            optimizer=self.accelerator.prepare(optimizer),
            features=self.base.features,
            total_steps=total_steps(self.windows.per_epoch, config.training),
            peak_learning_rate=peak,
            schedule=config.optimizer,
            settings=config.training,
            seed=config.seed,
        )

    def _recorder(self, trainer: Trainer) -> Recorder:
        from lora_whisper.training.recorder import Recorder

        validation = self._validation_sample()
        micro_batch = self._micro_batch()
        return Recorder(
            folder=self.folder,
            trainer=trainer,
            steps_per_epoch=self.windows.steps_per_epoch,
            validation=(
                validation_windows(self.config, self.base, validation, micro_batch)
                if validation
                else None
            ),
            decode_validation=(lambda: self._validation_wer(validation)) if validation else None,
        )

    def _micro_batch(self) -> int:
        from lora_whisper.training.defaults import micro_batch_for_width

        width = whisper_inside(self.model).config.d_model
        return self.config.training.micro_batch or micro_batch_for_width(width)

    def _usable(self, batches: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """Pass batches on, after naming what turned out to be unusable in them."""
        from lora_whisper.data.windows import LeftOut

        for micro_batches in batches:
            missing = [one for batch in micro_batches for one in batch.bad]
            for one in missing:
                if isinstance(one, LeftOut):
                    log.warning("left out    %s: %s", one.row, one.reason)
            bad = [f"{one.row}: {one.reason}" for one in missing if not isinstance(one, LeftOut)]
            report_bad_audio(bad, self.config)
            yield micro_batches

    def _validation_sample(self) -> Utterances | None:
        """The same utterances for the whole run, so that its steps can be compared."""
        if self.speech.validation is None:
            return None
        settings = self.config.evaluation
        return sample(
            self.speech.validation.utterances, settings.max_validation_utterances, self.config.seed
        )

    def _validation_wer(self, utterances: Utterances) -> float:
        from lora_whisper.model.adapter import merged_in_place

        # Groups are for the test set, whose columns the validation set need not have.
        settings = dataclasses.replace(self.config.evaluation, group_by=None)
        config = dataclasses.replace(self.config, evaluation=settings)
        with merged_in_place(self.model):
            whisper = whisper_inside(self.model)
            score, _ = decode("validating", whisper, utterances, self.base, config)
        return score.wer

    def _keep_adapter(self, trainer: Trainer, state: TrainingState) -> None:
        """Save the best adapter by validation WER, or the last one where nothing was validated."""
        from lora_whisper.model.adapter import save_adapter
        from lora_whisper.training.checkpoints import load_parameters

        if state.best is not None:
            load_parameters(self.folder.checkpoints / "best", trainer.parameters)
        save_adapter(self.model, self.folder.adapter, self.base.checkpoint)

    # ── scoring ──────────────────────────────────────────────────────────────────────────────

    def _score_base(self) -> Scored:
        """Score the base before training; a resumed run keeps the score that it has."""
        earlier = earlier_score(self.folder.evaluation / "base" / "test")
        if earlier is not None:
            return earlier
        with self.model.disable_adapter():
            return self._score("base")

    def _score_adapter(self) -> Scored:
        from lora_whisper.model.adapter import merged_in_place

        with merged_in_place(self.model):
            return self._score("adapter")

    def _score(self, name: str) -> Scored:
        if self.speech.test is None:
            return None
        self.model.eval()
        return score_model(
            name,
            whisper_inside(self.model),
            self.speech.test.utterances,
            self.base,
            self.config,
            self.folder.evaluation / name / "test",
        )

    def _finish(self, state: TrainingState, base_score: Scored, adapter_score: Scored) -> None:
        """Write the adapter's card and summary.json, which makes the run complete."""
        from lora_whisper.commands._card import adapter_card
        from lora_whisper.commands._summary import new_summary

        summary = new_summary(
            self.config, self.folder, self.base, self.speech, self.model, state
        ) | {"base": base_score, "adapter": adapter_score}
        card = adapter_card(self.config, summary, self.base.checkpoint.path)
        (self.folder.adapter / "README.md").write_text(card, encoding="utf-8")
        write_json(self.folder.summary, summary)


@contextmanager
def out_of_memory_explained(config: TrainConfig) -> Iterator[None]:
    """Say what to type when the GPU's memory does not suffice."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        training = max(1, (config.training.micro_batch or 4) // 2)
        scoring = max(1, (config.evaluation.batch_size or 4) // 2)
        raise UserError(
            f"The GPU's memory does not suffice: {str(error).splitlines()[0]}\n"
            "Type the same command with resume=auto and, if it happened\n"
            f"  in training: training.micro_batch={training} "
            "training.gradient_checkpointing=true\n"
            f"  in scoring: evaluation.batch_size={scoring}\n"
            "Or begin anew with overwrite=true quantization=nf4."
        ) from error


def report_sweep(folders: list[Path]) -> None:
    from lora_whisper.commands._summary import show_sweep

    show_sweep(folders)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(COMMAND, arguments)


COMMAND = Command("train", TrainConfig, check, run, report_sweep)

if __name__ == "__main__":
    sys.exit(main())
