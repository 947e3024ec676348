"""`--help`: every key with its value and what it means, for a terminal of 80 columns."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from lora_whisper.__main__ import main
from lora_whisper.cli.help import COLUMNS
from lora_whisper.config import OptimizerConfig, TrainingConfig
from lora_whisper.schema import meaning_of
from lora_whisper.training.defaults import (
    SMALL_WIDTH,
    learning_rate_for_width,
    micro_batch_for_width,
)
from tests.cli.conftest import Line, Refusal

COMMANDS = (
    *("train", "search", "evaluate", "merge", "export", "check", "plan", "push", "report"),
    *("record", "transcribe", "demo"),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_it_fits_a_terminal(name: str, line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line(name, "--help") == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= COLUMNS
    assert any("# " in row for row in shown)
    without_groups = name in ("merge", "push", "report", "record", "transcribe", "demo")
    assert ("== Groups (group=option) ==" in shown) == (not without_groups)
    assert ("[group=option" in shown[0]) == (not without_groups)


def test_what_is_typed_stands_there_with_what_it_means(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("train", "--help", "adapter=adalora", "data.mix=[{weight: 1, path: x}]") == 0
    shown = " ".join(capsys.readouterr().out.replace("#", " ").split())
    assert "rank: 16 1 or more; inner dimension of B·A" in shown
    assert "kind: adalora" in shown
    assert "mix: [{path: x, weight: 1}]" in shown


def test_null_is_explained_where_it_becomes_something() -> None:
    for name in ("max_steps", "micro_batch", "gradient_checkpointing", "validate_every_steps"):
        assert "null: " in meaning_of(TrainingConfig, name)
    micro_batch = meaning_of(TrainingConfig, "micro_batch")
    assert f"{micro_batch_for_width(SMALL_WIDTH)} from small" in micro_batch
    small = f"{learning_rate_for_width(SMALL_WIDTH):.1e}".replace("e-0", "e-")
    assert f"{small} for small" in meaning_of(OptimizerConfig, "learning_rate")


def exit_code_of(function: Callable[[], None]) -> object:
    try:
        function()
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize(
    ("words", "exit_code", "found"),
    [
        (["evalute"], 2, "'evalute' is not a command. Did you mean evaluate?"),
        (["zzz"], 2, "'zzz' is not a command\n"),
        (["help"], 0, "usage: lora-whisper COMMAND"),
        (["help", "merge"], 0, "overwrite"),
        (["--help", "merge"], 0, "overwrite"),
        (["--help", "data.trimmed"], 0, "margin_seconds: [0.64, 2.56]"),
        (["help", "search.trials"], 0, "trials:"),
        (["help", "trian"], 2, "'trian' is not a command. Did you mean train?"),
        (["-h", "nonsense"], 2, "--help nonsense: there is no such group of keys"),
    ],
)
def test_a_commands_name_is_guessed_and_help_is_a_word(
    words: list[str],
    exit_code: int,
    found: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["lora-whisper", *words])
    assert exit_code_of(main) == exit_code
    shown = capsys.readouterr()
    assert found in shown.out + shown.err


@pytest.mark.parametrize("words", [["adapter"], ["--help=adapter"], ["adapter", "adapter=dora"]])
def test_one_group_alone(words: list[str], line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line("train", "--help", *words) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= COLUMNS
    assert "rank: 16                          # 1 or more; inner dimension of B·A" in shown
    assert "learning_rate" not in shown
    assert ("kind: dora" in shown) == ("adapter=dora" in words)


@pytest.mark.parametrize(
    ("topic", "found"),
    [
        ("augmentation.noise", "share: ???                        # 0 … 1; of the windows"),
        ("training.averaging", "averaging: null                   # one more candidate at the end"),
        ("seed", "seed: 1                           # 0 … 4294967295"),
        ("adapter.rank", "rank: 16"),
        ("data.columns", "speaker: null                     # who speaks"),
        ("experiment", "quickstart  "),
    ],
)
def test_what_is_off_and_single_keys_are_explained_too(
    topic: str, found: str, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("train", "--help", topic) == 0
    assert found in capsys.readouterr().out


def test_several_groups_and_the_experiments(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line("train", "--help", "adapter", "training", "experiment") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= COLUMNS
    for part in ("rank: 16", "max_epochs: ", "\nlarge-v3-8gb "):
        assert part in shown
    assert "learning_rate" not in shown
    assert "lora-whisper train experiment" not in shown, "a sentence, and not the whole comment"


@pytest.mark.parametrize(
    ("topic", "answer"),
    [
        ("adaptr", "There are model, data, augmentation, quantization"),
        ("data.colums", "There are data.columns, data.trimmed, data.mix."),
        ("adapter.rank.x", "Nothing is below it."),
        ("training.keep_checkpoints", "This is no setting any more: 2 is built in. Leave it out."),
        ("optimizer.warmup_steps", "It is called optimizer.warmup now."),
    ],
)
def test_a_wrong_group_is_answered_with_those_that_are(
    refusal: Refusal, topic: str, answer: str
) -> None:
    assert answer in refusal("train", "--help", topic)


INTERRUPTED = """
import builtins, sys
real, stops_at = builtins.__import__, sys.argv[1]
def hooked(name, *given, **more):
    if name.startswith(stops_at):
        raise KeyboardInterrupt
    return real(name, *given, **more)
builtins.__import__ = hooked
sys.argv = ["lora-whisper", "train", "name=a"]
from lora_whisper.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module",
    ["difflib", "lora_whisper.paths", "lora_whisper.terminal", "lora_whisper.cli", "hydra"],
)
def test_ctrl_c_while_it_is_imported_is_a_message(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped: by Ctrl-C\n")
