"""Runs side by side, such as the points of a sweep: what each was told, what it gave, what failed.

Read from the runs' folders alone, without torch. `train -m` shows them as a table, `report` as a
page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from lora_whisper.cli.compose import defaults
from lora_whisper.errors import UserError
from lora_whisper.evaluation.rates import leading
from lora_whisper.evaluation.run_scores import read_summary
from lora_whisper.reports.settings import config_text
from lora_whisper.reports.summary import shipped_rank
from lora_whisper.run_config import FREE_TO_CHANGE, flat
from lora_whisper.run_folder import (
    PLAN_FILE,
    SEARCH_FILE,
    SUMMARY_KEYS,
    RunFolder,
    as_written,
    read_json,
    write_json,
)

FAILURE_FILE = (
    "failure.json"  # {"reason": …}: in a point's folder since it failed, until it is done
)
LOG_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ([A-Z]+) (.*)$", re.MULTILINE)
NO_GAIN = "no run is better than its base on this test set"
STOPPED = ("KeyboardInterrupt", "Stopped")  # by somebody, who may go on: no failure

State = Literal["complete", "failed", "unfinished", "never begun"]


@dataclass(frozen=True)
class Point:
    """One run among others. What is not known of it is None: all of a run that did not finish."""

    folder: Path
    state: State
    reason: str = ""  # why it failed, as it was said
    config: Mapping[str, Any] = field(default_factory=dict)  # flat keys; empty: it never began
    values: Mapping[str, Any] = field(
        default_factory=dict
    )  # of `config`, what differs between runs
    summary: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def score(self) -> Mapping[str, Any] | None:
        """Of the adapter on the run's own test set."""
        return self.summary["adapter"] if self.summary else None

    @property
    def base(self) -> Mapping[str, Any] | None:
        """The base's score on the same set."""
        return self.summary["base"] if self.summary else None

    @property
    def leading(self) -> str:
        """`wer`, or `cer` where the script has no spaces."""
        return leading(self.score or {})

    @property
    def rate(self) -> float | None:
        """The leading rate, as a fraction."""
        return self.score[self.leading] if self.score else None

    @property
    def base_rate(self) -> float | None:
        """The same of its base, where that was scored."""
        return self.base[self.leading] if self.base else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of `rate`."""
        return tuple(self.score[f"{self.leading}_ci95"]) if self.score else None

    @property
    def wer(self) -> float | None:
        return self.score["wer"] if self.score else None

    @property
    def cer(self) -> float | None:
        return self.score["cer"] if self.score else None

    @property
    def rank(self) -> str | None:
        """Of what ships: `16`, or `4 – 32` where layers differ."""
        return shipped_rank(self.summary) if self.summary else None

    @property
    def targets(self) -> str | None:
        """`all-linear`, or `attention of the decoder`"""
        if "adapter.targets" not in self.config:
            return None
        stack = self.config["adapter.stack"]
        return self.config["adapter.targets"] + ("" if stack == "both" else f" of the {stack}")

    @property
    def trainable_parameters(self) -> int | None:
        return self.summary["trainable_parameters"] if self.summary else None

    @property
    def adapter_bytes(self) -> int | None:
        return self.summary["adapter_bytes"] if self.summary else None

    @property
    def train_seconds(self) -> float | None:
        """Validation included."""
        return self.summary["train_seconds"] if self.summary else None


def is_in_search(point: Point) -> bool:
    """Whether it is a trial, which has no scores unless it is the best."""
    return (point.folder.parent / SEARCH_FILE).is_file()


def point_folders(sweep: Path) -> list[Path]:
    """Folders of runs and of points that failed before they were one, directly below `sweep`."""
    return sorted(
        path
        for path in sweep.iterdir()
        if not path.name.startswith(".")
        and (RunFolder(path).is_run() or (path / FAILURE_FILE).is_file())
    )


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
    """Read the runs in these folders; in the order of what differs between them."""
    points = [_read(RunFolder(folder)) for folder in folders]
    points = [point if point.config else _by_its_name(point, points) for point in points]
    keys = differing_keys(points)
    with_values = [
        replace(point, values={key: point.config.get(key) for key in keys if point.config})
        for point in points
    ]
    return sorted(with_values, key=lambda point: _place(point, keys))


def _place(point: Point, keys: Sequence[str]) -> tuple[Any, ...]:
    """What is not known of comes last."""
    return not point.values, [ordered(point.values.get(key)) for key in keys], point.name


def _by_its_name(point: Point, others: Sequence[Point]) -> Point:
    """A point that failed before it was a run, with the configuration that its folder's name tells.

    Everything else is as in a point beside it; where the name does not tell all, nothing is known.
    """
    keys = told_keys(others)
    parts = point.name.split("_")
    begins = {key: key.replace("_", "-") + "-" for key in keys}  # as the sweep wrote it
    found = {
        key: yaml.safe_load(part.removeprefix(begin))
        for part in parts
        for key, begin in begins.items()
        if part.startswith(begin)
    }
    beside = next((other.config for other in others if other.config), {})
    is_told = len(found) == len(keys) == len(parts)
    return replace(point, config={**beside, **found}) if is_told else point


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
    return [key for key in keys if not any(_implies(points, other, key) for other in keys)]


def _implies(points: Sequence[Point], choice: str, key: str) -> bool:
    """Whether each value of `choice`, which is a word, has one value of `key` in its own group."""
    known = [point.config for point in points if point.config]
    if choice == key or not choice.endswith((".kind", ".checkpoint")):
        return False
    if choice.split(".")[0] != key.split(".")[0]:
        return False
    pairs = {(str(config.get(choice)), repr(config.get(key))) for config in known}
    return len(pairs) == len({one for one, _ in pairs})


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
    from lora_whisper.evaluation.scored_words import cautions

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
    try:
        config = _config(run) if run.is_run() else {}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        return Point(run.path, "failed", "config.yaml cannot be read as YAML")
    if run.config.is_file() and not run.is_run():
        return Point(run.path, "failed", "config.yaml is not what was written there")
    failure = _failure(run)
    if run.is_complete() and not run.failure.is_file():  # else it is an older result
        try:
            return Point(run.path, "complete", config=config, summary=_summary(run))
        except (UserError, ValueError, KeyError) as error:
            failure = (
                "summary.json cannot be read: bring it back from a copy, or take it away and type "
                "the command that began the run with resume=auto"
            )
            if as_written(run.summary, SUMMARY_KEYS):  # but something that belongs to it is broken
                failure = str(error)
    if failure is None:
        state: State = "unfinished" if run.is_run() else "never begun"
        return Point(run.path, state, config=config)
    return Point(run.path, "failed", failure, config)


def _config(run: RunFolder) -> dict[str, Any]:
    """With today's defaults for keys that an older version had not."""
    return flat(defaults("train")) | flat(yaml.safe_load(config_text(run)))


def _summary(run: RunFolder) -> dict[str, Any]:
    """Raises ValueError and KeyError for what is none."""
    summary = read_summary(run)
    for key in ("base", "adapter", "adapter_bytes", "trainable_parameters", "train_seconds"):
        summary[key]
    return summary


def _failure(run: RunFolder) -> str | None:
    """Why the run failed, as the sweep noted it, or else as its log ends; None: it did not."""
    try:
        return str(read_json(run.path / FAILURE_FILE)["reason"])
    except (OSError, ValueError, TypeError, KeyError):
        return _logged_failure(run.log)


def _logged_failure(log: Path) -> str | None:
    """The error that the log's last record is about."""
    if not log.is_file():
        return None
    records = LOG_RECORD.findall(log.read_text(encoding="utf-8", errors="replace"))
    level, message = records[-1] if records else ("", "")
    ended = re.fullmatch(r"ended by (\w+)\((.*?),?\)", message)
    if level != "ERROR" or ended is None or ended[1] in STOPPED:
        return None
    said = ended[2].strip("'\"").replace("\\n", "\n")
    return said if ended[1] == "UserError" else f"{ended[1]}: {said}"
