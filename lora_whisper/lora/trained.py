"""Whether the adapter in a run's folder is the one that the run trained: files can be copied there.

summary.json says what was trained, since the record in the adapter's folder is copied with it. All
that a run says (steps, time, scores) is of those weights, and of no others.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import Any

from lora_whisper.errors import UserError
from lora_whisper.lora.provenance import read_record
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.checkpoint import sha256
from lora_whisper.run_folder import RunFolder, read_json

TRAINED = "adapter_sha256"  # in summary.json


def trained_sha256(run: RunFolder) -> str | None:
    """The hash of the weights that a complete run trained; None: an older one does not say.

    Older runs know by their score what they trained, or by their record.
    """
    with suppress(ValueError, AttributeError):  # a damaged summary is said by whoever needs it
        summary = read_json(run.summary)
        score: dict[str, Any] = summary.get("adapter") or {}
        known = summary.get(TRAINED) or score.get("of", {}).get("weights", {}).get("adapter")
        if known is not None:
            return str(known)
    with suppress(UserError):
        if (record := read_record(run.adapter)) is not None:
            return str(record["adapter"]["sha256"])
    return None


def is_trained_adapter(run: RunFolder) -> bool:
    """Whether a complete run's adapter is what it trained, as far as anybody can say.

    One that is missing is for others to name.
    """
    weights = run.adapter / WEIGHTS_FILE
    return not weights.is_file() or trained_sha256(run) in (None, sha256(weights))


def require_trained_adapter(run: RunFolder) -> None:
    """See that what is going to be taken for a run's adapter is what it trained.

    Raises:
        UserError: it is another; what to type.
    """
    if is_trained_adapter(run):
        return
    weights, adapter = run.adapter / WEIGHTS_FILE, shlex.quote(f"adapter={run.adapter}")
    anew = (
        f", or take {run.summary} away and type the command that began the run with resume=auto, "
        "which writes it again from a checkpoint"
    )
    raise UserError(
        f"{weights} is not what the run trained:\n"
        f"  trained sha256:{trained_sha256(run)}\n  found   sha256:{sha256(weights)}\n"
        f"Bring it back from a copy{anew if run.last_checkpoint() else ''}.\n"
        f"As an adapter of its own: lora-whisper merge {adapter} name=other"
    )
