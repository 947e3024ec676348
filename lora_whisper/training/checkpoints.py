"""Checkpoints: all that continuing needs, written aside and renamed, so that none is ever half.

    checkpoints/step-000100/   adapter.safetensors  optimizer.pt  state.json
    checkpoints/best-000075/   adapter.safetensors  state.json

The order of the data, augmentation and dropout are functions of seed and step (`data.sampler`,
`data.windows`, `loop`), and so is the learning rate (`optim`). The step therefore says where all
of them stand, and no random state and no sampler's position has to be kept; the seed is part of
the configuration, whose hash each checkpoint carries.

A checkpoint that is not what was written (see `checkpoint_files`) is named and set aside, and the
run goes on from the one before it.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from lora_whisper import processes
from lora_whisper.errors import UserError, listing
from lora_whisper.files import remove_folder
from lora_whisper.run_folder import step_folders, step_of
from lora_whisper.training.checkpoint_files import (
    CONFIG_HASH,
    Best,
    Damaged,
    TrainingState,
    copied,
    load_parameters,
    read_best,
    read_optimizer,
    read_values,
    require_sound,
    training_state,
    write_checkpoint,
)

log = logging.getLogger("lora_whisper")

BEST = re.compile(r"best-\d+")
ASIDE = "unused-"  # before the name of one that a run went back behind
# What else lies beside them: PiSSA's start, and the mean while it is judged.
BESIDE = re.compile(rf"initial\.safetensors|average|{ASIDE}.*")
HALF = re.compile(r"\.(step-.*|best-.*|average|initial\.safetensors)\.(part|replaced|removed)")
MOST_WAITING = 2  # copies in memory that are not on disk yet: of a step, and of its best adapter


class HasState(Protocol):
    """What a checkpoint keeps besides the optimizer: the schedule of AdaLoRA's ranks."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class ResumePoint:
    """What there is to go on from."""

    path: Path | None  # the last checkpoint that is sound; None: there is none yet
    damaged: Mapping[Path, str]  # why the run cannot go on from these, or use them
    strange: tuple[str, ...]  # names in the folder that are none of ours
    best_is_lost: bool = False  # the best adapter is damaged, and was asked to be done without


