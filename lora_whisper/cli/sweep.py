"""A sweep: every point is composed and checked before the first is run, and a failed one is noted.

What is swept stands on the command line, or in an experiment's `hydra.sweeper.params`. The points
are launched here and not by Hydra's sweeper: those that are finished already are left out, and a
point that fails takes no other along.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lora_whisper.cli.command import AnyCommand
from lora_whisper.cli.compose import plain_config, unresolved
from lora_whisper.cli.misfits import compose_what_fits, tried, unreadable
from lora_whisper.cli.overrides import is_readable, readable_overrides
from lora_whisper.cli.workers import Workers, workers_of
from lora_whisper.errors import Problems, UserError, listing, not_the_users
from lora_whisper.files import make_folder, write_json, write_whole
from lora_whisper.locks import InUse
from lora_whisper.paths import program
from lora_whisper.reports.sweep import write_plan
from lora_whisper.run_folder import RunFolder, require_outside_runs
from lora_whisper.training.stopping import (
    GOES_ON,
    Stopped,
    ended_by_signals,
    out_of_memory_explained,
)

log = logging.getLogger("lora_whisper")

PART = re.compile(r"=_\w+_$")  # an option of a group that others consist of
MOST_POINTS = 1_000  # each is composed and prepared before the first is run: some 0.1 s
LONGEST_NAME = 200  # letters; file systems allow 255, and locks and copies have longer names


@dataclass(frozen=True)
class PointPlan:
    """One point of a sweep that can be run."""

    folder: Path
    overrides: tuple[str, ...]
    is_finished: bool
    place: Path  # what it writes to


def run_sweep(command: AnyCommand, hydra: Hydra, primary: str, overrides: list[str]) -> int:
    """Validate every point, then run those that are not finished; a failed one stops no other.

    Returns the exit code: 1 if a point failed, and no other process has carried it out meanwhile.
    """
    overrides = _with_params_of_files(hydra, primary, overrides)
    overrides = [*overrides, *implied_by_multirun(command, _parsed(hydra, primary, overrides))]
    parsed = _parsed(hydra, primary, overrides)
    if "name" in swept_keys(parsed):
        raise UserError("name cannot be swept: it is the name of the sweep's folder. Give it one.")
    points, latest = _check_points(command, hydra, primary, parsed)
    master, error = tried(hydra, primary, overrides, RunMode.MULTIRUN)
    if master is None:
        raise UserError(f"The sweep cannot be started: {error}")
    workers = workers_of(master)
    waiting = [point for point in points if not point.is_finished]
    for point in points:
        if point.is_finished:
            _forget_failure(point.folder)
    if len(waiting) < len(points):
        log.info(
            "finished    %d of %d points, which are left as they are",
            len(points) - len(waiting),
            len(points),
        )
    failed: list[PointPlan] = []
    if command.report_sweep is not None:
        folder = Path(master.hydra.sweep.dir)
        make_folder(folder)
        write_plan(folder, [point.folder.name for point in points])
    if waiting:
        with ended_by_signals(GOES_ON):
            failed = _launch(_Point(command, workers, latest), hydra, master, waiting)
    if command.report_sweep is not None:
        command.report_sweep([point.folder for point in points])
    # Whether another process came to a result meanwhile; an older one, which a failed attempt left
    # as it was, does not count.
    runs = [RunFolder(point.folder) for point in failed]
    return int(any(run.failure.is_file() or not run.is_complete() for run in runs))


# ── which points there are ───────────────────────────────────────────────────────────────────


def _with_params_of_files(hydra: Hydra, primary: str, overrides: list[str]) -> list[str]:
    """What an experiment sweeps stands before what is typed, where the same key goes first.

    Raises:
        UserError: a sweeper that is not used here.
    """
    master, _ = tried(hydra, primary, overrides, RunMode.MULTIRUN)
    if master is None:
        return overrides  # what is wrong is said of every point
    sweeper = str(master.hydra.sweeper.get("_target_"))
    if not sweeper.endswith(f".{BasicSweeper.__name__}"):
        raise UserError(
            f"hydra/sweeper={master.hydra.runtime.choices['hydra/sweeper']} is not used: a sweep "
            f"runs every combination. Type {program()} search … to look for the best one."
        )
    typed = {override.get_key_element() for override in _parsed(hydra, primary, overrides)}
    params = master.hydra.sweeper.get("params") or {}
    asked = [f"{key}={value}" for key, value in params.items() if key not in typed]
    return [*readable_overrides(asked, sweeps=True), *overrides]


def implied_by_multirun(command: AnyCommand, parsed: list[Override]) -> list[str]:
    """A sweep that is typed again goes on where it stopped, unless it is to be overwritten."""
    given = {override.get_key_element(): override for override in parsed}
    can_resume = "resume" in typing.get_type_hints(command.kind) and "resume" not in given
    overwrites = "overwrite" in given and given["overwrite"].value()
    return ["resume=auto"] if can_resume and not overwrites else []


def _parsed(hydra: Hydra, primary: str, overrides: list[str]) -> list[Override]:
    """Raise `UserError` for an override that no quotes can make readable."""
    try:
        return OverridesParser.create(hydra.config_loader).parse_overrides(overrides)
    except HydraException as error:
        parser = OverridesParser.create()
        problems = [
            unreadable(primary, override)
            for override in overrides
            if not is_readable(parser, override)
        ]
        raise UserError(f"The command line cannot be used:\n{listing(problems)}") from error


def swept_keys(parsed: list[Override]) -> list[str]:
    return [override.get_key_element() for override in parsed if override.is_sweep_override()]


def _check_points(
    command: AnyCommand, hydra: Hydra, primary: str, parsed: list[Override]
) -> tuple[list[PointPlan], Any]:
    """Compose and prepare every point before the first is run.

    Returns:
        the points, and the plan of the last one, whose inputs others may share

    Raises:
        UserError: what is wrong with any of the points.
    """
    problems: dict[str, list[str]] = {}  # to the points that have it
    points: list[PointPlan] = []
    combinations, latest = _combinations(parsed), None
    for overrides in combinations:
        name = point_name(overrides, swept_keys(parsed))
        faults = Problems()
        composed = compose_what_fits(hydra, primary, overrides, faults)
        if composed is not None:  # else a misspelt key does not hide what is wrong beside it
            with faults.noted():
                config, folder = plain_config(command, composed), sweep_folder(composed) / name
                require_outside_runs(folder)
                try:
                    latest = command.prepared(config, folder, latest)
                    is_finished = command.is_finished is not None and command.is_finished(latest)
                    place = command.place(latest) if command.place else folder
                    points.append(PointPlan(folder, tuple(overrides), is_finished, place))
                except InUse:  # by whoever carries it out already
                    points.append(PointPlan(folder, tuple(overrides), False, folder))
        for problem in faults.found:  # said once of all points, where their names alone differ
            problems.setdefault(problem.replace(f"/{name} ", "/… "), []).append(name)
    places = [point.place for point in points]
    for place in sorted({place for place in places if places.count(place) > 1}):
        problems["two points would share this folder"] = [str(place)]
    if len({point.folder.parent for point in points}) > 1:
        problems["name cannot be swept: it is the name of the sweep's folder"] = [primary]
    if problems:
        raise UserError("The sweep cannot be started:\n" + _named(problems, len(combinations)))
    return points, latest


def sweep_folder(composed: DictConfig) -> Path:
    """Of all points; raises `UserError` where its ${…} stand for nothing."""
    try:
        return Path(composed.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        raise unresolved(error) from error


def _combinations(parsed: list[Override]) -> list[list[str]]:
    """The overrides of each point, without the parts of options that `adapter=glob(*)` finds, too.

    Raises:
        UserError: a sweep that has no end, such as over an interval, or no points.
    """
    count = math.prod(_values_of(override) for override in parsed)
    if count > MOST_POINTS:
        raise UserError(
            f"The sweep would have {count:,} points; up to {MOST_POINTS:,} are run. Type fewer "
            f"values of {', '.join(swept_keys(parsed))}, or {program()} search … to look for the "
            "best ones among many."
        )
    try:
        combinations = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except HydraException as error:
        raise UserError(f"The sweep cannot be started: {error}") from error
    points = [
        point for point in combinations if not any(PART.search(override) for override in point)
    ]
    if not points:
        raise UserError(f"The sweep has no points: {', '.join(swept_keys(parsed))} has no values.")
    return points


def _values_of(override: Override) -> int:
    """How many a sweep tries, counted and not listed."""
    value = override.value()
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        return max(0, math.ceil((value.stop - value.start) / (value.step or 1)))
    return len(value.list) if isinstance(value, ChoiceSweep) else 1


def _named(problems: Mapping[str, Sequence[str]], count: int) -> str:
    """Every problem once, behind the points that have it."""
    lines = []
    for problem, names in problems.items():
        who = "every point" if len(names) == count > 1 else ", ".join(names)
        if len(names) == 1:  # nobody has a folder called …
            problem = problem.replace("/… ", f"/{names[0]} ")
        lines.append(f"{who}: {problem}".replace("\n", "\n    "))
    return listing(lines, shown=len(lines))


def point_name(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """A folder's name for one point of a sweep: `adapter.rank-4_seed-1`; no quoting needed.

    Values whose letters had to be replaced carry a short hash, so that two of them never meet.
    """
    parts = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in keys:
            plain = re.sub(r"[^A-Za-z0-9.-]+", "-", value).strip("-")
            mark = "" if plain == value else "-" + hashlib.sha1(value.encode()).hexdigest()[:6]
            parts.append(re.sub(r"[^A-Za-z0-9.-]+", "-", key) + "-" + plain + mark)
    name = "_".join(parts) or "point"
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha1(name.encode()).hexdigest()[:6]}"
    return name


# ── launching them ───────────────────────────────────────────────────────────────────────────


def _launch(
    task: _Point, hydra: Hydra, master: DictConfig, points: Sequence[PointPlan]
) -> list[PointPlan]:
    """Run the points, so many at a time as there are workers; return those that failed."""
    callbacks = Callbacks(master)
    callbacks.on_multirun_start(config=master, config_name=None)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=task,
        config=master,
    )
    folder = Path(master.hydra.sweep.dir)
    make_folder(folder)
    write_whole(folder / "multirun.yaml", OmegaConf.to_yaml(master).encode())
    if task.workers.launcher.startswith("submitit"):  # of whose points nothing is shown here
        log.info("points      %d; what each prints is in %s/.submitit", len(points), folder)
    failed: list[PointPlan] = []
    for batch in _batches(points, task.workers.batch_size):
        failed += _launched(task, launcher, batch)
    callbacks.on_multirun_end(config=master, config_name=None)
    return failed


def _batches(points: Sequence[PointPlan], size: int | None) -> Iterator[Sequence[PointPlan]]:
    step = size or len(points)
    for first in range(0, len(points), step):
        yield points[first : first + step]


def _launched(task: _Point, launcher: Launcher, batch: Sequence[PointPlan]) -> list[PointPlan]:
    """Run points together; return those that failed.

    When a process is killed, as by a system that runs out of memory, joblib ends all others with
    it. The points that then have no result are run again, each on its own.
    """
    try:
        jobs = [[*point.overrides, f"hydra.sweep.subdir='{point.folder.name}'"] for point in batch]
        results = launcher.launch(jobs, initial_job_idx=0)
        # What `_Point` returned; Hydra's own property would raise what it could not catch.
        outcomes = [result._return_value for result in results]
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return [point for point, why in zip(batch, outcomes, strict=True) if why is not None]
    except Exception as error:
        log.error("a process of the sweep ended: %s", str(error).strip().splitlines()[0])
        left = [point for point in batch if not RunFolder(point.folder).is_complete()]
        if task.workers.are_of_joblib and len(batch) > 1:
            log.info("the points without a result are run again, one by one")
            return [failed for point in left for failed in _launched(task, launcher, [point])]
        for point in left:
            if task.workers.are_of_joblib:
                _note_failure(task.command, point.folder, f"its process ended: {error}")
        return left


@dataclass
class _Point:
    """The task that is called for each point; picklable, so that other processes can take it."""

    command: AnyCommand
    workers: Workers
    latest: Any = None  # plan of a point, from which the next one has what both read

    def __getstate__(self) -> dict[str, Any]:
        """Another process reads for itself."""
        return vars(self) | {"latest": None}

    def __call__(self, composed: DictConfig) -> str | None:
        """Run one point; return why it failed, which its folder says too."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        with self.workers.at_work(folder.name):
            _forget_failure(folder)
            try:
                config = plain_config(self.command, composed)
                with out_of_memory_explained(config):
                    self.latest = self.command.prepared(config, folder, self.latest)
                    exit_code = self.command.run(self.latest)
                if exit_code:
                    raise UserError(f"exit code {exit_code}")
            except Stopped as stop:
                raise Stopped(stop.exit_code - 128, f"in {folder.name}; {GOES_ON}") from stop
            except InUse as error:
                log.warning("%s is left to another process, which has it in hand", folder.name)
                return reason(error)
            except Exception as error:
                log.error("%s failed: %s", folder.name, error, exc_info=not_the_users(error))
                _note_failure(self.command, folder, reason(error))
                return reason(error)
            return None


def reason(error: Exception) -> str:
    """Why a point failed, in words that stand alone."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _note_failure(command: AnyCommand, folder: Path, why: str) -> None:
    """Write it where a later process finds it; of a command whose folders hold nothing else, not.

    A full disk may have been the reason; then the table says less.
    """
    if command.report_sweep is None:
        return
    try:
        write_json(RunFolder(folder).failure, {"reason": why})
    except (OSError, UserError) as error:
        log.warning("%s: the reason cannot be written: %s", folder.name, error)


def _forget_failure(folder: Path) -> None:
    RunFolder(folder).failure.unlink(missing_ok=True)
