"""A finished run's folder without a training: what it holds is made up, its scores are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_whisper.config import TrainConfig
from lora_whisper.environment import environment, versions
from lora_whisper.evaluation.results import to_json
from lora_whisper.evaluation.run_summary import RunSummary
from lora_whisper.evaluation.score import hypotheses_jsonl, score, score_utterance
from lora_whisper.files import append_jsonl
from lora_whisper.lora.delta_weights import DeltaWeights, write_delta_weights
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.run_config import write_config
from lora_whisper.run_folder import RunFolder
from lora_whisper.schema import from_values
from tests.composed import train_values

BASE = Checkpoint("openai/whisper-small", None, "openai/whisper-small")


@dataclass(frozen=True)
class Heard:
    """An utterance of the test set, and what the models made of it."""

    reference: str
    base: str
    adapter: str
    merged: str | None = None  # None: as the adapter
    language: str = "sw"
    bad_audio: str | None = None
    voice: str | None = None  # of all, where the score is broken down by it


HEARD = (
    Heard("Habari ya asubuhi", "habari za asubui sana", "habari ya asubuhi"),
    Heard("Asante sana", "asante", "asante sana rafiki"),
)


def toy_run(
    folder: Path,
    *overrides: str,
    heard: Sequence[Heard] = HEARD,
    lines: Sequence[Mapping[str, Any]] = (),
    ranks: Sequence[int] = (4, 4),
    **changes: Any,
) -> tuple[RunFolder, RunSummary]:
    """Write the folder of a run but for its summary, card and report; return it and its summary.

    Args:
        heard: the test set; empty: the run has none.
        lines: of metrics.jsonl.
        ranks: of the adapter's layers.
        changes: of the summary.
    """
    run = RunFolder(folder)
    values = train_values("name=toy", "data.train=train.jsonl", "data.language=sw", *overrides)
    write_config(run, from_values(TrainConfig, values))
    run.metrics.touch()
    for line in lines:
        append_jsonl(run.metrics, dict(line))
    matrices = {
        f"model.encoder.layers.{number}.fc1": (torch.ones(rank, 8), torch.ones(8, rank))
        for number, rank in enumerate(ranks)
    }
    write_delta_weights(DeltaWeights(matrices, {}), run.adapter, BASE)
    scores = {model: _scored(run, model, heard) for model in ("base", "adapter", "merged")}
    return run, toy_summary(ranks, **(scores | changes))


def _scored(run: RunFolder, model: str, heard: Sequence[Heard]) -> dict[str, Any] | None:
    """Score the texts, and write them where `train` does."""
    if not heard or (model == "merged" and all(one.merged is None for one in heard)):
        return None
    texts = [getattr(one, model) or one.adapter for one in heard]
    folder = run.evaluation / model / "test"
    folder.mkdir(parents=True)
    rows = [
        score_utterance(
            f"test.jsonl:{number}", one.language, one.reference, text, bad_audio=one.bad_audio
        )
        for number, (one, text) in enumerate(zip(heard, texts, strict=True), start=1)
    ]
    (folder / "hypotheses.jsonl").write_bytes(hypotheses_jsonl(rows))
    voices = [one.voice for one in heard if one.voice is not None]
    return to_json(score(rows, 10, seed=0, groups={"voice": voices} if voices else None))


def toy_summary(ranks: Sequence[int] = (4, 4), **changes: Any) -> RunSummary:
    """Of a run without a test set, with changes as JSON has them."""
    values = {
        "base": None,
        "adapter": None,
        "name": "toy",
        "checkpoint": BASE.name,
        "checkpoint_fingerprint": f"commit:{'a' * 40}",
        "quantization": "none",
        "adapter_bytes": 1_300_000,
        "adapter_ranks": [min(ranks), max(ranks)],
        "model_bytes": 4_900_000,
        "trainable_parameters": 128,
        "total_parameters": 10_000,
        "languages": ["sw"],
        "prompt": {"language": "sw", "task": "transcribe"},
        "utterances": {"train": 300, "validation": 40, "test": 2},
        "test_speakers": 3,
        "test_speakers_in_training": 1,
        "train_audio_seconds": 3600.0,
        "train_audio_seconds_seen": 7200.0,
        "train_seconds": 65.0,
        "validation_seconds": 5.0,
        "steps": 100,
        "ended_early": False,
        "skipped_steps": 0,
        "adapter_step": 75,
        "averaging": None,
        "left_out": {"train": {"longer than the window of 30 s": 7}},
        "bad_audio": 0,
        "seed": 1,
        "environment": environment(),
        "versions": versions(),
    }
    return RunSummary.from_json(values | changes)
