"""What README.md tells people to type works."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from lora_whisper.cli.overrides import without_alias
from lora_whisper.cli.report import with_sweep
from lora_whisper.composing import to_config
from tests.cli.conftest import Line, World, line, world  # noqa: F401
from tests.composed import train_values

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ lora-whisper (.+)$", README, re.MULTILINE)


def test_the_commands_are_found() -> None:
    """A new one has to be counted here, so that none is left untested by accident."""
    assert len(COMMANDS) == 36


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_composes(command: str) -> None:
    name, *words = shlex.split(command)
    if name in ("adapters", "doctor"):  # which have no keys
        assert not any("=" in word for word in words)
        return
    words = with_sweep(words) if name == "report" else words
    overrides = [word for word in words if "=" in word and word != "experiment=mine"]
    points = [
        word.split(",")[0] if word.startswith("adapter.rank=") else word for word in overrides
    ]
    if "--config-dir" in words:  # the user's own experiment would bring the missing keys
        points += ["name=mine", "data.train=train.jsonl"]
    command_of = importlib.import_module(f"lora_whisper.cli.{name}").COMMAND
    typed = [without_alias(command_of, point) for point in points]
    to_config(command_of.kind, train_values(*typed, primary=name))


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(?:\$ |`)?make ([a-z]+)", README, re.MULTILINE))
    assert {"quickstart", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_files_in_the_tree_are_there() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(linked) >= 5
    for path in linked:
        assert (ROOT / path).exists(), path


def test_a_file_is_transcribed_by_stock_transformers(
    world: World,  # noqa: F811
    line: Line,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The README's lines, on a toy instead of the quickstart's model."""
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    assert line("train", *world.arguments("a", "training.max_steps=1")) == 0
    assert line("merge", "run=outputs/a") == 0
    clip = next((world.speech / "test").glob("*.wav"))
    code = code.replace("outputs/quickstart/merged", "outputs/a/merged")
    code = re.sub(r"lora_whisper/quickstart/speech/[^\"]+", str(clip), code)
    capsys.readouterr()
    scope: dict[str, object] = {}
    exec(code, scope)
    assert isinstance(scope["heard"], dict)
    assert capsys.readouterr().out.strip() == str(scope["heard"]["text"]).strip()
