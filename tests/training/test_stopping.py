"""Signals: noted in the loop, at once outside it, and their own exit codes."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from lora_whisper.config import EvaluateConfig, TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.options import configured
from lora_whisper.run_folder import RunFolder
from lora_whisper.training import stopping
from lora_whisper.training.stopping import (
    Stopped,
    StopRequest,
    ended_by_signals,
    failures_explained,
    out_of_memory_explained,
)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def nothing() -> None:
    pass


def test_a_signal_is_noted_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.signal_number is None
        send(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
        assert stop.is_agreed()
        stopped = stop.stopped("at step 3")
        assert (stopped.exit_code, str(stopped)) == (143, "at step 3")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest():
        send(signal.SIGINT)
        send(signal.SIGINT)  # within a second it is the same one, sent to a whole job
        monkeypatch.setattr(stopping, "ONE_SIGNAL_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt, match="at once"):
            send(signal.SIGINT)


def test_long_work_is_broken_off_and_does_not_begin_after_a_signal() -> None:
    done: list[str] = []

    def work() -> None:
        done.append("begun")
        send(signal.SIGTERM)
        done.append("ended")

    with StopRequest() as stop:
        assert stop.unless_stopped(nothing)
        assert not stop.unless_stopped(work)
        assert not stop.unless_stopped(work)
    assert done == ["begun"]


def test_work_that_other_processes_wait_for_is_done_to_its_end() -> None:
    done: list[str] = []

    def work() -> None:
        send(signal.SIGTERM)
        done.append("ended")

    with StopRequest(breaks_off=False) as stop:
        assert stop.unless_stopped(work)
    assert done == ["ended"]
    assert stop.signal_number == signal.SIGTERM


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_outside_the_loop_a_signal_ends_the_work_at_once(
    number: signal.Signals, exit_code: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="go on") as stopped, ended_by_signals("go on"):
        send(number)
    assert stopped.value.exit_code == exit_code
    assert signal.getsignal(number) is before


def test_a_loop_outside_the_main_thread_leaves_signals_alone() -> None:
    """Python would refuse it the handlers: a notebook may train in a thread."""
    before, failures = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        try:
            with StopRequest() as stop, ended_by_signals("go on"):
                assert stop.unless_stopped(nothing)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_at_once_breaks_off_nothing_that_the_first_one_tidies_up(
    number: signal.Signals,
) -> None:
    """Not even where the handler of the first one is not in place any more."""
    done: list[str] = []

    def work() -> None:
        try:
            with ended_by_signals("go on"):
                send(number)
        finally:
            send(number)
            done.append("tidied up")

    with pytest.raises(Stopped) as stopped, ended_by_signals():
        work()
    assert done == ["tidied up"]
    assert str(stopped.value) == "go on"


def test_what_was_asked_for_beyond_the_usual_is_named_where_memory_runs_out() -> None:
    """And not the model, which has nothing to do with it."""
    usual = configured(EvaluateConfig, {"run": "a"})
    much = {"beams": 50, "batch_size": 999}
    wide = configured(EvaluateConfig, {"run": "a", "evaluation": much})
    for config, asked in ((usual, ()), (wide, ("beams=50", "batch_size=999"))):
        with pytest.raises(UserError) as refused, out_of_memory_explained(config):
            raise MemoryError("Unable to allocate 7.00 TiB")
        said = str(refused.value)
        assert said.startswith("The memory does not suffice: Unable to allocate 7.00 TiB\n")
        assert ("more than is usual" in said) == bool(asked)
        assert all(f"evaluation.{key}" in said for key in asked)
        assert "resume" not in said, "there is nothing to go on with"
    given = {"name": "a", "model": "nano", "data.train": "a.jsonl", "adapter.rank": 9999}
    training = configured(TrainConfig, given)
    with pytest.raises(UserError) as refused, out_of_memory_explained(training):
        raise MemoryError
    assert "type overwrite=true adapter.rank=16" in str(refused.value)
    with pytest.raises(RuntimeError, match="else"), out_of_memory_explained(usual):
        raise RuntimeError("something else")


def test_without_a_word_of_its_own_it_says_which_signal_it_was() -> None:
    with pytest.raises(Stopped, match="by Ctrl-C"), ended_by_signals():
        send(signal.SIGINT)


def test_a_closed_terminal_ends_it_unless_it_was_started_to_go_on() -> None:
    """As `nohup` starts it, which has SIGHUP ignored."""
    with pytest.raises(Stopped, match="terminal was closed") as stop, ended_by_signals():
        os.kill(os.getpid(), signal.SIGHUP)
    assert stop.value.exit_code == 129
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


TYPED = {"model": "nano", "data": {"train": "a.jsonl"}}


class Deadly(Dataset[int]):
    """Its process is killed, as the system does it where memory runs out."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_loaders_process_that_is_killed_is_named_with_where_the_run_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "checkpoints/step-000004").mkdir(parents=True)
    said = r"(?s)A process that loads speech ended.*step-000004.*resume=auto.*loader_workers"
    with (
        pytest.raises(UserError, match=said),
        failures_explained(RunFolder(tmp_path), configured(TrainConfig, {"name": "a"} | TYPED)),
    ):
        list(DataLoader(Deadly(), num_workers=1, multiprocessing_context="fork"))
