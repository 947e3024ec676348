"""Checkpoints: whole or not there, and enough to go on bit by bit."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lora_whisper import files
from lora_whisper.errors import UserError
from lora_whisper.files import DiskFull
from lora_whisper.training.checkpoint_files import Best, TrainingState, load_parameters
from lora_whisper.training.checkpoints import Checkpoints
from lora_whisper.training.loop import Trainer, train_step
from tests.training.parts import micro_batches, toy_adapter, toy_trainer, toy_windows

HASH = "of this configuration"


def checkpoints_in(folder: Path, **changes: Any) -> Checkpoints:
    given: dict[str, Any] = {"every_steps": 1, "keep_last": 2, "keep_best": 1, "config_hash": HASH}
    return Checkpoints(folder, **(given | changes))


def steps(trainer: Trainer, first: int, last: int) -> None:
    for step in range(first, last):
        train_step(trainer, step, micro_batches(toy_windows(seed=step), 4))


def matrices(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.parameters.items()}


def one_matrix(value: float = 0.0) -> tuple[dict[str, nn.Parameter], torch.optim.AdamW]:
    parameter = nn.Parameter(torch.full((2, 3), value))
    return {"lora_A": parameter}, torch.optim.AdamW([parameter], 1e-3 * (1 + value))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_going_on_gives_the_bit_identical_adapter(tmp_path: Path) -> None:
    through = toy_trainer(toy_adapter(dropout=0.3))
    steps(through, 0, 6)
    half = toy_trainer(toy_adapter(dropout=0.3))
    steps(half, 0, 3)
    best = Best(2, 0.5, 1.25)
    state = TrainingState(3, 1.5, 2.5, 0.5, 1, 2, 1, 4, True, best)
    with checkpoints_in(tmp_path) as checkpoints:
        checkpoints.save_best(best, half.parameters)
        checkpoints.save(state, half.parameters, half.optimizer)
    resumed = toy_trainer(toy_adapter(dropout=0.3, seed=99))
    assert checkpoints_in(tmp_path).resume(resumed.parameters, resumed.optimizer) == state
    steps(resumed, 3, 6)
    expected = matrices(through)
    assert all(torch.equal(expected[name], value) for name, value in matrices(resumed).items())


def test_what_is_saved_is_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    """The step after it changes the same tensors before they are written."""
    parameters, optimizer = one_matrix(1.0)
    parameters["lora_A"].grad = torch.ones(2, 3)
    optimizer.step()
    state, saved = TrainingState(1), matrix_and_moments(parameters, optimizer)
    may_write = threading.Event()
    with checkpoints_in(tmp_path) as checkpoints:
        checkpoints._thread.submit(may_write.wait)
        checkpoints.save(state, parameters, optimizer)
        optimizer.step()
        state.step = 2
        may_write.set()
    assert matrix_and_moments(parameters, optimizer) != saved
    other, its_optimizer = one_matrix()
    assert checkpoints_in(tmp_path).resume(other, its_optimizer).step == 1
    assert matrix_and_moments(other, its_optimizer) == saved


def matrix_and_moments(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> list[list[float]]:
    moments = optimizer.state[parameters["lora_A"]].values()
    return [value.flatten().tolist() for value in (parameters["lora_A"], *moments)]


def test_scaler_and_ranks_are_restored(tmp_path: Path) -> None:
    class Ranks:
        def __init__(self, ranks: dict[str, Any]):
            self.ranks = ranks

        def state_dict(self) -> dict[str, Any]:
            return self.ranks

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.ranks = state

    parameters, optimizer = one_matrix()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(1))  # it is made with its first use
    saved = {"step": 3, "pattern": {"q_proj": [True, False]}, "mean": torch.ones(2)}
    with checkpoints_in(tmp_path) as checkpoints:
        checkpoints.save(TrainingState(1), parameters, optimizer, scaler, Ranks(saved))
    fresh, ranks = torch.amp.GradScaler("cpu", init_scale=2.0), Ranks({})
    checkpoints_in(tmp_path).resume(parameters, optimizer, fresh, ranks)
    assert fresh.get_scale() == 8.0
    assert ranks.ranks.pop("mean").tolist() == [1.0, 1.0]
    assert ranks.ranks == {"step": 3, "pattern": {"q_proj": [True, False]}}


def test_the_last_regular_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    """A checkpoint that a signal asked for is no regular one: it goes when the next has come."""
    parameters, optimizer = one_matrix()
    with checkpoints_in(tmp_path, every_steps=10) as checkpoints:
        checkpoints.save_best(Best(5, 0.1, 0.2), parameters)
        for step in (10, 20, 30, 37):
            checkpoints.save(TrainingState(step), parameters, optimizer)
        checkpoints.finish()
        assert names(tmp_path) == ["best-000005", "step-000030", "step-000037"]
        checkpoints.save(TrainingState(40), parameters, optimizer)
    assert names(tmp_path) == ["best-000005", "step-000030", "step-000040"]
    assert [path.name for path in checkpoints.lasts()] == ["step-000030", "step-000040"]
    assert checkpoints.latest() == tmp_path / "step-000040"


def test_the_best_ones_are_kept_and_those_known_at_the_last_checkpoint(tmp_path: Path) -> None:
    parameters, optimizer = one_matrix()
    wers = {10: 0.5, 20: 0.3, 30: 0.4}
    with checkpoints_in(tmp_path, keep_best=2) as checkpoints:
        for step, wer in wers.items():
            checkpoints.save_best(Best(step, wer, 1.0), parameters)
        checkpoints.save(TrainingState(30), parameters, optimizer)
        checkpoints.finish()
        assert [best.step for best, _ in checkpoints.bests()] == [20, 30]
        for step, wer in {40: 0.2, 50: 0.1}.items():
            checkpoints.save_best(Best(step, wer, 1.0), parameters)
        checkpoints.finish()
        assert [best.step for best, _ in checkpoints.bests()] == [50, 40, 20, 30]
    again = checkpoints_in(tmp_path, keep_best=2)
    again.resume(parameters, optimizer)
    assert [best.step for best, _ in again.bests()] == [20, 30], "later ones will come again"


def test_what_is_none_of_the_best_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, _ = one_matrix()
    with checkpoints_in(tmp_path, keep_best=2) as checkpoints:
        for step, wer in {10: 0.5, 20: 0.3, 30: 0.5}.items():
            checkpoints.save_best(Best(step, wer, 1.0), parameters)
        checkpoints.finish()
        monkeypatch.delattr("lora_whisper.training.checkpoint_files.write_synced")
        checkpoints.save_best(Best(40, 0.6, 1.0), parameters)
    assert [best.step for best, _ in checkpoints.bests()] == [20, 10], "of equals, the earlier"


def test_a_validation_that_was_broken_off_comes_again(tmp_path: Path) -> None:
    parameters, optimizer = one_matrix()
    with checkpoints_in(tmp_path) as checkpoints:
        checkpoints.save_best(Best(10, 0.5, 1.0), parameters)
        checkpoints.save(TrainingState(20, validation_due=True), parameters, optimizer)
        checkpoints.save_best(Best(20, 0.4, 1.0), parameters)
    again = checkpoints_in(tmp_path)
    again.resume(parameters, optimizer)
    assert [best.step for best, _ in again.bests()] == [10]


def test_a_process_that_is_not_the_writer_reads_only(tmp_path: Path) -> None:
    parameters, optimizer = one_matrix(1.0)
    with checkpoints_in(tmp_path) as checkpoints:
        checkpoints.save(TrainingState(1), parameters, optimizer)
        checkpoints.save_best(Best(2, 0.5, 1.0), parameters)
    other, its_optimizer = one_matrix()
    with checkpoints_in(tmp_path, is_writer=False) as reader:
        assert reader.resume(other, its_optimizer).step == 1
        reader.save(TrainingState(3), other, its_optimizer)
        reader.save_best(Best(3, 0.1, 1.0), other)
    assert names(tmp_path) == ["best-000002", "step-000001"]
    assert torch.equal(other["lora_A"], parameters["lora_A"])


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    parameters, optimizer = one_matrix()
    with checkpoints_in(tmp_path, config_hash="of another") as checkpoints:
        checkpoints.save(TrainingState(1), parameters, optimizer)
    with pytest.raises(UserError, match=r"step-000001 is of another configuration"):
        checkpoints_in(tmp_path).resume(parameters, optimizer)


# ── a full disk, and a process that is killed ────────────────────────────────────────────────


def limited(size_bytes: int, work: Callable[[], None]) -> None:
    """Carry out `work` where no file may grow beyond `size_bytes`: as on a full disk, for real."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size_bytes", [0, 100, 1000])
