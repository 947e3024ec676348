"""What an adapter was trained on, and whether it is the one that its run trained.

`lora_whisper.json` is what a folder says of itself, wherever it was copied to: PEFT's own
file names the base but not its weights, nor the speech, nor what was gained. It may have been
downloaded, so that nothing in it is believed: texts are checked before they are shown or become
part of a path, and it names no code. torch is not needed to read it.
"""

from __future__ import annotations

import functools
import logging
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_whisper.errors import UserError, listing
from lora_whisper.files import as_written, read_json
from lora_whisper.json_files import read_object
from lora_whisper.lora.saved import CONFIG_FILE, WEIGHTS_FILE, SavedAdapter, adapter_hashes
from lora_whisper.model.checkpoint import (
    Checkpoint,
    at_hand,
    fingerprint,
    is_hub_id,
    sha256,
    weights_sha256,
)
from lora_whisper.paths import EMBEDDED, is_line, is_plain_name
from lora_whisper.run_folder import METADATA_FILE, RunFolder, read_whole_summary

log = logging.getLogger("lora_whisper")

METADATA_FORMAT = 1  # raised when a key changes its meaning
MAX_BYTES = 1_000_000  # of lora_whisper.json, which needs about 2,000
WITHOUT = "Take the file away, if you trust the adapter: it can be used without it."
RATES = ("wer", "cer")
SCORED = ("base", "adapter", "merged")
# Of what `adapter_hashes` tells, its name in summary.json.
TRAINED = {"adapter": "adapter_sha256", "adapter_settings": "adapter_settings_sha256"}

Rule = Callable[[Any], bool]
Verdict = Literal["same", "another", "unknown"]


def trained_hashes(run: RunFolder) -> dict[str, str]:
    """What names the adapter that a complete run trained, as far as it says.

    Older runs know by their score what they trained, or by `lora_whisper.json` beside it.
    """
    with suppress(ValueError, AttributeError):  # a damaged summary is said by whoever needs it
        summary = read_json(run.summary)
        score: dict[str, Any] = summary.get("adapter") or {}
        known = dict(score.get("of", {}).get("weights", {}))
        known |= {key: summary[name] for key, name in TRAINED.items() if name in summary}
        if "adapter" in known:
            return {key: str(known[key]) for key in TRAINED if key in known}
    with suppress(UserError):
        if (metadata := read_metadata(run.adapter)) is not None:
            return {"adapter": str(metadata["adapter"]["sha256"])}
    return {}


def is_trained_adapter(run: RunFolder) -> bool:
    """Whether a complete run's adapter is what it trained, as far as anybody can say.

    One that is missing is for others to name.
    """
    return not _replaced(run)


def _replaced(run: RunFolder) -> dict[str, tuple[str, str]]:
    """By file of the adapter, the hash of what was trained and of what is there instead."""
    trained, there = trained_hashes(run), adapter_hashes(run.adapter)
    files = {"adapter": WEIGHTS_FILE, "adapter_settings": CONFIG_FILE}
    return {
        file: (trained[key], there[key])
        for key, file in files.items()
        if trained.keys() & there.keys() >= {key} and trained[key] != there[key]
    }


def require_trained_adapter(run: RunFolder) -> None:
    """See that what is going to be taken for a run's adapter is what it trained.

    Raises:
        UserError: it is another; what to type.
    """
    replaced = _replaced(run)
    if not replaced:
        return
    adapter = shlex.quote(f"adapter={run.adapter}")
    anew = (
        f", or take {run.summary} away and type the command that began the run with resume=auto, "
        "which writes it again from a checkpoint"
    )
    raise UserError(
        "\n".join(
            f"{run.adapter / file} is not what the run trained:\n"
            f"  trained sha256:{trained}\n  found   sha256:{found}"
            for file, (trained, found) in replaced.items()
        )
        + "\n"
        f"Bring it back from a copy{anew if run.last_checkpoint() else ''}.\n"
        f"As an adapter of its own: lora-whisper merge {adapter} name=other"
    )


