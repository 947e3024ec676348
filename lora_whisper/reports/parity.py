"""What an export's trial prints: its scores beside those of the models that it comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lora_whisper.evaluation.parity import ParityResult
from lora_whisper.evaluation.results import rate_name
from lora_whisper.reports.summary import score_table
from lora_whisper.terminal import console, counted


def show_parity(results: Sequence[ParityResult], quantization: str) -> None:
    """A table of all that was transcribed with each padding, and a verdict on each export."""
    for padding in dict.fromkeys(one.padding for one in results):
        scores = {
            model: score
            for one in results
            if one.padding == padding
            for model, score in one.scores.items()
        }
        utterances = counted(results[0].utterances, "utterance")
        console.print()
        title = f"{utterances}, transcribed greedily, padded {padding}"
        console.print(score_table(title, scores, quantization).terminal())
    skipped = dict.fromkeys(one.skipped for one in results if one.skipped)
    if skipped:
        unusual = next(one.unusual for one in results if one.unusual)
        _say(
            "note",
            f"not run by {', '.join(skipped)}, for which every Whisper has windows of 30 s and one "
            f"of three vocabularies; this one has {unusual}. Below that, they computed it with "
            "prompts and features of ours",
        )
    for one in results:
        _say_verdict(one)


def _say_verdict(one: ParityResult) -> None:
    """How far the export is from the model, what the padding costs, and what else it could be."""
    *_, name = one.scores
    rate, limit = rate_name(one.scores[name], one.rate), 100 * one.tolerance
    same = f"of {one.utterances} texts the same"
    points = f"{100 * one.difference:+.1f} points from {one.reference}"
    _say(
        "parity" if one.is_within else "DIFFERS",
        f"{name} in {one.consumer}: {rate} {points} (tolerance {limit:g}), {one.identical} {same}",
    )
    other, below = one.other_padding, one.below
    _say(
        "",
        f"it pads the {one.padding}; with padded {other.padding}, {one.reference} is at "
        f"{100 * other.difference:+.1f} points, {other.identical} {same}",
    )
    if below is not None:  # whether it is the weights that differ, or the program around them
        points = f"{100 * below.difference:+.1f} points, {below.identical} {same}"
        ours = "with prompts and features of ours"
        _say(
            "",
            f"the weights are right: {ours}, {below.consumer} is at {points}. "
            "It is the program around it that transcribes otherwise"
            if below.is_within
            else f"below the program, {ours}, it is the same: {points}",
        )


def _say(name: str, text: str) -> None:
    lines = textwrap.wrap(text, console.width - 12)
    console.print(f"{name:12}" + f"\n{'':12}".join(lines), markup=False)
