"""The main job on real speech with a genuine architecture and random weights.

    python benchmarks/random_checkpoint.py --shape tiny --tokenizer WHISPER_TINY random-tiny
    python -m benchmarks.real_speech random-tiny SPEECH/metadata.jsonl --language sw

Trains 30 steps, merges, evaluates, and writes benchmarks/results/real_speech.json. The word error
rate of random weights means nothing; that the loss falls, and that adapter and merged model score
the same, does. The manifest's `split` column says what is trained on and what is scored.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results import write_result

STEPS, GLOBAL_BATCH, TEST_UTTERANCES = 30, 4, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--language", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_commands(options, Path(folder))
        figures = read_figures(Path(folder) / "outputs" / "real")
    command = "python -m benchmarks.real_speech random-tiny SPEECH/metadata.jsonl --language "
    path = write_result("real_speech", command + options.language, figures)
    print(json.dumps(figures, indent=2))
    print(f"written to {path}")


def run_commands(options: argparse.Namespace, folder: Path) -> None:
    """Run train, merge and evaluate in `folder`."""
    manifest = options.manifest.resolve()
    settings = [
        "name=real",
        f"model.checkpoint={options.checkpoint.resolve()}",
        f"data.language={options.language}",
        f"data.train={manifest}",
        f"data.test={manifest}",
        f"training.max_steps={STEPS}",
        f"training.global_batch={GLOBAL_BATCH}",
        "training.log_every_steps=1",
        f"evaluation.max_utterances={TEST_UTTERANCES}",
        f"evaluation.batch_size={TEST_UTTERANCES}",
    ]
    run_command("train", *settings, folder=folder)
    run_command("merge", "run=outputs/real", folder=folder)
    run_command("evaluate", "run=outputs/real", folder=folder)


def run_command(*words: str, folder: Path) -> None:
    """Run one command of lora-whisper in `folder`, shown; raise if it fails."""
    print("$ lora-whisper", shlex.join(words), flush=True)
    command = [sys.executable, "-m", "lora_whisper", *words]
    subprocess.run(command, cwd=folder, check=True, env=os.environ | {"CI": "true"})


def read_figures(run: Path) -> dict[str, Any]:
    """The loss at both ends, and the scores of the three models."""
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss_per_token"] for row in rows if "loss_per_token" in row]
    summary = json.loads((run / "summary.json").read_text())
    kept = ("adapter_bytes", "model_bytes", "trainable_parameters", "total_parameters", "steps")
    return {
        "loss_per_token_first_3_steps": sum(losses[:3]) / 3,
        "loss_per_token_last_3_steps": sum(losses[-3:]) / 3,
        "wer": {model: summary[model]["wer"] for model in ("base", "adapter", "merged")},
        "train_utterances_left_out": summary["left_out"].get("train", {}),
        "train_audio_seconds": summary["train_audio_seconds"],
        **{key: summary[key] for key in kept},
    }


if __name__ == "__main__":
    main()
