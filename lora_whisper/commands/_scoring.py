"""Score a model on a split: decode it for real, keep every hypothesis, return the figures."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_whisper import processes
from lora_whisper.commands._inputs import Base, Speech
from lora_whisper.config import TrainConfig
from lora_whisper.data.corpus import sample
from lora_whisper.data.table import Utterances
from lora_whisper.errors import UserError, listing
from lora_whisper.run_folder import read_json, write_json
from lora_whisper.terminal import percent, work

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    from lora_whisper.evaluation.evaluate import ScoredRow
    from lora_whisper.evaluation.score import Score

log = logging.getLogger("lora_whisper")


def load_whisper(
    config: TrainConfig, base: Base, device: torch.device
) -> WhisperForConditionalGeneration:
    """Load the base as the run trains on it: its quantization, its dtype."""
    from lora_whisper.model.checkpoint import load_base
    from lora_whisper.training.accelerator import choose_dtype

    quantization = config.quantization
    dtype = choose_dtype(config.model.dtype, config.training.precision)
    asked = quantization.compute_dtype
    return load_base(
        base.checkpoint,
        quantization.kind,
        dtype,
        device,
        attention=config.model.attention,
        double_quantization=quantization.double_quantization,
        compute_dtype=None if asked == "auto" else choose_dtype(asked, config.training.precision),
    )


def whisper_inside(model: PeftModel) -> WhisperForConditionalGeneration:
    """The base model with the adapter's layers in it: what is run, without PEFT's wrapper."""
    return cast("WhisperForConditionalGeneration", model.get_base_model())


def decode(
    title: str,
    whisper: WhisperForConditionalGeneration,
    utterances: Utterances,
    base: Base,
    config: TrainConfig,
) -> tuple[Score, list[ScoredRow]]:
    """Decode and score `utterances` by the run's settings, with a progress bar.

    Raises:
        UserError: audio does not decode, and `data.bad_audio` is "fail".
    """
    from lora_whisper.evaluation.evaluate import evaluate_model
    from lora_whisper.training.defaults import scoring_batch_for_width

    settings = config.evaluation
    if settings.batch_size is None:
        batch_size = scoring_batch_for_width(whisper.config.d_model)
        settings = dataclasses.replace(settings, batch_size=batch_size)
    with work(title, len(utterances)) as bar:
        score, rows = evaluate_model(
            whisper,
            utterances,
            base.processor,
            base.vocabulary,
            base.features,
            settings,
            config.seed,
            on_progress=lambda done, total: bar.update(done),
        )
    report_bad_audio([f"{row.row}: {row.bad_audio}" for row in rows if row.bad_audio], config)
    return score, rows


def validation_sample(config: TrainConfig, speech: Speech) -> Utterances | None:
    """The same utterances for the whole run, so that its steps can be compared."""
    if speech.validation is None:
        return None
    most = config.evaluation.max_validation_utterances
    return sample(speech.validation.utterances, most, config.seed)


def validation_wer(
    model: PeftModel, utterances: Utterances, base: Base, config: TrainConfig
) -> float:
    """The WER on the validation sample, by decoding it."""
    from lora_whisper.model.adapter import merged_in_place

    # Groups are for the test set, whose columns the validation set need not have.
    settings = dataclasses.replace(config.evaluation, group_by=())
    config = dataclasses.replace(config, evaluation=settings)
    with merged_in_place(model):
        score, _ = decode("validating", whisper_inside(model), utterances, base, config)
    return score.wer


def report_bad_audio(bad: list[str], config: TrainConfig) -> None:
    """Name the audio that turned out not to decode; its header had looked sound.

    Raises:
        UserError: there is some, and `data.bad_audio` is "fail".
    """
    if bad and config.data.bad_audio == "fail":
        raise UserError(
            f"Audio does not decode:\n{listing(bad)}\n"
            "Mend or remove these rows, or type data.bad_audio=drop to go on without them."
        )
    for line in bad:
        log.warning("not heard   %s", line)


def score_model(
    model_name: str,
    whisper: WhisperForConditionalGeneration,
    utterances: Utterances,
    base: Base,
    config: TrainConfig,
    folder: Path,
) -> dict[str, Any]:
    """Score one model on a test set; write score.json and hypotheses.jsonl into `folder`.

    `evaluation.max_utterances` draws the same sample for every model of a run.
    """
    from lora_whisper.commands._summary import both_rates, interval, leading, rate_name
    from lora_whisper.evaluation.evaluate import write_hypotheses

    chosen = sample(utterances, config.evaluation.max_utterances, config.seed)
    score, rows = decode(f"scoring {model_name}", whisper, chosen, base, config)
    if processes.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        write_hypotheses(folder / "hypotheses.jsonl", rows)
        write_json(folder / "score.json", score.to_dict())
    found = score.to_dict()
    first, second = both_rates(leading(found))
    log.info(
        f"{model_name:11} {rate_name(found, first)} {percent(found[first])} "
        f"(95 % interval {interval(found[f'{first}_ci95'])}), "
        f"{rate_name(found, second)} {percent(found[second])}"
    )
    return found


def earlier_score(folder: Path) -> dict[str, Any] | None:
    """The score that an interrupted run had written already."""
    path = folder / "score.json"
    return processes.from_main(lambda: read_json(path) if path.is_file() else None)
