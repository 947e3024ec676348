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

import importlib.util
import logging
import random
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_whisper.config import SearchingConfig
from lora_whisper.errors import UserError
from lora_whisper.files import is_disk_full
from lora_whisper.locks import InUse, locked
from lora_whisper.run_folder import RunFolder
from lora_whisper.search.space import Choice, Range, Space, Value

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