def read_metadata(folder: Path) -> dict[str, Any] | None:
    """What `lora_whisper.json` of an adapter's folder says; None where there is none.

    Raises:
        UserError: it cannot be read, it was written by a newer version, or values in it are not
            what they have to be.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        return None
    try:
        metadata = read_object(path, MAX_BYTES)
    except ValueError as error:
        raise UserError(f"{path} cannot be used: {error}.\n{WITHOUT}") from error
    number = metadata.get("format")
    if isinstance(number, int) and number > METADATA_FORMAT:
        raise UserError(
            f"{path} is of format {number}, and this version of lora_whisper reads up to "
            f"{METADATA_FORMAT}.\nType pip install --upgrade lora-whisper, or take the file away: "
            "the adapter can be used without it."
        )
    problems = list(_problems(metadata))
    if problems:
        raise UserError(f"{path} cannot be used:\n{listing(problems)}\n{WITHOUT}")
    return metadata


# ── what values have to be ───────────────────────────────────────────────────────────────────


def is_base_name(value: Any) -> bool:
    """A hub id, what is embedded in the package, or a folder's name without where it lies."""
    if not isinstance(value, str):
        return False
    parts = value.removeprefix(EMBEDDED).split("/")
    return len(parts) <= 2 and all(map(is_plain_name, parts))


def _is_amount(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_amount(value)


def _matches(pattern: str) -> Rule:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _or_null(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_amount, value))


RULES: dict[str, tuple[Rule, str]] = {  # by key: what holds, and how it is called
    "format": (_is_count, "a number"),
    "name": (is_plain_name, "a name without a path"),
    "date": (_matches(r"\d{4}-\d\d-\d\d"), "a date such as 2026-01-31"),
    "base.name": (is_base_name, "a hub id, or a name without a path"),
    "base.revision": (  # git allows slashes in the first two
        _or_null(lambda one: isinstance(one, str) and all(map(is_plain_name, one.split("/")))),
        "a branch, tag or commit, or null",
    ),
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
    "languages": (
        lambda value: isinstance(value, list) and all(map(is_line, value)),
        "a list of names",
    ),
    "data.hours": (_or_null(_is_amount), "a number, or null"),
    "data.utterances": (_or_null(_is_count), "a number, or null"),
}
SCORE_RULES: dict[str, tuple[Rule, str]] = {
    "units": (is_line, "a name"),
    "metric": (lambda value: value in RATES, "wer or cer"),
    "normalizer": (is_line, "a name"),
}
RATE_RULES: dict[str, tuple[Rule, str]] = {
    **dict.fromkeys(RATES, (_is_amount, "a number of 0 or more")),
    **{f"{rate}_ci95": (_is_interval, "two such numbers") for rate in RATES},
}


