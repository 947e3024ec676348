"""Runs side by side, such as the points of a sweep: what each was told, what it gave, what failed.

Read from the runs' folders alone, without torch. `sweep_table` shows them after `train -m`,
`comparison` as a report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from lora_whisper.errors import UserError
from lora_whisper.evaluation.results import (
    Rate,
    Score,
    leading,
)
from lora_whisper.evaluation.run_summary import RunSummary, read_summary
from lora_whisper.evaluation.scored_words import cautions
from lora_whisper.files import as_written, read_json, write_json
from lora_whisper.layers import ALL
from lora_whisper.reports.summary import shipped_rank
from lora_whisper.run_config import FREE_TO_CHANGE, default_values, written_values
from lora_whisper.run_folder import PLAN_FILE, SEARCH_FILE, SUMMARY_KEYS, RunFolder

FAILURE_FILE = (
    "failure.json"  # {"reason": …}: in a point's folder since it failed, until it is done
)
LOG_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ([A-Z]+) (.*)$", re.MULTILINE)
NO_GAIN = "no run is better than its base on this test set"
STOPPED = ("KeyboardInterrupt", "Stopped")  # by somebody, who may go on: no failure

State = Literal["complete", "failed", "pruned", "unfinished", "never begun"]


@dataclass(frozen=True)
class Point:
    """One run among others. What is not known of it is None: all of a run that did not finish."""

    folder: Path
    state: State
    reason: str = ""  # why it failed, as it was said
    config: Mapping[str, Any] = field(default_factory=dict)  # flat keys; empty: it never began
    summary: RunSummary | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def score(self) -> Score | None:
        """Of the adapter on the run's own test set."""
        return self.summary.adapter if self.summary else None

    @property
    def base(self) -> Score | None:
        """The base's score on the same set."""
        return self.summary.base if self.summary else None

    @property
    def leading(self) -> Rate:
        """`wer`, or `cer` where the script has no spaces."""
        return leading(self.score)

    @property
    def rate(self) -> float | None:
        """The leading rate, as a fraction."""
        return self.score.rate(self.leading) if self.score else None

    @property
    def base_rate(self) -> float | None:
        """The same of its base, where that was scored."""
        return self.base.rate(self.leading) if self.base else None

    @property
    def rank(self) -> str | None:
        """Of what ships: `16`, or `4 – 32` where layers differ."""
        return shipped_rank(self.summary) if self.summary else None

    @property
    def targets(self) -> str | None:
        """`all-linear`, or `attention of the decoder`"""
        if "adapter.targets" not in self.config:
            return None
        layers = self.config["adapter.layers"]
        return self.config["adapter.targets"] + ("" if layers == ALL else f" of the {layers}")

    @property
    def adapter_bytes(self) -> int | None:
        return self.summary.adapter_bytes if self.summary else None

    @property
    def train_seconds(self) -> float | None:
        """Validation included."""
        return self.summary.train_seconds if self.summary else None


def is_in_search(point: Point) -> bool:
    """Whether it is a trial, which has no scores unless it is the best."""
    return (point.folder.parent / SEARCH_FILE).is_file()


def point_folders(sweep: Path) -> list[Path]:
    """Folders of runs, damaged ones too, and of points that failed before they were one.

    They lie directly below `sweep`.
    """
    return sorted(
        path
        for path in sweep.iterdir()
        if not path.name.startswith(".")
        and (is_or_was_run(RunFolder(path)) or (path / FAILURE_FILE).is_file())
    )


def is_or_was_run(run: RunFolder) -> bool:
    """Whether it is a run, or one whose config.yaml was emptied or edited since."""
    left = (run.metrics, run.rows, run.summary, run.pruned, run.checkpoints)
    return run.is_run() or (run.config.is_file() and any(path.exists() for path in left))


def write_plan(sweep: Path, names: Sequence[str]) -> None:
    """Keep which points a sweep has, so that those that are never begun are missed."""
    write_json(sweep / PLAN_FILE, {"points": list(names)})


def folders_of(sweep: Path) -> list[Path]:
    """Of the points that were begun, and of those that were planned and never begun."""
    begun = point_folders(sweep)
    try:
        planned = [sweep / name for name in read_json(sweep / PLAN_FILE)["points"]]
    except (OSError, ValueError, TypeError, KeyError):  # older sweeps have no plan
        planned = []
    return sorted({*begun, *planned})


def read_points(folders: Sequence[Path]) -> list[Point]:
    """Read the runs in these folders; in the order of what differs between them.

    What is not known of comes last.
    """
    points = [_read(RunFolder(folder)) for folder in folders]
    points = [point if point.config else _by_its_name(point, points) for point in points]
    keys = differing_keys(points)

    def place(point: Point) -> tuple[Any, ...]:
        is_unknown = not (keys and point.config)
        return is_unknown, [ordered(point.config.get(key)) for key in keys], point.name

    return sorted(points, key=place)


def _by_its_name(point: Point, others: Sequence[Point]) -> Point:
    """A point that failed before it was a run, with the configuration that its folder's name tells.

    Everything else is as in a point beside it; where the name does not tell all, nothing is known.
    """
    keys = told_keys(others)
    parts = point.name.split("_")
    begins = {key: key.replace("_", "-") + "-" for key in keys}  # as the sweep wrote it
    values = {
        key: yaml.safe_load(part.removeprefix(begin))
        for part in parts
        for key, begin in begins.items()
        if part.startswith(begin)
    }
    beside = next((other.config for other in others if other.config), {})
    is_told = len(values) == len(keys) == len(parts)
    return replace(point, config={**beside, **values}) if is_told else point


