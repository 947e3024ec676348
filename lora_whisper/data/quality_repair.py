"""Manifests without the rows that training cannot use, and a record of what was left out."""

from __future__ import annotations

import dataclasses
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_whisper.config import SPLITS
from lora_whisper.data.quality import Finding
from lora_whisper.data.quality_measures import Measured, audio_name
from lora_whisper.data.utterance import EncodedAudio, Utterance
from lora_whisper.errors import UserError, listing
from lora_whisper.run_folder import written_whole

LEFT_OUT = "left_out.jsonl"  # also tells that the folder is one that was written here
# Findings whose rows go; the first that holds is the reason. What is shared goes from the earlier
# split, the one that is trained on. The other findings are for people to judge.
UNUSABLE = (
    "unreadable",
    "truncated",
    "too_short",
    "duplicates",
    "shared_audio",
    "shared_texts",
    "silent",
    "labels_over_limit",
    "over_window",
)
CANNOT_SPLIT = "over_window, and cannot be split"

SplitLong = Callable[[Utterance, str], list[Utterance] | None]  # of a split; None: cannot be cut


@dataclass
class Repaired:
    """What was kept of each split, and what was not, by reason."""

    kept: Counter[str] = field(default_factory=Counter)
    pieces: Counter[str] = field(default_factory=Counter)  # among the kept, cut from longer clips
    left_out: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, split: str, reason: str) -> None:
        self.left_out.setdefault(split, Counter())[reason] += 1


def require_repairable(
    folder: Path, splits: Mapping[str, Sequence[Utterance]], overwrite: bool
) -> None:
    """See that manifests can be written into `folder` without replacing anything of anybody's.

    Raises:
        UserError: the folder holds something; or the audio lies in a data set, without paths.
    """
    for utterances in splits.values():
        if utterances and isinstance(utterances[0].audio, EncodedAudio):
            raise UserError(
                "fix writes manifests, which name files, but this audio lies inside a data set. "
                "Leave fix out; data.bad_audio=drop and data.long_audio=drop leave rows out, too."
            )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"fix={folder} is a file. Type fix=FOLDER with a new folder.")
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    ours = {LEFT_OUT, *(f"{split}.jsonl" for split in SPLITS)}
    if found and (LEFT_OUT not in found or not ours >= set(found)):
        raise UserError(
            f"fix={folder} holds other things, which are left alone:\n{listing(found, 5)}\n"
            "Type fix=FOLDER with a new folder."
        )
    if found and not overwrite:
        raise UserError(
            f"fix={folder} exists. Type overwrite=true to replace it, or another fix=FOLDER."
        )


def write_repaired(
    folder: Path,
    splits: Mapping[str, Measured],
    findings: Sequence[Finding],
    split_long: SplitLong | None,
) -> Repaired:
    """Write a manifest for each split, and `left_out.jsonl`; whole, or not at all.

    Args:
        split_long: cuts a clip that is longer than the window, None where it cannot; without it,
            such clips are left out.
    """
    result = Repaired()
    with written_whole(folder) as aside, open(aside / LEFT_OUT, "w", encoding="utf-8") as left_out:
        for split in (split for split in SPLITS if split in splits):
            reasons = _reasons(split, findings)
            rows = _rows(splits[split], reasons, split_long, result, left_out)
            _write_rows(aside / f"{split}.jsonl", rows, folder)
    return result


def _reasons(split: str, findings: Sequence[Finding]) -> dict[int, Finding]:
    """Row number → the first finding that makes it unusable."""
    by_key = {finding.key: finding for finding in findings}
    reasons: dict[int, Finding] = {}
    for finding in (by_key[key] for key in UNUSABLE):
        for row in finding.places.get(split, ()):
            reasons.setdefault(int(row), finding)
    return reasons


def _rows(
    measured: Measured,
    reasons: Mapping[int, Finding],
    split_long: SplitLong | None,
    result: Repaired,
    left_out: Any,
) -> Iterator[Utterance]:
    """The rows to keep, and the pieces of those that are cut; the others go to `left_out`."""
    split = measured.split
    for row, utterance in enumerate(measured.utterances):
        finding = reasons.get(row)
        pieces = [utterance] if finding is None else None
        if finding is not None and finding.key == "over_window" and split_long is not None:
            seconds = float(measured.records[row]["seconds"])
            pieces = split_long(dataclasses.replace(utterance, duration_seconds=seconds), split)
            if pieces:
                result.pieces[split] += len(pieces)
        if pieces:
            result.kept[split] += len(pieces)
            yield from pieces
        else:
            assert finding is not None
            cannot = finding.key == "over_window" and split_long is not None
            reason = CANNOT_SPLIT if cannot else finding.key
            result.count(split, reason)
            values = {
                "split": split,
                "row": utterance.row,
                "audio": audio_name(utterance.audio),
                "text": utterance.text,
                "reason": reason,
                "detail": finding.detail(measured, row),
            }
            left_out.write(json.dumps(values, ensure_ascii=False) + "\n")


def _write_rows(path: Path, utterances: Iterator[Utterance], folder: Path) -> None:
    """Write a manifest that will lie in `folder`; a split of which nothing is left gets none."""
    split, home = path.stem, os.path.realpath(folder)
    with open(path, "w", encoding="utf-8") as file:
        for utterance in utterances:
            row = manifest_row(utterance, split, home)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if path.stat().st_size == 0:
        path.unlink()


def manifest_row(utterance: Utterance, split: str, home: str) -> dict[str, Any]:
    """The row as `data=manifest` reads it from the folder `home`; its own columns follow.

    Of a piece of a longer clip, `start` and `end` are its own, and so is `duration`.
    """
    assert isinstance(utterance.audio, Path)
    folder, name = os.path.split(utterance.audio)
    parts = {
        "audio": os.path.join(os.path.relpath(os.path.realpath(folder), home), name),
        "text": unicodedata.normalize("NFC", utterance.text),
        "language": utterance.language,
        "task": utterance.task,
        "speaker": utterance.speaker,
        "start": utterance.start_seconds,
        "end": utterance.end_seconds,
        "previous_text": utterance.previous_text,
        "split": split,
    }
    row = {key: value for key, value in parts.items() if value is not None}
    row |= {key: value for key, value in utterance.columns.items() if key not in row}
    if "duration" in row and utterance.end_seconds is not None:
        row["duration"] = round(utterance.end_seconds - (utterance.start_seconds or 0.0), 6)
    return row
