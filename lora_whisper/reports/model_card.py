"""What goes with the weights, also to the hub: cards for people, and a record for programs.

`README.md` of the adapter and of the merged model says how they were made and what was gained. Both
say the same, but for their scores in the metadata and for how they are used, and they name no
licence, which is their maker's to choose. `adapter/lora_whisper.json` says it to whoever has the
folder alone. No path and no name of the machine that was trained on stands in any of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_whisper.config import DataConfig, MixConfig, TrainConfig
from lora_whisper.evaluation.results import (
    Json,
    Rate,
    Score,
    WordRecall,
    WordScores,
    both_rates,
    interval,
    leading,
    rate_name,
    to_json,
    units_of,
)
from lora_whisper.evaluation.run_summary import RunSummary
from lora_whisper.files import read_json, write_json, write_whole
from lora_whisper.layers import ALL
from lora_whisper.lora.provenance import METADATA_FILE, METADATA_FORMAT
from lora_whisper.lora.resolve import name_of
from lora_whisper.lora.saved import (
    WEIGHTS_FILE,
    exported_ranks,
    vllm_is_to_be_compared,
    vllm_max_rank,
    vllm_obstacles,
)
from lora_whisper.model.checkpoint import sha256
from lora_whisper.paths import EMBEDDED, file_name, local_path
from lora_whisper.reports.capabilities import card_table
from lora_whisper.reports.html import render
from lora_whisper.reports.summary import (
    amount_of_speech,
    changes,
    model_name,
    origin,
    remarks,
    shipped_rank,
    speakers_line,
    texts_line,
)
from lora_whisper.run_config import read_config
from lora_whisper.run_folder import MODELS, RunFolder
from lora_whisper.terminal import counted, megabytes, percent

RATES = ("wer", "wer_ci95", "cer", "cer_ci95")  # of the record
TASK = "automatic-speech-recognition"
CARD_FILE = "README.md"
# What is not known when a card is written, and what `push` writes in its place.
PLACE, BASE_PLACE = "path/to/this/folder", "path/to/the/base"
FULL_VOCABULARY = 51_864  # tokens of the smallest published checkpoints, those for English alone
HUB_TERMS = {"adapter": ("peft", "adapter"), "merged": ("transformers", "finetune")}
HUB_CODES = {"jw": "jv"}  # where Whisper's code is not the one of ISO 639


def write_card(folder: RunFolder, summary: RunSummary) -> None:
    """Write the card of a run that is complete but for the summary's file."""
    write_whole(folder.adapter / CARD_FILE, adapter_card(folder, summary).encode())


def write_merged_card(folder: RunFolder, summary: RunSummary) -> None:
    """Write the card of the merged model, which there has to be."""
    write_whole(folder.merged / CARD_FILE, merged_card(folder, summary).encode())


def adapter_card(folder: RunFolder, summary: RunSummary) -> str:
    """The card: metadata as YAML, then Markdown."""
    obstacles = vllm_obstacles(folder.adapter)
    return _rendered(
        folder,
        summary,
        "adapter",
        what="A LoRA adapter for the speech recognizer",
        load=_load(summary),
        vllm_obstacles=obstacles,
        vllm_max_rank=None if obstacles else vllm_max_rank(folder.adapter),
        vllm_is_to_be_compared=vllm_is_to_be_compared(folder.adapter),
    )


def merged_card(folder: RunFolder, summary: RunSummary) -> str:
    """The merged model's: it needs neither the base nor PEFT, and serves other programs too."""
    values = read_json(folder.merged / "config.json")
    dtype = values.get("dtype") or values.get("torch_dtype")  # as older Transformers call it
    return _rendered(
        folder,
        summary,
        "merged",
        what="A whole model: a LoRA adapter folded into the speech recognizer",
        dtype=dtype or "float32",
        prompt=_as_arguments(summary.prompt),
        beams=read_config(folder).evaluation.beams,
        is_of_full_vocabulary=values.get("vocab_size", 0) >= FULL_VOCABULARY,
    )


