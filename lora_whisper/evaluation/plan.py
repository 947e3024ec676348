"""What `evaluate` is asked for, checked before anything is loaded or decoded."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lora_whisper.config import (
    USUAL_SEED,
    Dtype,
    EvaluateConfig,
    EvaluationConfig,
    RescoringConfig,
)
from lora_whisper.data.corpus import Corpus, with_codes
from lora_whisper.data.words import read_words
from lora_whisper.errors import UserError
from lora_whisper.evaluation.loading import base_of, require_files, special_tokens_of
from lora_whisper.evaluation.models import ModelEntry, entries_of_run, find_entries
from lora_whisper.evaluation.test_sets import TestSet, group_labels, has_group, read_test_sets
from lora_whisper.lora.provenance import require_base
from lora_whisper.lora.recipe import require_current
from lora_whisper.lora.saved import open_adapter, read_saved, require_sum
from lora_whisper.lora.targets import layer_shapes
from lora_whisper.lora.validation import require_shapes
from lora_whisper.model.base import load_config
from lora_whisper.paths import local_path
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import RECIPE_FILE

log = logging.getLogger("lora_whisper")


@dataclass(frozen=True)
class Plan:
    """What was asked for, as far as it can be known before anything is decoded."""

    entries: Sequence[ModelEntry]
    sets: Sequence[TestSet]
    settings: EvaluationConfig
    more: RescoringConfig
    conditions: Sequence[str]
    words: Sequence[str]
    prompts: bool  # whether they are given as a prompt, too
    seed: int
    dtype: Dtype
    card: bool = False  # whether what the first model could is held against the others


def make_plan(config: EvaluateConfig) -> Plan:
    """Find models, sets and word list; settings are a run's own, with the changes asked for.

    With `run=`, that run's test set and settings are meant; with `models=[…]`, those of the only
    run among them, where `data` and `evaluation` say nothing.

    Raises:
        UserError: something is not there, or does not go together.
    """
    from lora_whisper.evaluation.robustness import chosen_conditions

    entries = _checked_entries(config)
    # Of several runs, nobody knows whose settings and test set are meant.
    runs = {one.run.path: one.run for one in entries if one.run is not None}
    trained = read_config(*runs.values()) if len(runs) == 1 else None
    settings = config.evaluation.applied_to(trained.evaluation if trained else EvaluationConfig())
    usual_seed = trained.seed if trained else USUAL_SEED
    seed = usual_seed if config.seed is None else config.seed
    sets = read_test_sets(config, trained, settings, seed)
    _require_groups(sets, config.evaluation.group_by or ())
    for entry in entries:
        if not entry.broken:
            _require_able(entry, config, settings, sets)
    words = _words(config, settings)
    # Prompts take as long again: where they are asked for now, or were trained.
    is_trained = trained is not None and trained.data.words is not None
    is_prompted = config.evaluation.words is not None or is_trained
    return Plan(
        entries=entries,
        sets=sets,
        settings=settings,
        more=config.evaluation,
        conditions=chosen_conditions(config.evaluation.conditions, settings.padding),
        words=words,
        prompts=bool(words) and is_prompted,
        seed=seed,
        dtype=config.dtype,
        card=config.card,
    )


def _checked_entries(config: EvaluateConfig) -> list[ModelEntry]:
    """The models whose files are there; an adapter that is unsound says why, and is not scored.

    Raises:
        UserError: files that are missing or of another base, or no adapter is sound.
    """
    entries = (
        entries_of_run(config.run, config.base)
        if config.run
        else find_entries(config.models, config.allow_pickle, config.base)
    )
    for entry in entries:
        if not entry.broken:
            require_files(entry)
        run = entry.run  # whose merged model says, but for older versions, what it is made of
        if run is not None and entry.kind == "merged" and (run.merged / RECIPE_FILE).is_file():
            require_current(run)
    entries = [_opened(one, config.base is not None) for one in entries]
    if all(one.broken or one.kind == "base" for one in entries):
        raise UserError("\n".join(one.broken for one in entries if one.broken))
    return entries


def _opened(entry: ModelEntry, has_other_base: bool) -> ModelEntry:
    """With the reason where its adapter is unsound: the others are scored all the same.

    Raises:
        UserError: the base that was typed is not the one that it was trained on.
    """
    if entry.adapter is None or entry.broken:
        return entry
    checkpoint = base_of(entry).checkpoint
    try:
        saved = open_adapter(entry.adapter)
        require_shapes(saved, layer_shapes(load_config(checkpoint)))
    except UserError as error:
        return dataclasses.replace(entry, broken=str(error))
    if has_other_base:
        named = dataclasses.replace(checkpoint, key="base")
        require_base(saved, entry.name, named, "Type base=… with the base that it was made on.")
    return entry


def _require_groups(sets: Sequence[TestSet], columns: Sequence[str]) -> None:
    """See that a column that was asked for now, and not by an old run, is in some test set.

    Raises:
        UserError: it is in none; says what there is.
    """
    tests = [one.rows for one in sets if one.role == "test"]
    for name in columns:
        if name != "duration" and not any(has_group(rows, name) for rows in tests):
            group_labels(tests[0], (name,))


def _words(config: EvaluateConfig, settings: EvaluationConfig) -> Sequence[str]:
    """The word list; one that a run had and that is gone is done without."""
    if settings.words is None:
        return ()
    try:
        return read_words(local_path(settings.words), "evaluation.words")
    except UserError as error:
        if config.evaluation.words is not None:
            raise
        log.warning("words       %s", error)
        return ()


def _require_able(
    entry: ModelEntry,
    config: EvaluateConfig,
    settings: EvaluationConfig,
    sets: Sequence[TestSet],
) -> None:
    """See that a model can do what is asked of it, before another one has done it for an hour.

    Raises:
        UserError: a language that its tokenizer lacks; drawing, or a card, with CTranslate2; parts
            of an adapter that is no sum with the weights.
    """
    try:
        for one in sets:
            with_codes(Corpus(one.rows, {}), special_tokens_of(entry))
        if config.evaluation.adapter_scales and entry.adapter is not None:
            require_sum(read_saved(entry.adapter))
        if settings.temperature_fallback and entry.folder is not None:
            raise UserError(
                "CTranslate2 cannot draw the same tokens twice, so that no score could be "
                "repeated. Type evaluation.temperature_fallback=false"
            )
        if config.card and entry.folder is not None:
            raise UserError(
                "CTranslate2 does not say what the card asks for, such as timestamps that its own "
                "rules have not forced. Type card=false, or score the checkpoint it was converted "
                "from."
            )
    except UserError as error:
        raise UserError(f"{entry.name}: {error}") from error
