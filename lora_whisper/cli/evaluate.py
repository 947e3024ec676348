"""`lora-whisper evaluate`: score a run, or any models side by side, on one or several test sets.

    lora-whisper evaluate run=outputs/mine
    lora-whisper evaluate run=outputs/mine data.test=general.jsonl
    lora-whisper evaluate 'models=[base,outputs/a,outputs/b,openai/whisper-small]' data.test=a.jsonl

The first model is what the others are compared with. `evaluation.json`, `.html` and `.md` and the
folder `evaluation/` are written into the run's folder, or into outputs/NAME. A run's own test set
brings its summary.json up to date.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_whisper import processes
from lora_whisper.cli.command import Command
from lora_whisper.config import EvaluateConfig
from lora_whisper.errors import UserError, listing
from lora_whisper.evaluation.plan import Plan, make_plan
from lora_whisper.evaluation.results import CapabilityCard, Json, Score, WordScores
from lora_whisper.files import as_written, contents, read_json, remove_folder
from lora_whisper.locks import locked
from lora_whisper.lora.resolve import resolve_run
from lora_whisper.paths import below_home, mapped
from lora_whisper.run_config import flat
from lora_whisper.run_folder import OWN_SET, PROMPTED, RESULTS_KEYS, RunFolder

log = logging.getLogger("lora_whisper")

OWN_NAME = "evaluation"  # of a run's own report, which lies in the run
# Keys that change nothing of what is found, or say where it goes.
FREE = {
    "run",
    "name",
    "overwrite",
    "allow_pickle",
    "evaluation.batch_size",
    "evaluation.cache",
    "evaluation.players",
}


@dataclass(frozen=True)
class EvaluationPlan:
    """What is evaluated, and where the report goes."""

    config: EvaluateConfig
    folder: RunFolder
    plan: Plan


def prepare(config: EvaluateConfig, path: Path) -> EvaluationPlan:
    """Find models and test sets, and see that nothing else is replaced, before anything loads."""
    folder = results_folder(config, path)
    _refuse_replacing(config, folder)
    return EvaluationPlan(config, folder, make_plan(config))


def run(evaluation: EvaluationPlan) -> int:
    """Examine, write and show; the exit code is 1 if a model is broken."""
    from lora_whisper.evaluation.evaluate import Evaluator
    from lora_whisper.evaluation.test_sets import load_sets
    from lora_whisper.evaluation.workload import announce
    from lora_whisper.model.device import new_accelerator
    from lora_whisper.reports.evaluation_page import write
    from lora_whisper.reports.evaluation_tables import show

    folder, plan = evaluation.folder, evaluation.plan
    with processes.entered_by_main(locked(folder.path)):
        sets = load_sets(plan.sets, plan.settings.max_utterances, plan.seed)
        announce(plan, sets)
        device = new_accelerator(plan.entries[0].precision).device
        evaluator = Evaluator(plan, sets, folder.evaluation, device)
        evaluator.carry_out()
        if processes.is_main():
            results = evaluator.results(folder.path.name, asked(evaluation.config))
            before = _parts(as_written(folder.results, RESULTS_KEYS) or {})
            write(folder, results, evaluator.utterances, sets if plan.more.players else ())
            _remove_parts(folder, before - _parts(read_json(folder.results)))
            if folder.is_run():
                of_own = results.sets[0].name == OWN_SET
                card = results.cards.get("adapter") if of_own else None
                of_test = results.scores.get(OWN_SET, {})
                update_summary(folder, of_test, results.word_scores(OWN_SET), card)
            show(folder, results)
    return 1 if evaluator.failed else 0


def _parts(results: Json) -> set[tuple[str, str]]:
    """The folders below evaluation/ that a report is of: each a model, and a set of clips."""
    of_sets = {
        (model, name) for name, scores in results.get("scores", {}).items() for model in scores
    }
    in_conditions = {
        (model, f"{name}-{condition}")
        for name, conditions in results.get("conditions", {}).items()
        for condition, scores in conditions.items()
        for model in scores
    }
    prompted = {
        (model, f"{name}-{PROMPTED}")
        for name, scores in results.get("prompted", {}).items()
        for model in scores
    }
    return of_sets | in_conditions | prompted


def _remove_parts(folder: RunFolder, left: Collection[tuple[str, str]]) -> None:
    """Delete what the report that was replaced had, and this one has not; never a run's own."""
    for path in folder.evaluation.glob("*/*"):
        is_own = folder.is_run() and path.name == OWN_SET
        if (path.parent.name, path.name) in left and path.is_dir() and not is_own:
            remove_folder(path)
            with suppress(OSError):  # of a model that has others
                path.parent.rmdir()


