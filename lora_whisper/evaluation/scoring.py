"""Score a model on a split: decode it for real, keep every hypothesis, return the figures."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper import processes
from lora_whisper.config import TrainConfig
from lora_whisper.data.corpus import sample
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.speech import DatasetSplits
from lora_whisper.data.windows import BadAudio
from lora_whisper.errors import UserError, listing
from lora_whisper.evaluation.loading import (
    decoder_of,
    identity,
    transcribe_or_reuse,
    transcribe_with_bar,
    weights_of,
    whisper_inside,
)
from lora_whisper.evaluation.models import ModelEntry, trained
from lora_whisper.evaluation.provenance import between, decoding_of, is_of, provenance
from lora_whisper.evaluation.results import (
    CapabilityCard,
    Score,
    ScoredUtterance,
    both_rates,
    from_json,
    interval,
    rate_name,
    to_json,
)
from lora_whisper.files import as_written, write_json, write_synced, written_whole
from lora_whisper.model.base import Base
from lora_whisper.run_folder import HYPOTHESES, OWN_SET, SCORE, RunFolder
from lora_whisper.terminal import clock, percent

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    from lora_whisper.evaluation.decoding.encoded import EncodedOnce

log = logging.getLogger("lora_whisper")


def is_decoded(
    entry: ModelEntry, device: torch.device, utterances: Utterances, config: TrainConfig
) -> bool:
    """Whether `score_model` would find what it needs decoded already."""
    from lora_whisper.evaluation.decoding.cache import read_transcriptions, transcriptions_key

    settings, seed = config.evaluation, config.seed
    chosen = sample(utterances, settings.max_utterances, seed)
    model = identity(entry, "auto", device)

    def known() -> bool:
        key = transcriptions_key(model, chosen, decoding_of(settings, seed))
        return read_transcriptions(key) is not None

    return processes.from_main(known)


def validation_sample(config: TrainConfig, speech: DatasetSplits) -> Utterances | None:
    """The same utterances for the whole run, so that its steps can be compared."""
    if speech.validation is None:
        return None
    most = config.evaluation.max_validation_utterances
    return sample(speech.validation.utterances, most, config.seed)


def validation_wer(
    model: PeftModel,
    utterances: Utterances,
    base: Base,
    config: TrainConfig,
    encoded: EncodedOnce | None = None,
) -> float:
    """The WER on the validation sample, by decoding it.

    Args:
        encoded: what a frozen encoder made of it before.
    """
    from lora_whisper.evaluation.score import score_transcriptions
    from lora_whisper.lora.adapter import merged_in_place

    # Groups are for the test set, whose columns the validation set need not have.
    settings = dataclasses.replace(config.evaluation, group_by=())
    with merged_in_place(model):
        decoder = decoder_of(whisper_inside(model), base)
        if encoded is not None:
            decoder.share(encoded)
        transcriptions = transcribe_with_bar(
            "validating", decoder, utterances, settings, config.seed
        )
    report_bad_audio(transcriptions.bad, config.data.bad_audio)
    score, _ = processes.from_main(
        lambda: score_transcriptions(
            utterances, transcriptions, base.special_tokens, settings, config.seed
        )
    )
    return score.wer


def report_bad_audio(bad: Sequence[BadAudio], rule: str) -> None:
    """Name the audio that turned out not to decode; its header had looked sound.

    Raises:
        UserError: there is some, and the `rule` of data.bad_audio is "fail".
    """
    lines = [f"{one.row}: {one.reason}" for one in bad]
    if lines and rule == "fail":
        raise UserError(
            f"Audio does not decode:\n{listing(lines)}\n"
            "Mend or remove these rows, or type data.bad_audio=drop to go on without them."
        )
    for line in lines:
        log.warning("not decoded %s", line)


def score_model(
    entry: ModelEntry,
    whisper: WhisperForConditionalGeneration,
    utterances: Utterances,
    base: Base,
    config: TrainConfig,
    folder: Path,
) -> Score:
    """Score one model of a run on its test set; write what `write_scored` does into `folder`.

    `evaluation.max_utterances` draws the same sample for every model of a run.
    """
    from lora_whisper.evaluation.score import score_set

    settings = config.evaluation
    chosen = sample(utterances, settings.max_utterances, config.seed)
    transcriptions, is_known = transcribe_or_reuse(
        f"scoring {entry.name}",
        identity(entry, "auto", whisper.device),
        lambda: decoder_of(whisper, base),
        chosen,
        settings,
        config.seed,
    )
    report_bad_audio(transcriptions.bad, config.data.bad_audio)
    given = (chosen, transcriptions, base.special_tokens, settings, config.seed)
    scored = processes.from_main(lambda: score_set(*given, weights_of(entry)))
    score = dataclasses.replace(scored.score, cached=is_known)
    write_scored(score, scored.utterances, folder)
    first, second = both_rates(score.leading)
    seconds_each = transcriptions.decode_seconds / len(chosen)
    log.info(
        f"{entry.name:11} {rate_name(score, first)} {percent(score.rate(first))} "
        f"(95 % interval {interval(score.ci95(first))}), "
        f"{rate_name(score, second)} {percent(score.rate(second))}"
        f", {'decoded before' if is_known else f'{seconds_each:.2g} s each'}"
    )
    return score


def card_of_run(
    model: PeftModel,
    utterances: Utterances,
    base: Base,
    config: TrainConfig,
    scores: tuple[Score | None, Score | None],
    folder: RunFolder,
) -> CapabilityCard | None:
    """What the adapter took away beside words, as far as a window a clip tells it.

    Args:
        model: the base with the adapter as it ships.
        scores: of base and adapter on the same test set, whose texts lie in the run's folder.

    Returns:
        None where there are too few clips to tell anything
    """
    from lora_whisper.evaluation.capabilities import CardMaker
    from lora_whisper.evaluation.run_summary import scored_utterances_of
    from lora_whisper.evaluation.significance import LEAST_UNITS
    from lora_whisper.lora.adapter import merged_in_place

    settings = config.evaluation
    chosen = sample(utterances, settings.max_utterances, config.seed)
    if None in scores or len(chosen) < LEAST_UNITS:
        return None
    given = ({OWN_SET: chosen}, base.window_seconds, settings, config.seed)
    asking = CardMaker(*given, is_brief=True)
    decoder = decoder_of(whisper_inside(model), base)

    def ask(entry: ModelEntry, score: Score | None) -> None:
        assert score is not None, "see above"
        written = {OWN_SET: scored_utterances_of(folder, entry.name, score)}
        exactly = identity(entry, "auto", decoder.features.hann.device)
        asking.ask(entry.name, exactly, lambda: decoder, written)

    with model.disable_adapter():
        ask(trained(config, "base", None), scores[0])
    with merged_in_place(model):
        ask(trained(config, "adapter", folder.adapter), scores[1])
    card = asking.card("base", "adapter")
    count, took = len(card.rows), clock(card.seconds)
    log.info("card        %d capabilities of base and adapter, in %s", count, took)
    return card


def write_scored(score: Score, utterances: Sequence[ScoredUtterance], folder: Path) -> None:
    """Write score.json and hypotheses.jsonl, both or none."""
    from lora_whisper.evaluation.score import hypotheses_jsonl

    if processes.is_main():
        with written_whole(folder) as aside:
            write_synced(aside / HYPOTHESES, hypotheses_jsonl(utterances))
            write_json(aside / SCORE, to_json(score))


def earlier_score(
    entry: ModelEntry, utterances: Utterances, base: Base, config: TrainConfig, folder: Path
) -> Score | None:
    """The score that an interrupted run had written already, unless it is of something else."""
    return processes.from_main(lambda: _earlier(entry, utterances, base, config, folder))


def _earlier(
    entry: ModelEntry, utterances: Utterances, base: Base, config: TrainConfig, folder: Path
) -> Score | None:
    try:
        score = from_json(Score, as_written(folder / SCORE) or {})
    except ValueError:
        return None
    if score.of is None:  # older versions did not say what it is of
        return None
    settings, weights = config.evaluation, weights_of(entry)
    chosen = sample(utterances, settings.max_utterances, config.seed)
    of = provenance(weights, chosen, base.special_tokens, settings, config.seed)
    changed = between(score.of, of) + ["other weights"] * (not is_of(score, weights))
    if not changed:
        return score
    log.warning("%-11s is scored anew: its score was of %s", entry.name, ", ".join(changed))
    return None
