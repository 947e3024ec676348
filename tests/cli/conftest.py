"""A toy checkpoint and toy speech, made once, and the command line in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_whisper.__main__ import carry_out
from lora_whisper.reports.charts import Chart
from tests.toy_speech import toy_speech
from tests.toys import toy_checkpoint

QUICK = ("evaluation.diagnostics=false",)
STRONG = ("optimizer.learning_rate=0.03",)
Line = Callable[..., int]
Refusal = Callable[..., str]


@dataclass(frozen=True)
class World:
    """Where the toys lie."""

    checkpoint: Path
    speech: Path

    def arguments(self, name: str, *more: str) -> list[str]:
        """A short run: 20 clips, 4 steps."""
        splits = ("train", "validation", "test")
        return [
            f"name={name}",
            f"model.checkpoint={self.checkpoint}",
            *(f"data.{split}={self.speech / f'{split}.jsonl'}" for split in splits),
            "training.max_steps=4",
            "training.global_batch=4",
            "training.micro_batch=2",
            "training.loader_workers=0",
            "training.validate_every_steps=2",
            "adapter.rank=2",
            *more,
        ]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("toys")
    speech = folder / "speech"
    for seed, (split, count) in enumerate({"train": 20, "validation": 3, "test": 4}.items()):
        toy_speech(speech, count, seed, split)
    # Its texts never end, so that their limit is what decoding them takes.
    return World(toy_checkpoint(folder / "toy", text_positions=36), speech)


@pytest.fixture(scope="session")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `a`: trained strongly enough to write something else than its base, and scored."""
    folder = tmp_path_factory.mktemp("trained")
    with working_in(folder):
        assert carry_out("train", world.arguments("a", *STRONG)) == 0
    return folder / "outputs/a"


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """For what several tests share: in a folder and with a cache that are no test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LORA_WHISPER_CACHE", str(folder / "cache"))
        yield


@pytest.fixture
def finished(trained: Path, world: World, line: Line) -> list[str]:
    """A copy of it in the current folder; what was typed for it."""
    shutil.copytree(trained, "outputs/a")
    return world.arguments("a", *STRONG)


@pytest.fixture(autouse=True)
def empty_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave plots empty where no test looks into them: drawing took a fifth of a toy run."""
    if "drawn" not in request.keywords:
        monkeypatch.setattr(Chart, "svg", lambda chart: "<svg></svg>")


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """Run a command line in an empty folder; return its exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda command, *arguments: carry_out(command, arguments)


@pytest.fixture
def refusal(line: Line, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Run a command line that is the user's to mend; return what it says."""

    def answer(command: str, *arguments: str) -> str:
        assert line(command, *arguments) == 2
        return capsys.readouterr().err

    return answer
