"""Score a model on a split: decode it for real, keep every hypothesis, return the figures."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_whisper import processes
from lora_whisper.config import (
    CLEAN,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    QuantizationConfig,
    TrainConfig,
)
from lora_whisper.data.corpus import sample
from lora_whisper.data.dataset import Utterance, Utterances
from lora_whisper.data.speech import Speech
from lora_whisper.data.windows import BadAudio
from lora_whisper.errors import UserError, listing
from lora_whisper.evaluation.models import Contender, identity, weights_of
from lora_whisper.model.base import Base
from lora_whisper.model.shapes import MEDIUM_WIDTH
from lora_whisper.run_folder import (
    HYPOTHESES,
    SCORE,
    as_written,
    write_json,
    write_synced,
    written_whole,
)
from lora_whisper.terminal import percent, work

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    from lora_whisper.evaluation.decoding import Hypotheses
    from lora_whisper.evaluation.recognizer import Recognizer
    from lora_whisper.evaluation.rows import ScoredRow
    from lora_whisper.evaluation.score import Score

log = logging.getLogger("lora_whisper")


def load_whisper(
    base: Base,
    model: ModelConfig,
    quantization: QuantizationConfig,
    precision: str,
    device: torch.device,
) -> WhisperForConditionalGeneration:
    """Load the base as a run trains on it: its quantization, its dtype."""
    from lora_whisper.model.checkpoint import load_base
    from lora_whisper.model.device import choose_dtype

    asked = quantization.compute_dtype
    return load_base(
        base.checkpoint,
        quantization.kind,
        choose_dtype(model.dtype, precision),
        device,
        attention=model.attention,
        double_quantization=quantization.double_quantization,
        compute_dtype=None if asked == "auto" else choose_dtype(asked, precision),
    )


def whisper_inside(model: PeftModel) -> WhisperForConditionalGeneration:
    """The base model with the adapter's layers in it: what is run, without PEFT's wrapper."""
    return cast("WhisperForConditionalGeneration", model.get_base_model())


def recognizer_of(whisper: WhisperForConditionalGeneration, base: Base) -> Recognizer:
    from lora_whisper.evaluation.whisper_recognizer import WhisperRecognizer

    return WhisperRecognizer(whisper, base.processor, base.vocabulary, base.features)


def hear(
    title: str,
    model: str,
    recognizer: Callable[[], Recognizer],
    utterances: Sequence[Utterance],
    settings: EvaluationConfig,
    seed: int,
    *,
    condition: str = CLEAN,
    reuse: bool = True,
) -> tuple[Hypotheses, bool]:
    """Decode utterances with a progress bar, or take what was decoded before.

    Args:
        model: names the model exactly, see `_models.identity`.
        recognizer: called where something has to be decoded.
        reuse: whether what was decoded before may be taken.

    Returns:
        the hypotheses, and whether they were decoded before
    """
    from lora_whisper.evaluation.cache import (
        decoded_by_one,
        hypotheses_key,
        read_hypotheses,
        write_hypotheses_of,
    )
    from lora_whisper.evaluation.conditions import change_for
    from lora_whisper.evaluation.decoding import transcribe

    key = processes.from_main(lambda: hypotheses_key(model, utterances, settings, condition, seed))
    # The points of a sweep that run side by side come to their base at the same time.
    alone = decoded_by_one(key) if reuse else nullcontext()
    with processes.entered_by_main(alone):
        known = processes.from_main(lambda: read_hypotheses(key)) if reuse else None
        if known is not None:
            return known, True
        listener = recognizer()
        with work(title, len(utterances)) as bar:
            found = transcribe(
                listener,
                utterances,
                with_batch_size(settings, listener),
                seed,
                change=change_for(condition, seed),
                on_progress=lambda done, total: bar.update(done),
            )
        if processes.is_main():
            write_hypotheses_of(key, found)
        return found, False


def is_decoded(
    contender: Contender, device: torch.device, utterances: Utterances, config: TrainConfig
) -> bool:
    """Whether `score_model` would find what it needs decoded already."""
    from lora_whisper.evaluation.cache import hypotheses_key, read_hypotheses

    settings, seed = config.evaluation, config.seed
    chosen = sample(utterances, settings.max_utterances, seed)
    model = identity(contender, "auto", device)

    def known() -> bool:
        key = hypotheses_key(model, chosen, settings, CLEAN, seed)
        return read_hypotheses(key) is not None

    return processes.from_main(known)


def with_batch_size(settings: EvaluationConfig, recognizer: Recognizer) -> EvaluationConfig:
    """With what null stands for: by the model's width."""

    if settings.batch_size is not None:
        return settings
    return dataclasses.replace(settings, batch_size=scoring_batch_for_width(recognizer.width))


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
    from lora_whisper.evaluation.decoding import transcribe
    from lora_whisper.evaluation.judging import judge
    from lora_whisper.lora.adapter import merged_in_place

    # Groups are for the test set, whose columns the validation set need not have.
    settings = dataclasses.replace(config.evaluation, group_by=())
    with merged_in_place(model), work("validating", len(utterances)) as bar:
        listener = recognizer_of(whisper_inside(model), base)
        found = transcribe(
            listener,
            utterances,
            with_batch_size(settings, listener),
            config.seed,
            on_progress=lambda done, total: bar.update(done),
        )
    report_bad_audio(found.bad, config.data)
    score, _ = processes.from_main(
        lambda: judge(utterances, found, base.vocabulary, settings, config.seed)
    )
    return score.wer


