"""`summary.json`, and the table that a run ends with."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from lora_whisper.evaluation.results import (
    Rate,
    Score,
    both_rates,
    groups_of,
    interval,
    leading,
    rate_name,
    units_of,
)
from lora_whisper.evaluation.run_summary import RunSummary, read_summary
from lora_whisper.evaluation.scored_words import cautions
from lora_whisper.paths import EMBEDDED, mapped, program, short
from lora_whisper.reports.capabilities import losses, nothing_lost
from lora_whisper.reports.tables import Column, Table
from lora_whisper.run_config import default_values, written_values
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import (
    clock,
    console,
    counted,
    gigabytes,
    hanging,
    megabytes,
    passes,
    percent,
)

log = logging.getLogger("lora_whisper")

MERGE_TOLERANCE = 0.002  # of WER; in fp32 there is no difference, bf16 or nf4 may flip a word
REPEATED = 0.5  # insertions for each word of the references, from which on that is said
ALWAYS_OTHER = {"name", "overwrite", "resume"}  # say nothing about the adapter
EMBEDDED_NOTE = "nano is tiny and trained on synthetic speech, to show the pipeline"


def show_summary(folder: RunFolder, base: str | None = None) -> None:
    """Print what a run gave: scores, sizes, times, files, and what to type next.

    Args:
        base: that was typed, since the run's own was renamed: it is to be typed again.
    """
    summary = read_summary(folder)
    known = summary.base or summary.adapter
    console.print()
    if known is None:
        console.print("Nothing was scored: the run has no data.test.")
    else:
        words = f"{known.reference_words} {known.units}"
        how = f"normalizer {known.normalizer}, padded {known.padding}"
        title = f"{summary.name}: {words}, {how}"
        console.print(score_table(title, summary.scores, summary.quantization).terminal())
    lines = figures(summary) + remarks(summary)
    if summary.card and (said := nothing_lost(summary.card)):
        lines.append(("note", f"{said}; the report names them"))
    for name, text in lines:
        line = hanging(f"{name:11} {text}", console.width)
        console.print(line, markup=False, soft_wrap=True)
    is_embedded = summary.checkpoint.startswith(EMBEDDED)
    for line in _files(folder, is_embedded, base):
        console.print(line, markup=False, soft_wrap=True)  # commands are pasted as they stand


def score_table(
    title: str, scores: Mapping[str, Score | None], quantization: str, is_of_page: bool = False
) -> Table:
    """Both rates, with the interval of the leading one; of each model and each of its groups.

    Args:
        is_of_page: whether there is room for the number of words, and for the rate as written.
    """
    known = {model: score for model, score in scores.items() if score is not None}
    one = next(iter(known.values()), None)
    first, second = (rate_name(one, rate) for rate in both_rates(leading(one)))
    headings = [first, "95 % interval", second, "utterances"]
    headings += [units_of(one), f"{first} as written"] * is_of_page
    table = Table([Column(is_text=True), *map(Column, headings)], title)

    def cells(score: Score, rates: tuple[Rate, Rate]) -> list[str]:
        first, second = rates
        bounds = interval(score.ci95(first))
        both = [percent(score.rate(first)), bounds, percent(score.rate(second))]
        written = percent(getattr(score, f"{first}_orthographic"))
        of_page = [f"{score.reference_words:,}", written] * is_of_page
        return [*both, str(score.utterances), *of_page]

    for model, score in known.items():
        rates = both_rates(score.leading)
        name = model_name(model, quantization)
        table.add(name, *cells(score, rates), style="bold", starts_section=True)
        for label, group in groups_of(score):
            table.add(f"  {label}", *cells(group, rates), kind="group")
    return table


def model_name(model: str, quantization: str) -> str:
    """The base and the adapter are scored on quantized weights, the merged model never is."""
    is_rounded = quantization != "none" and model != "merged"
    return f"{model} ({quantization})" if is_rounded else model


def speakers_line(summary: RunSummary) -> str:
    """Whether the voices of the test set are new; empty where its rows name no speakers."""
    tested, seen = summary.test_speakers, summary.test_speakers_in_training
    return f"{seen:,} of the test set's {tested:,} speakers are seen in training" if tested else ""


def texts_line(summary: RunSummary) -> str:
    """Whether the test set's texts are new; empty where they are, or nobody has looked."""
    known, tested = summary.test_texts_in_training, summary.utterances.get("test", 0)
    of = f"{known or 0:,} of the test set's {tested:,} utterances"
    return f"{of} have a text that is trained on" if known else ""


