"""One model trained with padded sound, with padded log-mels and with both, and scored with each.

    python -m benchmarks.padding MODEL --language sw --train A.jsonl --validation B.jsonl \\
        --test C.jsonl [training.max_epochs=3 …]

Each adapter is also merged, exported to CTranslate2 in float32 and heard by faster-whisper itself.
Runs lie below outputs/padding/; those that are complete are not trained again. What follows the
options goes to `train` as it stands.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.parts import train_config
from benchmarks.results import write_result
from lora_whisper.__main__ import carry_out
from lora_whisper.config import TrainConfig
from lora_whisper.data.corpus import load_corpus, with_codes
from lora_whisper.data.dataset import Utterances
from lora_whisper.data.sources import read_split
from lora_whisper.evaluation.score import score_transcriptions
from lora_whisper.export.parity import greedily, load_runtime
from lora_whisper.files import read_json
from lora_whisper.model.base import Base, read_base
from lora_whisper.run_folder import RunFolder

SHARES = {"sound": 0.0, "both": 0.5, "log-mel": 1.0}  # of windows whose log-mel is padded
SEEDS = (1, 2)
CONDITION = "padded-log-mel"
OUTPUTS = Path("outputs/padding")
SPEECH = ("language", "train", "validation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    for name in SPEECH:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    runs = {
        (trained, seed): RunFolder(OUTPUTS / f"{trained}-{seed}")
        for seed in SEEDS
        for trained in SHARES
    }
    for (trained, seed), run in runs.items():
        if not run.summary.is_file():
            require(carry_out("train", train_arguments(given, trained, seed)))
        if not exported(run).is_dir():
            name = f"padding/{run.path.name}-merged"
            require(carry_out("merge", [f"adapter={run.path}", f"name={name}", "overwrite=true"]))
            formats = ("format=ctranslate2", "dtype=float32", "parity.utterances=0")
            require(carry_out("export", [f"run=outputs/{name}", *formats, "overwrite=true"]))
    found = evaluation(given, [*runs.values()])
    test = Test.of(given)
    rows = [figures(trained, seed, run, found, test) for (trained, seed), run in runs.items()]
    base = scores_of(found, Path(given.model).name)
    print(table(base, rows))
    print(write_result("padding", command(given), {"base": base, "runs": rows}))


def train_arguments(given: argparse.Namespace, trained: str, seed: int) -> list[str]:
    return [
        f"name=padding/{trained}-{seed}",
        f"model={given.model}",
        f"seed={seed}",
        *(f"data.{name}={getattr(given, name)}" for name in SPEECH),
        f"data.log_mel_padding_share={SHARES[trained]}",
        *given.overrides,
    ]


def evaluation(given: argparse.Namespace, runs: list[RunFolder]) -> dict[str, Any]:
    """Base and adapters on the test set with either padding, and on sound without speech."""
    adapters = ",".join(str(run.path) for run in runs)
    require(
        carry_out(
            "evaluate",
            [
                f"models=[{given.model},{adapters}]",
                f"data.test={given.test}",
                f"data.language={given.language}",
                f"evaluation.conditions=[{CONDITION}]",
                "evaluation.diagnostics=false",
                "name=padding/evaluation",
                "overwrite=true",
            ],
        )
    )
    found: dict[str, Any] = read_json(RunFolder(OUTPUTS / "evaluation").results)
    return found


def scores_of(found: dict[str, Any], model: str) -> dict[str, Any]:
    """A model's WER with either padding, and in how many clips without speech it heard a text."""
    (conditions,) = found["conditions"].values()
    probes = found["probes"].get(model, {}).values()
    return {
        "sound": conditions["clean"][model]["wer"],
        "sound_ci95": conditions["clean"][model]["wer_ci95"],
        "log_mel": conditions[CONDITION][model]["wer"],
        "log_mel_ci95": conditions[CONDITION][model]["wer_ci95"],
        "silent_clips": sum(one["clips"] for one in probes),
        "silent_clips_with_text": sum(one["with_text"] for one in probes),
    }


def figures(
    trained: str, seed: int, run: RunFolder, found: dict[str, Any], test: Test
) -> dict[str, Any]:
    return {
        "trained_with": trained,
        "seed": seed,
        **scores_of(found, run.path.name),
        "faster_whisper": test.by_faster_whisper(exported(run)),
        "train_seconds": read_json(run.summary)["train_seconds"],
    }


def exported(run: RunFolder) -> Path:
    return OUTPUTS / f"{run.path.name}-merged" / "export" / "ctranslate2"


@dataclass(frozen=True)
class Test:
    """What faster-whisper hears, and by what it is scored."""

    utterances: Utterances
    base: Base
    config: TrainConfig

    @classmethod
    def of(cls, given: argparse.Namespace) -> Test:
        speech = [f"data.language={given.language}", f"data.test={given.test}"]
        config = train_config(f"model.checkpoint={given.model}", *speech)
        base = read_base(config.model)
        rows = read_split(config.data, "test")
        assert rows is not None
        corpus = load_corpus(rows, "test", config.data, base.window_seconds)
        return cls(with_codes(corpus, base.special_tokens).utterances, base, config)

    def by_faster_whisper(self, folder: Path) -> float:
        """The WER of an export in faster-whisper itself, greedily."""
        runtime = load_runtime("ctranslate2", folder, self.base, torch.device("cpu"))
        settings, seed = greedily(self.config.evaluation), self.config.seed
        found = runtime.transcribe(self.utterances, settings, seed)
        score, _ = score_transcriptions(
            self.utterances, found, self.base.special_tokens, settings, seed
        )
        return score.wer


def table(base: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Markdown: WER in per cent, by what was trained with and what was scored with."""
    lines = [
        "| trained with | seed | sound | log-mel | faster-whisper | text in silence |",
        "|---|---|---|---|---|---|",
        f"| base | | {percent(base['sound'])} | {percent(base['log_mel'])} | | {silent(base)} |",
    ]
    for row in rows:
        rates = " | ".join(percent(row[name]) for name in ("sound", "log_mel", "faster_whisper"))
        lines.append(f"| {row['trained_with']} | {row['seed']} | {rates} | {silent(row)} |")
    for trained in SHARES:
        of_kind = [row for row in rows if row["trained_with"] == trained]
        means = (
            percent(statistics.mean(row[name] for row in of_kind))
            for name in ("sound", "log_mel", "faster_whisper")
        )
        lines.append(f"| {trained} | mean | {' | '.join(means)} | |")
    return "\n".join(lines)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def silent(row: dict[str, Any]) -> str:
    return f"{row['silent_clips_with_text']} of {row['silent_clips']}"


def command(given: argparse.Namespace) -> str:
    speech = " ".join(f"--{name} {Path(getattr(given, name)).name}" for name in SPEECH)
    overrides = " ".join(given.overrides)
    return f"python -m benchmarks.padding {Path(given.model).name} {speech} {overrides}".strip()


def require(code: int) -> None:
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