def report_bad_audio(bad: Sequence[BadAudio], data: DataConfig) -> None:
    """Name the audio that turned out not to decode; its header had looked sound.

    Raises:
        UserError: there is some, and `data.bad_audio` is "fail".
    """
    lines = [f"{one.row}: {one.reason}" for one in bad]
    if lines and data.bad_audio == "fail":
        raise UserError(
            f"Audio does not decode:\n{listing(lines)}\n"
            "Mend or remove these rows, or type data.bad_audio=drop to go on without them."
        )
    for line in lines:
        log.warning("not heard   %s", line)


def score_model(
    contender: Contender,
    whisper: WhisperForConditionalGeneration,
    utterances: Utterances,
    base: Base,
    config: TrainConfig,
    folder: Path,
) -> dict[str, Any]:
    """Score one model of a run on its test set; write what `write_scored` does into `folder`.

    `evaluation.max_utterances` draws the same sample for every model of a run.
    """
    from lora_whisper.evaluation.judging import judge
    from lora_whisper.evaluation.provenance import provenance
    from lora_whisper.evaluation.rates import both_rates, interval, leading, rate_name

    settings = config.evaluation
    chosen = sample(utterances, settings.max_utterances, config.seed)
    found, is_known = hear(
        f"scoring {contender.name}",
        identity(contender, "auto", whisper.device),
        lambda: recognizer_of(whisper, base),
        chosen,
        settings,
        config.seed,
    )
    report_bad_audio(found.bad, config.data)
    score, rows = processes.from_main(
        lambda: judge(chosen, found, base.vocabulary, settings, config.seed)
    )
    of = processes.from_main(
        lambda: provenance(weights_of(contender), chosen, base.vocabulary, settings, config.seed)
    )
    values = write_scored(score, rows, of, folder, is_known)
    first, second = both_rates(leading(values))
    log.info(
        f"{contender.name:11} {rate_name(values, first)} {percent(values[first])} "
        f"(95 % interval {interval(values[f'{first}_ci95'])}), "
        f"{rate_name(values, second)} {percent(values[second])}"
        f", {'decoded before' if is_known else f'{found.decode_seconds / len(chosen):.2g} s each'}"
    )
    return values


def write_scored(
    score: Score, rows: Sequence[ScoredRow], of: Mapping[str, Any], folder: Path, is_known: bool
) -> dict[str, Any]:
    """Write score.json and hypotheses.jsonl, both or none; return what score.json holds.

    Args:
        of: what the score is of, see `evaluation.provenance`.
        is_known: whether the hypotheses were decoded by an earlier command.
    """
    from lora_whisper.evaluation.judging import hypotheses_jsonl

    values = score.to_dict() | {"cached": is_known, "of": dict(of)}
    if processes.is_main():
        with written_whole(folder) as aside:
            write_synced(aside / HYPOTHESES, hypotheses_jsonl(rows))
            write_json(aside / SCORE, values)
    return values


def earlier_score(
    contender: Contender, utterances: Utterances, base: Base, config: TrainConfig, folder: Path
) -> dict[str, Any] | None:
    """The score that an interrupted run had written already, unless it is of something else."""
    return processes.from_main(lambda: _earlier(contender, utterances, base, config, folder))


def _earlier(
    contender: Contender, utterances: Utterances, base: Base, config: TrainConfig, folder: Path
) -> dict[str, Any] | None:
    from lora_whisper.evaluation.provenance import between, is_of, provenance

    found = as_written(folder / SCORE)
    if found is None or "of" not in found:  # older versions did not say what it is of
        return None
    settings, weights = config.evaluation, weights_of(contender)
    chosen = sample(utterances, settings.max_utterances, config.seed)
    of = provenance(weights, chosen, base.vocabulary, settings, config.seed)
    changed = between(found["of"], of) + ["other weights"] * (not is_of(found, weights))
    if not changed:
        return found
    log.warning("%-11s is scored anew: its score was of %s", contender.name, ", ".join(changed))
    return None


def scoring_batch_for_width(width: int) -> int:
    """Windows decoded together; large-v3 caches 246 MB of cross-attention in bf16 for each."""
    return 16 if width < MEDIUM_WIDTH else 4