def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, size_bytes: int) -> None:
    parameters, optimizer = one_matrix(1.0)
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(TrainingState(1), parameters, optimizer)
    checkpoints.finish()

    def save_another() -> None:
        checkpoints.save(TrainingState(2), parameters, optimizer)
        with pytest.raises(DiskFull, match=r"step-000002.*could not be written.*ulimit -f"):
            checkpoints.finish()

    limited(size_bytes, save_another)
    assert names(tmp_path) == ["step-000001"]
    checkpoints.save(TrainingState(2), parameters, optimizer)
    checkpoints.finish()
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_the_next_step_hears_of_a_full_disk(tmp_path: Path) -> None:
    parameters, optimizer = one_matrix()
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.raise_failure()

    def save() -> None:
        checkpoints.save(TrainingState(1), parameters, optimizer)
        checkpoints._thread.shutdown()
        with pytest.raises(DiskFull):
            checkpoints.raise_failure()

    limited(10, save)


def killed_at(call: int, work: Callable[[], None]) -> bool:
    """Carry out `work` in a process that is killed as it makes its change number `call` to the
    disk; return whether it came so far."""
    child = os.fork()
    if child == 0:
        kill_at_change(call)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def kill_at_change(call: int) -> None:
    left = [call]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def with_count(*arguments: Any, **named: Any) -> Any:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*arguments, **named)

        return with_count

    for name in ("rename", "replace", "fsync", "unlink", "mkdir", "rmdir"):
        setattr(files.os, name, counted(getattr(os, name)))


