"""What an evaluation has to decode: said before it begins, and how long it takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from lora_whisper.data.corpus import with_codes
from lora_whisper.data.words import first_that_fit
from lora_whisper.evaluation.capability_material import WINDOW_TOKENS
from lora_whisper.evaluation.decoding.decoder import Decoder
from lora_whisper.evaluation.loading import (
    base_of,
    special_tokens_of,
    tokenizer_of,
    with_batch_size,
)
from lora_whisper.evaluation.models import ModelEntry
from lora_whisper.evaluation.plan import Plan
from lora_whisper.evaluation.robustness import KINDS, NO_SPEECH_CLIPS
from lora_whisper.evaluation.test_sets import LoadedSet
from lora_whisper.terminal import about, counted

log = logging.getLogger("lora_whisper")


def announce(plan: Plan, sets: Sequence[LoadedSet]) -> None:
    """What is about to be decoded by whom."""
    for one in plan.entries:
        storage = "" if one.quantization.kind == "none" else f", {one.quantization.kind}"
        kind = "" if one.kind == one.name else f"{one.kind} "
        log.info("model       %s: %s%s%s", one.name, kind, one.what, storage)
    for each in sets:
        utterances = counted(len(each.corpus.utterances), "utterance")
        log.info("%-11s %s: %s, %.2f h", each.role, each.name, utterances, each.corpus.hours)
    for line in further_decoding(plan, sets):
        log.info("%s", line)


def further_decoding(plan: Plan, sets: Sequence[LoadedSet]) -> Iterator[str]:
    """What each model decodes beside the sets, and how much it is in all."""
    clips = clips_without_speech(plan)
    if plan.conditions:
        yield f"conditions  {', '.join(plan.conditions)}: each test utterance again in each of them"
    if plan.prompts:
        yield f"words       {prompt_line(plan)}"
    if clips:
        yield f"no speech   {clips} clips without any: what does a model write there?"
    if plan.card:
        yield f"card        what {plan.entries[0].name} could, asked of each model"
    scales = plan.more.adapter_scales
    if scales and any(entry.adapter is not None for entry in plan.entries):
        yield f"scales      {', '.join(f'{scale:g}' for scale in scales)} of each adapter"
    in_all = sum(times(plan, each) * len(each.corpus.utterances) for each in sets)
    in_all += len(plan.entries) * clips
    yield f"to decode   {counted(in_all, 'utterance')} in all, without those that were before"


def times(plan: Plan, one: LoadedSet) -> int:
    """How often a set is decoded, by all models, in all conditions and scales."""
    adapters = sum(entry.adapter is not None for entry in plan.entries)
    in_conditions = len(plan.conditions) + plan.prompts if one.role == "test" else 0
    scaled = adapters * len(plan.more.adapter_scales) if one.role != "training" else 0
    return len(plan.entries) * (1 + in_conditions) + scaled


def words_of_prompt(plan: Plan) -> list[str]:
    """Of the word list, the first ones, for which all models have room in a prompt."""
    fitting: Sequence[str] = plan.words
    for entry in plan.entries:
        if fitting and not entry.broken:
            room = special_tokens_of(entry).prompt_tokens
            fitting = first_that_fit(fitting, tokenizer_of(entry), room)
    return list(fitting)


def prompt_line(plan: Plan) -> str:
    """What is decoded for the word list."""
    words, listed = words_of_prompt(plan), counted(len(plan.words), "word")
    if len(words) < len(plan.words):
        listed = f"the first {len(words)} of {listed}, for which a prompt has room"
    return f"{listed}: each test utterance again with them as a prompt"


def clips_without_speech(plan: Plan) -> int:
    return NO_SPEECH_CLIPS * len(KINDS) if plan.more.diagnostics else 0


def say_how_long(
    plan: Plan,
    sets: Sequence[LoadedSet],
    entry: ModelEntry,
    decoder: Decoder,
    card_windows: int = 0,
) -> None:
    """Measure a model's pace, and tell from it how long all models take.

    Args:
        card_windows: that each decodes for a card.
    """
    from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
    from lora_whisper.evaluation.estimate import decoding_seconds, pace_of_all

    if not isinstance(decoder, WhisperDecoder):
        return
    base, beams = base_of(entry), plan.settings.beams
    batch_size = with_batch_size(plan.settings, decoder).batch_size
    assert batch_size is not None, "it was filled in"
    pace = pace_of_all(decoder, batch_size)
    seconds = len(plan.entries) * (
        pace.seconds(clips_without_speech(plan), 0)
        + pace.seconds(card_windows, WINDOW_TOKENS * card_windows)
    )
    for one in sets:
        utterances = with_codes(one.corpus, base.special_tokens).utterances
        seconds += times(plan, one) * decoding_seconds(utterances, base, beams, pace)
    at_pace = f" at {entry.name}'s pace" if len(plan.entries) > 1 else ""
    log.info("estimate    %s%s, less what was decoded before", about(seconds), at_pace)
