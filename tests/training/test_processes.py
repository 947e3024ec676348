"""Two processes, with gloo on the CPU, against one: the same steps, texts and decisions."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from lora_whisper import processes
from lora_whisper.errors import UserError
from lora_whisper.evaluation.decoding.decoder import BrokenModel
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.model.device import join_processes, take_from_main
from lora_whisper.training import loop, stopping
from lora_whisper.training.loop import StepResult, mean_loss, train_step
from lora_whisper.training.loss import loss_sum
from lora_whisper.training.optim import new_optimizer
from lora_whisper.training.stopping import Stopped, StopRequest
from tests.evaluation.toy_decoder import IN_BATCHES, make_toy, utterance
from tests.launched import together
from tests.toy_speech import write_clip
from tests.training.parts import (
    Gradients,
    descent,
    micro_batches,
    note_gradients,
    require_same,
    toy_adapter,
    toy_trainer,
    toy_windows,
)

WINDOWS = (8, 5, 1)  # of each step: unequal parts at first, at last none for the second process


@dataclass(frozen=True)
class Trained:
    """Some steps on this process's part of the windows, and the loss of the last adapter."""

    results: list[StepResult]
    gradients: list[Gradients]
    parameters: Gradients
    loss: float


def train(new_optimizer: Any = descent, rate: float = 1.0) -> Trained:
    trainer = toy_trainer(
        toy_adapter(), total_steps=len(WINDOWS), max_gradient_norm=0.5,
        new_optimizer=new_optimizer, rate=rate,
    )  # fmt: skip
    results, gradients = [], note_gradients(trainer)
    for step, count in enumerate(WINDOWS):
        windows = toy_windows(count, seed=step)[processes.rank() :: processes.count()]
        results.append(train_step(trainer, step, micro_batches(windows, 3)))
    parameters = {name: one.detach().numpy() for name, one in trainer.parameters.items()}
    own = toy_windows(5, seed=9)[processes.rank() :: processes.count()]
    return Trained(results, gradients, parameters, mean_loss(trainer, [micro_batches(own, 2)]))


def train_twice() -> tuple[Trained, Trained]:
    """By plain descent, whose steps can be compared, and by the loop's own optimizer."""
    return train(), train(new_optimizer, rate=1e-2)


@pytest.fixture(scope="module")
def of_two() -> list[tuple[Trained, Trained]]:
    return together(2, train_twice)


def test_two_processes_take_the_steps_of_one(of_two: list[tuple[Trained, Trained]]) -> None:
    """Though clips and texts are of unequal lengths, and a process may have none of them."""
    alone = train()
    for other, _ in of_two:
        for one, two in zip(alone.results, other.results, strict=True):
            assert two.target_tokens == one.target_tokens
            assert two.audio_seconds == pytest.approx(one.audio_seconds)
            assert two.loss == pytest.approx(one.loss, rel=1e-5)
            assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
        require_same(other.gradients, alone.gradients)
        assert other.loss == pytest.approx(alone.loss, rel=1e-5)


def test_all_processes_have_the_same_adapter_to_the_last_bit(
    of_two: list[tuple[Trained, Trained]],
) -> None:
    for first, second in zip(*of_two, strict=True):
        for name, value in first.parameters.items():
            assert np.array_equal(value, second.parameters[name]), name
        assert first.loss == second.loss


def exchange() -> dict[str, Any]:
    join_processes()
    mine = processes.rank()
    found: dict[str, Any] = {
        "shared": processes.share({"from": mine}),
        "gathered": processes.gather([mine] * (mine + 1)),
        "from main": processes.from_main(lambda: (mine, os.getpid())),
        "drawn": drawn_by_main(),
        "failure": refusal(fail_in_main),
        "locked out": refusal(enter_what_is_closed),
    }
    return found | {"pid": os.getpid()}


def drawn_by_main() -> list[float]:
    parameter = torch.nn.Parameter(torch.full((3,), float(processes.rank())))
    take_from_main([parameter])
    assert parameter.is_leaf
    return parameter.tolist()


def refusal(function: Callable[[], None]) -> str:
    with pytest.raises(UserError) as refused:
        function()
    return str(refused.value)


def fail_in_main() -> None:
    def refuse() -> None:
        raise UserError(f"said by {processes.rank()}")

    processes.from_main(refuse)


def enter_what_is_closed() -> None:
    class Closed:
        def __enter__(self) -> None:
            raise UserError(f"closed to {processes.rank()}")

        def __exit__(self, *_: object) -> None:
            raise AssertionError("nobody was in")

    with processes.entered_by_main(Closed()):
        raise AssertionError("a process went on")


def test_what_the_main_process_finds_is_what_all_know() -> None:
    first, second = together(2, exchange)
    for found in (first, second):
        assert found["shared"] == {"from": 0}
        assert found["gathered"] == [0, 1, 1]
        assert found["from main"] == (0, first["pid"])
        assert found["drawn"] == [0.0, 0.0, 0.0]
        assert found["failure"] == "said by 0"
        assert found["locked out"] == "closed to 0"


