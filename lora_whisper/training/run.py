"""One training run, from wherever its folder stands to the summary."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from peft import PeftModel
from transformers import WhisperForConditionalGeneration

from lora_whisper import processes
from lora_whisper.config import TrainConfig
from lora_whisper.data.batches import Batch
from lora_whisper.data.contents import Change
from lora_whisper.data.loader import training_windows, validation_windows
from lora_whisper.data.speech import Inputs
from lora_whisper.evaluation.decoding.encoded import EncodedOnce
from lora_whisper.evaluation.loading import load_whisper, whisper_inside
from lora_whisper.evaluation.models import trained
from lora_whisper.evaluation.results import CapabilityCard, Score
from lora_whisper.evaluation.run_summary import Averaging
from lora_whisper.evaluation.scoring import (
    card_of_run,
    earlier_score,
    is_decoded,
    score_model,
    validation_sample,
    validation_wer,
)
from lora_whisper.files import remove_folder, written_whole
from lora_whisper.lora.adalora import rank_schedule_of
from lora_whisper.lora.adapter import (
    adapter_parameters,
    attach,
    load_adapter,
    merged_in_place,
    parameter_counts,
    save_adapter,
)
from lora_whisper.lora.delta_weights import write_delta_weights
from lora_whisper.lora.initialization import (
    INITIAL_FILE,
    initialize_from,
    read_initial,
    write_initial,
)
from lora_whisper.lora.short_texts import use_short_texts
from lora_whisper.lora.validation import resolve_initial
from lora_whisper.model.cpu_kernels import use_fast_adapter
from lora_whisper.model.device import new_accelerator, take_from_main
from lora_whisper.reports.run import write_results
from lora_whisper.run_config import config_hash
from lora_whisper.run_folder import OWN_SET, RunFolder, step_of
from lora_whisper.training.announce import (
    Left,
    announce,
    course,
    estimate,
    estimate_lines,
    memory_needed,
    scoring_pace,
    setup_of,
    texts_of_windows,
    windows_decoded,
)
from lora_whisper.training.audit import SoundAudit, checked_start
from lora_whisper.training.averaging import (
    Average,
    announce_average,
    average,
    average_folder,
    put_in_place,
    to_average,
)
from lora_whisper.training.checkpoint_files import Best, TrainingState, load_parameters
from lora_whisper.training.checkpoints import Checkpoints
from lora_whisper.training.defaults import (
    TINY_WIDTH,
    checkpoints_activations,
    learning_rate_for_width,
    total_steps,
)
from lora_whisper.training.display import training_display
from lora_whisper.training.encoder_cache import encode_windows, frozen_layers, plan_encoder
from lora_whisper.training.init_from import trained_tokens, watched_windows
from lora_whisper.training.loop import Trainer, main_loop
from lora_whisper.training.memory_plan import plan_memory
from lora_whisper.training.micro_batch import choose_micro_batch, seconds_per_window
from lora_whisper.training.optim import new_optimizer
from lora_whisper.training.recorder import Recorder
from lora_whisper.training.resume import (
    changes,
    require_steps_left,
    require_unchanged,
    rows_of,
    say_changed,
    write_rows,
)
from lora_whisper.training.summary import new_summary
from lora_whisper.training.tracking import Trackers, run_to_track, track_scores, tracked

log = logging.getLogger("lora_whisper")
KEPT_CHECKPOINTS = 2  # of the last ones, where no more are averaged


class Run:
    """Loads everything when it is made, so that what fails then costs nothing."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        inputs: Inputs,
        on_validated: Callable[[TrainingState], None] | None = None,
        scores_test: bool = True,
    ):
        """
        Args:
            on_validated: called after each validation; what it raises ends the run.
            scores_test: whether base and adapter are scored on the test set. Not in a search: what
                is chosen by its scores on a test set has no score on it that means anything.
        """
        self.config, self.folder, self.base = config, folder, inputs.base
        self.speech, self.on_validated = inputs.speech, on_validated
        self.scored = self.speech if scores_test else dataclasses.replace(self.speech, test=None)
        self.accelerator = new_accelerator(config.training.precision)
        self.base.features.to(self.accelerator.device)
        self.rows = rows_of(self.speech.parts)
        self.changed = {} if config.resume is None else self._changed_speech(scores_test)
        self.windows = training_windows(config, self.base, self.speech)
        settings = config.training
        self.total_steps = total_steps(
            self.windows.steps_per_epoch, settings.max_epochs, settings.max_steps
        )
        self.checkpoints = self._new_checkpoints()
        self.resumed_step: int | None = None
        if config.resume is not None:  # `overwrite` leaves old checkpoints be
            without_best = config.resume == "anyway"
            checkpoint = processes.from_main(lambda: self.checkpoints.find(without_best)).path
            self.resumed_step = None if checkpoint is None else step_of(checkpoint)
        if self.resumed_step is not None:
            require_steps_left(folder, self.resumed_step, self.total_steps)
        self.model = self._load_model()

    @property
    def is_resuming(self) -> bool:
        """Whether the adapter's matrices come from a checkpoint."""
        return self.resumed_step is not None

    def carry_out(self) -> None:
        """Score the base, train, keep the best adapter, score it, and sum up."""
        config, folder = self.config, self.folder
        earlier_base_score = self._get_ready()
        names = config.tracking.trackers if processes.is_main() else ()
        with tracked(names, run_to_track(folder, config)) as trackers:
            started = time.perf_counter()
            base_score = earlier_base_score or self._score_base()
            scoring_seconds = time.perf_counter() - started
            recorder, state = self._recorder_and_state(trackers)
            encoder_cache = None
            if self.encoder is not None:
                self.windows, encoder_cache = encode_windows(
                    self.encoder, self.windows, self.trainer
                )
            remarked = {kind for corpus in self.speech.parts.values() for kind in corpus.remarks}
            sound = SoundAudit(config.data.bad_audio, remarked)
            with (
                self.checkpoints,
                training_display(self.total_steps, state.step) as recorder.display,
            ):
                main_loop(
                    self.trainer,
                    self._steps(state.step, sound),
                    state,
                    sound.named_before(recorder.log),
                    recorder.validate,
                    recorder.checkpoint,
                )
            recorder.warn_of_slow_validation(state)
            mean = self._keep_best()
            counts = parameter_counts(self.model)
            # Room for the model that is loaded with what ships.
            del self.model, self.trainer, recorder
            self.accelerator.free_memory()
            averaging = self._judge(mean, state.best) if mean else None
            started = time.perf_counter()
            adapter_score, card = self._score_adapter(base_score)
            scoring_seconds += time.perf_counter() - started
            scores = {"base": base_score, "adapter": adapter_score}
            track_scores(trackers, state.step, scores)
        if processes.is_main():  # card, report and summary.json, which makes the run complete
            summary = new_summary(config, folder, self.base, self.speech, counts, state)
            summary = dataclasses.replace(
                summary.with_scores(scores),
                averaging=averaging,
                encoder_cache=encoder_cache,
                card=card,
                scoring_seconds=round(scoring_seconds, 3) if adapter_score else None,
            )
            write_results(folder, summary)

    # ── the parts ────────────────────────────────────────────────────────────────────────────

    def _changed_speech(self, scores_test: bool) -> dict[str, Change]:
        """What of the speech that is used is not as the run began with it.

        Raises:
            UserError: some of it is not, and nobody asked to go on all the same.
        """
        changed = changes(self.folder.rows, self.rows)
        if not scores_test:
            changed.pop("test", None)
        if self.config.resume == "auto":
            require_unchanged(self.folder.path, changed, self.speech.parts)
        return changed

    def _new_checkpoints(self) -> Checkpoints:
        """Those of the run's folder, of which so many are kept as are averaged."""
        settings = self.config.training
        averaged = {settings.averaged.of: settings.averaged.count} if settings.averaged else {}
        return Checkpoints(
            self.folder.checkpoints,
            every_steps=settings.checkpoint_every_steps,
            keep_last=max(KEPT_CHECKPOINTS, averaged.get("last", 1)),
            keep_best=averaged.get("best", 1),
            config_hash=config_hash(self.config),
            is_writer=processes.is_main(),
        )

    def _get_ready(self) -> Score | None:
        """Say what the run is and will take; return the base's score, where there is one."""
        processes.from_main(self._keep_rows)
        announce(self.config, self.folder, self.base, self.speech, self.model)
        self.trainer = self._new_trainer()
        self.encoder = plan_encoder(self.config, self.base, self.windows, self.trainer)
        base_score = self._earlier_base_score()
        self._plan_ahead(scores_base=self.scored.test is not None and base_score is None)
        return base_score

    def _keep_rows(self) -> None:
        """Write what the run is of, and drop the scores that are of other speech.

        Where a validation set changed, that is written when the validations are dropped.
        """
        if self.is_resuming and self.config.data.streaming:
            log.warning("train       is streamed: whether it is what it was, nobody can see")
        if self.is_resuming and not self.folder.rows.is_file():
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
        config = self.config
        whisper = self._load_base()
        given = config.training.gradient_checkpointing
        checkpointing = checkpoints_activations(given, whisper.config.d_model)
        tokens = trained_tokens(config, self.base)
        model = attach(
            whisper,
            config.adapter,
            config.quantization.kind,
            checkpointing,
            config.seed,
            tokens,
            self.total_steps,
            None if self.is_resuming else lambda: watched_windows(config, self.base, self.windows),
            read_initial(self._initial) if config.resume else None,
        )
        if self.accelerator.device.type == "cpu" and whisper.config.d_model >= TINY_WIDTH:
            use_short_texts(whisper)
            use_fast_adapter(whisper)
        if config.adapter.init_from is not None and not self.is_resuming:
            start = resolve_initial(config.adapter.init_from, config.model.allow_pickle)
            initialize_from(model, start, tokens)
        return model

    @property
    def _initial(self) -> Path:
        return self.folder.checkpoints / INITIAL_FILE

    def _new_trainer(self) -> Trainer:
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
            optimizer_settings=config.optimizer,
            settings=config.training,
            seed=config.seed,
            rank_schedule=rank_schedule_of(self.model),
            frozen_layers=frozen_layers(parameters, whisper.config.encoder_layers),
        )

    def _plan_ahead(self, scores_base: bool) -> None:
        """Choose the micro-batch; say what null and auto have become, and what the run will take.

        Before anything that takes long: scoring the base of a large test set can take hours.

        Args:
            scores_base: whether the base's score is still to come.
        """
        config, whisper, device = self.config, whisper_inside(self.model), self.accelerator.device
        width = whisper.config.d_model
        given = config.training.gradient_checkpointing
        checkpointing = checkpoints_activations(given, width)
        texts = texts_of_windows(config, self.base, self.speech, self.windows)
        setup = setup_of(config, whisper, device)
        plan = cache(lambda: plan_memory(setup, texts.longest, (checkpointing,)))
        self.model.train()
        self.micro_batch = choose_micro_batch(self.trainer, plan)
        for line in course(config, self.base, self.windows, width, self.micro_batch, self.scored):
            log.info("%s", line)
        size = self.micro_batch, round(texts.mean), self.windows.mean_positions
        window_seconds = seconds_per_window(self.trainer, *size)
        if self.encoder is not None:
            known_seconds = seconds_per_window(self.trainer, *size, self.encoder.nothing)
            window_seconds = self.encoder.mean(window_seconds, known_seconds)
        with self.model.disable_adapter():
            pace = scoring_pace(config, self.base, self.scored, whisper)
        test = self.scored.test
        left = Left(
            steps=range(self.resumed_step or 0, self.total_steps),
            base=scores_base
            and test is not None
            and not is_decoded(trained(config, "base", None), device, test.utterances, config),
        )
        time = estimate(config, self.base, self.scored, self.windows, left, window_seconds, pace)
        memory_bytes = None
        if width >= TINY_WIDTH:  # the quickstart need not wait for the plan
            decoded = windows_decoded(config, self.base, self.scored)
            memory_bytes = lambda: memory_needed(  # noqa: E731
                plan(), config, whisper, self.micro_batch, decoded
            )
        for line in estimate_lines(time, left, memory_bytes):
            log.info("%s", line)

    # ── training ─────────────────────────────────────────────────────────────────────────────

    def _steps(self, first: int, sound: SoundAudit) -> Iterator[list[Batch]]:
        """The micro-batches of each step from `first` on, looked at before they are learnt from."""
        steps = self.windows.load(first, self.total_steps, self.micro_batch)
        tokenizer, special_tokens = self.base.processor.tokenizer, self.base.special_tokens
        return checked_start(sound.watched(steps), tokenizer, special_tokens)

    def _recorder_and_state(self, trackers: Trackers) -> tuple[Recorder, TrainingState]:
        """What writes down how training goes on from here, and how far it is."""
        config, base = self.config, self.base
        self.model.train()
        sample = validation_sample(config, self.speech)
        is_frozen = self.trainer.frozen_layers == self.trainer.whisper.config.encoder_layers
        encoded = EncodedOnce() if is_frozen else None
        recorder = Recorder(
            folder=self.folder,
            trainer=self.trainer,
            checkpoints=self.checkpoints,
            steps_per_epoch=self.windows.steps_per_epoch,
            validation=(
                validation_windows(config, base, sample, self.micro_batch) if sample else None
            ),
            decode_validation=(
                (lambda: validation_wer(self.model, sample, base, config, encoded))
                if sample
                else None
            ),
            trackers=trackers,
            on_validated=self.on_validated,
        )
        # Once: the base's weights lack PiSSA's start, and what ships is the change.
        if config.adapter.kind == "pissa" and processes.is_main():
            write_initial(self._initial, self.trainer.parameters)
        is_anew = "validation" in self.changed
        state = recorder.resume(without_best=config.resume == "anyway", anew=is_anew)
        processes.from_main(lambda: write_rows(self.folder.rows, self.rows))
        return recorder, state

    # ── what ships ───────────────────────────────────────────────────────────────────────────

    def _keep_best(self) -> Average | None:
        """Write the best adapter by validation WER, or the last if nothing was validated.

        Returns:
            the mean of several, where that was asked for; it lies beside
        """
        parameters = self.trainer.parameters
        for _, path in processes.from_main(self.checkpoints.bests)[:1]:
            load_parameters(path, parameters)
        initial = read_initial(self._initial)
        assert initial or self.config.adapter.kind != "pissa", "it was written when training began"

        def write() -> Average | None:
            with written_whole(self.folder.adapter) as aside:
                save_adapter(self.model, aside, self.base.checkpoint, initial)
            settings = self.config.training
            if settings.averaged is None:
                return None
            paths = to_average(self.checkpoints, settings.averaged)
            if len(paths) < 2:
                return None
            mean, found = average(paths, self.model, parameters, initial, settings.averaging_rank)
            with written_whole(average_folder(self.folder)) as aside:
                write_delta_weights(mean, aside, self.base.checkpoint)
            return found

        return processes.from_main(write)

    def _judge(self, mean: Average, best: Best | None) -> Averaging:
        """Let the mean ship unless a single adapter has a lower WER; say what became of it."""
        sample, wer = validation_sample(self.config, self.speech), None
        if sample is not None and best is not None:
            # As it lies on the disk, on a fresh base: what is scored is what ships.
            model = load_adapter(self._load_base(), average_folder(self.folder))
            wer = validation_wer(model, sample, self.base, self.config)
        ships = wer is None or best is None or wer <= best.wer
        processes.from_main(lambda: put_in_place(self.folder, ships))
        averaging = Averaging(
            **vars(mean),
            validation_wer=wer,
            validation_wer_of_best=best.wer if best else None,
            ships=ships,
        )
        announce_average(averaging)
        return averaging

    # ── scoring ──────────────────────────────────────────────────────────────────────────────

    def _earlier_base_score(self) -> Score | None:
        if self.scored.test is None:
            return None
        return earlier_score(
            trained(self.config, "base", None),
            self.scored.test.utterances,
            self.base,
            self.config,
            self.folder.evaluation / "base" / OWN_SET,
        )

    def _score_base(self) -> Score | None:
        if self.scored.test is None:
            return None
        if self.config.adapter.kind == "pissa":  # without its adapter, the base is not whole
            return self._score("base", self._load_base(), None)
        with self.model.disable_adapter():
            return self._score("base", whisper_inside(self.model), None)

    def _score_adapter(
        self, base_score: Score | None
    ) -> tuple[Score | None, CapabilityCard | None]:
        """Its score, and what it took away of what its base could."""
        test, config = self.scored.test, self.config
        if test is None:
            return None, None
        model = load_adapter(self._load_base(), self.folder.adapter)  # as it ships
        with merged_in_place(model):
            score = self._score("adapter", whisper_inside(model), self.folder.adapter)
        if not config.card:
            return score, None
        scores = (base_score, score)
        return score, card_of_run(model, test.utterances, self.base, config, scores, self.folder)

    def _score(
        self, name: str, whisper: WhisperForConditionalGeneration, adapter: Path | None
    ) -> Score:
        assert self.scored.test is not None
        return score_model(
            trained(self.config, name, adapter),
            whisper.eval(),
            self.scored.test.utterances,
            self.base,
            self.config,
            self.folder.evaluation / name / OWN_SET,
        )
