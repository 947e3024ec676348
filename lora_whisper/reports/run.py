"""`report.html`: how a run went and what it gave, from what its folder holds alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_whisper.evaluation.rates import (
    both_rates,
    groups_of,
    leading,
    padded_as,
    rate_name,
    units_of,
)
from lora_whisper.evaluation.run_scores import hypotheses_of
from lora_whisper.paths import below_home
from lora_whisper.reports.run_page import Report, Sample, page
from lora_whisper.reports.settings import changes, config_text
from lora_whisper.reports.summary import (
    figures,
    is_mean,
    model_name,
    remarks,
    score_cells,
    score_headings,
    speakers_line,
)
from lora_whisper.run_folder import MODELS, RunFolder, read_jsonl, write_whole
from lora_whisper.terminal import clock, megabytes, percent

SHOWN_SAMPLES = 5  # of each kind

Summary = Mapping[str, Any]


def write_report(folder: RunFolder, summary: Summary) -> None:
    """Write the page of a run that is complete but for the summary's file."""
    write_whole(folder.report, page(read_report(folder, summary)).encode())


def read_report(folder: RunFolder, summary: Summary) -> Report:
    """Gather what the folder holds."""
    config = config_text(folder)
    return Report(
        name=summary["name"],
        about=_about(summary),
        key_figures=_key_figures(summary),
        remarks=remarks(summary),
        headings=_headings(summary["adapter"]) if summary["adapter"] else [],
        scores=list(_score_rows(summary)),
        scored=_scored(summary["adapter"]) if summary["adapter"] else "",
        lines=read_jsonl(folder.metrics),
        kept_step=None if is_mean(summary) else summary["adapter_step"],
        samples=chosen(_samples(folder, summary), summary["seed"]),
        facts={
            "Training": _training(summary),
            "Speech": _speech(summary),
            "Environment": _environment(summary),
        },
        changes=changes(config, below_home),
        config=below_home(config),
    )


# ── figures ──────────────────────────────────────────────────────────────────────────────────


def _about(summary: Summary) -> str:
    base = model_name(summary["checkpoint"], summary["quantization"])
    return f"An adapter for {base}, trained with lora_whisper {summary['versions']['lora_whisper']}"


def _key_figures(summary: Summary) -> dict[str, str]:
    base, adapter = summary["base"], summary["adapter"]
    effort = {
        "hours of speech": f"{_seconds(summary) / 3600:.2f}",
        "trained": clock(summary["train_seconds"]),
        "adapter": megabytes(summary["adapter_bytes"]),
    }
    if not adapter:
        return effort
    name = rate_name(adapter, "wer")
    titles = {"wer": "word error rate" if name == "WER" else name, "cer": "character error rate"}
    before = {rate: f"{percent(base[rate])} → " for rate in titles} if base else {}
    return {
        titles[rate]: f"{before.get(rate, '')}{percent(adapter[rate])}"
        for rate in both_rates(leading(adapter))
    } | effort


def _seconds(summary: Summary) -> float:
    """Of a stream, only what was read is known."""
    return summary["train_audio_seconds"] or summary["train_audio_seconds_seen"]


def _score_rows(summary: Summary) -> Iterator[tuple[bool, list[str]]]:
    for model in MODELS:
        score = summary[model]
        if score is None:
            continue
        rate = leading(score)
        yield False, [model_name(model, summary["quantization"]), *_cells(score, rate)]
        for group, values in groups_of(score):
            yield True, [group, *_cells(values, rate)]


def _headings(score: Mapping[str, Any]) -> list[str]:
    name = rate_name(score, leading(score))
    return [*score_headings(score), units_of(score), f"{name} as written"]


def _cells(score: Mapping[str, Any], rate: str) -> list[str]:
    words, written = f"{score['reference_words']:,}", percent(score[f"{rate}_orthographic"])
    return [*score_cells(score, rate), words, written]


def _scored(score: Mapping[str, Any]) -> str:
    """How the figures came about."""
    drawn = score.get("resampled", "utterances")
    return (
        f"Rates of text normalized by {score['normalizer']}; {padded_as(score)}. "
        f"Intervals by drawing {drawn} anew, with replacement."
    )


def _training(summary: Summary) -> dict[str, str]:
    skipped = f"{summary['skipped_steps']:,}, whose loss or gradient was not finite"
    early = "early, since no validation was better any more"
    return dict(figures(summary)) | {
        "base": summary["checkpoint_fingerprint"],
        **({"skipped steps": skipped} if summary["skipped_steps"] else {}),
        **({"ended": early} if summary["ended_early"] else {}),
    }


def _speech(summary: Summary) -> dict[str, str]:
    counts = summary["utterances"].items()
    facts = {
        "languages": ", ".join(summary["languages"]),
        "utterances": ", ".join(f"{count:,} {split}" for split, count in counts),
        "speakers": speakers_line(summary),
        "audio that did not decode": f"{summary['bad_audio']:,}" if summary["bad_audio"] else "",
    }
    for part, reasons in summary["left_out"].items():
        facts[f"left out of {part}"] = "; ".join(
            f"{count:,} {reason}" for reason, count in reasons.items()
        )
    return {name: fact for name, fact in facts.items() if fact}


def _environment(summary: Summary) -> dict[str, str]:
    known = summary["environment"]
    facts = {
        "processor": f"{known['processor']}, {known['cores']} cores, {known['threads']} threads",
        "GPU": ", ".join(known["gpus"]) or "none",
        "CUDA": known["cuda"] or "",
        "system": known["system"],
        "commit": known["commit"] or "",
        "seed": str(summary["seed"]),
    }
    return {name: fact for name, fact in (facts | summary["versions"]).items() if fact}


# ── samples ──────────────────────────────────────────────────────────────────────────────────


def _samples(folder: RunFolder, summary: Summary) -> list[Sample]:
    """Every utterance of the test set, in its order."""
    heard = {
        model: found
        for model in MODELS
        if summary[model] and (found := hypotheses_of(folder, model, summary[model]))
    }
    if not {"base", "adapter"} <= heard.keys() or len({*map(len, heard.values())}) > 1:
        return []
    rows = zip(*heard.values(), strict=True)
    return [Sample(dict(zip(heard, row, strict=True))) for row in rows]


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