def test_one_process_exchanges_nothing() -> None:
    value = object()  # which cannot be pickled apart
    assert processes.share(value) is value
    assert processes.from_main(lambda: value) is value
    assert processes.gather([value]) == [value]
    assert processes.is_main()


def signalled(rank: int) -> list[tuple[bool, bool, bool, int]]:
    """Steps of two micro-batches, in the first or last of which process `rank` gets a SIGTERM."""
    return [_signalled_step(rank, micro_step) for micro_step in (1, 2)]


def _signalled_step(rank: int, micro_step: int) -> tuple[bool, bool, bool, int]:
    trainer, done = toy_trainer(toy_adapter()), [0]
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}

    def counted(*given: Any) -> torch.Tensor:
        done[0] += 1
        if processes.rank() == rank and done[0] == micro_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_sum(*given)

    with pytest.MonkeyPatch.context() as patch, StopRequest() as stop:
        patch.setattr(loop, "loss_sum", counted)
        patch.setattr(stopping, "ONE_SIGNAL_SECONDS", 0.0)
        result = train_step(trainer, 0, micro_batches(toy_windows(4), 2), stop)
        is_taken = any(
            not torch.equal(before[name], value) for name, value in trainer.parameters.items()
        )
        assert result.broken_off != is_taken
        return result.stop_requested, is_taken, stop.is_agreed(), stop.stopped("now").exit_code


def test_all_processes_stop_in_the_step_in_which_one_got_a_signal() -> None:
    """It is taken by all, or by none where one of them broke off."""
    assert together(2, signalled, 1) == [[(True, False, True, 143), (True, True, True, 143)]] * 2
    assert issubclass(Stopped, KeyboardInterrupt)


def hear(folder: Path) -> tuple[tuple[str, ...], list[str], list[tuple[int, int]]]:
    """Decode five clips, one of which is broken."""
    if processes.count() > 1:
        join_processes()
    toy, progress = make_toy(), list[tuple[int, int]]()
    found = transcribe(
        toy.decoder,
        [utterance(folder / f"{index}.wav", 0.4 + index / 5) for index in range(5)],
        IN_BATCHES,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    return found.texts, [one.row for one in found.bad], progress


def test_two_processes_hear_what_one_hears(tmp_path: Path) -> None:
    for index in range(5):
        write_clip(tmp_path / f"{index}.wav", 0.4 + index / 5, frequency=150.0 * (index + 1))
    (tmp_path / "3.wav").write_bytes(b"RIFF")
    texts, bad, _ = hear(tmp_path)
    assert len(set(texts)) == 5
    found = together(2, hear, tmp_path)
    assert [one[:2] for one in found] == [(texts, bad)] * 2
    assert found[0][2][-1] == (5, 5)  # what the main process shows, whose part is the largest


def refused(folder: Path, broken_in: int) -> str:
    join_processes()
    toy = make_toy()
    if processes.rank() == broken_in:
        toy.model.model.decoder.layers[0].fc1.weight[0, 0] = float("nan")
    rows = [utterance(folder / f"{index}.wav", 0.4 + index / 5) for index in range(5)]
    with pytest.raises(BrokenModel) as failure:
        transcribe(toy.decoder, rows, IN_BATCHES)
    return str(failure.value)


def test_what_breaks_in_one_process_ends_both(tmp_path: Path) -> None:
    for index in range(5):
        write_clip(tmp_path / f"{index}.wav", 0.4 + index / 5)
    first, second = together(2, refused, tmp_path, 1)
    assert first == second
    assert "not finite numbers" in first


def test_an_environment_that_only_half_speaks_of_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in processes.LAUNCHER_SAYS:
        monkeypatch.delenv(name, raising=False)
    processes.check_environment()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        processes.check_environment()
    assert processes.rank() == 1
    assert not processes.is_main()


@pytest.mark.parametrize("key", processes.SHARDERS)
def test_accelerate_configured_for_what_shards_a_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(key, "false")
    processes.check_environment()
    monkeypatch.setenv(key, "true")
    with pytest.raises(UserError, match=r"(?s)every GPU holds the whole model.*--multi_gpu"):
        processes.check_environment()


@pytest.mark.parametrize("on_what", [["--cpu"], []], ids=["--cpu", "no GPU"])
def test_accelerate_starts_one_process_where_several_cpus_were_asked_for(
    on_what: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment that accelerate 1.15 makes of --num_processes."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for count, is_told in ((1, False), (2, True)):
        given = launch_command_parser().parse_args(
            [*on_what, "--num_machines", "1", "--num_processes", str(count), "train.py"]
        )
        given.mixed_precision, given.dynamo_backend = "no", "no"
        given.use_cpu = given.cpu
        _, environment = prepare_simple_launcher_cmd_env(given)
        with monkeypatch.context() as launched:
            for name, value in environment.items():
                launched.setenv(name, value)
            assert processes.is_one_of_several_asked_for() is is_told