def test_whenever_it_is_killed_a_whole_checkpoint_and_a_best_one_are_there(tmp_path: Path) -> None:
    parameters, optimizer = one_matrix(1.0)
    call, came_so_far = 0, True
    while came_so_far:
        folder = tmp_path / str(call)
        with checkpoints_in(folder, keep_last=1) as before:
            before.save_best(Best(1, 0.5, 1.0), parameters)
            before.save(TrainingState(1), parameters, optimizer)

        def work() -> None:
            with checkpoints_in(folder, keep_last=1) as checkpoints:  # noqa: B023
                checkpoints.save_best(Best(2, 0.4, 1.0), parameters)
                checkpoints.save(TrainingState(2), parameters, optimizer)

        came_so_far = killed_at(call, work)
        after, (other, its_optimizer) = checkpoints_in(folder), one_matrix()
        state = after.resume(other, its_optimizer)
        assert state.step in (1, 2)
        assert torch.equal(other["lora_A"], parameters["lora_A"])
        assert after.bests()[0][0].step == state.step
        assert not list(folder.glob(".*")), "what was half is gone"
        call += 1
    assert call > 20, "it was killed at each change to the disk"


def test_best_can_be_replaced_and_loaded(tmp_path: Path) -> None:
    trainer = toy_trainer(toy_adapter())
    with checkpoints_in(tmp_path) as checkpoints:
        checkpoints.save_best(Best(1, 0.5, 0.2), trainer.parameters)
        steps(trainer, 0, 2)
        checkpoints.save_best(Best(2, 0.4, 0.2), trainer.parameters)
    other = toy_trainer(toy_adapter(seed=99))
    (best, path), *_ = checkpoints.bests()
    assert best == Best(2, 0.4, 0.2)
    load_parameters(path, other.parameters)
    expected = matrices(trainer)
    assert all(torch.equal(expected[name], value) for name, value in matrices(other).items())


