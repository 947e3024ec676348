"""`lora-whisper merge`: fold a run's adapter into a fresh base, and score the result.

    lora-whisper merge run=outputs/mine

The base is loaded anew in full precision, whatever the adapter was trained on, and what is scored
is the folder on disk, loaded as whoever deploys it will.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lora_whisper.commands._hydra import Command, run_command
from lora_whisper.commands._inputs import Base, read_base, read_config, usable
from lora_whisper.commands._listening import load_model
from lora_whisper.commands._models import merged_of
from lora_whisper.commands._scoring import score_model
from lora_whisper.config import MergeConfig, TrainConfig
from lora_whisper.data.sources import read_split
from lora_whisper.errors import UserError
from lora_whisper.model.checkpoint import locate
from lora_whisper.run_folder import OWN_SET, RunFolder, existing_run, locked, read_json
from lora_whisper.terminal import megabytes

log = logging.getLogger("lora_whisper")


def check(config: MergeConfig, path: Path) -> None:
    """Find the run and its base, and see that nothing is replaced unasked.

    Raises:
        UserError: no complete run, it was merged before, or its base or test set is gone.
    """
    folder = existing_run(config.run)
    if folder.merged.exists() and not config.overwrite:
        raise UserError(f"{folder.merged} exists. Type overwrite=true to replace it.")
    run_config = read_config(folder)
    locate(run_config.model)
    read_split(run_config.data, "test")


def run(config: MergeConfig, path: Path) -> None:
    """Write merged/, score it on the run's test set, and bring up to date what the run says."""
    from lora_whisper.commands._results import write_results
    from lora_whisper.commands._summary import show_summary

    folder = existing_run(config.run)
    with locked(folder.path):
        run_config = read_config(folder)
        base = read_base(run_config.model)
        write_merged(config, folder, base)
        score = score_merged(folder, run_config, base)
        write_results(folder, read_json(folder.summary) | {"merged": score})
    show_summary(folder)


def write_merged(config: MergeConfig, folder: RunFolder, base: Base) -> None:
    """Merge in fp32 on the CPU, where the largest checkpoint fits too, and write the folder."""
    import torch

    from lora_whisper.export.huggingface import write_model
    from lora_whisper.model.adapter import load_adapter, merge
    from lora_whisper.model.checkpoint import load_base, load_generation_config, model_bytes

    whisper = load_base(base.checkpoint, "none", torch.float32, torch.device("cpu"))
    merged = merge(load_adapter(whisper, folder.adapter)).to(getattr(torch, config.dtype))
    generation = load_generation_config(base.checkpoint)
    write_model(merged, base.processor, generation, base.checkpoint, folder.merged)
    log.info(
        "merged      %s, %s in %s", folder.merged, megabytes(model_bytes(merged)), config.dtype
    )


def score_merged(
    folder: RunFolder, run_config: TrainConfig, base: Base
) -> dict[str, object] | None:
    """Score what was written, with the settings that base and adapter were scored with."""
    from lora_whisper.training.accelerator import new_accelerator

    rows = read_split(run_config.data, "test")
    if rows is None:
        return None
    corpus = usable(rows, "test", run_config.data, base)
    device = new_accelerator(run_config.training.precision).device
    merged = merged_of(folder)
    return score_model(
        merged,
        load_model(merged, "auto", device),
        corpus.utterances,
        base,
        run_config,
        folder.evaluation / "merged" / OWN_SET,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(COMMAND, arguments)


COMMAND = Command("merge", MergeConfig, check, run)

if __name__ == "__main__":
    sys.exit(main())