def _rendered(
    folder: RunFolder, summary: RunSummary, model: str, what: str, **about_use: Any
) -> str:
    """Fill the template, with what is said of one model's use in its place.

    Args:
        model: of MODELS, whose scores are those of the card.
        what: the model in a few words, which end with its base.
    """
    config = read_config(folder)
    score = summary.scores[model]
    # What names the base exactly: the hub's commit, or the sha256 of its weights.
    name, fingerprint = file_name(summary.checkpoint), summary.checkpoint_fingerprint
    base = f"[{name}](https://huggingface.co/{name})" if is_of_hub(summary) else f"`{name}`"
    text = render(
        f"{model}_card.md.j2",
        summary=summary,
        what=what,
        base=f"{base} ({fingerprint.replace(':', ' ')})",
        metadata=_metadata(summary, config.data, model),
        rows=list(_rows(summary)),
        score=score,
        card=card_table(summary.card, "adapter") if summary.card else None,
        headings=[rate_name(score, rate) for rate in both_rates(leading(score))],
        speech=list(_speech(summary, config.data)),
        training=list(_training(summary, config)),
        changes=changes(folder.config_text(), file_name),
        words=list(_words(summary.words.get(model))),
        limits=list(_limits(summary, score)),
        place=PLACE,
        decoding=_as_arguments({**summary.prompt, "num_beams": config.evaluation.beams}),
        **about_use,
    )
    return text.rstrip() + "\n"


# ── metadata, as on https://huggingface.co/docs/hub/model-cards ──────────────────────────────


def _metadata(summary: RunSummary, data: DataConfig, model: str) -> str:
    """The YAML block; the hub knows a base by its id alone, so a folder is not named there."""
    from huggingface_hub import EvalResult, ModelCardData

    base, score = summary.checkpoint if is_of_hub(summary) else None, summary.scores[model]
    library, relation = HUB_TERMS[model]
    codes = (HUB_CODES.get(language, language) for language in summary.languages)
    parts: list[DataConfig | MixConfig] = [data, *data.mix]
    trained_on = {part.path for part in parts if (part.source or data.source) == "hub"}
    # Whether the test set is a split of a data set that the hub knows, not a file beside it, which
    # config.yaml has with its whole path.
    is_file = data.test is not None and Path(data.test).is_absolute()
    knows_set = data.source == "hub" and not is_file and not _is_copy(str(data.path))
    # The file, or what holds the split: a split's name alone would say nothing.
    holder = data.test if data.path is None or is_file else data.path
    results = [
        EvalResult(
            task_type=TASK,
            task_name="Automatic Speech Recognition",
            dataset_type=str(data.path) if knows_set else data.source,
            dataset_name=file_name(holder or "test"),
            dataset_config=data.config if knows_set else None,
            dataset_revision=data.revision if knows_set else None,
            dataset_split=data.test if knows_set and data.test else "test",
            metric_type=rate,
            metric_name=f"{rate.upper()} ({score.normalizer})",
            metric_value=round(100 * score.rate(rate), 2),
        )
        for rate in _hub_rates(score)
        if score is not None
    ]
    return ModelCardData(
        library_name=library,
        base_model=base,
        base_model_relation=relation if base else None,
        pipeline_tag=TASK,
        # The hub refuses a card with anything but codes; rows may have a name of their own.
        language=[code for code in codes if re.fullmatch("[a-z]{2,3}", code)],
        datasets=sorted(path for path in trained_on if path and not _is_copy(path)) or None,
        metrics=[*_hub_rates(score)],
        tags=["lora", "whisper", "lora_whisper"],
        model_name=summary.name,
        eval_results=results or None,
    ).to_yaml()


def _hub_rates(score: Score | None) -> list[Rate]:
    """The rates that are what the hub calls them: its WER is of words."""
    return ["wer", "cer"] if units_of(score) == "words" else ["cer"]


def is_of_hub(summary: RunSummary) -> bool:
    """Whether the base was read from the hub, so that it has an id and a commit there."""
    return summary.checkpoint_fingerprint.startswith("commit:")


def _is_copy(path: str) -> bool:
    """Whether a hub data set was read from a folder."""
    return Path(path).is_absolute() or local_path(path).exists()


# ── text ─────────────────────────────────────────────────────────────────────────────────────


def _rows(summary: RunSummary) -> Iterator[str]:
    for model in MODELS:
        score = summary.scores[model]
        if score is not None:
            name = model_name(model, summary.quantization)
            rates = (
                f"{percent(score.rate(rate))} | {interval(score.ci95(rate))}"
                for rate in both_rates(score.leading)
            )
            yield f"| {name} | {' | '.join(rates)} |"


