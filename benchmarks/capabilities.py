"""What adapters keep of what their base could: `evaluate card=true` of runs, side by side.

    python -m benchmarks.capabilities MODEL RUN [RUN …] --language sw --test test.jsonl \\
        --retention english.jsonl

Asks the base and each run for its card on the same clips, and puts the cards side by side. What was
found of a model is not asked again, and after each run the figures so far are written to
benchmarks/results/capabilities.json, so that one that is stopped loses little.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import lora_whisper as lw
from benchmarks.results import write_result
from lora_whisper.evaluation.results import CapabilityCard, to_json
from lora_whisper.files import read_json
from lora_whisper.reports.capabilities import difference, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--language", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--retention", type=Path, help="English speech, which must not get worse")
    parser.add_argument("--name", default="capabilities", help="of the reports and the result")
    given = parser.parse_args()
    typed = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    command = " ".join(["python -m benchmarks.capabilities", *typed])
    cards: dict[str, CapabilityCard] = {}
    figures: list[dict[str, Any]] = []
    for run in given.runs:
        started = time.perf_counter()
        card = cards[run.name] = asked(given, run)
        seconds = round(time.perf_counter() - started, 1)
        figures.append({"run": run.name, **of_run(run), "seconds": seconds, "card": to_json(card)})
        place = write_result(given.name, command, {"runs": figures})
        print(table(cards), flush=True)
    print(f"written to {place}")


def asked(given: argparse.Namespace, run: Path) -> CapabilityCard:
    """The card of a run's adapter beside the base."""
    retention = [{"test": str(given.retention), "language": "en"}] if given.retention else []
    results = lw.evaluate(
        models=["base", str(run)],
        base=str(given.model),
        data={"language": given.language, "test": str(given.test)},
        name=f"{given.name}-{run.name}",
        overwrite=True,
        card=True,
        evaluation={"players": False, "diagnostics": False, "retention": retention},
    )
    (card,) = results.cards.values()
    return card


def of_run(run: Path) -> dict[str, Any]:
    """How it was trained."""
    found = read_json(run / "summary.json")
    kept = ("windows", "steps", "train_audio_seconds_seen", "train_seconds")
    return {key: found.get(key) for key in kept}


def table(cards: dict[str, CapabilityCard]) -> str:
    """Markdown: a row a capability, a column a run; the base stands in each."""
    first = next(iter(cards.values()))
    lines = [
        f"| | base | {' | '.join(cards)} |",
        f"|---|---|{'---|' * len(cards)}",
    ]
    for number, row in enumerate(first.rows):
        cells = []
        for card in cards.values():
            own = card.rows[number]
            if own.verdict == "not measured":
                cells.append(f"not measured: {own.why}")
                continue
            cells.append(f"{shown(own, own.adapter)}, {own.verdict} {difference(own)}")
        lines.append(f"| {row.name} | {shown(row, row.base)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
