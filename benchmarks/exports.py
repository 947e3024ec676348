"""What every export of a run scores in its own program, beside the merged model.

    python -m benchmarks.exports outputs/quickstart --nf4 outputs/nf4

The whole test set is heard, greedily. The run keeps the last export of each format. With `--nf4`, a
run that was trained with quantization=nf4 is also merged in both ways: into the base's own weights,
and into those that nf4 made of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import write_result
from lora_whisper.__main__ import carry_out
from lora_whisper.config import EXPORT_DTYPES
from lora_whisper.files import read_json
from lora_whisper.run_folder import RunFolder

UTTERANCES = 1_000_000  # all that there are
KEPT = ("wer", "wer_ci95", "cer")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a complete run")
    parser.add_argument("--nf4", type=Path, help="a run that was trained with quantization=nf4")
    given = parser.parse_args()
    figures: dict[str, Any] = {"exports": exported(RunFolder(given.run))}
    if given.nf4:
        figures["nf4"] = merged_both_ways(RunFolder(given.nf4))
    command = "python -m benchmarks.exports RUN" + (" --nf4 RUN" if given.nf4 else "")
    print(write_result("exports", command, figures))
    return 0


def exported(run: RunFolder) -> list[dict[str, Any]]:
    """Each format in each type of weights."""
    found = []
    for name, dtypes in EXPORT_DTYPES.items():
        for dtype in dtypes:
            carry_out(
                "export",
                [
                    f"run={run.path}",
                    f"format={name}",
                    f"dtype={dtype}",
                    "overwrite=true",
                    f"parity.utterances={UTTERANCES}",
                    "parity.tolerance=1",
                ],
            )
            found.append({"format": name, "dtype": dtype} | outcome(run.export / name))
    return found


def outcome(folder: Path) -> dict[str, Any]:
    """Size, scores and agreement; what was not tried has no scores."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "parity.json"]
    size = {"bytes": sum(path.stat().st_size for path in files)}
    if not (folder / "parity.json").is_file():
        return size | {"tried": False}
    parity = read_json(folder / "parity.json")
    scores = {
        "export" if model not in ("base", "adapter", "merged") else model: {
            key: score[key] for key in KEPT
        }
        for model, score in parity["scores"].items()
    }
    agreement = {key: parity[key] for key in ("consumer", "difference", "identical", "utterances")}
    return size | agreement | {"scores": scores}


def merged_both_ways(run: RunFolder) -> dict[str, Any]:
    """Scores of base and adapter beside nf4's weights, and of the model merged into either."""
    found: dict[str, Any] = {}
    for into in ("full", "nf4-dequantized"):
        carry_out("merge", [f"run={run.path}", f"into={into}", "overwrite=true"])
        summary = read_json(run.summary)
        found |= {
            f"merged into {into}": summary["merged"],
            **{f"{model} on nf4": summary[model] for model in ("base", "adapter")},
        }
    return {name: {key: score[key] for key in KEPT} for name, score in found.items()}


if __name__ == "__main__":
    sys.exit(main())
