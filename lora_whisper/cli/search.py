"""`lora-whisper search`: train with many values, and keep the best by validation WER.

    lora-whisper search experiment=quickstart search.trials=20

Needs the extra `search`. Started several times, the same command shares one search.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper.cli import train
from lora_whisper.cli.command import Command
from lora_whisper.config import SearchConfig, SpaceConfig, TrainConfig
from lora_whisper.data.speech import DatasetSplits, Inputs, read_inputs
from lora_whisper.errors import UserError, listing, not_the_users
from lora_whisper.evaluation.results import Json
from lora_whisper.evaluation.run_summary import RunSummary, read_summary
from lora_whisper.files import (
    as_written,
    contents,
    is_disk_full,
    no_room,
    remove_folder,
    write_json,
)
from lora_whisper.locks import locked
from lora_whisper.run_config import FREE_TO_CHANGE, flat, with_absolute_paths
from lora_whisper.run_folder import SEARCH_FILE, RunFolder
from lora_whisper.search.space import (
    Choice,
    Value,
    shown,
    space_of,
    train_config,
    typed_values,
    usual_values,
    with_values,
)
from lora_whisper.search.study import Claim, Study, alone_in, require_optuna
from lora_whisper.terminal import percent
from lora_whisper.training.stopping import (
    GOES_ON,
    Stopped,
    ended_by_signals,
    out_of_memory_explained,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

log = logging.getLogger("lora_whisper")

SPEECH = "speech"  # in that file: the hashes of each split
TEST = "test"  # of which trials know nothing: it may be corrected while they are carried out
FREE = FREE_TO_CHANGE | {"search.trials", "search.timeout_hours"}


@dataclass(frozen=True)
class SearchPlan:
    """A search that can be carried out, or gone on with."""

    config: SearchConfig
    path: Path
    common: TrainConfig  # what all trials have in common
    inputs: Inputs


def prepare(config: SearchConfig, path: Path) -> SearchPlan:
    """Find everything that would stop the search or one of its trials, before anything is written.

    Raises:
        UserError: Optuna is missing, the search exists and is another one, or what `train` says of
            any of the trials.
    """
    require_optuna()
    common = with_absolute_paths(train_config(config))
    if path.exists():
        _require_search(path)
    trial = None
    if not config.overwrite and (path / SEARCH_FILE).is_file():
        inputs = read_inputs(common.model, common.data)
        _require_same(SearchPlan(config, path, common, inputs))
        trial = train.RunPlan(common, RunFolder(path / "trial"), "new", inputs)
    inputs = _checked_trials(config, common, path, trial)
    if inputs.speech.validation is None:
        raise UserError(
            "A search compares its trials by their WER on data.validation, which is missing: the "
            "test set is for the best one alone.\nType data.validation=…"
        )
    return SearchPlan(config, path, common, inputs)


def _checked_trials(
    config: SearchConfig, common: TrainConfig, path: Path, trial: train.RunPlan | None
) -> Inputs:
    """Let `train` prepare a trial of each shape; return what all of them read.

    Raises:
        UserError: what is wrong with any of them; each problem once.
    """
    problems: dict[str, list[str]] = {}
    shapes = list(_shapes(config.search.space))
    for values in shapes:
        try:
            trial = train.prepare(with_values(common, values), path / "trial", trial)
        except UserError as error:
            problems.setdefault(str(error), []).append(_label(values))
    if any(len(trials) == len(shapes) for trials in problems.values()):
        raise UserError("\n".join(problems))
    if problems:
        lines = [f"{', '.join(trials)}: {problem}" for problem, trials in problems.items()]
        raise UserError("Some trials could not be carried out:\n" + listing(lines, len(lines)))
    assert trial is not None
    assert trial.inputs is not None, "no trial is there before it is carried out"
    return trial.inputs


def _shapes(space: SpaceConfig) -> Iterator[dict[str, Value]]:
    """Each rank with each of the targets."""
    chosen = {"rank": space.rank, "targets": space.targets}
    given = {name: values for name, values in chosen.items() if values is not None}
    for values in itertools.product(*given.values()):
        yield dict(zip(given, values, strict=True))


def _label(values: Mapping[str, Value | None]) -> str:
    """`rank=8 targets=attention`; of keys that are typed, their last part."""
    return " ".join(f"{key.split('.')[-1]}={shown(value)}" for key, value in values.items())


# ── the search's folder ──────────────────────────────────────────────────────────────────────


def _description(plan: SearchPlan) -> Json:
    """What all processes of a search, and whoever goes on with it, have to agree on."""
    search = dataclasses.asdict(plan.config.search)
    values = flat(dataclasses.asdict(plan.common) | {"search": search})
    plain: Json = json.loads(json.dumps(values))
    kept = {key: value for key, value in plain.items() if key not in FREE}
    return kept | {SPEECH: _speech_hashes(plan.inputs.speech)}


def _speech_hashes(speech: DatasetSplits) -> dict[str, dict[str, str]]:
    """Of each split: trials that heard different speech do not compare, nor is one of them best."""
    from lora_whisper.data.contents import speech_hashes

    return {
        name: vars(speech_hashes(corpus.utterances, "size" if name == "train" else "bytes"))
        for name, corpus in speech.splits.items()
    }


def _described(path: Path) -> Json:
    values = as_written(path / SEARCH_FILE, {"model.checkpoint"})
    if values is None or not isinstance(values.get(SPEECH, {}), dict):
        raise UserError(
            f"{path / SEARCH_FILE} cannot be read: it is broken, or of another program.\n"
            "Type another name=…, or overwrite=true to begin anew."
        )
    return values


def _require_search(path: Path) -> None:
    if not (path / SEARCH_FILE).is_file() and contents(path):
        raise UserError(
            f"{path} exists and is not a search (it holds no {SEARCH_FILE}).\n"
            "It is left alone. Type another name=…"
        )


def _require_same(plan: SearchPlan) -> None:
    """Refuse to go on with a search that has other values.

    Raises:
        UserError: names every key that differs, with both values.
    """
    path = plan.path
    before, now = _described(path), _description(plan)
    # Older searches did not keep what their speech was.
    speech_before, speech_now = before.pop(SPEECH, now[SPEECH]), now.pop(SPEECH)
    changed = [
        f"data.{split}: its rows, texts or sound have changed"
        for split in speech_before | speech_now
        if split != TEST and speech_before.get(split) != speech_now.get(split)
    ] + [
        f"{key}: was {before.get(key)}, is {now.get(key)}"
        for key in before | now
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"The search {path} has other values:\n{listing(changed)}\n"
            "Give it the same, type another name=…, or overwrite=true to begin anew."
        )


def _take_test_set(plan: SearchPlan) -> None:
    """Keep what the test set is now, and say so where it was another one."""
    before, now = _described(plan.path), _description(plan)
    if SPEECH in before and before[SPEECH].get(TEST) != now[SPEECH].get(TEST):
        log.warning(
            "changed     data.test: its rows, texts or sound. Trials are compared by "
            "data.validation alone and stay; the best one is scored on the test set as it is now"
        )
        write_json(plan.path / SEARCH_FILE, now)


def _open(plan: SearchPlan) -> Study:
    """Make the search's folder, or open what is there."""
    config, path, base = plan.config, plan.path, plan.inputs.base
    space = space_of(config.search.space, plan.common, base)
    with alone_in(path):
        if config.overwrite and path.exists():
            _remove(path)
        if path.exists():
            _require_search(path)
        if (path / SEARCH_FILE).is_file():
            _require_same(plan)  # another process may have begun it meanwhile
        else:
            write_json(path / SEARCH_FILE, _description(plan))
        _take_test_set(plan)
        study = Study(path, config.search, space, config.seed, _steps(plan))
        study.begin_with(usual_values(space, plan.common, base))
    return study