@pytest.mark.parametrize(
    ("wer", "loss", "beaten"),
    [(0.4, 9.0, True), (0.5, 0.9, True), (0.5, 1.0, False), (0.6, 0.1, False)],
)
def test_lower_wer_first_then_lower_loss(wer: float, loss: float, beaten: bool) -> None:
    assert Best(1, 0.5, 1.0).is_beaten_by(Best(2, wer, loss)) == beaten


def test_a_loss_that_is_no_number_is_worse_than_any() -> None:
    nan = float("nan")
    assert Best(1, 0.5, nan).is_beaten_by(Best(2, 0.5, 9.0))
    assert not Best(1, 0.5, 9.0).is_beaten_by(Best(2, 0.5, nan))
    assert Best(1, nan, 0.1).is_beaten_by(Best(2, 0.9, 0.2))


# ── damage ───────────────────────────────────────────────────────────────────────────────────

VALUES = {"best-000001": 1.0, "step-000002": 2.0, "best-000003": 3.0, "step-000004": 4.0}


def four_in(folder: Path, **changes: Any) -> Path:
    """Two checkpoints and the best adapters that they know, each with values of its own."""
    first, second = Best(1, 0.5, 1.0), Best(3, 0.4, 1.0)
    with checkpoints_in(folder, **changes) as checkpoints:
        checkpoints.save_best(first, one_matrix(1.0)[0])
        checkpoints.save(TrainingState(2, best=first), *one_matrix(2.0))
        checkpoints.save_best(second, one_matrix(3.0)[0])
        checkpoints.save(TrainingState(4, best=second), *one_matrix(4.0))
    assert names(folder) == sorted(VALUES)
    return folder


def resumed(folder: Path, **named: Any) -> tuple[int, float, float | None]:
    """The step, its matrix's value, and that of the best adapter."""
    parameters, optimizer = one_matrix()
    checkpoints = checkpoints_in(folder)
    state = checkpoints.resume(parameters, optimizer, **named)
    value, best = parameters["lora_A"][0, 0].item(), None
    for _, path in checkpoints.bests()[:1]:
        load_parameters(path, parameters)
        best = parameters["lora_A"][0, 0].item()
    return state.step, value, best


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def a_folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flip at its end": flip,
    "flip at its begin": lambda path: flip(path, 0),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "a folder": a_folder_instead,
    "of another step": lambda path: path.write_bytes(
        (
            path.parent.parent / path.parent.name.replace("4", "2").replace("3", "1") / path.name
        ).read_bytes()
    ),
    "no JSON object": lambda path: path.write_text("[1]"),
    "nested": lambda path: path.write_text("[" * 100_000),
}


