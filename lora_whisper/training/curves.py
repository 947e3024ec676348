"""`metrics.jsonl`: the curves of training and of validation, and what a run reads off them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_whisper import processes
from lora_whisper.run_folder import append_jsonl, write_whole

Number = int | float | None
Line = dict[str, Any]  # units in the keys; a line with "validation_wer" is of a validation
VALIDATIONS_OF_OVERFITTING = 3
FEWEST_TOKENS = 200  # of a validation set, to know how frequent each is
MOSTLY_WRONG = 0.8  # of WER
NEAR_GUESSING = 0.75  # of its loss


@dataclass
class Curves:
    """The lines so far; a resumed run reads those that it goes on from."""

    path: Path
    validations: list[Line] = field(default_factory=list)
    _loss_sum: float = 0.0  # of training, since the last validation
    _tokens: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)  # of all lines
    _without_last: str = ""  # of those before the last one, where that is of a validation

    def go_back_to(self, step: int, validated: int) -> None:
        """Read the file, and drop what will come again: the steps after `step`, and the validations
        after `validated`, one of which a signal may have broken off when its line was written.
        """
        kept = [
            line
            for line in _read(self.path)
            if line["step"] <= (validated if "validation_wer" in line else step)
        ]
        for line in kept:
            self._note(line)
        if processes.is_main() and self.path.is_file():
            write_whole(self.path, "".join(map(_text, kept)).encode())

    def add(self, line: Line) -> None:
        """Append a line; the main process writes.

        Raises:
            DiskFull: there is no room for it.
        """
        self._note(line)
        if processes.is_main():
            append_jsonl(self.path, line)

    def training_loss(self) -> float | None:
        """Mean per target token since the last validation; None without a finite step."""
        return self._loss_sum / self._tokens if self._tokens else None

    def sha256(self, validated: int) -> str:
        """Of the lines that are there after going back to this step.

        Args:
            validated: the last step whose validation is done.
        """
        comes_again = self._without_last and self.validations[-1]["step"] > validated
        return self._without_last if comes_again else self._hash.hexdigest()

    def _note(self, line: Line) -> None:
        is_validation = "validation_wer" in line
        self._without_last = self._hash.hexdigest() if is_validation else ""
        self._hash.update(_text(line).encode())
        if "validation_wer" in line:
            self.validations.append(line)
            self._loss_sum, self._tokens = 0.0, 0
        elif (loss := line["loss_per_token"]) is not None:
            self._loss_sum += loss * line["target_tokens"]
            self._tokens += line["target_tokens"]


def overfits(validations: list[Line]) -> bool:
    """Whether the run learns its training set by heart, as far as validation shows it.

    In each of the last three validations the loss lay further above that of training than in the
    one before, and none of them had a lower WER than was reached before them. The loss alone would
    not say so: it may rise for long while the WER falls.
    """
    count = VALIDATIONS_OF_OVERFITTING
    if len(validations) <= count:
        return False
    wers = [line["validation_wer"] for line in validations]
    gaps = [line["loss_gap_per_token"] for line in validations[-count - 1 :]]
    has_gained = min(wers[-count:]) < min(wers[:-count])
    grows = None not in gaps and all(one < other for one, other in itertools.pairwise(gaps))
    return grows and not has_gained


def guessing_loss(tokens: Counter[int]) -> float:
    """Nats per token of who knows how frequent each token is, and hears nothing; inf of too few."""
    count = tokens.total()
    if count < FEWEST_TOKENS:
        return math.inf
    return -sum(one / count * math.log(one / count) for one in tokens.values())


def disagrees(validations: list[Line], guessing: float) -> bool:
    """Whether the validation set looks as if its texts belonged to other sound.

    From the second validation on: its loss is hardly below that of guessing (`guessing_loss`),
    though training has come to less than a third of it, and hardly a word is right. Overfitting
    alone stays far from that. On 40 clips, of which guessing has about 4.5, nano had 4.6 and 4.5
    with their texts shuffled, 1.8 after training on 8 clips 60 times, and 0.7 after 48 clips.
    """
    if len(validations) < 2:
        return False
    last = validations[-1]
    loss, gap = last["validation_loss_per_token"], last["loss_gap_per_token"]
    learns = gap is not None and loss - gap < loss / 3
    return learns and loss > NEAR_GUESSING * guessing and last["validation_wer"] > MOSTLY_WRONG


def memory_peaks(path: Path) -> dict[str, int]:
    """The highest of each figure of memory in the metrics.jsonl at `path`."""
    lines = [line for line in _read(path) if "loss_per_token" in line]
    keys = {key: None for line in lines for key in line if key.endswith("_memory_bytes")}
    return {key: max(line.get(key, 0) for line in lines) for key in keys}


def _text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _read(path: Path) -> list[Line]:
    """All lines but those that were damaged, or cut by a crash."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            if _is_line(line := json.loads(text)):
                lines.append(line)
    return lines


def _is_line(line: Any) -> bool:
    """Whether it is one of ours, of a step or of a validation."""
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return False
    of_validation = ("validation_wer", "loss_gap_per_token")
    keys = of_validation if "validation_wer" in line else ("loss_per_token", "target_tokens")
    return all(key in line and isinstance(line[key], Number) for key in keys)
