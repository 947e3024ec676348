"""What a run says of its scores, in three places that always agree: summary, card and report."""

from __future__ import annotations

from typing import Any

from lora_whisper.commands._card import write_card
from lora_whisper.commands._train_report import write_report
from lora_whisper.run_folder import RunFolder, write_json


def write_results(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Write the adapter's card and the report, and then the summary, which makes a run complete."""
    write_card(folder, summary)
    write_report(folder, summary)
    write_json(folder.summary, summary)