FILES = [f"step-000004/{name}" for name in ("adapter.safetensors", "optimizer.pt", "state.json")]
FILES += [f"best-000003/{name}" for name in ("adapter.safetensors", "state.json")]


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_one_is_named_and_the_one_before_it_is_taken(
    tmp_path: Path, kind: str, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the best adapter of the last one is damaged: without it, another would ship."""
    folder = four_in(tmp_path)
    DAMAGE[kind](folder / file)
    with heard(caplog):
        assert resumed(folder) == (2, 2.0, 1.0)
    assert file in caplog.text
    assert "going back to step 2: what was done up to step 4 is done again" in caplog.text
    assert (folder / f"unused-{Path(file).parent}").is_dir(), "nothing is thrown away"
    with heard(caplog):
        assert resumed(folder) == (2, 2.0, 1.0)
    assert not caplog.text, "it is said once"


@contextmanager
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever made the logger silent towards its parents; what was heard before is forgotten."""
    log = logging.getLogger("lora_whisper")
    caplog.clear()
    log.addHandler(caplog.handler)
    try:
        yield
    finally:
        log.removeHandler(caplog.handler)


def test_a_best_one_that_is_gone_is_damage_too(tmp_path: Path) -> None:
    folder = four_in(tmp_path)
    shutil.rmtree(folder / "best-000003")
    assert resumed(folder) == (2, 2.0, 1.0)


def test_whatever_bit_is_flipped_no_other_adapter_comes_of_it(tmp_path: Path) -> None:
    """Seeded damage to any file: what is found is what was written, or the run is refused."""
    whole, chance, outcomes = four_in(tmp_path / "whole"), random.Random(5), set()
    for number in range(150):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        for _ in range(chance.choice([1, 1, 2])):
            file = chance.choice(sorted(path for path in folder.glob("*/*") if path.stat().st_size))
            data = bytearray(file.read_bytes())
            place = chance.randrange(len(data))
            if chance.random() < 0.8:
                data[place] ^= 1 << chance.randrange(8)
            else:
                del data[place:]
            file.write_bytes(bytes(data))
        with suppress(UserError):
            outcomes.add(resumed(folder))
    assert outcomes == {(4, 4.0, 3.0), (2, 2.0, 1.0)}


def test_none_left_is_refused_with_what_to_type(tmp_path: Path) -> None:
    folder = four_in(tmp_path)
    for path in folder.glob("step-*/optimizer.pt"):
        flip(path)
    before = names(folder)
    with pytest.raises(UserError, match=r"step-000004/optimizer.pt is not(.|\n)*overwrite=true"):
        resumed(folder)
    assert names(folder) == before, "a refusal changes nothing"


def test_a_lost_best_one_can_be_done_without(tmp_path: Path) -> None:
    folder = four_in(tmp_path)
    for path in ("best-000001", "best-000003"):
        flip(folder / path / "adapter.safetensors")
    with pytest.raises(UserError, match="resume=anyway"):
        resumed(folder)
    assert resumed(folder, without_best=True) == (4, 4.0, None)
    assert resumed(folder) == (4, 4.0, None), "from then on, it is a run without validations"


def test_validations_of_another_set_are_forgotten(tmp_path: Path) -> None:
    folder = four_in(tmp_path)
    parameters, optimizer = one_matrix()
    state = checkpoints_in(folder).resume(parameters, optimizer, anew=True)
    assert (state.step, state.best, state.validation_due) == (4, None, True)
    assert resumed(folder) == (4, 4.0, None)


def test_copies_and_notes_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = four_in(tmp_path)
    strange = ["step-old", "step-000004 copy", "best-", "step-", "notes.txt", "best-x", ".keep"]
    for name in strange[:-2]:
        (folder / name).mkdir()
    for name in strange[-2:]:
        (folder / name).touch()
    (folder / "step-000007").touch()  # no folder
    (folder / "initial.safetensors").touch()
    with heard(caplog):
        assert resumed(folder) == (4, 4.0, 3.0)
    assert all(name in caplog.text for name in [*strange, "step-000007"])
    assert "initial.safetensors" not in caplog.text
    assert set(names(folder)) >= set(strange)


def test_a_copy_under_the_name_of_a_later_step_is_no_checkpoint(tmp_path: Path) -> None:
    folder = four_in(tmp_path)
    shutil.copytree(folder / "step-000002", folder / "step-000099")
    shutil.copytree(folder / "best-000001", folder / "best-000098")
    assert resumed(folder) == (4, 4.0, 3.0)


def test_what_may_not_be_read_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read all files, so the system's answer is made up."""
    folder = four_in(tmp_path)

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match="may not be read"):
        resumed(folder)


def test_checkpoints_of_an_older_version_have_no_hashes(tmp_path: Path) -> None:
    """They are taken as they are; what cannot be read at all is damaged all the same."""
    folder = four_in(tmp_path)
    for path in folder.glob("*/state.json"):
        values = json.loads(path.read_text())
        del values["sha256"]
        path.write_text(json.dumps(values))
    assert resumed(folder) == (4, 4.0, 3.0)
    (folder / "step-000004" / "state.json").write_text("{}")
    assert resumed(folder) == (2, 2.0, 1.0)
