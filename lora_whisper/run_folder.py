"""A run's folder: what lies where, and the one rule for a folder that is there already.

outputs/NAME/
    config.yaml       resolved configuration; makes the folder a run
    rows.npz          hashes of the rows that it began with
    words.txt         data.words as the run began with it, where it was given
    metrics.jsonl     one object a logged step, units in the keys
    tracking/         files of trackers such as TensorBoard, where one was asked for
    train.log         what the terminal showed, with time stamps
    checkpoints/      to continue from, and the best adapter so far
    adapter/          stock PEFT folder
    evaluation/       scores and hypotheses, by model and test set
    evaluation.json   what `lora-whisper evaluate` found; also as .html and .md
    merged/           stock Transformers folder, after `lora-whisper merge`
    export/FORMAT/    for other programs, after `lora-whisper export`
    report.html       curves, scores, samples and configuration on one page
    summary.json      what the run gave; written when it is complete
    pruned.json       where a search ended it early; such a run has no summary.json
    failure.json      why a point of a sweep failed; gone as soon as it is run again
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_whisper.errors import UserError
from lora_whisper.files import as_written, contents, remove_folder

MODELS = ("base", "adapter", "merged")
SUMMARY_FORMAT = 2  # raised when a key of summary.json changes its meaning
SUMMARY_KEYS = {"checkpoint", "base", "adapter"}  # that every version wrote
RESULTS_KEYS = {"models", "scores"}  # of evaluation.json
METADATA_FILE = "lora_whisper.json"  # in an adapter's folder: what it is, and was worth
RECIPE_FILE = "merge.json"  # in a merged folder: what it was made from
SEARCH_FILE = "search.json"  # what is searched, which makes a folder a search's
PLAN_FILE = "sweep.json"  # {"points": […]}: the names of all points that a sweep has
HOLDERS = {SEARCH_FILE: "search", PLAN_FILE: "sweep", RECIPE_FILE: "merged model"}
# Of other programs, which a merged folder has beside its weights, whatever its base came with.
MERGED_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
OWN_SET = "test"  # folder below evaluation/MODEL/ of the scores that summary.json holds
PROMPTED = "prompted"  # behind a set's name: what was decoded with the word list as a prompt
SCORE, HYPOTHESES = "score.json", "hypotheses.jsonl"  # in such a folder, and written together
MARKER = "# A run of lora_whisper; this file makes its folder one.\n"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def rows(self) -> Path:
        return self.path / "rows.npz"

    @property
    def words(self) -> Path:
        return self.path / "words.txt"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def merged(self) -> Path:
        return self.path / "merged"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def results(self) -> Path:
        """Of `evaluate`; beside it lie the same for people, as .html and .md."""
        return self.path / "evaluation.json"

    @property
    def export(self) -> Path:
        """Of `export`; a folder for each format."""
        return self.path / "export"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def pruned(self) -> Path:
        return self.path / "pruned.json"

    @property
    def failure(self) -> Path:
        """{"reason": …} of a sweep's point that failed; there may be no run beside it."""
        return self.path / "failure.json"

    def config_text(self) -> str:
        """config.yaml as it is, below the line that makes it ours."""
        return self.config.read_text(encoding="utf-8").removeprefix(MARKER)

    def is_run(self) -> bool:
        """Whether config.yaml was written by us: other programs have a file of that name, too."""
        return self.config.is_file() and self.config.read_bytes().startswith(MARKER.encode())

    def is_complete(self) -> bool:
        return self.is_run() and self.summary.is_file()

    def last_checkpoint(self) -> Path | None:
        """That a run goes on from, or None."""
        return next(iter(reversed(step_folders(self.checkpoints))), None)

    def reopen(self) -> None:
        """Take away what a complete run says of an adapter that is going to be another one."""
        for file in (self.summary, self.adapter / METADATA_FILE):
            file.unlink(missing_ok=True)
        scores = (self.evaluation / name for name in ("merged", "adapter"))
        for path in (self.merged, self.export, *scores):
            if path.exists():
                remove_folder(path)

    def remove(self) -> None:
        """Delete the run, under another name first: cut short, it leaves no half of a run."""
        assert self.is_run(), self.path
        remove_folder(self.path)