def _bits(size_bytes: int, parameters: int) -> str:
    """How many bits a number has in a file of such a size, where it is plainly one of the usual."""
    share = 8 * size_bytes / max(1, parameters)
    usual = next((bits for bits in (16, 32) if abs(share / bits - 1) < 0.1), None)
    return f" ({usual} bits)" if usual else ""


def figures(summary: RunSummary) -> list[tuple[str, str]]:
    """What a run cost and what it came to, each figure with its name."""
    adapter, model = summary.adapter_bytes, summary.model_bytes
    trainable, total = summary.trainable_parameters, summary.total_parameters
    rank, of_adapter = shipped_rank(summary), _bits(adapter, trainable)
    of_model = _bits(model, total - trainable)
    lines = [
        (
            "size",
            f"adapter {megabytes(adapter)}{of_adapter}, rank {rank}; "
            f"model {megabytes(model)}{of_model}: {percent(adapter / model)}",
        ),
        ("parameters", f"{trainable:,} of {total:,} trained ({percent(trainable / total)})"),
        ("speech", amount_of_speech(summary)),
        (
            "time",
            f"{clock(summary.train_seconds)} for {counted(summary.steps, 'step')}, "
            f"adapter of {origin(summary)}",
        ),
    ]
    if summary.scoring_seconds is not None:  # which is none of the time above
        asked = ", with the card of base and adapter" if summary.card else ""
        lines.append(("scoring", f"{clock(summary.scoring_seconds)} more{asked}"))
    if (kept := summary.encoder_cache) is not None:
        layers = f"the first {counted(kept.layers, 'layer')} not in the steps"
        computed = f"computed once, in {clock(kept.seconds)}" if kept.seconds else "read"
        size = f"{megabytes(kept.size_bytes)} in {kept.dtype}"
        lines.append(("encoder", f"{layers}: {computed}, {size}"))
    validation_seconds = summary.validation_seconds
    if validation_seconds is not None:  # which older runs lack, as the memory
        training_seconds = max(summary.train_seconds - validation_seconds, 1e-9)
        speed = summary.train_audio_seconds_seen / training_seconds
        validation = f"validation took {clock(validation_seconds)} of the time"
        lines.append(("speed", f"{speed:.1f} audio s/s in training; {validation}"))
        if summary.gpu_memory_bytes is not None:
            lines.append(("memory", f"{gigabytes(summary.gpu_memory_bytes)} at most of the GPU"))
        elif summary.resident_memory_bytes is not None:
            lines.append(("memory", f"{gigabytes(summary.resident_memory_bytes)} at most"))
    return lines


def amount_of_speech(summary: RunSummary, utterances: str = "") -> str:
    """`2.10 h in 463 utterances, seen 3 times`; of a stream, what was read."""
    seconds, seen_seconds = summary.train_audio_seconds, summary.train_audio_seconds_seen
    if not seconds:
        return f"{seen_seconds / 3600:.2f} h of a stream"
    return f"{seconds / 3600:.2f} h{utterances}, seen {passes(seen_seconds / seconds)} times"


def shipped_rank(summary: RunSummary) -> str:
    """`16`, or `4 – 32` where layers differ; older summaries do not say."""
    lowest, highest = summary.adapter_ranks or ("?", "?")
    return str(highest) if lowest == highest else f"{lowest} – {highest}"


def origin(summary: RunSummary) -> str:
    """The step whose adapter ships, or the steps whose mean does."""
    if summary.shipped_mean is None:
        return f"step {summary.adapter_step}"
    return f"the mean of steps {', '.join(map(str, summary.shipped_mean.steps))}"


