"""What a run says of its scores, in all the places that have to agree.

The summary, the report, the cards of the adapter and of the merged model, the adapter's record.
"""

from __future__ import annotations

from typing import Any

from lora_whisper.reports.model_card import write_card, write_merged_card
from lora_whisper.reports.record import write_record
from lora_whisper.reports.run import write_report
from lora_whisper.run_folder import RunFolder, write_json


def write_results(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Write all that is for people, and then the summary, which makes a run complete."""
    write_card(folder, summary)
    write_record(folder, summary)
    if folder.merged.is_dir():
        write_merged_card(folder, summary)
    write_report(folder, summary)
    write_json(folder.summary, summary)
