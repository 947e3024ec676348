"""Score a model on a split: decode it for real, keep every hypothesis, return the figures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_whisper.commands._inputs import Base
from lora_whisper.config import EvaluationConfig, TrainConfig
from lora_whisper.data.corpus import sample
from lora_whisper.data.manifest import Utterance
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
    from lora_whisper.model.checkpoint import choose_dtype, load_base

    dtype = choose_dtype(config.model.dtype, device)
    return load_base(base.checkpoint, config.quantization.kind, dtype, device)


def whisper_inside(model: PeftModel) -> WhisperForConditionalGeneration:
    """The base model with the adapter's layers in it: what is run, without PEFT's wrapper."""
    return cast("WhisperForConditionalGeneration", model.get_base_model())


def decode(
    title: str,
    whisper: WhisperForConditionalGeneration,
    utterances: tuple[Utterance, ...],
    base: Base,
    settings: EvaluationConfig,
    seed: int,
) -> tuple[Score, list[ScoredRow]]:
    """Decode and score `utterances`, with a progress bar."""
    from lora_whisper.evaluation.evaluate import evaluate_model

    with work(title, len(utterances)) as bar:
        return evaluate_model(
            whisper,
            utterances,
            base.processor,
            base.vocabulary,
            base.features,
            settings,
            seed,
            on_progress=lambda done, total: bar.update(done),
        )


def score_model(
    model_name: str,
    whisper: WhisperForConditionalGeneration,
    utterances: tuple[Utterance, ...],
    base: Base,
    settings: EvaluationConfig,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Score one model on a test set; write score.json and hypotheses.jsonl into `folder`.

    `evaluation.max_utterances` draws the same sample for every model of a run.
    """
    from lora_whisper.evaluation.evaluate import write_hypotheses

    chosen = sample(utterances, settings.max_utterances, seed)
    score, rows = decode(f"scoring {model_name}", whisper, chosen, base, settings, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_hypotheses(folder / "hypotheses.jsonl", rows)
    write_json(folder / "score.json", score.to_dict())
    for bad in (row for row in rows if row.bad_audio):
        log.warning("not heard   %s: %s", bad.row, bad.bad_audio)
    low, high = (100 * bound for bound in score.wer_ci95)
    log.info(
        f"{model_name:11} WER {percent(score.wer)} (95 % interval {low:.1f} – {high:.1f} %), "
        f"CER {percent(score.cer)}"
    )
    return score.to_dict()


def earlier_score(folder: Path) -> dict[str, Any] | None:
    """The score that an interrupted run had written already."""
    path = folder / "score.json"
    return read_json(path) if path.is_file() else None
