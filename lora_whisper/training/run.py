"""One training run, from wherever its folder stands to the summary."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper import processes
from lora_whisper.config import TrainConfig
from lora_whisper.data.loader import (
    TrainingWindows,
    training_windows,
    validation_windows,
)
from lora_whisper.data.speech import Inputs, Speech
from lora_whisper.errors import UserError
from lora_whisper.evaluation.loading import load_whisper, whisper_inside
from lora_whisper.evaluation.models import trained
from lora_whisper.evaluation.scoring import (
    earlier_score,
    is_decoded,
    score_model,
    validation_sample,
    validation_wer,
)
from lora_whisper.lora.validation import require_eva
from lora_whisper.model.base import Base
from lora_whisper.run_config import config_hash, write_config
from lora_whisper.run_folder import (
    OWN_SET,
    RunFolder,
    Start,
    remove_folder,
    step_of,
    written_whole,
)
from lora_whisper.training.announce import (
    Left,
    announce,
    announce_estimate,
    course,
    estimate,
    memory_needed,
    memory_plan,
    scoring_pace,
    texts_of_windows,
)
from lora_whisper.training.audit import SoundAudit
from lora_whisper.training.resume import (
    changes,
    require_steps_left,
    require_unchanged,
    rows_of,
    say_changed,
    write_rows,
)
from lora_whisper.training.tracking import track_scores, tracked_run

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel
    from torch import Tensor
    from transformers import WhisperForConditionalGeneration

    from lora_whisper.data.batches import Batch
    from lora_whisper.data.contents import Change
    from lora_whisper.lora.initialization import WatchedWindow
    from lora_whisper.training.averaging import Average
    from lora_whisper.training.checkpoints import Best, Checkpoints, TrainingState
    from lora_whisper.training.loop import Trainer
    from lora_whisper.training.recorder import Recorder


log = logging.getLogger("lora_whisper")

Scored = dict[str, Any] | None  # what score.json holds; None without a test set


class Run:
    """Loads everything when it is made, so that what fails then costs nothing."""

    def __init__(self, config: TrainConfig, folder: RunFolder, inputs: Inputs):
        from lora_whisper.model.device import new_accelerator
        from lora_whisper.training.defaults import total_steps

        self.config, self.folder = config, folder
        self.base: Base = inputs.base
        self.speech: Speech = inputs.speech
        self.accelerator: Accelerator = new_accelerator(config.training.precision)
        self.base.features.to(self.accelerator.device)
        self.rows = rows_of(self.speech.parts)
        self.changed: Mapping[str, Change] = self._changed()
        self.windows: TrainingWindows = training_windows(config, self.base, self.speech)
        self.total_steps = total_steps(self.windows.per_epoch, config.training)
        self.checkpoints: Checkpoints = self._checkpoints()
        self.resumed_step: int | None = self._resumed_step()
        if self.resumed_step is not None:
            require_steps_left(folder, self.resumed_step, self.total_steps)
        self.model: PeftModel = self._load_model()

    def carry_out(self) -> None:
        """Score the base, train, keep the best adapter, score it, and sum up."""
        processes.from_main(self._keep_rows)
        announce(self.config, self.folder, self.base, self.speech, self.model)
        self.trainer: Trainer = self._trainer()
        self.earlier_base_score: Scored = self._earlier_base_score()
        self._plan_ahead()
        with tracked_run(self.config, self.folder) as self.trackers:
            base_score = self._score_base()
            state = self._train(self.trainer)
            average = self._keep_best()
            counts = self._drop_model()
            averaging = self._judge(average, state.best) if average else None
            adapter_score = self._score_adapter()
            scores = {"base": base_score, "adapter": adapter_score}
            track_scores(self.trackers, state.step, scores)
        if processes.is_main():
            self._finish(state, counts, averaging, base_score, adapter_score)

    # ── the parts ────────────────────────────────────────────────────────────────────────────

    def _changed(self) -> Mapping[str, Change]:
        """What of the speech is not as the run began with it.

        Raises:
            UserError: something is not, and nobody asked to go on all the same.
        """
        if self.config.resume is None:
            return {}
        changed = self._changes()
        if self.config.resume == "auto":
            require_unchanged(self.folder.path, changed, self.speech.parts)
        return changed

    def _changes(self) -> Mapping[str, Change]:
        return changes(self.folder.rows, self.rows)

    def _keep_rows(self) -> None:
        """Write what the run is of, and drop the scores that are of other speech.

        Where a validation set changed, that is written when the validations are dropped.
        """
        if self._goes_on() and self.config.data.streaming:
            log.warning("train       is streamed: whether it is what it was, nobody can see")
        if self._goes_on() and not self.folder.rows.is_file():
            log.warning("resume      the run has no hashes of its speech, which is not compared")
        say_changed(self.changed, self.speech.parts)
        if "test" in self.changed:
            for model in ("base", "adapter"):
                path = self.folder.evaluation / model / OWN_SET
                if path.exists():
                    remove_folder(path)
        if "validation" not in self.changed:
            write_rows(self.folder.rows, self.rows)

    def _load_base(self) -> WhisperForConditionalGeneration:
        config = self.config
        return load_whisper(
            self.base,
            config.model,
            config.quantization,
            config.training.precision,
            self.accelerator.device,
        )

    def _load_model(self) -> PeftModel:
        from lora_whisper.lora.adapter import attach
        from lora_whisper.lora.initialization import read_initial, start_from
        from lora_whisper.lora.validation import find_start
        from lora_whisper.training.defaults import checkpoints_activations

        config = self.config
        whisper = self._load_base()
        checkpointing = checkpoints_activations(config.training, whisper.config.d_model)
        tokens = trained_tokens(config, self.base)
        model = attach(
            whisper,
            config.adapter,
            config.quantization.kind,
            checkpointing,
            config.seed,
            tokens,
            self.total_steps,
            None if self._goes_on() else lambda: watched_windows(config, self.base, self.windows),
            read_initial(self._initial) if config.resume else None,
        )
        if config.adapter.init_from is not None and not self._goes_on():
            start = find_start(config.adapter.init_from, config.model.allow_pickle)
            start_from(model, start, tokens)
        return model

    def _goes_on(self) -> bool:
        """Whether the adapter's matrices come from a checkpoint."""
        return self.resumed_step is not None

    def _resumed_step(self) -> int | None:
        """The step of the checkpoint to go on from, if any; `overwrite` leaves old ones be.

        Raises:
            UserError: there are checkpoints, and none of them will do.
        """
        if self.config.resume is None:
            return None
        without_best = self.config.resume == "anyway"
        path = processes.from_main(lambda: self.checkpoints.find(without_best)).path
        return None if path is None else step_of(path)

    @property
    def _initial(self) -> Path:
        from lora_whisper.lora.initialization import INITIAL_FILE

        return self.folder.checkpoints / INITIAL_FILE

    def _trainer(self) -> Trainer:
        from lora_whisper.lora.adalora import rank_schedule_of
        from lora_whisper.lora.adapter import adapter_parameters
        from lora_whisper.model.device import take_from_main
        from lora_whisper.training.defaults import learning_rate_for_width
        from lora_whisper.training.loop import Trainer
        from lora_whisper.training.optim import new_optimizer

        config, whisper = self.config, whisper_inside(self.model)
        parameters = adapter_parameters(self.model)
        take_from_main(parameters.values())
        peak = config.optimizer.learning_rate or learning_rate_for_width(whisper.config.d_model)
        return Trainer(
            accelerator=self.accelerator,
            whisper=whisper,
            parameters=parameters,
            optimizer=self.accelerator.prepare(new_optimizer(parameters, config.optimizer, peak)),
            features=self.base.features,
            total_steps=self.total_steps,
            peak_learning_rate=peak,
            schedule=config.optimizer,
            settings=config.training,
            seed=config.seed,
            rank_schedule=rank_schedule_of(self.model),
        )

    def _recorder(self, trainer: Trainer, micro_batch: int) -> Recorder:
        from lora_whisper.training.recorder import Recorder

        validation = validation_sample(self.config, self.speech)
        return Recorder(
            folder=self.folder,
            trainer=trainer,
            checkpoints=self.checkpoints,
            steps_per_epoch=self.windows.steps_per_epoch,
            validation=(
                validation_windows(self.config, self.base, validation, micro_batch)
                if validation
                else None
            ),
            decode_validation=(
                (lambda: validation_wer(self.model, validation, self.base, self.config))
                if validation
                else None
            ),
            trackers=self.trackers,
        )

    def _checkpoints(self) -> Checkpoints:
        from lora_whisper.training.checkpoints import Checkpoints

        settings = self.config.training
        averaged = {settings.averaging.of: settings.averaging.count} if settings.averaging else {}
        return Checkpoints(
            self.folder.checkpoints,
            every_steps=settings.checkpoint_every_steps,
            keep_last=max(settings.keep_checkpoints, averaged.get("last", 1)),
            keep_best=averaged.get("best", 1),
            config_hash=config_hash(self.config),
            is_writer=processes.is_main(),
        )

    def _plan_ahead(self) -> None:
        """Choose the micro-batch; say what null and auto have become, and what the run will take.

        Before anything that takes long: scoring the base of a large test set can take hours.
        """
        from lora_whisper.training.defaults import TINY_WIDTH, checkpoints_activations
        from lora_whisper.training.planning import choose_micro_batch, seconds_per_window

        config, whisper, device = self.config, whisper_inside(self.model), self.accelerator.device
        checkpointing = checkpoints_activations(config.training, whisper.config.d_model)
        texts = texts_of_windows(config, self.base, self.speech, self.windows)
        plan = cache(lambda: memory_plan(config, whisper, device, checkpointing, texts.longest))
        self.model.train()
        self.micro_batch: int = choose_micro_batch(self.trainer, plan)
        width = whisper.config.d_model
        speech = self._told_speech()
        for line in course(config, self.windows, width, self.micro_batch, speech):
            log.info("%s", line)
        window_seconds = seconds_per_window(self.trainer, self.micro_batch, round(texts.mean))
        with self.model.disable_adapter():
            pace = scoring_pace(config, self.base, speech, whisper)
        left = Left(
            steps=range(self.resumed_step or 0, self.total_steps),
            base=self.earlier_base_score is None and not self._base_is_decoded(),
        )
        found = estimate(config, self.base, speech, self.windows, left, window_seconds, pace)
        takes_memory = width >= TINY_WIDTH  # the quickstart need not wait for the plan
        announce_estimate(
            found,
            left,
            (lambda: memory_needed(plan(), config, whisper, self.micro_batch))
            if takes_memory
            else None,
        )

    # ── training ─────────────────────────────────────────────────────────────────────────────

    def _train(self, trainer: Trainer) -> TrainingState:
        from lora_whisper.training.audit import checked_start
        from lora_whisper.training.display import training_display
        from lora_whisper.training.loop import main_loop

        self.model.train()
        remarked = {kind for corpus in self.speech.parts.values() for kind in corpus.remarks}
        sound = SoundAudit(self.config.data, remarked)
        recorder = self._recorder(trainer, self.micro_batch)
        self._keep_start(trainer)
        state = recorder.resume(
            without_best=self.config.resume == "anyway",
            anew="validation" in self.changed,
        )
        processes.from_main(lambda: write_rows(self.folder.rows, self.rows))
        with (
            self.checkpoints,
            training_display(self.total_steps, state.step) as recorder.display,
        ):
            batches = self.windows.load(state.step, self.total_steps, self.micro_batch)
            tokenizer, vocabulary = self.base.processor.tokenizer, self.base.vocabulary
            main_loop(
                trainer,
                checked_start(sound.watched(batches), tokenizer, vocabulary),
                state,
                sound.named_before(recorder.log),
                recorder.validate,
                recorder.checkpoint,
            )
        recorder.warn_of_slow_validation(state)
        return state

    def _keep_start(self, trainer: Trainer) -> None:
        """Write PiSSA's start once: the base's weights lack it, and what ships is the change."""
        from lora_whisper.lora.initialization import write_initial

        if self.config.adapter.kind == "pissa" and processes.is_main():
            write_initial(self._initial, trainer.parameters)

    # ── what ships ───────────────────────────────────────────────────────────────────────────

    def _keep_best(self) -> Average | None:
        """Write the best adapter by validation WER, or the last if nothing was validated.

        Returns:
            the mean of several, where that was asked for; it lies beside
        """
        from lora_whisper.lora.initialization import read_initial
        from lora_whisper.training.averaging import write_average
        from lora_whisper.training.checkpoints import load_parameters

        trainer = self.trainer
        for _, path in processes.from_main(self.checkpoints.bests)[:1]:
            load_parameters(path, trainer.parameters)
        initial = read_initial(self._initial)
        assert initial or self.config.adapter.kind != "pissa", "it was written when training began"
        processes.from_main(lambda: self._save_adapter(initial))
        return processes.from_main(
            lambda: write_average(
                self.folder,
                self.checkpoints,
                self.config.training.averaging,
                self.base.checkpoint,
                self.model,
                trainer.parameters,
                initial,
            )
        )

    def _save_adapter(self, initial: Mapping[str, Tensor] | None) -> None:
        from lora_whisper.lora.adapter import save_adapter

        with written_whole(self.folder.adapter) as aside:
            save_adapter(self.model, aside, self.base.checkpoint, initial)

    def _drop_model(self) -> tuple[int, int]:
        """Free the memory for the model that is loaded with what ships.

        Returns:
            how many of the model's parameters were trained, and how many it has
        """
        from lora_whisper.lora.adapter import parameter_counts

        counts = parameter_counts(self.model)
        del self.model, self.trainer
        self.accelerator.free_memory()
        return counts

    def _load_adapter(self, folder: Path) -> PeftModel:
        """The adapter as it lies on the disk, on a fresh base: what is scored is what ships."""
        from lora_whisper.lora.adapter import load_adapter

        return load_adapter(self._load_base(), folder)

    def _judge(self, average: Average, best: Best | None) -> dict[str, Any]:
        """Let the mean ship unless a single adapter has a lower WER; say what became of it."""
        from lora_whisper.training.averaging import announce_average, average_folder, put_in_place

        validation, wer = validation_sample(self.config, self.speech), None
        if validation is not None and best is not None:
            mean = self._load_adapter(average_folder(self.folder))
            wer = validation_wer(mean, validation, self.base, self.config)
        ships = wer is None or best is None or wer <= best.wer
        processes.from_main(lambda: put_in_place(self.folder, ships))
        single = best.wer if best else None
        verdict = {"validation_wer": wer, "validation_wer_of_best": single, "ships": ships}
        announce_average(dataclasses.asdict(average) | verdict)
        return dataclasses.asdict(average) | verdict

    # ── scoring ──────────────────────────────────────────────────────────────────────────────

    def _score_base(self) -> Scored:
        """Score the base before training; a resumed run keeps the score that it has."""
        if self.speech.test is None:
            return None
        if self.earlier_base_score is not None:
            return self.earlier_base_score
        if self.config.adapter.kind == "pissa":  # without its adapter, the base is not whole
            return self._score("base", self._load_base(), None)
        with self.model.disable_adapter():
            return self._score("base", whisper_inside(self.model), None)

    def _told_speech(self) -> Speech:
        """What is trained on, validated and scored: of a trial, not the test set."""
        return self.speech

    def _earlier_base_score(self) -> Scored:
        test = self._told_speech().test
        if test is None:
            return None
        return earlier_score(
            trained(self.config, "base", None),
            test.utterances,
            self.base,
            self.config,
            self.folder.evaluation / "base" / OWN_SET,
        )

    def _base_is_decoded(self) -> bool:
        test = self._told_speech().test
        return test is not None and is_decoded(
            trained(self.config, "base", None),
            self.accelerator.device,
            test.utterances,
            self.config,
        )

    def _score_adapter(self) -> Scored:
        from lora_whisper.lora.adapter import merged_in_place

        if self.speech.test is None:
            return None
        model = self._load_adapter(self.folder.adapter)
        with merged_in_place(model):
            return self._score("adapter", whisper_inside(model), self.folder.adapter)

    def _score(
        self, name: str, whisper: WhisperForConditionalGeneration, adapter: Path | None
    ) -> Scored:
        if self.speech.test is None:
            return None
        return score_model(
            trained(self.config, name, adapter),
            whisper.eval(),
            self.speech.test.utterances,
            self.base,
            self.config,
            self.folder.evaluation / name / OWN_SET,
        )

    def _finish(
        self,
        state: TrainingState,
        counts: tuple[int, int],
        averaging: dict[str, Any] | None,
        base_score: Scored,
        adapter_score: Scored,
    ) -> None:
        """Write the adapter's card, the report and summary.json, which makes the run complete."""
        from lora_whisper.reports.run import write_results
        from lora_whisper.training.summary import new_summary

        summary = new_summary(self.config, self.folder, self.base, self.speech, counts, state) | {
            "averaging": averaging,
            "base": base_score,
            "adapter": adapter_score,
        }
        write_results(self.folder, summary)


