"""What an export's trial prints: its scores beside those of the models that it comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lora_whisper.evaluation.results import ParityResult, rate_name
from lora_whisper.reports.summary import score_table
from lora_whisper.terminal import console, counted


def show_parity(found: Sequence[ParityResult], quantization: str) -> None:
    """A table of all that was heard with each padding, and a verdict on each export."""
    for padding in dict.fromkeys(one.padding for one in found):
        scores = {
            model: score
            for one in found
            if one.padding == padding
            for model, score in one.scores.items()
        }
        heard = counted(found[0].utterances, "utterance")
        title = f"{heard}, heard greedily, padded {padding}"
        console.print()
        console.print(score_table(title, scores, quantization).terminal())
    skipped = dict.fromkeys(one.skipped for one in found if one.skipped)
    if skipped:
        unusual = next(one.unusual for one in found if one.unusual)
        _say(
            "note",
            f"not run by {', '.join(skipped)}, for which every Whisper hears 30 s and has one of "
            f"three vocabularies; this one has {unusual}. Below that, they computed it with "
            "prompts and features of ours",
        )
    for one in found:
        *_, name = one.scores
        rate = rate_name(one.scores[name], one.rate)
        points, limit = 100 * one.difference, 100 * one.tolerance
        same = f"{one.identical} of {one.utterances} texts the same"
        _say(
            "parity" if one.is_within else "DIFFERS",
            f"{name} in {one.consumer}: {rate} {points:+.1f} points from {one.reference} "
            f"(tolerance {limit:g}), {same}",
        )
        _say("", _other_padding(one))
        if one.below is not None:
            _say("", _diagnosis(one.below))


def _other_padding(found: ParityResult) -> str:
    """`it pads the log-mel; with padded sound, merged is at -0.2 points, 25 of 48 texts …`"""
    other = found.other_padding
    same = f"{other.identical} of {found.utterances} texts the same"
    points = f"{100 * other.difference:+.1f} points"
    return (
        f"it pads the {found.padding}; with padded {other.padding}, {found.reference} "
        f"is at {points}, {same}"
    )


def _diagnosis(below: ParityResult) -> str:
    """Whether it is the weights that differ, or how the program goes about it."""
    points = f"{100 * below.difference:+.1f} points"
    same = f"{below.identical} of {below.utterances} texts the same"
    if below.is_within:
        return (
            f"the weights are right: with prompts and features of ours, {below.consumer} is at "
            f"{points}, {same}. It is the program around it that hears otherwise"
        )
    return f"below the program, with prompts and features of ours, it is the same: {points}, {same}"


def _say(name: str, text: str) -> None:
    lines = textwrap.wrap(text, console.width - 12)
    console.print(f"{name:12}" + f"\n{'':12}".join(lines), markup=False)
