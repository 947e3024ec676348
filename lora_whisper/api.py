"""The commands as functions, for notebooks and programs: `import lora_whisper as lw`.

    run = lw.train("mine", model="small", data={"language": "sw", "train": "train.jsonl", …})
    run.summary.adapter.wer
    lw.merge(run)
    lw.evaluate(run, evaluation={"conditions": ["noise-10db"]}).scores["test"]["adapter"].wer
    model, processor = lw.load("outputs/mine").model()

They take the keys of `lora-whisper COMMAND --help`, nested, and do what the commands do by the same
code: what they refuse raises `lw.UserError`, with the message that the command would have printed.
Hydra is not asked; sweeps are the command line's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper import terminal
from lora_whisper.config import EvaluateConfig, MergeConfig, TrainConfig
from lora_whisper.errors import UserError
from lora_whisper.evaluation.results import EvaluationResults, from_json
from lora_whisper.evaluation.run_summary import RunSummary, read_summary
from lora_whisper.files import read_json
from lora_whisper.options import configured
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import existing_run
from lora_whisper.training.stopping import GOES_ON, ended_by_signals
from lora_whisper.transcription.results import Segment, Transcript, Word
from lora_whisper.transcription.transcriber import Transcriber

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

__all__ = [
    "Run",
    "Segment",
    "Transcriber",
    "Transcript",
    "UserError",
    "Word",
    "evaluate",
    "load",
    "merge",
    "train",
]

OUTPUTS = Path("outputs")
Place = str | Path


@dataclass(frozen=True)
class Run:
    """A complete run: what it was asked for, and what it gave."""

    path: Path
    config: TrainConfig
    summary: RunSummary  # with the scores of `base`, `adapter` and, after `merge`, `merged`

    def model(self) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
        """The adapted model as it was scored, its adapter folded in, and what goes with it.

        It is on the device that training would take, ready to `generate`.

        Raises:
            UserError: its base or its adapter is gone, or another one.
        """
        from lora_whisper.evaluation.loading import base_of, load_model, whisper_inside
        from lora_whisper.evaluation.models import entries_of_run
        from lora_whisper.lora.adapter import load_adapter, merged_in_place
        from lora_whisper.model.device import new_accelerator

        _, adapted, *_ = entries_of_run(str(self.path))
        assert adapted.adapter is not None
        device = new_accelerator(adapted.precision).device
        model = load_adapter(load_model(adapted, "auto", device), adapted.adapter)
        ExitStack().enter_context(merged_in_place(model))  # for good
        return whisper_inside(model).eval(), base_of(adapted).processor


def train(name: str, **settings: Any) -> Run:
    """Train an adapter, as `lora-whisper train` does.

    A run of that name goes on where it stopped, and a complete one is only loaded, unless
    `overwrite=True` or `resume=None` is given.

    Args:
        name: of the run, whose folder is outputs/NAME.
        settings: the keys of `lora-whisper train --help`, see `options.composed`. A group is a
            mapping of those that are not to have their defaults, or the name of an option:
            `adapter="dora"`, `data={"language": "sw", "path": "all.csv"}`,
            `augmentation=["speed", "noise"]`, `experiment="low-resource-language"`.

    Raises:
        UserError: what the command would have answered with exit code 2.
    """
    from lora_whisper.cli import train as command

    with _as_a_command():
        # A cell that is run again goes on where it stopped, unless that is said otherwise.
        again = {} if settings.get("overwrite") else {"resume": "auto"}
        config = configured(TrainConfig, {"name": name} | again | settings)
        folder = OUTPUTS / config.name
        command.run(command.prepare(config, folder))
    return load(folder)


def merge(run: Run | Place | None = None, **settings: Any) -> Path:
    """Fold adapters into their base, as `lora-whisper merge` does; return the merged folder.

    Args:
        run: whose adapter is merged, and whose `summary.merged` is then its score.
        settings: the keys of `lora-whisper merge --help`; `adapters=` takes the place of a run.

    Raises:
        UserError: what the command would have answered with exit code 2.
    """
    from lora_whisper.cli import merge as command

    with _as_a_command():
        plan = command.prepare(configured(MergeConfig, _of_run(run) | settings))
        command.run(plan)
    return plan.recipe.folder.merged


def evaluate(
    run: Run | Place | None = None, *, name: str = "evaluation", **settings: Any
) -> EvaluationResults:
    """Score models, as `lora-whisper evaluate` does.

    Args:
        run: whose base, adapter and merged model are scored.
        name: of the report; without a run, its folder is outputs/NAME.
        settings: the keys of `lora-whisper evaluate --help`; `models=` takes the place of a run.

    Raises:
        UserError: what the command would have answered with exit code 2.
    """
    from lora_whisper.cli import evaluate as command

    given = _of_run(run) | {"name": name} | settings
    with _as_a_command():
        config = configured(EvaluateConfig, given)
        plan = command.prepare(config, OUTPUTS / config.name)
        command.run(plan)
    return from_json(EvaluationResults, read_json(plan.folder.results))


def load(run: Place) -> Run:
    """A complete run, from its folder.

    Raises:
        UserError: there is none, or it is unfinished.
    """
    folder = existing_run(str(run))
    return Run(folder.path.absolute(), read_config(folder), read_summary(folder))


def _of_run(run: Run | Place | None) -> dict[str, Any]:
    return {} if run is None else {"run": str(run.path if isinstance(run, Run) else run)}


@contextmanager
def _as_a_command() -> Iterator[None]:
    terminal.log_to_console()
    terminal.quiet_libraries()
    with ended_by_signals(GOES_ON):
        yield