def results_folder(config: EvaluateConfig, path: Path) -> RunFolder:
    """The run's folder, or the report's own.

    Raises:
        UserError: something else lies there.
    """
    if config.run and config.name == OWN_NAME:
        return resolve_run(config.run, "evaluate")
    folder = RunFolder(path)
    ours = {folder.evaluation.name}  # all that there is where a report was broken off
    is_free = not path.exists() or (path.is_dir() and contents(path) <= ours)
    if folder.is_run() or not (is_free or folder.results.is_file()):
        what = "is a run" if folder.is_run() else f"holds no {folder.results.name}"
        raise UserError(f"{path} exists and {what}. It is left alone. Type another name=…")
    return folder


def _refuse_replacing(config: EvaluateConfig, folder: RunFolder) -> None:
    """What is asked for again is made again; another report is replaced when that is asked for.

    Raises:
        UserError: the report that is there was asked for with other values.
    """
    if config.overwrite or not folder.results.is_file():
        return
    known, now = as_written(folder.results, RESULTS_KEYS), asked(config)
    if known is None:
        raise UserError(
            f"{folder.results} is not what was written there.\n"
            "Type overwrite=true to replace it, or name=… to write this one to outputs/NAME."
        )
    before = known.get("asked")
    if before is None:
        changed = ["it was written by an older version, which did not say what was asked for"]
    else:
        changed = [
            f"{key}: was {before.get(key)}, is {now.get(key)}"
            for key in now  # of others, an older version asked
            if before.get(key) != now.get(key)
        ]
    if changed:
        raise UserError(
            f"{folder.results} exists and is of other values:\n{listing(changed)}\n"
            "Type overwrite=true to replace it, or name=… to write this one to outputs/NAME."
        )


def asked(config: EvaluateConfig) -> Json:
    """What decides on a report, by key; kept in it. The run is the one that it lies in."""
    values = flat(dataclasses.asdict(config))
    kept = {key: value for key, value in values.items() if key not in FREE}
    plain: Json = mapped(json.loads(json.dumps(kept)), below_home)
    return plain


def update_summary(
    folder: RunFolder,
    scores: Mapping[str, Score | None],
    words: Mapping[str, WordScores],
    card: CapabilityCard | None = None,
) -> None:
    """Bring what a run says of its own test set up to date; a broken model changes nothing.

    Where no list was asked for now, that of an earlier evaluation stays; and a card, until the test
    set is one that it is not of.
    """
    from lora_whisper.evaluation.provenance import differences
    from lora_whisper.evaluation.run_summary import read_as_written, with_one_test_set
    from lora_whisper.reports.run import write_results

    known = {model: score for model, score in scores.items() if score is not None}
    if known:
        before = read_as_written(folder)
        old, new = before.adapter, known.get("adapter")
        is_of_others = old is not None and new is not None and bool(differences(old, new))
        summary = dataclasses.replace(
            before.with_scores(known),
            words=words or before.words,
            card=card or (None if is_of_others else before.card),
        )
        write_results(folder, with_one_test_set(folder, summary))


COMMAND = Command(
    "evaluate",
    EvaluateConfig,
    prepare,
    run,
    place=lambda evaluation: evaluation.folder.results,
    is_shared=True,
)
