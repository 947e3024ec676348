"""One trial of a search: a run of `train` that may end early and never meets the test set."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accelerate.utils.memory import clear_device_cache

from lora_whisper import terminal
from lora_whisper.config import TrainConfig
from lora_whisper.data.speech import Inputs
from lora_whisper.errors import UserError
from lora_whisper.evaluation.loading import load_whisper, whisper_inside
from lora_whisper.evaluation.models import trained
from lora_whisper.evaluation.results import Score
from lora_whisper.evaluation.run_summary import RunSummary, read_as_written
from lora_whisper.evaluation.scoring import score_model
from lora_whisper.files import as_written, read_json, read_jsonl, remove_folder, write_json
from lora_whisper.lora.adapter import load_adapter, merged_in_place
from lora_whisper.lora.provenance import require_trained_adapter
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.device import new_accelerator
from lora_whisper.reports.run import write_results
from lora_whisper.run_config import begin_run, read_config
from lora_whisper.run_folder import OWN_SET, RunFolder
from lora_whisper.search.study import Claim
from lora_whisper.training.resume import require_same
from lora_whisper.training.run import Run

if TYPE_CHECKING:
    from lora_whisper.training.checkpoint_files import TrainingState

log = logging.getLogger("lora_whisper")


class Pruned(Exception):
    """Others were better at this step."""

    def __init__(self, step: int, wer: float):
        super().__init__(f"at step {step}, validation WER {terminal.percent(wer)}")
        self.step, self.wer = step, wer


@dataclass(frozen=True)
class Again:
    """In place of a claim: a trial that the study knows as complete, and whose folder is not."""

    folder: RunFolder

    def report(self, step: int, wer: float) -> None:
        """The study knows it."""

    def is_to_be_pruned(self) -> bool:
        return False


def carry_out(config: TrainConfig, claim: Claim | Again, inputs: Inputs) -> float:
    """Train a trial to its end, or go on with what a killed process left of it.

    Returns:
        the validation WER of the adapter that it keeps

    Raises:
        Pruned: it was not worth it.
    """
    folder = claim.folder
    if _is_broken(folder):
        log.warning("%s is not what was written there; it is carried out anew", folder.path)
        remove_folder(folder.path)
    if folder.is_run():
        require_same(folder, config)
    if not (folder.is_complete() or folder.pruned.is_file()):
        _train(config, claim, inputs)
    # A hundred trials of large-v3 would fill the disk with what nobody goes on from.
    if folder.checkpoints.exists():
        remove_folder(folder.checkpoints)
    if folder.pruned.is_file():
        raise Pruned(**read_json(folder.pruned))
    return kept_wer(folder)


def _is_broken(folder: RunFolder) -> bool:
    """Whether what an earlier process noted of a trial is not what it wrote."""
    if folder.pruned.is_file():
        return as_written(folder.pruned, ("step", "wer")) is None
    if folder.summary.is_file():
        return not is_whole(folder)
    return folder.config.is_file() and not _has_config(folder)


def is_whole(folder: RunFolder) -> bool:
    """Whether a complete trial has all that whoever takes it for the best one needs."""
    try:
        kept_wer(folder)
    except (UserError, KeyError):
        return False
    return _has_config(folder) and (folder.adapter / WEIGHTS_FILE).is_file()


def _has_config(folder: RunFolder) -> bool:
    try:
        read_config(folder)
    except UserError:
        return False
    return folder.is_run()


def _train(config: TrainConfig, claim: Claim | Again, inputs: Inputs) -> None:
    """Train until the run is complete or pruned, which its folder then says."""

    def look_up(state: TrainingState) -> None:
        """At each validation but the last one, which nothing is saved by."""
        assert state.best is not None
        if state.step < run.total_steps:
            claim.report(state.step, state.best.wer)
            if claim.is_to_be_pruned():
                raise Pruned(state.step, state.best.wer)

    folder = claim.folder
    clear_device_cache(garbage_collection=True)  # of the trial before, which may have failed
    run = Run(config, folder, inputs, look_up, scores_test=False)
    begin_run(config, folder, "resume" if folder.is_run() else "new")
    with terminal.log_to_file(folder.log):
        try:
            run.carry_out()
        except Pruned as end:  # no error: the log is to have no traceback
            log.info("ended early %s", end)
            write_json(folder.pruned, {"step": end.step, "wer": end.wer})


def kept_wer(folder: RunFolder) -> float:
    """The validation WER of the adapter that a complete run keeps."""
    summary = read_as_written(folder)
    if (mean := summary.shipped_mean) and mean.validation_wer is not None:
        return mean.validation_wer
    lines = [line for line in read_jsonl(folder.metrics) if "validation_wer" in line]
    validations = {line["step"]: line["validation_wer"] for line in lines}
    return float(validations[summary.adapter_step])


def score_kept(config: TrainConfig, folder: RunFolder, inputs: Inputs) -> RunSummary:
    """Score base and adapter of a trial on its test set; return its summary, with the scores."""
    base, speech = inputs.base, inputs.speech
    assert speech.test is not None
    require_trained_adapter(folder)
    utterances = speech.test.utterances
    accelerator = new_accelerator(config.training.precision)
    base.features.to(accelerator.device)
    whisper = load_whisper(
        base, config.model, config.quantization, config.training.precision, accelerator.device
    )

    def score(name: str) -> Score:
        adapter = folder.adapter if name == "adapter" else None
        return score_model(
            trained(config, name, adapter),
            whisper.eval(),
            utterances,
            base,
            config,
            folder.evaluation / name / OWN_SET,
        )

    scores = {"base": score("base")}
    model = load_adapter(whisper, folder.adapter)
    with merged_in_place(model):
        whisper = whisper_inside(model)
        scores["adapter"] = score("adapter")
    summary = read_as_written(folder).with_scores(scores)
    write_results(folder, summary)
    return summary