def differing_keys(points: Sequence[Point]) -> list[str]:
    """Flat keys of the configuration that are not the same in all runs, in its order."""
    known = [point.config for point in points if point.config]
    keys = dict.fromkeys(key for config in known for key in config)
    return [
        key
        for key in keys
        if key not in ("name", "overwrite", "resume")
        and any(config.get(key) != known[0].get(key) for config in known)
    ]


def told_keys(points: Sequence[Point]) -> list[str]:
    """Of the keys that differ, those that tell the runs apart and may change their scores.

    Left out are settings without effect on the adapter, and those that come with a choice of their
    own group: `adapter.kind` brings `adapter.adalora.…`, and `quantization.kind` its details.
    """
    keys = [key for key in differing_keys(points) if key not in FREE_TO_CHANGE]
    known = [point.config for point in points if point.config]

    def implies(choice: str, key: str) -> bool:
        """Whether each value of `choice`, which is a word, has one value of `key`."""
        if choice == key or not choice.endswith((".kind", ".checkpoint")):
            return False
        if choice.split(".")[0] != key.split(".")[0]:
            return False
        pairs = {(str(config.get(choice)), repr(config.get(key))) for config in known}
        return len(pairs) == len({value for value, _ in pairs})

    return [key for key in keys if not any(implies(other, key) for other in keys)]


def last_part(key: str) -> str:
    """`rank` of adapter.rank, but `adapter` of adapter.kind, as it is typed."""
    return key.removesuffix(".kind").split(".")[-1]


def ordered(value: Any) -> tuple[int, float, str]:
    """A key to sort by: numbers by size, then words; null first."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)


def none_beats_base(points: Sequence[Point]) -> bool:
    """Whether there are scores beside those of a base, and not one is lower: `NO_GAIN` is said."""
    rates = [(p.rate, p.base_rate) for p in points if p.rate is not None]
    return bool(rates) and all(base is not None and rate >= base for rate, base in rates)


def caution_of(points: Sequence[Point], best_name: str = "best") -> str:
    """What to say where the words that are scored are not those that were spoken, else ""."""
    scored = [point for point in points if point.rate is not None]
    best = min(scored, key=lambda point: point.rate or 0, default=None)
    return cautions({"base": best.base, best_name: best.score}) if best else ""


def pareto_front(sizes: Sequence[float | None], rates: Sequence[float | None]) -> list[bool]:
    """Whether each is on the Pareto front: no other is as small and as good, and better in one.

    Two that are alike in both are on it together; what has no size or no rate is not.
    """
    known = [
        (size, rate)
        for size, rate in zip(sizes, rates, strict=True)
        if size is not None and rate is not None
    ]
    return [
        size is not None
        and rate is not None
        and not any(
            other_size <= size and other_rate <= rate and (other_size, other_rate) != (size, rate)
            for other_size, other_rate in known
        )
        for size, rate in zip(sizes, rates, strict=True)
    ]


# ── reading ──────────────────────────────────────────────────────────────────────────────────


def _read(run: RunFolder) -> Point:
    """With today's defaults for keys that an older version had not."""
    config: Mapping[str, Any] = {}
    try:
        if run.is_run():
            config = default_values() | written_values(run.config_text())
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        return Point(run.path, "failed", "config.yaml cannot be read as YAML")
    if run.config.is_file() and not run.is_run():
        return Point(run.path, "failed", "config.yaml is not what was written there")
    failure = _failure(run)
    if run.is_complete() and not run.failure.is_file():  # else it is an older result
        try:
            return Point(run.path, "complete", config=config, summary=read_summary(run))
        except (UserError, ValueError) as error:
            failure = (
                "summary.json cannot be read: bring it back from a copy, or take it away and type "
                "the command that began the run with resume=auto"
            )
            if as_written(run.summary, SUMMARY_KEYS):  # but something that belongs to it is broken
                failure = str(error)
    if failure is None and config and run.pruned.is_file():
        pruned = as_written(run.pruned, ("step", "wer"))
        when = f" after step {pruned['step']}" if pruned else ""
        return Point(run.path, "pruned", f"the search ended it early{when}", config)
    if failure is None:
        state: State = "unfinished" if run.is_run() else "never begun"
        return Point(run.path, state, config=config)
    return Point(run.path, "failed", failure, config)


def _failure(run: RunFolder) -> str | None:
    """Why the run failed, as the sweep noted it, or else as its log ends; None: it did not."""
    try:
        return str(read_json(run.path / FAILURE_FILE)["reason"])
    except (OSError, ValueError, TypeError, KeyError):
        if not run.log.is_file():
            return None
    records = LOG_RECORD.findall(run.log.read_text(encoding="utf-8", errors="replace"))
    level, message = records[-1] if records else ("", "")
    ended = re.fullmatch(r"ended by (\w+)\((.*?),?\)", message)
    if level != "ERROR" or ended is None or ended[1] in STOPPED:
        return None
    reason = ended[2].strip("'\"").replace("\\n", "\n")
    return reason if ended[1] == "UserError" else f"{ended[1]}: {reason}"
