"""What a run says of its scores: its page, and in one go all the files that have to agree."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_whisper.evaluation.results import (
    both_rates,
    rate_name,
)
from lora_whisper.evaluation.run_summary import RunSummary, write_summary
from lora_whisper.files import read_jsonl, write_whole
from lora_whisper.paths import below_home
from lora_whisper.reports.capabilities import card_table
from lora_whisper.reports.charts import SERIES, Look, course, courses
from lora_whisper.reports.html import render
from lora_whisper.reports.model_card import write_card, write_merged_card, write_record
from lora_whisper.reports.summary import (
    changes,
    figures,
    model_name,
    remarks,
    score_table,
    speakers_line,
    texts_line,
)
from lora_whisper.reports.tables import Column, Table
from lora_whisper.reports.utterances import Sample, samples_of
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import clock, megabytes, percent

SHOWN_SAMPLES = 5  # of each kind
SHOWN_POINTS = 400  # of a curve; of a longer one, the means of neighbours

Line = Mapping[str, Any]  # of metrics.jsonl


def write_results(folder: RunFolder, summary: RunSummary) -> None:
    """Write all that is for people, and then the summary, which makes a run complete."""
    write_card(folder, summary)
    write_record(folder, summary)
    if folder.merged.is_dir():
        write_merged_card(folder, summary)
    write_report(folder, summary)
    write_summary(folder, summary)


def write_report(folder: RunFolder, summary: RunSummary) -> None:
    """Write the page of a run that is complete but for the summary's file."""
    write_whole(folder.report, page(folder, summary).encode())


def page(folder: RunFolder, summary: RunSummary) -> str:
    """The whole page. Whatever comes from the run is escaped."""
    config, adapter = folder.config_text(), summary.adapter
    codes = [Column(title, is_text=True, is_code=True) for title in ("value", "default")]
    changed = Table([Column("not as by default", is_text=True), *codes])
    for line in changes(config, below_home):
        changed.add(*line)
    base = model_name(summary.checkpoint, summary.quantization)
    made_with = f"lora_whisper {summary.versions['lora_whisper']}"
    samples = samples_of(folder, summary.scores, needed=("base", "adapter"))
    kept_step = None if summary.shipped_mean else summary.adapter_step
    return render(
        "run.html.j2",
        name=summary.name,
        about=f"An adapter for {base}, trained with {made_with}",
        key_figures=_key_figures(summary),
        remarks=remarks(summary),
        scores=score_table("", summary.scores, summary.quantization, is_of_page=True),
        method=(
            f"Rates of text normalized by {adapter.normalizer}; {adapter.padded_as}. "
            f"Intervals by drawing {adapter.resampled} anew, with replacement."
            if adapter
            else ""
        ),
        card=card_table(summary.card, "adapter") if summary.card else None,
        curves=curves(read_jsonl(folder.metrics), kept_step),
        samples=[
            (title, [sample.shown() for sample in some])
            for title, some in chosen(samples, summary.seed)
        ],
        facts={
            "Training": _training(summary),
            "Speech": _speech(summary),
            "Environment": _environment(summary),
        },
        changes=changed,
        config=below_home(config),
    )


# ── figures ──────────────────────────────────────────────────────────────────────────────────


def _key_figures(summary: RunSummary) -> dict[str, str]:
    base, adapter = summary.base, summary.adapter
    # Of a stream, only what was read is known.
    seconds = summary.train_audio_seconds or summary.train_audio_seconds_seen
    effort = {
        "hours of speech": f"{seconds / 3600:.2f}",
        "trained": clock(summary.train_seconds),
        "adapter": megabytes(summary.adapter_bytes),
    }
    if not adapter:
        return effort
    name = rate_name(adapter, "wer")
    titles = {"wer": "word error rate" if name == "WER" else name, "cer": "character error rate"}
    before = {rate: f"{percent(base.rate(rate))} → " for rate in both_rates("wer")} if base else {}
    return {
        titles[rate]: f"{before.get(rate, '')}{percent(adapter.rate(rate))}"
        for rate in both_rates(adapter.leading)
    } | effort


