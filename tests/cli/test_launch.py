"""A run that a launcher started as two processes: what it gives, how it fails, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile
from safetensors.numpy import load_file

from tests.cli.conftest import Line, World
from tests.launched import command_line, launch, together
from tests.toy_speech import write_manifest


def arguments(world: World, name: str, *more: str) -> list[str]:
    """Four steps of six, six, six and two unequal clips.

    Without dropout, which each process draws for its own windows.
    """
    changes = ("training.global_batch=6", "training.log_every_steps=1", "adapter.dropout=0")
    return world.arguments(name, *changes, *more)


@pytest.fixture(scope="module")
def of_two(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes trained the run `two`."""
    folder = tmp_path_factory.mktemp("launched")
    assert together(2, command_line, folder, "train", *arguments(world, "two")) == [0, 0]
    return folder


def test_two_processes_give_the_run_of_one(
    world: World, line: Line, tmp_path: Path, of_two: Path
) -> None:
    assert line("train", *arguments(world, "one")) == 0
    one, two = tmp_path / "outputs" / "one", of_two / "outputs" / "two"
    assert files(two) == files(one)
    adapter, other = (
        load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, two)
    )
    assert adapter.keys() == other.keys()
    assert figures(two) == [pytest.approx(line, rel=1e-4) for line in figures(one)]
    hypotheses = Path("evaluation", "base", "test", "hypotheses.jsonl")
    assert (two / hypotheses).read_text() == (one / hypotheses).read_text()


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*")}


def figures(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock or the system says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "loss_per_token", "gradient_norm", "target_tokens", "audio_seconds")
    validation = ("validation_wer", "validation_loss_per_token")
    return [{key: line[key] for key in (*kept, *validation) if key in line} for line in lines]


def test_the_main_process_alone_prints(of_two: Path) -> None:
    assert "two: " in (of_two / "output-0.txt").read_text()
    assert (of_two / "output-1.txt").read_text() == ""


@pytest.mark.slow
def test_a_launcher_starts_the_command_line(world: World, of_two: Path) -> None:
    """The run is complete, so that there is nothing to do but to say it, once."""
    launcher = Path(sys.executable).with_name("torchrun")
    module = ["--nproc-per-node", "2", "-m", "lora_whisper", "train"]
    shown = subprocess.run(
        [launcher, "--standalone", *module, *arguments(world, "two", "resume=auto")],
        cwd=of_two,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.count("outputs/two is complete") == 1
    assert shown.stdout.count("95 % interval") == 1


def test_what_is_wrong_for_all_is_said_once(world: World, of_two: Path) -> None:
    assert together(2, command_line, of_two, "train", *arguments(world, "two")) == [2, 2]
    assert said(of_two).count("The run outputs/two exists and is complete") == 1
    main, other = launch(2, command_line, of_two, "merge", "run=outputs/two")
    assert main.wait() == 2
    other.process.terminate()  # as a launcher does; by itself it waits for that in silence
    assert said(of_two).count("without the launcher") == 1


def said(folder: Path) -> str:
    return "".join((folder / f"output-{rank}.txt").read_text() for rank in range(2))


def test_bad_audio_in_the_windows_of_any_process_is_named_once(
    world: World, tmp_path: Path
) -> None:
    """Its header is sound, so that only the process that reads it can tell."""
    rows = [json.loads(row) for row in (world.speech / "train.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["audio"] = str(world.speech / row["audio"])
        if number < 2:
            samples, rate = soundfile.read(row["audio"])
            clip = tmp_path / f"{number}.flac"
            soundfile.write(clip, samples, rate)
            clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
            row["audio"] = str(clip)
    train = write_manifest(tmp_path / "cut.jsonl", rows)
    more = [f"data.train={train}", "data.validation=null", "data.test=null"]
    codes = together(2, command_line, tmp_path, "train", *arguments(world, "bad", *more))
    assert codes == [2, 2]
    assert said(tmp_path).count("Audio does not decode") == 1
    assert any(f"cut.jsonl:{number}" in said(tmp_path) for number in (1, 2))


def break_one_process(folder: Path, *given: str) -> int:
    """Process 1 fails in its second step, while process 0 waits for its part of it."""
    from lora_whisper.errors import UserError
    from lora_whisper.training import loop

    train_step: Any = loop.train_step

    def fails(trainer: Any, step: int, *others: Any) -> Any:
        if step == 1 and os.environ["RANK"] == "1":
            raise UserError("The network is gone.")
        return train_step(trainer, step, *others)

    loop.train_step = fails
    return command_line(folder, *given)


def test_a_failure_of_one_process_ends_all_with_its_message(world: World, tmp_path: Path) -> None:
    given = arguments(world, "broken", "data.validation=null", "data.test=null")
    assert together(2, break_one_process, tmp_path, "train", *given) == [2, 2]
    assert said(tmp_path).count("error: The network is gone.") == 1
    assert "Traceback" not in said(tmp_path)


def test_a_signal_to_one_process_stops_both_and_one_alone_goes_on(
    world: World, line: Line, tmp_path: Path
) -> None:
    open_end = ["optimizer.schedule=constant", "optimizer.warmup=2"]
    steps = ["training.max_steps=300", "training.validate_every_steps=300"]
    unscored = ["data.validation=null", "data.test=null", "training.loader_workers=1"]
    given = arguments(world, "stopped", *open_end, *steps, *unscored)
    _, second = running = launch(2, command_line, tmp_path, "train", *given)
    wait_for(tmp_path / "outputs" / "stopped" / "metrics.jsonl")
    os.kill(second.process.pid, signal.SIGTERM)
    assert [one.wait() for one in running] == [143, 143]
    assert said(tmp_path).count("stopped: at step") == 1
    (checkpoint,) = (tmp_path / "outputs" / "stopped" / "checkpoints").glob("step-*")
    done = int(checkpoint.name[5:])
    assert 0 < done < 300
    assert line("train", *given, "resume=auto", f"training.max_steps={done + 2}") == 0
    assert figures(tmp_path / "outputs" / "stopped")[-1]["step"] == done + 2


def wait_for(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
