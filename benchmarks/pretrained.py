"""A pretrained checkpoint from base to exports: trained with nothing but model, data and name.

    python -m benchmarks.pretrained MODEL TRAIN VALIDATION TEST --language sw [OVERRIDE …]

Base, adapter and merged model hear the test set; each export hears it in its own program, with the
front end of that program. What follows the options goes to `train` as it stands, and stands in the
command of the result: a bound of the steps, so that a CPU is done in time. A run
outputs/pretrained that is complete is not trained again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.results import write_result
from lora_whisper.__main__ import carry_out
from lora_whisper.files import read_json
from lora_whisper.run_folder import RunFolder

RUN = RunFolder(Path("outputs/pretrained"))
DTYPES = {"ctranslate2": "float32", "ggml": "f16", "onnx": "float32", "openai": "float32"}
EVERYTHING = 1_000_000
OURS = ("base", "adapter", "merged")
KEPT = (
    *("steps", "train_audio_seconds", "train_audio_seconds_seen", "train_seconds"),
    *("validation_seconds", "resident_memory_bytes", "gpu_memory_bytes", "quantization"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "train", "validation", "test"):
        parser.add_argument(name)
    parser.add_argument("--language", required=True)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    seconds = {}
    if not RUN.summary.is_file():
        seconds["train"] = timed("train", train_arguments(given))
    seconds["merge"] = timed("merge", [f"run={RUN.path}", "overwrite=true"])
    for name, dtype in DTYPES.items():
        asked = [f"run={RUN.path}", f"format={name}", f"dtype={dtype}", "overwrite=true"]
        seconds[name] = timed("export", [*asked, f"parity.utterances={EVERYTHING}"], (0, 1))
    found = figures(seconds)
    print(table(found))
    print(write_result("pretrained", command(given), found))


def train_arguments(given: argparse.Namespace) -> list[str]:
    return [
        "name=pretrained",
        "resume=auto",
        f"model={given.model}",
        f"data.language={given.language}",
        *(f"data.{split}={getattr(given, split)}" for split in ("train", "validation", "test")),
        *given.overrides,
    ]


def timed(command: str, arguments: list[str], codes: tuple[int, ...] = (0,)) -> float:
    """Wall clock of a command; `codes` are the exit codes after which it goes on."""
    started = time.perf_counter()
    code = carry_out(command, arguments)
    if code not in codes:
        raise SystemExit(code)
    return time.perf_counter() - started


def figures(seconds: dict[str, float]) -> dict[str, Any]:
    summary = read_json(RUN.summary)
    rows = [
        {"model": name, "consumer": "Transformers", "padding": "sound", **rates(summary[name])}
        for name in OURS
    ]
    for name, dtype in DTYPES.items():
        parity = read_json(RUN.export / name / "parity.json")
        *_, score = parity["scores"].values()
        rows.append(
            {
                "model": f"{name} {dtype}",
                "consumer": parity["consumer"],
                "padding": parity["padding"],
                **rates(score),
                "against_merged": parity["difference"],
                "identical": [parity["identical"], parity["utterances"]],
                "other_padding": parity["other_padding"],
                "bytes": size(RUN.export / name),
            }
        )
    return {
        "rows": rows,
        "command_seconds": seconds,
        "adapter_bytes": size(RUN.adapter),
        "summary": {key: summary[key] for key in KEPT if key in summary},
    }


def rates(score: dict[str, Any]) -> dict[str, Any]:
    kept = ("wer", "wer_ci95", "cer", "utterances", "audio_seconds", "decode_seconds")
    return {key: score[key] for key in kept}


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| | heard by | padded | WER | 95 % interval | texts as merged | audio s/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        low, high = (100 * one for one in row["wer_ci95"])
        alike = " of ".join(map(str, row["identical"])) if "identical" in row else ""
        speed = row["audio_seconds"] / row["decode_seconds"]
        cells = (
            *(row["model"], row["consumer"], row["padding"], f"{100 * row['wer']:.1f} %"),
            *(f"{low:.1f} – {high:.1f} %", alike, f"{speed:.1f}"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def command(given: argparse.Namespace) -> str:
    names = [Path(getattr(given, name)).name for name in ("model", "train", "validation", "test")]
    rest = ["--language", given.language, *given.overrides]
    return " ".join(["python -m benchmarks.pretrained", *names, *rest])


if __name__ == "__main__":
    main()
