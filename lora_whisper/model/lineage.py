"""On which weights an adapter was trained: it is a change of those, and of no others.

Runs and adapters with a record know their base's weights by commit and hash. Others only name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_whisper.model.checkpoint import Checkpoint, fingerprint, weights_sha256
from lora_whisper.model.record import read_record
from lora_whisper.run_folder import RunFolder, read_json

Verdict = Literal["same", "another", "unknown"]


@dataclass(frozen=True)
class Lineage:
    """What names the weights that an adapter was trained on; None where it does not say."""

    commit: str | None  # on the hub
    sha256: str | None  # of the weight files

    def __str__(self) -> str:
        known = {"commit": self.commit, "sha256": self.sha256}
        return " ".join(f"{name}:{value}" for name, value in known.items() if value)


def lineage_of(adapter: Path) -> Lineage:
    """What the adapter's record, or the run that it lies in, says of its base.

    Raises:
        UserError: its record is broken.
    """
    record = read_record(adapter)
    if record is not None:
        return Lineage(record["base"]["commit"], record["base"]["sha256"])
    run = RunFolder(adapter.parent)
    if adapter != run.adapter or not run.is_complete():
        return Lineage(None, None)
    kind, _, value = read_json(run.summary)["checkpoint_fingerprint"].partition(":")
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