def trained_tokens(config: TrainConfig, base: Base) -> tuple[int, ...]:
    """The token that `data.language` borrows, where the adapter is to re-learn it.

    Raises:
        UserError: the checkpoint has no tokens of languages.
    """
    from lora_whisper.model.tokenizer import language_code

    if not config.adapter.train_language_token:
        return ()
    code = language_code(base.vocabulary, config.data.language_token)
    if code is None:
        raise UserError("adapter.train_language_token=true: .en checkpoints have no such token")
    return (base.vocabulary.languages[code],)


def begin(config: TrainConfig, folder: RunFolder, start: Start) -> None:
    """Make the run's folder, in place of the run that `overwrite=true` gave up, or open it again.

    A complete run that is made longer has no result from here on, until it is complete again.
    """
    if start == "resume":
        folder.reopen()
    elif folder.is_run():
        folder.remove()
    write_config(folder, config)


def watched_windows(
    config: TrainConfig, base: Base, windows: TrainingWindows
) -> Iterator[WatchedWindow]:
    """The first windows of the run, as it will be trained on them; in each process the same.

    Raises:
        UserError: it is not said how many.
    """
    wanted = require_eva(config.adapter)
    steps = math.ceil(wanted / config.training.global_batch)
    singles = (batch for step in windows.load_whole(0, steps, 1) for batch in step if batch.rows)
    for batch in islice(singles, wanted):
        yield _watched(batch, base)


def _watched(batch: Batch, base: Base) -> WatchedWindow:
    """A batch of one window, which is as long as its sound."""
    from lora_whisper.lora.initialization import WatchedWindow
    from lora_whisper.model.base import FRAMES_PER_POSITION
    from lora_whisper.model.features import frames_with_sound

    (features,) = batch.input_features(base.features).cpu()
    frames = min(frames_with_sound(batch.waveforms.shape[1]), features.shape[1])
    return WatchedWindow(features, batch.decoder_input[0], math.ceil(frames / FRAMES_PER_POSITION))