def _training(summary: RunSummary) -> dict[str, str]:
    skipped = f"{summary.skipped_steps:,}, whose loss or gradient was not finite"
    early = "early, since no validation was better any more"
    return dict(figures(summary)) | {
        "base": summary.checkpoint_fingerprint,
        **({"skipped steps": skipped} if summary.skipped_steps else {}),
        **({"ended": early} if summary.ended_early else {}),
    }


def _speech(summary: RunSummary) -> dict[str, str]:
    counts = summary.utterances.items()
    facts = {
        "languages": ", ".join(summary.languages),
        "utterances": ", ".join(f"{count:,} {split}" for split, count in counts),
        "speakers": speakers_line(summary),
        "texts": texts_line(summary),
        "audio that did not decode": f"{summary.bad_audio:,}" if summary.bad_audio else "",
    }
    for part, reasons in summary.left_out.items():
        facts[f"left out of {part}"] = "; ".join(
            f"{count:,} {reason}" for reason, count in reasons.items()
        )
    return {name: fact for name, fact in facts.items() if fact}


def _environment(summary: RunSummary) -> dict[str, str]:
    known = summary.environment
    facts = {
        "processor": f"{known['processor']}, {known['cores']} cores, {known['threads']} threads",
        "GPU": ", ".join(known["gpus"]) or "none",
        "CUDA": known["cuda"] or "",
        "system": known["system"],
        "commit": known["commit"] or "",
        "seed": str(summary.seed),
    }
    return {name: fact for name, fact in {**facts, **summary.versions}.items() if fact}


# ── samples ──────────────────────────────────────────────────────────────────────────────────


def chosen(samples: Sequence[Sample], seed: int) -> list[tuple[str, list[Sample]]]:
    """The most telling ones, and some drawn from all others; kinds without any are left out."""
    worst = sorted(samples, key=lambda sample: -sample.errors)[:SHOWN_SAMPLES]
    worsened = sorted(samples, key=lambda sample: sample.gain)[:SHOWN_SAMPLES]
    improved = sorted(samples, key=lambda sample: -sample.gain)[:SHOWN_SAMPLES]
    telling = {id(sample) for sample in (*worst, *worsened, *improved)}
    others = [sample for sample in samples if id(sample) not in telling]
    drawn = random.Random(seed).sample(others, min(SHOWN_SAMPLES, len(others)))
    kinds = {
        "Most errors of the adapter": [one for one in worst if one.errors],
        "Most errors that the adapter brought": [one for one in worsened if one.gain < 0],
        "Most errors that the adapter took away": [one for one in improved if one.gain > 0],
        "Drawn at random from the others": drawn,
    }
    return [(title, some) for title, some in kinds.items() if some]


# ── curves ───────────────────────────────────────────────────────────────────────────────────


def curves(lines: Sequence[Line], kept_step: int | None) -> list[tuple[str, str]]:
    """Each chart as its caption and its SVG; those without anything to show are left out.

    Args:
        kept_step: whose adapter was kept, which has a larger dot; None: a mean of several.
    """

    def known(key: str) -> tuple[np.ndarray, np.ndarray]:
        return course(lines, key, SHOWN_POINTS)

    validation: Look = {"colour": SERIES[1], "marker": "o", "markersize": 4}
    steps, rates = known("validation_wer")
    kept = steps == kept_step
    error_rate = courses([(steps, 100 * rates, validation)], unit=" %")
    if error_rate:
        error_rate.dots(
            steps[kept], 100 * rates[kept], colour=SERIES[1], markersize=9, clip_on=False
        )
    losses = [(*known("loss_per_token"), Look())]
    if len(steps):
        losses[0][2]["label"] = "training"
        losses.append((*known("validation_loss_per_token"), validation | {"label": "validation"}))
    rates_kept = [
        line["validation_wer"]
        for line in lines
        if line.get("step") == kept_step and line.get("validation_wer") is not None
    ]
    rate = f", {percent(rates_kept[0])} at the step that was kept" if rates_kept else ""
    charts = {
        "Loss per token": courses(losses, is_loss=True),
        f"WER of the validation sample{rate}": error_rate,
        "Learning rate": courses([(*known("learning_rate"), {})], 1.9),
        "Gradient norm before clipping": courses([(*known("gradient_norm"), {})], 1.9),
    }
    return [(caption, chart.svg()) for caption, chart in charts.items() if chart]