def _words(scores: WordScores | None) -> Iterator[str]:
    """What became of a word list that it was scored with, if it was."""
    if scores is None or scores.recall.recall is None:
        return
    said, prompted = scores.recall.said, scores.prompted
    yield (
        f"Of {counted(scores.listed, 'word')} that matter, said {said:,} times, it wrote "
        f"{_found(scores.recall, prompted)}."
    )
    for part, what in (("seen", "said in training"), ("unseen", "never said in training")):
        own = scores.recall.parts.get(part)
        if own is not None and own.recall is not None:
            theirs = prompted.parts.get(part) if prompted else None
            yield f"Of those that are {what}, {own.said:,} times: {_found(own, theirs)}."
    alarms = f"Written, but not said: {counted(scores.recall.false_alarms, 'time')}"
    yield f"{alarms}, and {prompted.false_alarms:,} with the prompt." if prompted else f"{alarms}."


def _found(recall: WordRecall, prompted: WordRecall | None) -> str:
    parts = []
    for one, where in ((recall, ""), (prompted, " with the list as a prompt")):
        if one is not None and one.recall is not None and one.ci95 is not None:
            parts.append(f"{percent(one.recall)} ({interval(one.ci95)}){where}")
    return " and ".join(parts)


def _speech(summary: RunSummary, data: DataConfig) -> Iterator[str]:
    counts, task = summary.utterances, "translation into English" * (data.task == "translate")
    # Of a stream, nobody knows how many there are.
    utterances = f" in {counts['train']:,} utterances" if summary.train_audio_seconds else ""
    yield f"training: {amount_of_speech(summary, utterances)}"
    yield f"languages: {', '.join(summary.languages)}" + (f"; {task}" if task else "")
    yield f"from: {', '.join(sources(data))}"
    held_out = [f"{counts[split]:,} {split}" for split in ("validation", "test") if split in counts]
    if held_out:
        yield f"held out: {' and '.join(held_out)} utterances"
    for part, reasons in summary.left_out.items():
        listed = "; ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        yield f"left out of {part}: {listed}"


def sources(data: DataConfig) -> list[str]:
    """Files and data sets by name."""
    parts: list[DataConfig | MixConfig] = [data, *data.mix]
    return [
        " ".join(file_name(name) for name in (part.path, part.config, part.train) if name)
        for part in parts
    ]


def _training(summary: RunSummary, config: TrainConfig) -> Iterator[str]:
    adapter, rank = config.adapter, shipped_rank(summary)
    layers = (
        "encoder and decoder" if adapter.layers == ALL else adapter.layers.replace("+", " and ")
    )
    form = f"{adapter.kind}, rank {rank}, trained with alpha {adapter.alpha:g}"
    yield f"adapter: {form}, {adapter.targets} of {layers}"
    if adapter.init_from is not None:
        start = name_of(adapter.init_from)
        yield f"start: the adapter {start}, the speech of which is not counted here"
    yield (
        f"size: {summary.trainable_parameters:,} trained parameters, "
        f"{megabytes(summary.adapter_bytes)}"
    )
    seconds, kind = config.training.global_batch_seconds, summary.windows or config.data.windows
    size = config.training.global_batch if seconds is None else f"{seconds:g} s of"
    windows = f"{size} {kind} windows"
    yield f"steps: {summary.steps:,} of {windows}; the adapter is that of {origin(summary)}"
    made_with = (f"{name} {number}" for name, number in summary.versions.items())
    yield f"made with: {', '.join(made_with)}"


def _limits(summary: RunSummary, score: Score | None) -> Iterator[str]:
    """What the scores do not say."""
    for _, text in remarks(summary):
        yield f"{text[0].upper()}{text[1:]}."
    if score is None:
        yield "Nothing was scored: the run had no test set."
        return
    yield (
        f"The test set is {counted(score.utterances, 'utterance')} with "
        f"{score.reference_words:,} {score.units}; the intervals say how far off another "
        "such set may be scored."
    )
    if (of := score.of) is not None:
        # Hashes, by which others know weights and test set again.
        weights = of.weights.get("adapter") or of.weights["checkpoint"]
        decoding = ", ".join(f"{name} {json.dumps(value)}" for name, value in of.decoding.items())
        yield (
            f"The scores are of these weights (sha256 {weights}) on these rows (sha256 {of.rows}) "
            f"with these texts (sha256 {of.texts}), decoded with {decoding}."
        )
    unknown = "The test set names no speakers, so it is not known whether they are seen in training"
    yield f"{speakers_line(summary) or unknown}."
    if texts := texts_line(summary):
        yield f"{texts}."
    if summary.quantization != "none":
        yield (
            f"Base and adapter were scored on {summary.quantization} weights; "
            "on full ones they give other scores."
        )
    yield f"Not tested: {', '.join(_untested(summary))}, which training can take away."


