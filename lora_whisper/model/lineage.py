"""On which weights an adapter was trained: it is a change of those, and of no others.

Runs and adapters with a record know their base's weights by commit and hash. Others only name it,
by a path of another machine perhaps, or not at all: a base of which nobody knows is not another
base. Where what is named is here, its weights are compared.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_whisper.errors import UserError
from lora_whisper.lora.provenance import read_record
from lora_whisper.lora.saved import WEIGHTS_FILE, SavedAdapter
from lora_whisper.model.checkpoint import Checkpoint, at_hand, fingerprint, sha256, weights_sha256
from lora_whisper.model.finding import is_hub_id
from lora_whisper.model.trained import is_trained_adapter
from lora_whisper.run_folder import RunFolder, as_written, read_whole_summary

log = logging.getLogger("lora_whisper")

Verdict = Literal["same", "another", "unknown"]


@dataclass(frozen=True)
class Lineage:
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
    lineage = lineage_of(saved.folder)
    verdict, found = compared(lineage, checkpoint)
    known = str(lineage)
    if verdict == "unknown":
        verdict, known, found = _compared_by_name(saved, checkpoint)
    if verdict == "same":
        return
    if verdict == "unknown" and known == found:
        _warn(
            saved.folder.absolute(),
            "not checked %s does not say which weights it was trained on",
            name,
        )
    elif verdict == "unknown":
        _warn(
            saved.folder.absolute(),
            "not checked whether %s was trained on these weights: it names %s, this is %s. Its "
            "layers are of the same shapes",
            name,
            known,
            found,
        )
    elif force:
        _warn(
            saved.folder.absolute(),
            "forced      %s was trained on %s, the base is %s",
            name,
            known,
            found,
        )
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


def lineage_of(adapter: Path) -> Lineage:
    """What the adapter's record, or the run that it lies in, says of its base.

    Of weights that were put there since, neither says anything.

    Raises:
        UserError: its record is broken.
    """
    record, weights = read_record(adapter), adapter / WEIGHTS_FILE
    if record is not None:
        if weights.is_file() and sha256(weights) != record["adapter"]["sha256"]:
            return Lineage(None, None)
        return Lineage(record["base"]["commit"], record["base"]["sha256"])
    run = RunFolder(adapter.parent)
    if adapter != run.adapter or not run.is_complete() or not is_trained_adapter(run):
        return Lineage(None, None)
    summary = as_written(run.summary, {"checkpoint_fingerprint"}) or read_whole_summary(run)
    kind, _, value = summary.get("checkpoint_fingerprint", "").partition(":")
    return Lineage(value if kind == "commit" else None, value if kind == "sha256" else None)


def compared(lineage: Lineage, checkpoint: Checkpoint) -> tuple[Verdict, str]:
    """Whether `checkpoint` has these weights, and what was found there, if that was looked at.

    The commit is compared where both are of the hub: it is known without reading gigabytes. Another
    commit may hold the same weights.
    """
    if lineage == Lineage(None, None):
        return "unknown", ""
    kind, _, value = fingerprint(checkpoint).partition(":")
    if kind == "commit" and lineage.commit == value:
        return "same", f"commit:{value}"
    if lineage.sha256 is not None:
        found = weights_sha256(checkpoint)
        return "same" if found == lineage.sha256 else "another", f"sha256:{found}"
    if kind == "commit" and lineage.commit is not None:
        return "another", f"commit:{value}"
    return "unknown", f"{kind}:{value}"
