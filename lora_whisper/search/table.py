"""What a search found, as it is printed at its end."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD

from lora_whisper.config import TrainConfig
from lora_whisper.evaluation.run_summary import RunSummary
from lora_whisper.paths import program, short
from lora_whisper.reports.summary import score_table
from lora_whisper.reports.tables import Column, Table
from lora_whisper.search.space import shown, typed_values, with_values
from lora_whisper.search.study import REASON, Study
from lora_whisper.terminal import console, percent

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

COLUMNS = {  # as narrow as 80 columns ask for
    "optimizer.learning_rate": "rate",
    "adapter.rank": "rank",
    "adapter.alpha": "alpha",
    "adapter.dropout": "dropout",
    "adapter.targets": "targets",
}


def show_trials(study: Study, train: TrainConfig) -> None:
    """A row a trial, the best first; below it what went wrong."""
    searched = [COLUMNS[key] for key in typed_values(study.space, train)]
    table = Table(
        [*map(Column, ("trial", *searched, "WER")), Column("state", is_text=True)],
        layout={"box": SIMPLE_HEAD},
    )
    trials = sorted(study.trials(), key=_order)
    for trial in trials:
        values = [""] * len(study.space)
        if trial.params.keys() == study.space.keys():  # else it has just begun
            drawn = typed_values(study.space, with_values(train, trial.params))
            values = [shown(value) for value in drawn.values()]
        # Its best WER, and what became of it.
        wer = "" if trial.value is None else percent(trial.value)
        state = {"COMPLETE": "complete", "RUNNING": "running", "FAIL": "failed: below"}
        pruned = "pruned early" if trial.last_step is None else f"pruned at {trial.last_step}"
        table.add(str(trial.number), *values, wer, state.get(trial.state.name, pruned))
    console.print()
    title = f"{short(study.folder)}: WER on the validation set"
    console.print(title, markup=False, style="bold", soft_wrap=True)
    console.print(table.terminal())
    for trial in trials:
        if trial.state.name == "FAIL":
            reason = f"trial-{trial.number}: {trial.user_attrs.get(REASON, 'failed')}"
            console.print(textwrap.shorten(reason, 300), markup=False, style="yellow")
    if failed := sum(trial.state.name == "FAIL" for trial in trials):
        console.print(
            "What failed is not carried out again; as many others are with "
            f"search.trials={len(trials) + failed}"
        )


def _order(trial: FrozenTrial) -> tuple[int, float, int]:
    ranks = ("COMPLETE", "PRUNED", "RUNNING", "FAIL")
    value = trial.value if trial.value is not None else float("inf")
    return ranks.index(trial.state.name), value, trial.number


def show_best(study: Study, train: TrainConfig, summary: RunSummary | None) -> None:
    """The best trial, its scores on the test set if there is one, and what to type next.

    Args:
        summary: of the best one, with these scores.
    """
    best = study.best()
    assert best is not None
    place = short(study.run_folder(best.number).path)
    console.print()
    if summary is not None:
        known = {"base": summary.base, "adapter": summary.adapter}
        title = f"trial-{best.number} on the test set, which no trial was chosen by"
        console.print(score_table(title, known, summary.quantization).terminal())
    for line in [f"best        {place}", f"adapter     {short(Path(place) / 'adapter')}"]:
        console.print(line, markup=False)
    for line in _next(study, train, best, place):
        console.print(line, markup=False, soft_wrap=True)


def _next(study: Study, train: TrainConfig, best: FrozenTrial, place: str) -> list[str]:
    values = typed_values(study.space, with_values(train, best.params))
    typed = " ".join(f"{key}={shown(value)}" for key, value in values.items())
    return [
        f"next        {program()} merge {shlex.quote(f'run={place}')}",
        "to train with its values, what you typed here without search.…, but as",
        f"  {program()} train … {shlex.quote(f'name={Path(train.name).name}-best')} \\",
        f"    {typed}",
        f"and to go on from its adapter: {shlex.quote(f'adapter.init_from={place}')}",
    ]