def _problems(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield from _broken(metadata, RULES)
    scores = metadata.get("scores")
    if isinstance(scores, dict):
        yield from (f"scores.{problem}" for problem in _broken(scores, SCORE_RULES))
        for model in SCORED:
            if scores.get(model) is not None:
                yield from (f"scores.{model}.{one}" for one in _broken(scores[model], RATE_RULES))
    elif scores is not None:
        yield f"scores: expected an object or null, found {_shown(scores)}"


def _broken(values: Any, rules: Mapping[str, tuple[Rule, str]]) -> Iterator[str]:
    for key, (holds, what) in rules.items():
        value = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not holds(value):
            yield f"{key}: expected {what}, found {_shown(value)}"


def _shown(value: Any) -> str:
    """Short, and with control characters escaped."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def named_base(saved: SavedAdapter) -> tuple[str, str | None]:
    """The base that an adapter names, and its revision on the hub.

    PEFT's file has the path of a base that lay in a folder; elsewhere, the name in
    `lora_whisper.json` may do.

    Raises:
        UserError: neither file names one.
    """
    base, revision, metadata = saved.base, saved.revision, read_metadata(saved.folder)
    if metadata is not None and base and Path(base).is_absolute() and not Path(base).exists():
        base, revision = metadata["base"]["name"], metadata["base"]["revision"]
    if base is None:
        raise UserError(
            f"{saved.folder / CONFIG_FILE} names no base (base_model_name_or_path).\n"
            "Type base=… with the checkpoint that it was trained on, a folder or a hub id."
        )
    return base, revision


@dataclass(frozen=True)
class BaseProvenance:
    """What names the weights that an adapter was trained on; None where it does not say."""

    commit: str | None  # on the hub
    sha256: str | None  # of the weight files

    def __str__(self) -> str:
        known = {"commit": self.commit, "sha256": self.sha256}
        return " ".join(f"{name}:{value}" for name, value in known.items() if value)


def require_base(
    saved: SavedAdapter, name: str, checkpoint: Checkpoint, advice: str, force: bool = False
) -> None:
    """See that an adapter is a change of these weights, as far as anybody can say.

    Args:
        name: of the adapter, for messages.
        advice: what to do about it.
        force: only warn.

    Raises:
        UserError: it is of others.
    """
    provenance = provenance_of(saved.folder)
    verdict, found = compared(provenance, checkpoint)
    known = str(provenance)
    if verdict == "unknown":
        verdict, known, found = _compared_by_name(saved, checkpoint)
    if verdict == "same":
        return
    folder = saved.folder.absolute()
    if verdict == "unknown" and known == found:
        _warn(folder, "not checked %s does not say which weights it was trained on", name)
    elif verdict == "unknown":
        question = "not checked whether %s was trained on these weights: it names %s, this is %s."
        _warn(folder, f"{question} Its layers are of the same shapes", name, known, found)
    elif force:
        _warn(folder, "forced      %s was trained on %s, the base is %s", name, known, found)
    else:
        raise UserError(
            f"{name} was trained on other weights than those of {checkpoint.given}:\n"
            f"  trained on {known}\n  found      {found}\n{advice}"
        )


@functools.cache
def _warn(adapter: Path, message: str, *values: str) -> None:
    """Once: commands look before they begin, and again when they do."""
    log.warning(message, *values)


def _compared_by_name(saved: SavedAdapter, checkpoint: Checkpoint) -> tuple[Verdict, str, str]:
    """Whether the base that PEFT's file names is `checkpoint`; what it is called, and what found.

    A path says nothing unless it is there: it is of the machine that it was trained on. Ids of the
    hub are everywhere the same.
    """
    name, revision = saved.base, saved.revision or "main"
    if name is None:
        return "unknown", "no base", checkpoint.path
    if (name, revision) == (checkpoint.path, checkpoint.revision or "main"):
        return "unknown", name, name
    named = at_hand(name, saved.revision)
    if named is not None:
        known, found = weights_sha256(named), weights_sha256(checkpoint)
        verdict: Verdict = "same" if found == known else "another"
        return verdict, f"{name} (sha256:{known})", f"sha256:{found}"
    both_of_hub = is_hub_id(name) and not Path(checkpoint.path).is_absolute()
    found = f"{checkpoint.path} ({checkpoint.revision or 'main'})"
    return ("another" if both_of_hub else "unknown"), f"{name} ({revision})", found


def provenance_of(adapter: Path) -> BaseProvenance:
    """What `lora_whisper.json`, or the run that it lies in, says of the adapter's base.

    Of weights that were put there since, neither says anything.

    Raises:
        UserError: `lora_whisper.json` is broken.
    """
    metadata, weights = read_metadata(adapter), adapter / WEIGHTS_FILE
    if metadata is not None:
        if weights.is_file() and sha256(weights) != metadata["adapter"]["sha256"]:
            return BaseProvenance(None, None)
        return BaseProvenance(metadata["base"]["commit"], metadata["base"]["sha256"])
    run = RunFolder(adapter.parent)
    if adapter != run.adapter or not run.is_complete() or not is_trained_adapter(run):
        return BaseProvenance(None, None)
    summary = as_written(run.summary, {"checkpoint_fingerprint"}) or read_whole_summary(run)
    kind, _, value = summary.get("checkpoint_fingerprint", "").partition(":")
    return BaseProvenance(value if kind == "commit" else None, value if kind == "sha256" else None)


def compared(provenance: BaseProvenance, checkpoint: Checkpoint) -> tuple[Verdict, str]:
    """Whether `checkpoint` has these weights, and what was found there, if that was looked at.

    The commit is compared where both are of the hub: it is known without reading gigabytes. Another
    commit may hold the same weights.
    """
    if provenance == BaseProvenance(None, None):
        return "unknown", ""
    kind, _, value = fingerprint(checkpoint).partition(":")
    if kind == "commit" and provenance.commit == value:
        return "same", f"commit:{value}"
    if provenance.sha256 is not None:
        found = weights_sha256(checkpoint)
        return "same" if found == provenance.sha256 else "another", f"sha256:{found}"
    if kind == "commit" and provenance.commit is not None:
        return "another", f"commit:{value}"
    return "unknown", f"{kind}:{value}"