def _remove(path: Path) -> None:
    """Delete a search, unless another process is at work on it."""
    for folder in path.glob("trial-*"):
        with locked(folder):
            pass
    remove_folder(path)


def _steps(plan: SearchPlan) -> int:
    """How many each trial has: nothing that is searched changes them."""
    from lora_whisper.data.loader import training_windows
    from lora_whisper.training.defaults import total_steps

    common, inputs = plan.common, plan.inputs
    in_epoch = training_windows(common, inputs.base, inputs.speech).steps_per_epoch
    return total_steps(in_epoch, common.training.max_epochs, common.training.max_steps)


# ── the search ───────────────────────────────────────────────────────────────────────────────


def run(plan: SearchPlan) -> int:
    """Carry out trials until there are enough, and show what they gave; return the exit code."""
    hours = plan.config.search.timeout_hours
    deadline = time.monotonic() + 3600 * hours if hours else float("inf")
    with ended_by_signals(GOES_ON), _full_disk_explained():
        study = _open(plan)
        _announce(study, plan.config)
        while _carry_out_next(study, plan, may_begin=time.monotonic() < deadline):
            pass
        return _conclude(study, plan)


@contextmanager
def _full_disk_explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        refusal = no_room(error)
        raise UserError(f"{refusal}\n{refusal.advice}: {GOES_ON}.") from error


