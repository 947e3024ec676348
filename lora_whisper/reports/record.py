"""`adapter/lora_whisper.json`: what a run says of its adapter, for whoever has the folder alone.

It goes where the adapter goes, also to the hub: no path and no name of the machine stands in it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from lora_whisper.config import TrainConfig
from lora_whisper.evaluation.results import Json, Score, to_json
from lora_whisper.evaluation.run_summary import RunSummary
from lora_whisper.lora.provenance import METADATA_FILE, METADATA_FORMAT
from lora_whisper.lora.saved import WEIGHTS_FILE
from lora_whisper.model.checkpoint import sha256
from lora_whisper.paths import file_name
from lora_whisper.reports.model_card import sources
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import MODELS, RunFolder, write_json

RATES = ("wer", "wer_ci95", "cer", "cer_ci95")


def write_record(folder: RunFolder, summary: RunSummary) -> None:
    """Write the record beside the adapter of a run that is complete but for the summary's file."""
    write_json(folder.adapter / METADATA_FILE, adapter_record(folder, summary))


def adapter_record(folder: RunFolder, summary: RunSummary) -> Json:
    """What `lora.provenance.read_metadata` reads."""
    from lora_whisper.lora.saved import exported_ranks

    config = read_config(folder)
    lowest, highest = exported_ranks(folder.adapter)
    return {
        "format": METADATA_FORMAT,
        "name": Path(summary.name).name,  # a point of a sweep has its folder's in it
        "date": _date(folder, summary),
        "base": _base(config, summary),
        "quantization": summary.quantization,
        "adapter": {
            "kind": config.adapter.kind,
            "rank": highest,  # of what ships, which can be another than what was trained
            "lowest_rank": lowest,
            "targets": config.adapter.targets,
            "stack": config.adapter.stack,
            "parameters": summary.trainable_parameters,
            "bytes": summary.adapter_bytes,
            "sha256": summary.adapter_sha256 or sha256(folder.adapter / WEIGHTS_FILE),
        },
        "languages": list(summary.languages),
        "data": _data(config, summary),
        "scores": _scores(summary),
        "versions": summary.versions,
    }


def _date(folder: RunFolder, summary: RunSummary) -> str:
    """Of the end of training, in UTC; older summaries lack it, but not the adapter's file."""
    if summary.finished is not None:
        return summary.finished[:10]
    seconds = (folder.adapter / WEIGHTS_FILE).stat().st_mtime
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _base(config: TrainConfig, summary: RunSummary) -> dict[str, str | None]:
    """The base's name and its weights: the hub's commit where it has one, and their sha256."""
    kind, _, value = summary.checkpoint_fingerprint.partition(":")
    known = {kind: value, "sha256": summary.checkpoint_sha256}  # which older runs lack
    return {
        "name": file_name(summary.checkpoint),
        "revision": config.model.revision,
        "commit": known.get("commit"),
        "sha256": known["sha256"] or (value if kind == "sha256" else None),
    }


def _data(config: TrainConfig, summary: RunSummary) -> Json:
    """Hours and utterances are not known of a stream, but how much of it was heard is."""
    seconds, seen_seconds = summary.train_audio_seconds, summary.train_audio_seconds_seen
    return {
        "from": sources(config.data),
        "hours": round(seconds / 3600, 3) if seconds else None,
        "hours_seen": round(seen_seconds / 3600, 3),
        "utterances": summary.utterances.get("train"),
    }


def _rates(score: Score | None) -> Json | None:
    """With the hashes of the weights that they are of, which older scores lack."""
    if score is None:
        return None
    rates: Json = {key: getattr(score, key) for key in RATES}
    return rates | ({"weights": score.of.weights} if score.of and score.of.weights else {})


def _scores(summary: RunSummary) -> Json | None:
    """What the models made of the run's test set; None where it had none."""
    score = summary.adapter
    if score is None:
        return None
    of = to_json(score.of) if score.of else {}
    return {
        "units": score.units,
        "metric": score.leading,
        "normalizer": score.normalizer,
        "utterances": score.utterances,
        "of": {key: value for key, value in of.items() if key != "weights"} or None,
        **{model: _rates(summary.scores[model]) for model in MODELS},
    }
