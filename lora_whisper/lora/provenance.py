"""`lora_whisper.json`: what an adapter's folder says of itself, wherever it was copied to.

PEFT's own file names the base but not its weights, nor the speech, nor what was gained. The record
may have been downloaded, so that nothing in it is believed: texts are checked before they are shown
or become part of a path, and it names no code. torch is not needed to read it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_whisper.errors import UserError, listing
from lora_whisper.json_files import read_object
from lora_whisper.paths import EMBEDDED, is_line, is_plain_name
from lora_whisper.run_folder import RECORD_FILE

RECORD_FORMAT = 1  # raised when a key changes its meaning
MAX_BYTES = 1_000_000  # of which a record needs about 2,000

WITHOUT = "Take the file away, if you trust the adapter: it can be used without it."

RATES = ("wer", "cer")
SCORED = ("base", "adapter", "merged")

Rule = Callable[[Any], bool]


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in an adapter's folder; None where there is none.

    Raises:
        UserError: it cannot be read, it was written by a newer version, or values in it are not
            what they have to be.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    try:
        record = read_object(path, MAX_BYTES)
    except ValueError as error:
        raise UserError(f"{path} cannot be used: {error}.\n{WITHOUT}") from error
    number = record.get("format")
    if isinstance(number, int) and number > RECORD_FORMAT:
        raise UserError(
            f"{path} is of format {number}, and this version of lora_whisper reads up to "
            f"{RECORD_FORMAT}.\nType pip install --upgrade lora-whisper, or take the file away: "
            "the adapter can be used without it."
        )
    problems = list(_problems(record))
    if problems:
        raise UserError(f"{path} cannot be used:\n{listing(problems)}\n{WITHOUT}")
    return record


# ── what values have to be ───────────────────────────────────────────────────────────────────


def is_base_name(value: Any) -> bool:
    """A hub id, what is embedded in the package, or a folder's name without where it lies."""
    if not isinstance(value, str):
        return False
    parts = value.removeprefix(EMBEDDED).split("/")
    return len(parts) <= 2 and all(map(is_plain_name, parts))


def _is_revision(value: Any) -> bool:
    """A branch, tag or commit on the hub; git allows slashes in the first two."""
    return isinstance(value, str) and all(map(is_plain_name, value.split("/")))


def _is_amount(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_amount(value)


def _matches(pattern: str) -> Rule:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _or_null(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _all(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and all(map(rule, value))


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_amount, value))


RULES: dict[str, tuple[Rule, str]] = {  # by key: what holds, and how it is called
    "format": (_is_count, "a number"),
    "name": (is_plain_name, "a name without a path"),
    "date": (_matches(r"\d{4}-\d\d-\d\d"), "a date such as 2026-01-31"),
    "base.name": (is_base_name, "a hub id, or a name without a path"),
    "base.revision": (_or_null(_is_revision), "a branch, tag or commit, or null"),
    "base.commit": (_or_null(_matches("[0-9a-f]{40}")), "40 hexadecimal digits, or null"),
    "base.sha256": (_or_null(_matches("[0-9a-f]{64}")), "64 hexadecimal digits, or null"),
    "quantization": (is_plain_name, "a name"),
    "adapter.kind": (is_plain_name, "a name"),
    "adapter.lowest_rank": (_is_count, "a number"),
    "adapter.rank": (_is_count, "a number"),
    "adapter.targets": (is_plain_name, "a name"),
    "adapter.stack": (is_plain_name, "a name"),
    "adapter.parameters": (_is_count, "a number"),
    "adapter.bytes": (_is_count, "a number"),
    "adapter.sha256": (_matches("[0-9a-f]{64}"), "64 hexadecimal digits"),
    "languages": (_all(is_line), "a list of names"),
    "data.hours": (_or_null(_is_amount), "a number, or null"),
    "data.utterances": (_or_null(_is_count), "a number, or null"),
}
SCORE_RULES: dict[str, tuple[Rule, str]] = {
    "units": (is_line, "a name"),
    "metric": (lambda value: value in RATES, "wer or cer"),
    "normalizer": (is_line, "a name"),
}


def _problems(record: Mapping[str, Any]) -> Iterator[str]:
    yield from _broken(record, RULES)
    scores = record.get("scores")
    if isinstance(scores, dict):
        yield from (f"scores.{problem}" for problem in _broken(scores, SCORE_RULES))
        for model in SCORED:
            if scores.get(model) is not None:
                yield from (f"scores.{model}.{one}" for one in _broken_rates(scores[model]))
    elif scores is not None:
        yield f"scores: expected an object or null, found {_shown(scores)}"


def _broken(values: Any, rules: Mapping[str, tuple[Rule, str]]) -> Iterator[str]:
    for key, (holds, what) in rules.items():
        value = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not holds(value):
            yield f"{key}: expected {what}, found {_shown(value)}"


def _broken_rates(score: Any) -> Iterator[str]:
    rates = dict.fromkeys(RATES, (_is_amount, "a number of 0 or more"))
    bounds = {f"{rate}_ci95": (_is_interval, "two such numbers") for rate in RATES}
    yield from _broken(score, rates | bounds)


def _shown(value: Any) -> str:
    """Short, and with control characters escaped."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
