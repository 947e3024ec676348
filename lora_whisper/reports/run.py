"""What a run says of its scores: its page, and in one go all the files that have to agree."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_whisper.evaluation.results import (
    Rate,
    Score,
    both_rates,
    groups_of,
    leading,
    rate_name,
    units_of,
)
from lora_whisper.evaluation.run_summary import RunSummary, write_summary
from lora_whisper.files import read_jsonl, write_whole
from lora_whisper.paths import below_home
from lora_whisper.reports.charts import SERIES, Chart, Scale, course, is_steep
from lora_whisper.reports.html import render
from lora_whisper.reports.model_card import write_card, write_merged_card, write_record
from lora_whisper.reports.summary import (
    changes,
    figures,
    model_name,
    remarks,
    score_cells,
    score_headings,
    speakers_line,
)
from lora_whisper.reports.tables import Column, Table
from lora_whisper.reports.utterances import Sample, samples_of
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import clock, megabytes, percent

SHOWN_SAMPLES = 5  # of each kind
SHOWN_POINTS = 400  # of a curve; of a longer one, the means of neighbours
TRAINING, VALIDATION = SERIES[:2]
DOTTED: Any = {"marker": "o", "markersize": 4}

Line = Mapping[str, Any]  # of metrics.jsonl


@dataclass(frozen=True)
class Report:
    """What stands on the page; texts as they are, to be escaped."""

    name: str
    about: str
    key_figures: dict[str, str]
    remarks: list[tuple[str, str]]  # "warning" or "note", and its text
    scores: Table
    scored: str  # how they came about
    lines: Sequence[Line]
    kept_step: int | None  # None: what was kept is a mean of several
    samples: list[tuple[str, list[Sample]]]  # by what they are chosen for
    facts: dict[str, dict[str, str]]
    changes: Table
    config: str  # YAML


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
    write_whole(folder.report, page(read_report(folder, summary)).encode())


def page(report: Report) -> str:
    """The whole page. Whatever comes from the run is escaped."""
    return render(
        "run.html.j2",
        report=report,
        samples=[(title, [one.shown() for one in some]) for title, some in report.samples],
        curves=curves(report.lines, report.kept_step),
    )


def read_report(folder: RunFolder, summary: RunSummary) -> Report:
    """Gather what the folder holds."""
    config = folder.config_text()
    return Report(
        name=summary.name,
        about=_about(summary),
        key_figures=_key_figures(summary),
        remarks=remarks(summary),
        scores=_score_table(summary),
        scored=_scored(summary.adapter) if summary.adapter else "",
        lines=read_jsonl(folder.metrics),
        kept_step=None if summary.shipped_mean else summary.adapter_step,
        samples=chosen(
            samples_of(folder, summary.scores, needed=("base", "adapter")), summary.seed
        ),
        facts={
            "Training": _training(summary),
            "Speech": _speech(summary),
            "Environment": _environment(summary),
        },
        changes=_change_table(changes(config, below_home)),
        config=below_home(config),
    )


# ── figures ──────────────────────────────────────────────────────────────────────────────────


def _about(summary: RunSummary) -> str:
    base = model_name(summary.checkpoint, summary.quantization)
    return f"An adapter for {base}, trained with lora_whisper {summary.versions['lora_whisper']}"


def _key_figures(summary: RunSummary) -> dict[str, str]:
    base, adapter = summary.base, summary.adapter
    effort = {
        "hours of speech": f"{_seconds(summary) / 3600:.2f}",
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


def _seconds(summary: RunSummary) -> float:
    """Of a stream, only what was read is known."""
    return summary.train_audio_seconds or summary.train_audio_seconds_seen


def _score_table(summary: RunSummary) -> Table:
    """A row a model and a group of its; no rows where nothing was scored."""
    adapter = summary.adapter
    name = rate_name(adapter, leading(adapter))
    headings = [*score_headings(adapter), units_of(adapter), f"{name} as written"]
    table = Table([Column(is_text=True), *map(Column, headings)])
    for model, score in summary.scores.items():
        if score is not None:
            table.add(model_name(model, summary.quantization), *_cells(score, score.leading))
            for label, group in groups_of(score):
                table.add(label, *_cells(group, score.leading), kind="group")
    return table


def _cells(score: Score, rate: Rate) -> list[str]:
    words, written = f"{score.reference_words:,}", percent(getattr(score, f"{rate}_orthographic"))
    return [*score_cells(score, rate), words, written]


def _change_table(changed: Sequence[tuple[str, str, str]]) -> Table:
    codes = [Column(title, is_text=True, is_code=True) for title in ("value", "default")]
    table = Table([Column("not as by default", is_text=True), *codes])
    for line in changed:
        table.add(*line)
    return table


def _scored(score: Score) -> str:
    """How the figures came about."""
    return (
        f"Rates of text normalized by {score.normalizer}; {score.padded_as}. "
        f"Intervals by drawing {score.resampled} anew, with replacement."
    )


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
    told = {id(sample) for sample in (*worst, *worsened, *improved)}
    others = [sample for sample in samples if id(sample) not in told]
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
    """Each chart as its caption and its SVG; those without anything to show are left out."""
    training = [line for line in lines if "loss_per_token" in line]
    validation = [line for line in lines if "validation_wer" in line]
    kept = [line["validation_wer"] for line in validation if line["step"] == kept_step]
    rate = f", {percent(kept[0])} at the step that was kept" if kept else ""
    charts = {
        "Loss per token": _losses(training, validation),
        f"WER of the validation sample{rate}": _error_rate(validation, kept_step),
        "Learning rate": _course(training, "learning_rate"),
        "Gradient norm before clipping": _course(training, "gradient_norm"),
    }
    return [(caption, chart.svg()) for caption, chart in charts.items() if chart]


def _losses(training: Sequence[Line], validation: Sequence[Line]) -> Chart | None:
    steps, losses = course(training, "loss_per_token", SHOWN_POINTS)
    if not len(losses):
        return None
    is_log = is_steep(losses)
    chart = Chart(2.7, _steps(training), Scale(is_log=is_log, from_zero=not is_log))
    chart.line(steps, losses, "training" if validation else "", TRAINING)
    if validation:
        points = course(validation, "validation_loss_per_token", SHOWN_POINTS)
        chart.line(*points, "validation", VALIDATION, **DOTTED)
    return chart


def _error_rate(validation: Sequence[Line], kept_step: int | None) -> Chart | None:
    """In percent; the step whose adapter was kept has a larger dot."""
    if not validation:
        return None
    steps, rates = course(validation, "validation_wer", SHOWN_POINTS)
    chart = Chart(2.7, _steps(validation), Scale(unit=" %", from_zero=True))
    chart.line(steps, 100 * rates, colour=VALIDATION, **DOTTED)
    kept = steps == kept_step
    chart.dots(steps[kept], 100 * rates[kept], colour=VALIDATION, markersize=9, clip_on=False)
    return chart


def _course(training: Sequence[Line], key: str) -> Chart | None:
    steps, values = course(training, key, SHOWN_POINTS)
    if not len(values):
        return None
    chart = Chart(1.9, _steps(training), Scale(from_zero=True))
    chart.line(steps, values, colour=TRAINING)
    return chart


def _steps(lines: Sequence[Line]) -> Scale:
    return Scale("steps", most_ticks=7, is_whole=True, limits=(0, 1.02 * lines[-1]["step"]))
