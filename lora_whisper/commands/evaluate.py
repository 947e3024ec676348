"""`lora-whisper evaluate`: score a run's base, adapter and merged model on one test set.

    lora-whisper evaluate run=outputs/mine
    lora-whisper evaluate run=outputs/mine data.test=general.jsonl

The run's own test set brings summary.json up to date; another one is scored beside it, in
`evaluation/MODEL/SET/`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.commands._hydra import Command, run_command
from lora_whisper.commands._inputs import Base, read_base, read_config, usable
from lora_whisper.commands._scoring import load_whisper, score_model, whisper_inside
from lora_whisper.config import (
    DataConfig,
    EvaluateConfig,
    EvaluationConfig,
    TrainConfig,
)
from lora_whisper.data.corpus import Corpus
from lora_whisper.data.sources import beside, read_split
from lora_whisper.data.table import Utterances
from lora_whisper.errors import UserError
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.paths import local_path
from lora_whisper.run_folder import OWN_SET, RunFolder, existing_run, locked, read_json

if TYPE_CHECKING:
    import torch
    from transformers import WhisperForConditionalGeneration

log = logging.getLogger("lora_whisper")


def check(config: EvaluateConfig, path: Path) -> None:
    """Find the run and read the test set, before anything is loaded."""
    run_config = read_config(existing_run(config.run))
    read_rows(config, run_config)
    config.evaluation.applied_to(run_config.evaluation)


def run(config: EvaluateConfig, path: Path) -> None:
    """Score base, adapter and, where it was merged, the merged model."""
    from lora_whisper.commands._results import write_results
    from lora_whisper.commands._summary import show_scores, show_summary

    folder = existing_run(config.run)
    with locked(folder.path):
        run_config = read_config(folder)
        rows = read_rows(config, run_config)
        base = read_base(run_config.model)
        corpus = usable(rows, "test", data_to_score(config, run_config), base)
        settings = settings_for(config, run_config, corpus)
        name = set_name(config.data.test, settings, run_config)
        model = dataclasses.replace(run_config.model, attention="auto")  # as this machine has it
        changed = dataclasses.replace(run_config, model=model, evaluation=settings)
        scores = score_all(folder, changed, base, corpus, name)
        if name == OWN_SET:
            write_results(folder, read_json(folder.summary) | scores)
    if name == OWN_SET:
        show_summary(folder)
    else:
        show_scores(f"{name}: {corpus.hours:.2f} h", scores, run_config)
        log.info("hypotheses  %s", folder.evaluation / "*" / name)


def read_rows(config: EvaluateConfig, run_config: TrainConfig) -> Utterances:
    """The rows of the test set.

    Raises:
        UserError: they cannot be read, or neither a test set was given nor does the run have one.
    """
    rows = read_split(data_to_score(config, run_config), "test")
    if rows is None:
        raise UserError(f"The run {config.run} has no data.test. Type data.test=FILE.jsonl")
    return rows


def data_to_score(config: EvaluateConfig, run_config: TrainConfig) -> DataConfig:
    """The run's data, with the test set that was given instead of its own."""
    if config.data.test is None:
        return run_config.data
    data = dataclasses.replace(run_config.data, test=config.data.test)
    if isinstance(place_of(config.data.test), Path):
        data = beside(data)
    named = {name: key for name, key in vars(config.data.columns).items() if key is not None}
    return dataclasses.replace(data, columns=dataclasses.replace(data.columns, **named))


def settings_for(
    config: EvaluateConfig, run_config: TrainConfig, corpus: Corpus
) -> EvaluationConfig:
    """The run's settings with the changes asked for.

    A column to group by that the run names is dropped for a test set without it; one that was asked
    for is not.
    """
    settings = config.evaluation.applied_to(run_config.evaluation)
    inherited = config.evaluation.group_by is None
    has_column = any(settings.group_by in one.columns for one in corpus.utterances)
    return (
        dataclasses.replace(settings, group_by=None) if inherited and not has_column else settings
    )


def set_name(given: str | None, settings: EvaluationConfig, run_config: TrainConfig) -> str:
    """Folder of a test set's scores: `test` only for what summary.json speaks of.

    Scores of other speech, or of other beams or another sample of it, do not compare with those.
    """
    own = run_config.data.test
    if given is None or (own is not None and place_of(given) == place_of(own)):
        name = OWN_SET
    else:
        name = name_of(place_of(given))
    for key in ("beams", "max_utterances"):
        if getattr(settings, key) != getattr(run_config.evaluation, key):
            name += f"-{key}-{getattr(settings, key)}"
    return name


def place_of(test: str) -> Path | str:
    """A file, wherever it is named from, or the name of a split."""
    path = local_path(test)
    return path if path.is_file() else test


def name_of(place: Path | str) -> str:
    if isinstance(place, Path):
        return f"{place.parent.name}-{place.stem}"
    return re.sub(r"[^\w.]+", "-", place).strip("-.") or "split"


def score_all(
    folder: RunFolder, config: TrainConfig, base: Base, corpus: Corpus, set_name: str
) -> dict[str, dict[str, Any] | None]:
    """Score the run's models one after the other; `merged` is None until there is one."""
    from lora_whisper.model.adapter import load_adapter, merged_in_place
    from lora_whisper.training.accelerator import new_accelerator

    device = new_accelerator(config.training.precision).device

    def scored(name: str, whisper: WhisperForConditionalGeneration) -> dict[str, Any]:
        target = folder.evaluation / name / set_name
        return score_model(name, whisper, corpus.utterances, base, config, target)

    model = load_adapter(load_whisper(config, base, device), folder.adapter)
    with model.disable_adapter():
        scores: dict[str, dict[str, Any] | None] = {"base": scored("base", whisper_inside(model))}
    with merged_in_place(model):
        scores["adapter"] = scored("adapter", whisper_inside(model))
    del model  # two models of large-v3's size do not fit a small card
    is_merged = folder.merged.is_dir()
    scores["merged"] = scored("merged", load_merged(folder, device)) if is_merged else None
    return scores


def load_merged(folder: RunFolder, device: torch.device) -> WhisperForConditionalGeneration:
    """Load merged/ from disk in its own dtype, as whoever deploys it will."""
    import torch

    from lora_whisper.model.checkpoint import load_base, load_config

    checkpoint = Checkpoint(str(folder.merged.absolute()), None, str(folder.merged))
    dtype = load_config(checkpoint).dtype
    return load_base(
        checkpoint, "none", dtype if isinstance(dtype, torch.dtype) else torch.float32, device
    )


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(COMMAND, arguments)


COMMAND = Command("evaluate", EvaluateConfig, check, run)

if __name__ == "__main__":
    sys.exit(main())
