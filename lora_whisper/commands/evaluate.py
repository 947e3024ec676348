"""`lora-whisper evaluate`: score a run's base, adapter and merged model on one test set.

    lora-whisper evaluate run=outputs/mine
    lora-whisper evaluate run=outputs/mine data.test=general.jsonl

The run's own test set brings summary.json up to date; another one is scored beside it, in
`evaluation/MODEL/SET/`.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.commands._hydra import Command, run_command
from lora_whisper.commands._inputs import Base, absolute, read_base, read_config, read_split
from lora_whisper.commands._scoring import load_whisper, score_model, whisper_inside
from lora_whisper.config import EvaluateConfig, EvaluationConfig, TrainConfig
from lora_whisper.data.corpus import Corpus
from lora_whisper.data.manifest import read_manifest
from lora_whisper.errors import UserError
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.run_folder import RunFolder, existing_run, locked, read_json, write_json

if TYPE_CHECKING:
    import torch
    from transformers import WhisperForConditionalGeneration

log = logging.getLogger("lora_whisper")


def check(config: EvaluateConfig, path: Path) -> None:
    """Find the run and read the test set, before anything is loaded."""
    run_config = read_config(existing_run(config.run))
    manifest = test_manifest(config, run_config)
    read_manifest(manifest, "test", run_config.data.language, run_config.data.task)


def test_manifest(config: EvaluateConfig, run_config: TrainConfig) -> Path:
    """The manifest to score: the one that was given, else the run's own.

    Raises:
        UserError: neither is there.
    """
    if config.data.test is not None:
        return absolute(config.data.test)
    own = _own_manifest(run_config)
    if own is None:
        raise UserError(f"The run {config.run} has no data.test. Type data.test=FILE.jsonl")
    return own


def _own_manifest(run_config: TrainConfig) -> Path | None:
    test = run_config.data.test
    return None if test is None else absolute(test)


def run(config: EvaluateConfig, path: Path) -> None:
    """Score base, adapter and, where it was merged, the merged model."""
    from lora_whisper.commands._summary import score_table, show_summary
    from lora_whisper.terminal import console

    folder = existing_run(config.run)
    with locked(folder.path):
        run_config = read_config(folder)
        manifest = test_manifest(config, run_config)
        base = read_base(run_config.model)
        corpus = read_split(manifest, "test", run_config.data, base)
        settings = settings_for(config, run_config, corpus)
        is_own = manifest == _own_manifest(run_config)
        name = "test" if is_own else f"{manifest.parent.name}-{manifest.stem}"
        scores = score_all(folder, run_config, base, corpus, settings, name)
        if is_own:
            write_json(folder.summary, read_json(folder.summary) | scores)
    if is_own:
        show_summary(folder)
    else:
        console.print(score_table(f"{manifest} ({corpus.hours:.2f} h)", scores))
        log.info("hypotheses  %s", folder.evaluation / "*" / name)


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


def score_all(
    folder: RunFolder,
    run_config: TrainConfig,
    base: Base,
    corpus: Corpus,
    settings: EvaluationConfig,
    set_name: str,
) -> dict[str, dict[str, Any] | None]:
    """Score the run's models one after the other; `merged` is None until there is one."""
    from lora_whisper.model.adapter import load_adapter, merged_in_place
    from lora_whisper.training.accelerator import new_accelerator

    device = new_accelerator(run_config.training.precision).device

    def scored(name: str, whisper: WhisperForConditionalGeneration) -> dict[str, Any]:
        target = folder.evaluation / name / set_name
        return score_model(
            name, whisper, corpus.utterances, base, settings, run_config.seed, target
        )

    model = load_adapter(load_whisper(run_config, base, device), folder.adapter)
    whisper = whisper_inside(model)
    with model.disable_adapter():
        scores: dict[str, dict[str, Any] | None] = {"base": scored("base", whisper)}
    with merged_in_place(model):
        scores["adapter"] = scored("adapter", whisper)
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