class Checkpoints:
    """The checkpoints of one run; written by a thread of its own, one after another.

    A context manager: leaving it waits until all is on disk, and raises what the thread met.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        keep_last: int,
        keep_best: int,
        config_hash: str,
        is_writer: bool = True,
    ):
        """
        Args:
            every_steps: between two regular checkpoints; one that a signal asked for is none, so
                that the last `keep_last` are those of an uninterrupted run.
            config_hash: of what a resumed run must have in common with the one before.
            is_writer: False in all processes but one, which then write and remove nothing.
        """
        self.folder, self.every_steps = folder, every_steps
        self.keep_last, self.keep_best = keep_last, keep_best
        self.config_hash, self.is_writer = config_hash, is_writer
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()
        self.finish()

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def save(
        self,
        state: TrainingState,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        scaler: GradScaler | None = None,
        rank_schedule: HasState | None = None,
    ) -> None:
        """Write step-NNNNNN, then remove what is not kept any more.

        All is copied to memory before this returns, so that the next step may change it.
        """
        if not self.is_writer:
            return
        states = {"optimizer": optimizer, "scaler": scaler, "rank_schedule": rank_schedule}
        kept = {name: part.state_dict() for name, part in states.items() if part is not None}
        self._write(f"step-{state.step:06d}", state, parameters, copied(kept))

    def save_best(self, best: Best, parameters: Mapping[str, nn.Parameter]) -> None:
        """Write best-NNNNNN if it is one of the best `keep_best`; what it replaces goes after it.

        Between the two, and whenever a process ends, there is a best one on disk.
        """
        if self.is_writer:
            self._write(f"best-{best.step:06d}", best, parameters)

    def finish(self) -> None:
        """Wait for the thread.

        Raises:
            UserError: the disk is full.
        """
        while self._writing:
            self._writing.popleft().result()

    def raise_failure(self) -> None:
        """Raise what the thread met, if it met something; does not wait for it."""
        while self._writing and self._writing[0].done():
            self._writing.popleft().result()

    def _write(
        self,
        name: str,
        state: TrainingState | Best,
        parameters: Mapping[str, nn.Parameter],
        optimizer: dict[str, Any] | None = None,
    ) -> None:
        while len(self._writing) >= MOST_WAITING:
            self._writing.popleft().result()
        tensors = copied(dict(parameters))
        snapshot = dataclasses.replace(state)  # the loop counts on in the other one
        path = self.folder / name
        writing = self._thread.submit(self._write_now, path, snapshot, tensors, optimizer)
        self._writing.append(writing)

    def _write_now(
        self,
        path: Path,
        state: TrainingState | Best,
        tensors: dict[str, Tensor],
        optimizer: dict[str, Any] | None,
    ) -> None:
        if isinstance(state, Best):
            better = [best for best, _ in self.bests() if not best.is_beaten_by(state)]
            if len(better) >= self.keep_best:
                return
        write_checkpoint(path, state, tensors, optimizer, self.config_hash)
        self._remove_old()

    def _remove_old(self) -> None:
        """Keep the last ones, and the best of all as well as of those before each of the last.

        The latter are what a run knows that goes on from there: should a validation after it turn
        out otherwise the second time, as it may on a GPU, its best one is still on disk. And one
        that is damaged can only be gone back behind where the one before it has its best, too.
        """
        latest, bests = self.latest(), self.bests()
        steps = {*self.lasts(), *([latest] if latest else [])}
        kept = {*steps, *(path for _, path in bests[: self.keep_best])}
        for step in steps:
            validated = training_state(step, read_values(step)).validated
            known = [path for best, path in bests if best.step <= validated]
            kept |= {*known[: self.keep_best]}
        for path in {*step_folders(self.folder), *(path for _, path in bests)} - kept:
            remove_folder(path)

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def latest(self) -> Path | None:
        """The last checkpoint, or None."""
        return next(iter(reversed(step_folders(self.folder))), None)

    def lasts(self) -> list[Path]:
        """The last `keep_last` regular checkpoints, oldest first; the last of all counts as one."""
        steps = step_folders(self.folder)
        regular = [path for path in steps[:-1] if step_of(path) % self.every_steps == 0]
        return [*regular, *steps[-1:]][-self.keep_last :]

    def bests(self) -> list[tuple[Best, Path]]:
        """What was validated and kept, the best first; of equals, the earlier."""
        pairs = [(read_best(path), path) for path in best_folders(self.folder)]
        return sorted(pairs, key=lambda pair: (*pair[0].worth, pair[0].step))

    def find(self, without_best: bool = False) -> ResumePoint:
        """Look for the last checkpoint from which the run can go on; nothing is changed.

        It has to be sound, and so has the best adapter that it knows: without that, another one
        would ship.

        Args:
            without_best: whether the run may go on without the best adapter where it is damaged.

        Raises:
            UserError: there are checkpoints and none of them will do, or one is of another
                configuration.
        """
        steps = step_folders(self.folder)
        damaged = self._damaged([*best_folders(self.folder), *steps])
        sound = [path for path in reversed(steps) if path not in damaged]
        lacking = {path: why for path in sound if (why := self._lacks_best(path, damaged))}
        usable = next((path for path in sound if path not in lacking), None)
        if usable is None and without_best:
            usable = next(iter(sound), None)
        passed = sound[: sound.index(usable)] if usable else sound
        damaged |= {path: lacking[path] for path in passed}
        if steps and usable is None:
            anyway = (
                "\nOr type resume=anyway: it goes on without that adapter, and the best one from "
                "here on ships."
            )
            raise UserError(
                f"The run cannot go on: no checkpoint in {self.folder} is sound.\n"
                f"{listing([*damaged.values()])}\n"
                "Bring one back from a copy, if you have one, and type the same command again; or "
                f"type overwrite=true instead of resume to begin anew.{anyway if sound else ''}"
            )
        strange = []  # such as a copy under another name
        if self.folder.is_dir():
            ours = {*steps, *best_folders(self.folder)}
            names = sorted(path.name for path in self.folder.iterdir() if path not in ours)
            strange = [
                name for name in names if not (BESIDE.fullmatch(name) or HALF.fullmatch(name))
            ]
        return ResumePoint(usable, damaged, tuple(strange), usable in lacking)

    def _damaged(self, paths: list[Path]) -> dict[Path, str]:
        """Which of these are not what was written there, and why."""
        reasons = {}
        for path in paths:
            try:
                require_sound(path, is_best=BEST.fullmatch(path.name) is not None)
            except Damaged as error:
                reasons[path] = str(error)
        return reasons

    def _lacks_best(self, path: Path, damaged: Mapping[Path, str]) -> str | None:
        """Why the best adapter that a sound checkpoint knows is not there."""
        best = self._read_state(path).best
        if best is None:
            return None
        kept = next(
            (folder for folder in best_folders(self.folder) if step_of(folder) == best.step), None
        )
        if kept is None:
            return f"{path.name} needs the best adapter so far, best-{best.step:06d}: it is missing"
        if kept in damaged:
            return f"{path.name} needs the best adapter so far: {damaged[kept]}"
        return None

    def resume(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        scaler: GradScaler | None = None,
        rank_schedule: HasState | None = None,
        without_best: bool = False,
        anew: bool = False,
    ) -> TrainingState:
        """Go back to the last sound checkpoint, if there is one, and forget what came after it.

        Args:
            anew: whether all validations are forgotten, which were of another set.

        Raises:
            UserError: see `find`.
        """
        found, state = processes.from_main(lambda: self.find(without_best)), TrainingState()
        if found.path is not None:
            state = self.load(found.path, parameters, optimizer, scaler, rank_schedule)
        if self.is_writer:
            self._set_aside(found)
            for path in self.folder.glob(".*"):
                if HALF.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)
            for best, path in self.bests():
                if best.step > state.validated:  # is to come again
                    remove_folder(path)
        if found.path is not None and (anew or found.best_is_lost):
            # As if nothing had been validated: the adapter of this step is, before the next one.
            state = dataclasses.replace(
                state, best=None, validations_without_gain=0, validation_due=True, metrics_sha256=""
            )
            self.save(state, parameters, optimizer, scaler, rank_schedule)
            self.finish()
            for path in best_folders(self.folder) if self.is_writer else []:
                remove_folder(path)
        return state

    def _set_aside(self, found: ResumePoint) -> None:
        """Name what is damaged and set it aside; name what that costs, and what is left alone."""
        for path, why in found.damaged.items():
            aside = path.with_name(f"{ASIDE}{path.name}")
            log.warning("checkpoint  %s; kept as %s", why, aside.name)
            if aside.exists():
                remove_folder(aside)
            path.rename(aside)
        last = max(
            (step_of(path) for path in found.damaged if not BEST.match(path.name)), default=0
        )
        done = step_of(found.path) if found.path else 0
        if last > done:
            log.warning(
                "checkpoint  going back to step %d: what was done up to step %d is done again",
                done,
                last,
            )
        if found.best_is_lost:
            log.warning("checkpoint  the best adapter so far is lost; the best from here on counts")
        if found.strange:
            names = ", ".join(found.strange)
            log.warning(
                "checkpoint  in %s and none of the run's, left alone: %s", self.folder, names
            )

    def load(
        self,
        path: Path,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        scaler: GradScaler | None = None,
        rank_schedule: HasState | None = None,
    ) -> TrainingState:
        """Set adapter, optimizer, loss scaler and ranks to what they were at `path`.

        Raises:
            UserError: it is of another configuration.
        """
        state = self._read_state(path)
        load_parameters(path, parameters)
        kept = read_optimizer(path)
        optimizer.load_state_dict(kept["optimizer"])
        if scaler is not None and "scaler" in kept:
            scaler.load_state_dict(kept["scaler"])
        if rank_schedule is not None:
            rank_schedule.load_state_dict(kept["rank_schedule"])
        return state

    def _read_state(self, path: Path) -> TrainingState:
        values = read_values(path)
        if values[CONFIG_HASH] != self.config_hash:
            raise UserError(
                f"{path} is of another configuration than config.yaml: one of them was changed "
                "since, or is another run's.\n"
                "Take it away, and resume=auto goes on from the checkpoint before it, or begin "
                "anew with overwrite=true."
            )
        return training_state(path, values)


def best_folders(folder: Path) -> list[Path]:
    return [path for path in folder.glob("best-*") if BEST.fullmatch(path.name) and path.is_dir()]