def step_folders(checkpoints: Path) -> list[Path]:
    """The checkpoints after so many steps, the last one last; what else lies there is none."""
    named = (path for path in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
    return sorted((path for path in named if path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


Start = Literal["new", "resume", "complete"]


def rerun_rule(
    folder: RunFolder, overwrite: bool, resume: bool, can_be_longer: bool = False
) -> Start:
    """Say what `train` does with `folder`; nothing is written or removed here.

    A folder that is absent, or empty but for the reason of a failure and for what a killed start
    left, is a new run. An existing run
    is refused unless `overwrite` (it becomes new) or `resume` (it is continued, or reported as
    complete) is given. A folder with anything else in it is never touched.

    Raises:
        UserError: the run exists and neither was given, or the folder is not a run.
    """
    # `can_be_longer`: whether its settings allow more steps, see `free_to_change`.
    path = folder.path
    require_outside_runs(path)
    if not path.exists() or (path.is_dir() and contents(path) <= {folder.failure.name}):
        return "new"
    if not folder.is_run():
        raise UserError(
            f"{path} exists and is not a run (it holds no config.yaml of ours).\n"
            "It is left alone. Type another name=…, or take it away."
        )
    if overwrite:
        return "new"
    if resume:
        if not folder.is_complete():
            return "resume"
        if folder.last_checkpoint() is None:  # nothing that a new summary could be made of
            read_whole_summary(folder)
        return "complete" if as_written(folder.summary, SUMMARY_KEYS) else "resume"
    if not folder.is_complete():
        raise UserError(
            f"The run {path} exists and is unfinished.\n"
            "Type resume=auto to continue it, overwrite=true to replace it, or another name=…"
        )
    longer = "resume=auto training.max_steps=… to make it longer, " if can_be_longer else ""
    raise UserError(
        f"The run {path} exists and is complete.\n"
        f"Type {further(path)}, {longer}overwrite=true to replace it, or another name=…"
    )


def require_outside_runs(path: Path) -> None:
    """See that a new folder is no part of a run, which would take it along when it is replaced.

    Raises:
        UserError: it is.
    """
    around = next((folder for folder in path.parents if RunFolder(folder).is_run()), None)
    if around is not None:
        raise UserError(f"{path} lies in the run {around}. Type another name=…")


def require_own_place(path: Path) -> None:
    """See that what is typed alone is no new part of anything, neither a run nor what holds some.

    Raises:
        UserError: it is.
    """
    require_outside_runs(path)
    for around in path.parents:
        for file, what in HOLDERS.items():
            if (around / file).is_file() and not RunFolder(path).is_run():
                raise UserError(f"{path} lies in the {what} {around}. Type another name=…")


def further(run: Path) -> str:
    """What to type to train on where a complete run has ended."""
    return f"{shlex.quote(f'adapter.init_from={run}')} name=… to train its adapter further"


def existing_run(path: str) -> RunFolder:
    """The run in the folder `path`, which must be complete.

    Raises:
        UserError: there is no such folder, it is not a run, or the run is unfinished.
    """
    folder = RunFolder(Path(path).expanduser())
    if not folder.path.is_dir():
        named = Path("outputs") / path
        meant = f" Type {shlex.quote(f'run={named}')}." if RunFolder(named).is_run() else ""
        raise UserError(
            f"run={path}: there is no such folder.{meant}{_known_runs(folder.path.parent)}"
        )
    if not folder.is_run():
        raise UserError(
            f"run={path}: this folder is not a run (it holds no config.yaml of ours)."
            + _known_runs(folder.path)
        )
    if folder.pruned.is_file() and not folder.is_complete():
        raise UserError(
            f"run={path}: a search ended this run early, since others were better.\n"
            f"Type the search's best one, or another that is complete."
            + _known_runs(folder.path.parent)
        )
    if not folder.is_complete():
        raise UserError(
            f"run={path}: this run is unfinished (it holds no summary.json).\n"
            "Finish it with the command that began it and resume=auto."
        )
    read_whole_summary(folder)
    return folder


def run_around(given: str) -> Path | None:
    """The run that a folder lies in, such as its checkpoint, as it would be typed; or None."""
    path = Path(given).expanduser()
    above = (*path.parents, *path.absolute().parents)
    return next((folder for folder in above if RunFolder(folder).is_run()), None)


def read_whole_summary(folder: RunFolder) -> dict[str, Any]:
    """What summary.json says, as it was written.

    Raises:
        UserError: it was damaged or edited since.
    """
    values = as_written(folder.summary, SUMMARY_KEYS)
    if values is None:
        raise damaged_summary(folder)
    return values


def damaged_summary(folder: RunFolder) -> UserError:
    return UserError(
        f"{folder.summary} is not what was written there.\n"
        "Bring it back from a copy. Or take it away, and type the command that began the run with "
        "resume=auto, which scores the adapter and writes it again; then merge and export again."
    )


def _known_runs(parent: Path) -> str:
    complete = (path for path in parent.glob("*") if RunFolder(path).is_complete())
    runs = sorted(map(str, complete))
    return "\nRuns found there: " + ", ".join(runs[:10]) if runs else ""
