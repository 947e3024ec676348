"""Trackers, through accelerate: the lines of metrics.jsonl are sent there as well.

    outputs/NAME/tracking/
        tensorboard/    event files; tensorboard --logdir outputs
        wandb/          what Weights & Biases keeps on this machine
        runs.json       what each tracker calls this run, so that a resumed run goes on in it

MLflow and Trackio keep their figures where their own settings say (MLFLOW_TRACKING_URI,
TRACKIO_DIR). accelerate and the trackers' packages are imported late: each is an extra.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.config import TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.evaluation.results import Score
from lora_whisper.files import as_written, write_json
from lora_whisper.paths import below_home, mapped
from lora_whisper.run_config import flat, plain_values
from lora_whisper.run_folder import RunFolder, step_of

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

log = logging.getLogger("lora_whisper")

RUNS = "runs.json"
Value = bool | int | float | str


def require_packages(trackers: Sequence[str]) -> None:
    """See that the trackers' packages are installed.

    Raises:
        UserError: one is not.
    """
    for name in trackers:
        spec = importlib.util.find_spec(name)
        # A mere folder of that name has no origin; W&B leaves one where its scripts are run.
        if spec is None or spec.origin is None:
            raise UserError(
                f"tracking={name} needs a package that is not installed.\n"
                f"Type pip install 'lora-whisper[{name}]', or tracking=none: metrics.jsonl has "
                "the same figures."
            )


@dataclass(frozen=True)
class TrackedRun:
    """What trackers are told of a run when they start."""

    project: str
    name: str
    folder: Path  # outputs/NAME/tracking
    values: Mapping[str, Value]  # the configuration, keys as they are typed
    done_steps: int  # of a resumed run: what trackers have of later steps comes once more


def hyperparameters(values: Mapping[str, Any]) -> dict[str, Value]:
    """Flat values in the types that every tracker takes; null and lists as they are typed."""
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in values.items()
    }


class Trackers:
    """All trackers of a run; without any, everything here does nothing."""

    def __init__(self, opened: Sequence[_Opened] = ()):
        self._opened = list(opened)

    def log(self, line: Mapping[str, float | None]) -> None:
        """Send a line of metrics.jsonl.

        A tracker that fails, for days of training may outlive a server, is said and left alone.
        """
        values = {key: value for key, value in line.items() if value is not None}
        step = int(values.pop("step"))
        for one in list(self._opened):
            try:
                one.log(values, step)
            except Exception as error:
                self._opened.remove(one)
                log.warning(
                    "tracking    %s failed at step %d and gets nothing more: %s\n"
                    "            The run goes on; metrics.jsonl has all figures.",
                    one.tracker.name,
                    step,
                    error,
                )

    def finish(self) -> None:
        for one in self._opened:
            try:
                one.tracker.finish()
            except Exception as error:
                log.warning("tracking    %s did not end well: %s", one.tracker.name, error)


@contextmanager
def tracked(names: Sequence[str], run: TrackedRun) -> Iterator[Trackers]:
    """Start the trackers, those of a resumed run where they stopped; end them in any case.

    Raises:
        UserError: one does not start.
    """
    trackers = Trackers()
    path = run.folder / RUNS
    earlier = as_written(path) or {}
    try:
        for name in names:
            opened = _start(name, run, earlier.get(name))
            trackers._opened.append(opened)
            write_json(path, earlier | {one.tracker.name: one.identity for one in trackers._opened})
        yield trackers
    finally:
        trackers.finish()


# ── one tracker ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Opened:
    tracker: GeneralTracker
    identity: str  # what the tracker calls the run
    counts_steps: bool = True  # False: the step is sent as one more figure

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self.counts_steps:
            self.tracker.log(dict(values), step=step)
        else:
            self.tracker.log({"step": step, **values})


def _start(name: str, run: TrackedRun, earlier: str | None) -> _Opened:
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        return _STARTS[name](run, earlier)
    except Exception as error:
        raise UserError(
            f"tracking={name} does not start: {error}\n"
            "Mend that, or type tracking=none: metrics.jsonl has the same figures."
        ) from error


def _start_tensorboard(run: TrackedRun, earlier: str | None) -> _Opened:
    from accelerate.tracking import TensorBoardTracker
    from torch.utils.tensorboard.summary import hparams

    purge = {"purge_step": run.done_steps + 1} if earlier else {}
    tracker = TensorBoardTracker("tensorboard", run.folder, **purge)
    tracker.start()
    if not earlier:
        # Not store_init_configuration: it makes two folders named after the clock beside the
        # figures, which TensorBoard shows as two more runs.
        for summary in hparams(dict(run.values), {}):
            tracker.tracker.file_writer.add_summary(summary)
    return _Opened(tracker, "tensorboard")


def _start_wandb(run: TrackedRun, earlier: str | None) -> _Opened:
    from accelerate.tracking import WandBTracker

    tracker = WandBTracker(
        run.project,
        name=run.name,
        dir=run.folder,
        id=earlier,
        resume="allow" if earlier else "never",
        config=dict(run.values),
        settings={"console": "off"},  # train.log has it; here the bar's frames would be sent
    )
    tracker.start()
    # W&B drops steps that it has had already, which a resumed run may do again.
    tracker.tracker.define_metric("*", step_metric="step")
    return _Opened(tracker, tracker.tracker.id, counts_steps=False)


def _start_mlflow(run: TrackedRun, earlier: str | None) -> _Opened:
    from accelerate.tracking import MLflowTracker

    tracker = MLflowTracker(run.project, run_name=run.name, run_id=earlier)
    tracker.start()
    if not earlier:  # MLflow refuses another value, and a resumed run may have some
        tracker.store_init_configuration(dict(run.values))
    return _Opened(tracker, tracker.tracker.info.run_id)


def _start_trackio(run: TrackedRun, earlier: str | None) -> _Opened:
    from accelerate.tracking import TrackioTracker

    resume = "allow" if earlier else "never"
    tracker = TrackioTracker(run.project, name=run.name, resume=resume, config=dict(run.values))
    tracker.start()
    return _Opened(tracker, run.name)


_STARTS: dict[str, Callable[[TrackedRun, str | None], _Opened]] = {
    "tensorboard": _start_tensorboard,
    "wandb": _start_wandb,
    "mlflow": _start_mlflow,
    "trackio": _start_trackio,
}


def run_to_track(folder: RunFolder, config: TrainConfig) -> TrackedRun:
    """What trackers are told of a run, the home folder as "~": a project may be public."""
    last, point, name = folder.last_checkpoint(), folder.path.name, config.name
    is_alone = point == Path(name).name  # and no point of a sweep, whose name it is
    values = mapped(flat(plain_values(config)), below_home)
    return TrackedRun(
        project=config.tracking.project,
        name=name if is_alone else f"{name}/{point}",
        folder=folder.tracking,
        values=hyperparameters(values),
        done_steps=step_of(last) if last else 0,
    )


def track_scores(trackers: Trackers, step: int, scores: Mapping[str, Score | None]) -> None:
    """The WER of each model on the test set, where there is one."""
    wers = {f"test_wer_{name}": score.wer for name, score in scores.items() if score}
    if wers:
        trackers.log({"step": step, **wers})
