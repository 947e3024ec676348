"""What `evaluate` is asked for, checked before anything is loaded or decoded."""

from __future__ import annotations

from collections.abc import Sequence

from lora_whisper.commands._examination import Plan, has_group
from lora_whisper.commands._hydra import defaults
from lora_whisper.commands._inputs import read_config
from lora_whisper.commands._models import contenders_of_run, find_contenders, require_files
from lora_whisper.commands._test_sets import TestSet, read_test_sets
from lora_whisper.composing import RangeError, to_config
from lora_whisper.config import EvaluateConfig, EvaluationConfig, TrainConfig
from lora_whisper.errors import UserError, listing
from lora_whisper.paths import local_path

USUAL_SEED = 1


def make_plan(config: EvaluateConfig) -> Plan:
    """Find models, sets and word list; settings are a run's own, with the changes asked for.

    With `run=`, that run's test set and settings are meant; with `models=[…]`, those of the first
    run among them where `data` says nothing.

    Raises:
        UserError: something is not there, or does not go together.
    """
    from lora_whisper.evaluation.conditions import chosen_conditions
    from lora_whisper.evaluation.keywords import read_keywords

    contenders = contenders_of_run(config.run) if config.run else find_contenders(config.models)
    trained = read_config(run) if config.run and (run := contenders[1].run) else None
    settings = settings_for(config, trained)
    for contender in contenders:
        require_files(contender)
    sets = read_test_sets(config, trained, settings)
    _require_groups(config.evaluation.group_by, sets)
    keywords = settings.keywords
    return Plan(
        contenders=contenders,
        sets=sets,
        settings=settings,
        more=config.evaluation,
        conditions=chosen_conditions(config.evaluation.conditions),
        keywords=read_keywords(local_path(keywords)) if keywords else (),
        seed=config.seed or (trained.seed if trained else USUAL_SEED),
        dtype=config.dtype,
    )


def settings_for(config: EvaluateConfig, trained: TrainConfig | None) -> EvaluationConfig:
    """How a run was scored, or without one the defaults, with the changes asked for.

    Raises:
        UserError: a change is out of range.
    """
    usual = to_config(EvaluationConfig, defaults("train")["evaluation"])
    try:
        return config.evaluation.applied_to(trained.evaluation if trained else usual)
    except RangeError as error:
        problems = [f"evaluation.{problem}" for problem in error.problems]
        raise UserError(f"The configuration cannot be used:\n{listing(problems)}") from error


def _require_groups(asked: Sequence[str] | None, sets: Sequence[TestSet]) -> None:
    """See that a column which was asked for now, and not by an old run, is in some test set."""
    from lora_whisper.evaluation.groups import group_labels

    tests = [one.rows for one in sets if one.role == "test"]
    for name in asked or ():
        is_measured_later = name == "duration"
        if not is_measured_later and not any(has_group(rows, name) for rows in tests):
            group_labels(tests[0], (name,))  # says what there is
