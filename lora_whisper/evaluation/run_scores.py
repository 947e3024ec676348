"""What of `summary.json` is still true: scores of the weights and test sets that are there."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_whisper.errors import UserError
from lora_whisper.evaluation.provenance import REFERENCES, differences, is_of, texts_hash
from lora_whisper.lora.provenance import is_trained_adapter
from lora_whisper.lora.saved import adapter_hashes
from lora_whisper.model.checkpoint import merged_hashes
from lora_whisper.paths import program, short
from lora_whisper.run_folder import (
    HYPOTHESES,
    OWN_SET,
    RECIPE_FILE,
    RunFolder,
    as_written,
    read_jsonl,
    read_whole_summary,
)

log = logging.getLogger("lora_whisper")
BRING_BACK = "The run did not train what lies there: bring it back from a copy"


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """What summary.json says, without what is not true any more.

    Killed or edited in between, a run's folder can hold other weights than those that were scored,
    or scores of different test sets. Such a score is left out, and that is said.
    """
    summary = read_whole_summary(folder)
    is_merged_by_others = has_other_weights(folder, summary)
    for model in ("adapter", "merged"):
        if summary.get(model) and not _is_of_what_is_there(folder, summary, model):
            place = getattr(folder, model)
            why = f"is of other weights or settings than those in {short(place)}"
            advice = _again(folder)
            if model == "merged" and is_merged_by_others:
                advice = _again(folder, "merge")
            elif model == "adapter" and not is_trained_adapter(folder):
                advice = BRING_BACK
            _leave_out(summary, model, why, advice)
    return with_one_test_set(folder, summary)


def has_other_weights(folder: RunFolder, summary: Mapping[str, Any]) -> bool:
    """Whether the recipe in merged/ is that of the score, and the weights beside it are not.

    With another recipe, a merge was killed before it could forget the score of the one before.
    """
    recipe = merged_recipe(folder)
    if recipe is None or recipe != summary.get("merge"):
        return False
    score = summary.get("merged") or {}
    known = score.get("of", {}).get("weights", {})  # which older scores lack, or have in part
    there = merged_hashes(folder.merged)
    return any(known[key] != there.get(key) for key in known.keys() & {"checkpoint", "settings"})


def _is_of_what_is_there(folder: RunFolder, summary: Mapping[str, Any], model: str) -> bool:
    place: Path = getattr(folder, model)
    if not place.is_dir():
        return True
    if "of" in summary[model]:
        return is_of(summary[model], _weights_in(place, model))
    if model == "adapter" or summary.get("merge") is None:  # all that older versions knew
        return True
    return merged_recipe(folder) in (None, summary["merge"])


def merged_recipe(folder: RunFolder) -> dict[str, Any] | None:
    """What merged/ says that it was made of; None: it says nothing, or is not there.

    Raises:
        UserError: what it says was damaged or edited since; what to type.
    """
    path = folder.merged / RECIPE_FILE
    if not path.is_file():
        return None
    recipe = as_written(path, {"adapters"})
    if recipe is not None and _are_parts(recipe["adapters"]):
        return recipe
    raise UserError(f"{path} is not what was written there.\nType {merge_again(folder)}")


def merge_again(folder: RunFolder) -> str:
    """What brings back a merged folder."""
    if not folder.is_run():
        return "the merge command that made it, and overwrite=true"
    return f"{program()} merge {shlex.quote(f'run={folder.path}')} overwrite=true"


def _are_parts(adapters: Any) -> bool:
    return isinstance(adapters, list) and all(
        isinstance(one, dict) and "sha256" in one for one in adapters
    )


def _weights_in(place: Path, model: str) -> dict[str, str]:
    return adapter_hashes(place) if model == "adapter" else merged_hashes(place)


def hypotheses_of(folder: RunFolder, model: str, score: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines behind a score of the run's own test set; none where they are gone, or of others.

    An evaluation that was killed has left new lines beside the summary of the one before.
    """
    rows = read_jsonl(folder.evaluation / model / OWN_SET / HYPOTHESES)
    of = score.get("of")  # which older scores lack
    if (
        of is None
        or texts_hash(str(row.get("reference_normalized")) for row in rows) == of[REFERENCES]
    ):
        return rows
    file = short(folder.evaluation / model / OWN_SET / HYPOTHESES)
    what = f"{len(rows)} rows are not those of its score" if rows else "is missing or empty"
    log.warning("not shown   %s: %s. %s", file, what, _again(folder))
    return []


def with_one_test_set(folder: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    """The same, with scores that compare with the adapter's alone."""
    adapter = summary.get("adapter")
    for model in ("base", "merged"):
        score = summary.get(model)
        if adapter and score and (found := differences(adapter, score)):
            told = f"and the adapter's are of different test sets or decodings ({'; '.join(found)})"
            _leave_out(summary, model, told, _again(folder))
    return summary


def _leave_out(summary: dict[str, Any], model: str, why: str, advice: str) -> None:
    summary[model] = None
    log.warning("left out    the %s's score %s. %s", model, why, advice)


def _again(folder: RunFolder, command: str = "evaluate") -> str:
    typed = shlex.join([f"run={short(folder.path)}", "overwrite=true"])
    return f"Type {program()} {command} {typed}"