def _untested(summary: RunSummary) -> Iterator[str]:
    """What nobody has asked the adapter."""
    measured = [
        row.name for row in (summary.card.rows if summary.card else ()) if row.base is not None
    ]

    def is_measured(name: str) -> bool:
        return any(row.startswith(name) for row in measured)

    yield "other recordings, accents and noise than the test set's"
    if not is_measured("long recordings"):
        yield "long recordings"
    if not is_measured("timestamps"):
        yield "timestamps"
    yield "and what the base could in other languages"


def _as_arguments(values: Mapping[str, Any]) -> str:
    """To follow others in a call: `, language="sw", num_beams=1`"""
    return "".join(f", {key}={json.dumps(value)}" for key, value in values.items())


def _load(summary: RunSummary) -> dict[str, str]:
    """The base as code, and as vLLM is told it: where it lies, and which commit of it."""
    name, place = summary.checkpoint, BASE_PLACE
    code = {"imports": "", "base": f'"{place}"', "revision": "", "served": place, "pin": ""}
    if is_of_hub(summary):
        commit = summary.checkpoint_fingerprint.removeprefix("commit:")
        code |= {"base": f'"{name}"', "revision": f', revision="{commit}"'}
        code |= {"served": name, "pin": f"--revision {commit} \\\n    "}
    elif name.startswith(EMBEDDED):
        code |= {"imports": "from lora_whisper.paths import local_path\n"}
        code |= {"base": f'local_path("{name}")'}
    return code


# ── the record, for programs ─────────────────────────────────────────────────────────────────


def write_record(folder: RunFolder, summary: RunSummary) -> None:
    """Write the record beside the adapter of a run that is complete but for the summary's file."""
    write_json(folder.adapter / METADATA_FILE, adapter_record(folder, summary))


def adapter_record(folder: RunFolder, summary: RunSummary) -> Json:
    """What `lora.provenance.read_metadata` reads."""
    config = read_config(folder)
    lowest, highest = exported_ranks(folder.adapter)
    modules = list(config.adapter.ranges)
    finished = summary.finished
    if finished is None:  # older summaries lack it, but not the adapter's file
        seconds = (folder.adapter / WEIGHTS_FILE).stat().st_mtime
        finished = datetime.fromtimestamp(seconds, UTC).isoformat()
    kind, _, value = summary.checkpoint_fingerprint.partition(":")
    # Hours and utterances are not known of a stream, but how much of it was read is.
    seconds, seen_seconds = summary.train_audio_seconds, summary.train_audio_seconds_seen
    return {
        "format": METADATA_FORMAT,
        "name": Path(summary.name).name,  # a point of a sweep has its folder's in it
        "date": finished[:10],  # of the end of training, in UTC
        "base": {
            "name": file_name(summary.checkpoint),
            "revision": config.model.revision,
            "commit": value if kind == "commit" else None,
            # Of the weights, which older runs lack, unless it is all that names them.
            "sha256": summary.checkpoint_sha256 or (value if kind == "sha256" else None),
        },
        "quantization": summary.quantization,
        "adapter": {
            "kind": config.adapter.kind,
            "rank": highest,  # of what ships, which can be another than what was trained
            "lowest_rank": lowest,
            "targets": config.adapter.targets,
            "stack": "both" if len(modules) > 1 else modules[0],
            "parameters": summary.trainable_parameters,
            "bytes": summary.adapter_bytes,
            "sha256": summary.adapter_sha256 or sha256(folder.adapter / WEIGHTS_FILE),
        },
        "languages": list(summary.languages),
        "data": {
            "from": sources(config.data),
            "hours": round(seconds / 3600, 3) if seconds else None,
            "hours_seen": round(seen_seconds / 3600, 3),
            "utterances": summary.utterances.get("train"),
        },
        "scores": _recorded_scores(summary),
        "versions": summary.versions,
    }


def _recorded_scores(summary: RunSummary) -> Json | None:
    """What the models made of the run's test set; None where it had none."""

    def rates(score: Score | None) -> Json | None:
        """With the hashes of the weights that they are of, which older scores lack."""
        if score is None:
            return None
        weights = {"weights": score.of.weights} if score.of and score.of.weights else {}
        return {key: getattr(score, key) for key in RATES} | weights

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
        **{model: rates(summary.scores[model]) for model in MODELS},
    }