def _announce(study: Study, config: SearchConfig) -> None:
    settings, begun = config.search, len(study.trials())
    log.info(
        "search      %s, %d trials, pruning %s", study.folder, settings.trials, settings.pruning
    )
    for name, drawn in study.space.items():
        if isinstance(drawn, Choice):
            log.info("  %-14s one of %s", name, ", ".join(map(shown, drawn.values)))
        else:
            log.info("  %-14s %s to %s", name, shown(drawn.lowest), shown(drawn.highest))
    if begun:
        log.info("%d trials were begun before", begun)


def _carry_out_next(study: Study, plan: SearchPlan, may_begin: bool) -> bool:
    """Carry out one trial; return whether there was one."""
    with study.claimed(may_begin) as claim:
        if claim is None:
            return False
        name, config = claim.folder.path.name, with_values(plan.common, claim.values)
        log.info("")
        log.info("%-11s %s", name, _label(typed_values(study.space, config)))
        try:
            _carry_out(study, claim, config, plan.inputs)
        except Stopped as stop:
            raise Stopped(stop.exit_code - 128, f"in {name}; {GOES_ON}") from stop
    return True


def _carry_out(study: Study, claim: Claim, config: TrainConfig, inputs: Inputs) -> None:
    """Carry out a trial and tell the study what became of it; a failed one stops no other.

    Raises:
        DiskFull: it would stop the others as well, and the trial goes on when there is room.
    """
    from lora_whisper.search import trial as trial_module
    from lora_whisper.training.loop import Diverged

    name = claim.folder.path.name
    try:
        with out_of_memory_explained(config):
            wer = trial_module.carry_out(config, claim, inputs)
    except trial_module.Pruned as end:
        study.prune(claim, str(end))
        log.info("%-11s pruned %s", name, end)
    except Diverged as error:
        study.prune(claim, str(error).splitlines()[0])
        log.warning("%-11s pruned: %s", name, error)
    except Exception as error:
        if is_disk_full(error):
            raise
        study.fail(claim, f"{type(error).__name__}: {error}".removeprefix("UserError: "))
        log.error("%s failed: %s", name, error, exc_info=not_the_users(error))
    else:
        study.complete(claim, wer)
        log.info("%-11s validation WER %s", name, percent(wer))


def _conclude(study: Study, plan: SearchPlan) -> int:
    """Show all trials; whoever ends last scores the best one on the test set, once."""
    from lora_whisper.search.table import show_best, show_trials

    running = sum(trial.state.name == "RUNNING" for trial in study.trials())
    best = study.best()
    if not running and best is not None:
        _bring_back(study, plan, best)
    scored = None if running or best is None else _scored(study, plan, best)
    show_trials(study, plan.common)
    if running:
        log.info("%d trials are running elsewhere: who ends last scores the best one", running)
    elif best is None:
        log.error("no trial was carried out to its end")
    else:
        show_best(study, plan.common, scored)
    return 0 if best or running else 1


def _bring_back(study: Study, plan: SearchPlan, best: FrozenTrial) -> None:
    """Carry the best trial out again, where its folder lost what a complete one has."""
    from lora_whisper.search import trial as trial_module

    folder, config = study.run_folder(best.number), with_values(plan.common, best.params)
    with alone_in(folder.path), out_of_memory_explained(config):
        if not trial_module.is_whole(folder):
            name = folder.path.name
            log.warning("%s, the best one, lost something; it is carried out anew", name)
            trial_module.carry_out(config, trial_module.Again(folder), plan.inputs)


def _scored(study: Study, plan: SearchPlan, best: FrozenTrial) -> RunSummary | None:
    """The summary of the best trial with its scores on the test set; None if there is no such."""
    from lora_whisper.search.trial import score_kept

    test = plan.inputs.speech.test
    if test is None:
        return None
    folder = study.run_folder(best.number)
    config = with_values(plan.common, best.params)
    with alone_in(folder.path), out_of_memory_explained(config):
        summary = read_summary(folder)
        is_known = summary.adapter and train.is_scored_on(config, folder, test)
        return summary if is_known else score_kept(config, folder, plan.inputs)


COMMAND = Command("search", SearchConfig, prepare, run)
