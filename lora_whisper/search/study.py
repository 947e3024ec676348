"""A search's study, which Optuna keeps in SQLite, shared by all processes that carry it out.

    outputs/searches/NAME/
        search.json   what is searched, which makes the folder a search's
        study.db      Optuna's: every trial, its values, its validations and what became of it
        trial-0/      a run, as `train` writes it; without scores on the test set but for the best

Who holds a trial's folder (`locks.locked`) carries it out; the lock dies with its process. A
trial that is running by the study but held by nobody was left behind, and whoever looks for work
next goes on with it. So nothing has to beat like a heart or to time out.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import random
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.config import SearchConfig, SearchingConfig, SpaceConfig, TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.files import is_disk_full
from lora_whisper.locks import InUse, locked
from lora_whisper.model.base import Base, load_config
from lora_whisper.run_folder import RunFolder
from lora_whisper.schema import changed
from lora_whisper.training.defaults import learning_rate_for_width

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial


log = logging.getLogger("lora_whisper")

DATABASE = "study.db"
REASON = "reason"  # attribute of a trial that came to no value
PRUNING_AFTER_TRIALS = 5  # that were carried out to their end; by the median
PRUNING_AFTER_SHARE = 0.3  # of a trial's steps, before which it is not ended early
BUSY_SECONDS = 60.0  # that SQLite waits for another process's writing
LOOK_AGAIN_SECONDS = 0.1


def require_optuna() -> None:
    """See that Optuna is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "search needs Optuna, which is not installed. Type pip install 'lora-whisper[search]'"
        )


@dataclass(frozen=True)
class Claim:
    """A trial that this process alone carries out."""

    trial: optuna.Trial
    values: dict[str, Value]
    folder: RunFolder

    def report(self, step: int, wer: float) -> None:
        """Tell the study of a validation; one that comes again after a kill is known already."""
        frozen = self.trial.study.get_trials(deepcopy=False)[self.trial.number]
        assert frozen.number == self.trial.number
        if step not in frozen.intermediate_values:
            self.trial.report(wer, step)

    def is_to_be_pruned(self) -> bool:
        return self.trial.should_prune()


