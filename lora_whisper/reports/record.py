"""`adapter/lora_whisper.json`: what a run says of its adapter, for whoever has the folder alone.

It goes where the adapter goes, also to the hub: no path and no name of the machine stands in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_whisper.config import TrainConfig
from lora_whisper.evaluation.results import leading, units_of
from lora_whisper.lora.provenance import RECORD_FILE, RECORD_FORMAT, TRAINED
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.checkpoint import sha256
from lora_whisper.paths import file_name
from lora_whisper.reports.model_card import sources
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import MODELS, RunFolder, write_json

Summary = Mapping[str, Any]
RATES = ("wer", "wer_ci95", "cer", "cer_ci95")


def write_record(folder: RunFolder, summary: Summary) -> None:
    """Write the record beside the adapter of a run that is complete but for the summary's file."""
    write_json(folder.adapter / RECORD_FILE, adapter_record(folder, summary))


def adapter_record(folder: RunFolder, summary: Summary) -> dict[str, Any]:
    """What `lora.provenance.read_record` reads."""
    from lora_whisper.lora.saved import shipped_ranks

    config = read_config(folder)
    lowest, highest = shipped_ranks(folder.adapter)
    return {
        "format": RECORD_FORMAT,
        "name": Path(summary["name"]).name,  # a point of a sweep has its folder's in it
        "date": _date(folder, summary),
        "base": _base(config, summary),
        "quantization": summary["quantization"],
        "adapter": {
            "kind": config.adapter.kind,
            "rank": highest,  # of what ships, which can be another than what was trained
            "lowest_rank": lowest,
            "targets": config.adapter.targets,
            "stack": config.adapter.stack,
            "parameters": summary["trainable_parameters"],
            "bytes": summary["adapter_bytes"],
            "sha256": summary.get(TRAINED["adapter"]) or sha256(folder.adapter / WEIGHTS_FILE),
        },
        "languages": list(summary["languages"]),
        "data": _data(config, summary),
        "scores": _scores(summary),
        "versions": summary["versions"],
    }


def _date(folder: RunFolder, summary: Summary) -> str:
    """Of the end of training, in UTC; older summaries lack it, but not the adapter's file."""
    if "finished" in summary:
        return str(summary["finished"])[:10]
    seconds = (folder.adapter / WEIGHTS_FILE).stat().st_mtime
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _base(config: TrainConfig, summary: Summary) -> dict[str, str | None]:
    """The base's name and its weights: the hub's commit where it has one, and their sha256."""
    kind, _, value = summary["checkpoint_fingerprint"].partition(":")
    known = {kind: value, "sha256": summary.get("checkpoint_sha256")}  # which older runs lack
    return {
        "name": file_name(summary["checkpoint"]),
        "revision": config.model.revision,
        "commit": known.get("commit"),
        "sha256": known["sha256"] or (value if kind == "sha256" else None),
    }


def _data(config: TrainConfig, summary: Summary) -> dict[str, Any]:
    """Hours and utterances are not known of a stream, but how much of it was heard is."""
    seconds, seen_seconds = summary["train_audio_seconds"], summary["train_audio_seconds_seen"]
    return {
        "from": sources(config.data),
        "hours": round(seconds / 3600, 3) if seconds else None,
        "hours_seen": round(seen_seconds / 3600, 3),
        "utterances": summary["utterances"].get("train"),
    }


def _rates(score: Mapping[str, Any]) -> dict[str, Any]:
    """With the hashes of the weights that they are of, which older scores lack."""
    weights = score.get("of", {}).get("weights")
    return {key: score[key] for key in RATES} | ({"weights": weights} if weights else {})


def _scores(summary: Summary) -> dict[str, Any] | None:
    """What the models made of the run's test set; None where it had none."""
    score = summary["adapter"]
    if score is None:
        return None
    rates = {model: _rates(summary[model]) if summary[model] else None for model in MODELS}
    return {
        "units": units_of(score),
        "metric": leading(score),
        "normalizer": score["normalizer"],
        "utterances": score["utterances"],
        "of": {key: value for key, value in score.get("of", {}).items() if key != "weights"}
        or None,
        **rates,
    }
