"""From findings to what pages show: texts aligned, sound as MP3, the names of rows."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from lora_whisper.data.audio import AudioError, encode_mp3, read_audio
from lora_whisper.data.decisions import ACCEPT, REJECT, Decisions, row_names
from lora_whisper.data.quality_measures import Measured, audio_name
from lora_whisper.evaluation.metrics import align, separator
from lora_whisper.labels.examination import LabelReport
from lora_whisper.labels.findings import LabelFinding
from lora_whisper.labels.listening import Clip
from lora_whisper.reports.labels import LabelSection, ShownLabel

MOST_PLAYERS = 200  # of a page; 16 s of MP3 are about 60 kB


def section(
    report: LabelReport, measured: Mapping[str, Measured], decided: Decisions | None
) -> LabelSection:
    """What is shown of a report; `decided`: what was decided of these rows before."""
    names = {split: row_names(one.utterances) for split, one in measured.items()}
    shown = []
    for place, finding in enumerate(report.findings):
        sound = _sound(finding.clip) if place < MOST_PLAYERS else ""
        shown.append(_shown(finding, names, decided, sound))
    return LabelSection(
        report.utterances, report.not_heard, report.listener, report.settings, shown
    )


def _shown(
    finding: LabelFinding,
    names: Mapping[str, list[str]],
    decided: Decisions | None,
    sound: str,
) -> ShownLabel:
    clip, hypothesis = finding.clip, finding.evidence.hypothesis.text
    name, fits = names[clip.split][clip.number], finding.fits
    return ShownLabel(
        kind=finding.kind,
        certainty=round(finding.certainty, 3),
        place=finding.place or "",
        detail=finding.detail,
        split=clip.split,
        row=clip.utterance.row,
        file=audio_name(clip.utterance.audio),
        seconds=round(clip.seconds, 2),
        text=clip.utterance.text,
        hypothesis=hypothesis,
        name=name,
        text_of=_place(finding.text_of),
        better_text=fits.utterance.text if fits else "",
        fits=names[fits.split][fits.number] if fits else "",
        start_seconds=finding.start_seconds,
        end_seconds=finding.end_seconds,
        language=clip.language or "en",
        space=separator(clip.language),
        stretches=align(clip.utterance.text, hypothesis, clip.language),
        sound=sound,
        decision=_decision(name, decided),
    )


def _place(clip: Clip | None) -> str:
    return f"{clip.split}, {clip.utterance.row}" if clip else ""


def _decision(name: str, decided: Decisions | None) -> str:
    if decided is None:
        return ""
    return ACCEPT if name in decided.accepted else REJECT if name in decided.rejected else ""


def _sound(clip: Clip) -> str:
    utterance = clip.utterance
    try:
        samples = read_audio(utterance.audio, utterance.start_seconds, utterance.end_seconds)
    except AudioError:
        return ""
    return f"data:audio/mpeg;base64,{base64.b64encode(encode_mp3(samples)).decode()}"