class Study:
    """What the processes of a search share."""

    def __init__(
        self, folder: Path, settings: SearchingConfig, space: Space, seed: int, total_steps: int
    ):
        """Open the study, or make it; other processes have to be kept out meanwhile.

        Args:
            total_steps: of each trial.

        Raises:
            UserError: the database is none of Optuna's, or not whole.
        """
        import optuna
        from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner
        from optuna.storages import RDBStorage
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.settings, self.space, self.seed = folder, settings, space, seed
        first = max(1, round(PRUNING_AFTER_SHARE * total_steps))
        pruner: BasePruner = NopPruner()
        if settings.pruning == "hyperband":
            pruner = HyperbandPruner(first, total_steps, reduction_factor=3)
        elif settings.pruning == "median":
            pruner = MedianPruner(PRUNING_AFTER_TRIALS, n_warmup_steps=first)
        try:
            storage = RDBStorage(
                f"sqlite:///{(folder / DATABASE).absolute()}",
                engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}},
            )
            self.optuna: optuna.Study = optuna.create_study(
                storage=storage,
                pruner=pruner,
                study_name="search",
                direction="minimize",
                load_if_exists=True,
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            if is_disk_full(error):
                raise
            raise UserError(
                f"{folder / DATABASE} cannot be used as a study of Optuna {optuna.__version__}: "
                f"{str(error).splitlines()[0]}\n"
                "Type another name=…, or overwrite=true to begin anew."
            ) from error

    # ── who carries out what ─────────────────────────────────────────────────────────────────

    def begin_with(self, values: Mapping[str, Value]) -> None:
        """Let the first trial have these values, if it is still to come."""
        if not self.optuna.get_trials(deepcopy=False):
            self.optuna.enqueue_trial(dict(values))

    @contextmanager
    def claimed(self, may_begin: bool) -> Iterator[Claim | None]:
        """A trial that was left behind, else a new one; None where there is nothing to do.

        Args:
            may_begin: whether a new one may be begun.
        """
        with ExitStack() as held:
            with alone_in(self.folder):
                trial = self._left_behind(held)
                if trial is None and may_begin and self._begun() < self.settings.trials:
                    self._seed_for(self._begun())
                    trial = self.optuna.ask()
                    taken = self._is_taken(trial.number, held)
                    assert taken, "nobody else knows of it yet"
            if trial is None:
                yield None
            else:
                # Of a trial that was killed while it was made, some may be still to draw.
                values = {name: _draw(trial, name, drawn) for name, drawn in self.space.items()}
                yield Claim(trial, values, self.run_folder(trial.number))

    def _left_behind(self, held: ExitStack) -> optuna.Trial | None:
        import optuna

        def is_running(number: int) -> bool:
            return self.optuna.get_trials(deepcopy=False)[number].state.name == "RUNNING"

        for frozen in self.optuna.get_trials(deepcopy=False):
            # Who had its folder until now may have ended it just before.
            is_free = is_running(frozen.number) and self._is_taken(frozen.number, held)
            if is_free and is_running(frozen.number):
                log.info("trial-%d was left behind; going on with it", frozen.number)
                self._seed_for(frozen.number)
                return optuna.Trial(self.optuna, frozen._trial_id)
        return None

    def _is_taken(self, number: int, held: ExitStack) -> bool:
        """Take a trial's folder, unless another process holds it."""
        try:
            held.enter_context(locked(self.run_folder(number).path))
        except InUse:
            return False
        return True

    def _begun(self) -> int:
        trials = self.optuna.get_trials(deepcopy=False)
        return sum(trial.state.name != "WAITING" for trial in trials)

    def run_folder(self, number: int) -> RunFolder:
        return RunFolder(self.folder / f"trial-{number}")

    def _seed_for(self, number: int) -> None:
        """Draw from what is known and from the trial's number, and not from a state in memory.

        So a search that was killed goes on as it would have gone on, and processes that share one
        do not draw the same.
        """
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import TPESampler

        seed = random.Random(f"{self.seed}/{number}").randrange(2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # multivariate: a rate is good or bad with a rank. constant_liar: what others try just
            # now is taken for bad, so that it is not tried twice.
            self.optuna.sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True)

    # ── what becomes of a trial ──────────────────────────────────────────────────────────────

    def complete(self, claim: Claim, wer: float) -> None:
        self.optuna.tell(claim.trial, wer)

    def prune(self, claim: Claim, reason: str) -> None:
        """A trial that was ended early, or whose loss was not finite: its values are bad ones."""
        self._tell(claim, "PRUNED", reason)

    def fail(self, claim: Claim, reason: str) -> None:
        """A trial of which nothing is known."""
        self._tell(claim, "FAIL", reason)

    def _tell(self, claim: Claim, state: str, reason: str) -> None:
        from optuna.trial import TrialState

        claim.trial.set_user_attr(REASON, reason)
        self.optuna.tell(claim.trial, state=TrialState[state])

    # ── what was found ───────────────────────────────────────────────────────────────────────

    def trials(self) -> list[FrozenTrial]:
        """All that were begun."""
        return [trial for trial in self.optuna.get_trials() if trial.state.name != "WAITING"]

    def best(self) -> FrozenTrial | None:
        """The one with the lowest WER, the first of several; None where none was completed."""
        complete = [trial for trial in self.optuna.get_trials() if trial.state.name == "COMPLETE"]
        return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this part."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(folder))
                break
            except InUse:
                time.sleep(LOOK_AGAIN_SECONDS)
        yield


def _draw(trial: optuna.Trial, name: str, drawn: Range | Choice) -> Value:
    if isinstance(drawn, Range):
        return trial.suggest_float(name, drawn.lowest, drawn.highest, log=drawn.is_logarithmic)
    value = trial.suggest_categorical(name, drawn.values)
    assert value is not None, "no choice is null"
    return value


# ── what is drawn for a trial, and the run that this makes ────────────────────────────────────────

WIDER = 4.0  # how far `learning_rate: auto` goes below and above the usual rate
Value = float | int | str


@dataclass(frozen=True)
class Range:
    """From the lowest to the highest value."""

    lowest: float
    highest: float
    is_logarithmic: bool

    def holds(self, value: Value) -> bool:
        return isinstance(value, int | float) and self.lowest <= value <= self.highest


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        return value in self.values


Space = Mapping[str, Range | Choice]  # by the keys of `search.space`


def train_config(config: SearchConfig) -> TrainConfig:
    """What all trials have in common; each goes on with its own folder where it stopped."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    values: dict[str, Any] = {name: getattr(config, name) for name in names}
    return TrainConfig(**values | {"overwrite": False, "resume": "auto"})


def space_of(asked: SpaceConfig, train: TrainConfig, base: Base) -> Space:
    """What is drawn, and from where; what is null is left out."""
    space: dict[str, Range | Choice] = {}
    if asked.learning_rate == "auto":
        rate = usual_rate(train, base)
        space["learning_rate"] = Range(_rounded(rate / WIDER), _rounded(rate * WIDER), True)
    elif asked.learning_rate is not None:
        lowest, highest = asked.learning_rate
        space["learning_rate"] = Range(lowest, highest, is_logarithmic=True)
    for name in ("rank", "alpha_per_rank", "targets"):
        if getattr(asked, name) is not None:
            space[name] = Choice(getattr(asked, name))
    if asked.dropout is not None:
        lowest, highest = asked.dropout
        space["dropout"] = Range(lowest, highest, is_logarithmic=False)
    return space


def usual_rate(train: TrainConfig, base: Base) -> float:
    """The learning rate that `train` would take."""
    if train.optimizer.learning_rate is not None:
        return train.optimizer.learning_rate
    width = load_config(base.checkpoint).d_model
    return learning_rate_for_width(width)


def usual_values(space: Space, train: TrainConfig, base: Base) -> dict[str, Value]:
    """What `train` would have, as far as it lies in the space."""
    adapter = train.adapter
    usual: dict[str, Value] = {
        "rank": adapter.rank,
        "alpha_per_rank": adapter.alpha / adapter.rank,
        "dropout": adapter.dropout,
        "targets": adapter.targets,
    }
    if "learning_rate" in space:
        usual["learning_rate"] = usual_rate(train, base)
    return {name: usual[name] for name, drawn in space.items() if drawn.holds(usual[name])}


def with_values(train: TrainConfig, values: Mapping[str, Value]) -> TrainConfig:
    """The run of a trial.

    Drawn numbers are rounded to what a person would type, so that what is printed is what was
    trained.

    Raises:
        UserError: the values do not go together.
    """
    changes: dict[str, Any] = dict(values)
    optimizer, adapter = train.optimizer, train.adapter
    if "learning_rate" in changes:
        rate = _rounded(changes.pop("learning_rate"))
        optimizer = changed(optimizer, learning_rate=rate)
    if "dropout" in changes:
        changes["dropout"] = round(changes["dropout"], 3)
    if "alpha_per_rank" in changes:
        changes["alpha"] = changes.pop("alpha_per_rank") * changes.get("rank", adapter.rank)
    return changed(train, optimizer=optimizer, adapter=changed(adapter, **changes))


def typed_values(space: Space, config: TrainConfig) -> dict[str, Value | None]:
    """What a trial has of what was searched, by the keys that `train` takes."""
    adapter = config.adapter
    keys: dict[str, tuple[str, Value | None]] = {
        "learning_rate": ("optimizer.learning_rate", config.optimizer.learning_rate),
        "rank": ("adapter.rank", adapter.rank),
        "alpha_per_rank": ("adapter.alpha", adapter.alpha),
        "dropout": ("adapter.dropout", adapter.dropout),
        "targets": ("adapter.targets", adapter.targets),
    }
    return dict(keys[name] for name in keys if name in space)


def shown(value: Value | None) -> str:
    """As it is typed: 0.0002 and not 2e-4, which some would take for a text; 32 and not 32.0."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