def remarks(summary: RunSummary) -> list[tuple[str, str]]:
    """What has to be said beside the scores: a warning or a note, and its text."""
    lines = []
    base, adapter, merged = summary.base, summary.adapter, summary.merged
    rate = leading(adapter)
    if base and adapter and adapter.rate(rate) >= base.rate(rate):
        lines.append(("warning", "the adapter is no better than its base on this test set"))
    elif base and adapter and adapter.ci95(rate)[1] >= base.ci95(rate)[0]:
        text = f"the intervals of base and adapter overlap, over {adapter.utterances} utterances"
        lines.append(("note", f"{text}: evaluate compares the two on each of them"))
    if adapter and merged:
        apart = abs(merged.rate(rate) - adapter.rate(rate))
        if apart > MERGE_TOLERANCE:
            points = f"{100 * apart:.1f} points"
            text = f"the merged model's {rate_name(adapter, rate)} is {points} off the adapter's"
            if summary.quantization != "none" and (summary.merge or {}).get("into") == "full":
                kind = summary.quantization
                text += f", which was trained on weights in {kind}, and merged into full ones"
            lines.append(("warning", text))
    if summary.card and (lost := losses(summary.card)):
        lines.append(("warning", f"lost for certain: {lost}"))
    if caution := cautions(summary.scores):
        lines.append(("warning", caution))
    for model, score in summary.scores.items():
        # One text that goes round in a loop can be most of a rate, which is none of recognition.
        if score is not None and score.insertions > REPEATED * score.reference_words:
            without = (score.substitutions + score.deletions) / max(1, score.reference_words)
            text = (
                f"{model} wrote {score.insertions:,} {score.units} that nobody said, beside "
                f"{score.reference_words:,} that were: it repeats itself. Without them its WER is "
                f"{percent(without)}"
            )
            lines.append(("note", text))
    lines += _merge_remarks(summary)
    if summary.skipped_steps:
        lines.append(("warning", f"{summary.skipped_steps} steps were skipped, as train.log says"))
    if summary.ended_early:
        lines.append(("note", f"training.patience ended training at step {summary.steps}"))
    if summary.checkpoint.startswith(EMBEDDED):
        lines.append(("note", EMBEDDED_NOTE))
    return lines


def _merge_remarks(summary: RunSummary) -> list[tuple[str, str]]:
    """In what the merged model is another than the whole adapter in the base of its training."""
    made_of, lines = summary.merge, []
    if made_of is None:
        return []
    scale, base = made_of["adapters"][0]["weight"], made_of["base"]
    if scale != 1:
        lines.append(("note", f"the merged model has {scale:g} times what the adapter adds"))
    if made_of["into"] != "full":
        lines.append(("note", "the merged model's base is the weights as nf4 had them"))
    trained = {summary.checkpoint_fingerprint, f"sha256:{summary.checkpoint_sha256}"}
    if base["fingerprint"] not in trained:
        exact = base["fingerprint"].replace(":", " ")
        lines.append(("warning", f"the merged model's base is {base['name']} ({exact})"))
    return lines


def _files(folder: RunFolder, is_embedded: bool, base: str | None) -> list[str]:
    run = shlex.quote(f"run={short(folder.path)}")
    lines = ["", f"adapter     {short(folder.adapter)}"]
    if folder.report.is_file():  # which older runs lack
        lines.append(f"report      {short(folder.report)}")
    if not folder.merged.is_dir():
        return [*lines, f"next        {program()} merge {run}"]
    lines.append(f"merged      {short(folder.merged)}")
    if is_embedded:
        return [
            *lines,
            "next        your own speech, and a model that you choose:",
            f"  {program()} train model=large-v3 name=mine data.language=sw \\",
            "    data.train=a.jsonl data.validation=b.jsonl data.test=c.jsonl",
        ]
    typed = run if base is None else f"{run} {shlex.quote(f'base={base}')}"
    return [
        *lines,
        "next        what the model is worth elsewhere, another program, or the hub:",
        f"  {program()} evaluate {typed}",
        f"  {program()} export {typed} format=ctranslate2",
        f"  {program()} push {run} what=merged repo=owner/name",
    ]


# ── the configuration ────────────────────────────────────────────────────────────────────────


def changes(config: str, path: Callable[[str], str]) -> list[tuple[str, str, str]]:
    """Each key that is not as in `lora-whisper train` with nothing typed, its value and default.

    Args:
        config: YAML of the run.
        path: how a text that may be a path is shown, `below_home` or `file_name`.
    """
    values, default = written_values(config), default_values()
    return [
        (key, _shown(mapped(value, path)), _shown(default.get(key)))
        for key, value in values.items()
        if value != default.get(key) and key not in ALWAYS_OTHER
    ]


def _shown(value: Any) -> str:
    """On one line, as it is typed: null, true, 0.1"""
    line = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return line.removesuffix("...\n").strip()
