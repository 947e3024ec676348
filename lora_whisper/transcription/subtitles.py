"""A transcript as a file: text, subtitles that pysubs2 writes, a table, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pysubs2 import SSAEvent, SSAFile

from lora_whisper.transcription.results import Segment, Transcript


def rendered(transcript: Transcript, format: str) -> bytes:
    """In `text`, `srt`, `vtt`, `tsv` or `json`; UTF-8, lines ended by a line feed."""
    return WRITERS[format](transcript).encode("utf-8", "surrogatepass")


def _text(transcript: Transcript) -> str:
    """A segment a line."""
    lines = [segment.text for segment in transcript.segments]
    return "".join(f"{line}\n" for line in lines)


def _subtitles(transcript: Transcript, format: str, written: Callable[[str], str]) -> str:
    file = SSAFile()
    for segment in transcript.segments:
        start, end = _milliseconds(segment)
        event = SSAEvent(start=start, end=end)
        event.plaintext = written(segment.text)
        file.append(event)
    # Braces are what was said, and no tags of its own.
    return file.to_string(format, keep_ssa_tags=True)


def _srt(transcript: Transcript) -> str:
    return _subtitles(transcript, "srt", lambda text: text.replace("-->", "→"))


def _vtt(transcript: Transcript) -> str:
    """In which three characters are markup: https://www.w3.org/TR/webvtt1/#cue-text"""

    def escaped(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    return _subtitles(transcript, "vtt", escaped)


def _tsv(transcript: Transcript) -> str:
    """Start and end in milliseconds, and the text, as openai-whisper writes them."""
    lines = ["start\tend\ttext"]
    for segment in transcript.segments:
        start, end = _milliseconds(segment)
        lines.append(f"{start}\t{end}\t{segment.text.replace(chr(9), ' ')}")
    return "".join(f"{line}\n" for line in lines)


def _json(transcript: Transcript) -> str:
    """By the names that openai-whisper gives, as far as it has them; times in seconds."""
    values: dict[str, Any] = {
        "text": transcript.text,
        "language": transcript.language,
        "language_probability": transcript.language_probability,
        "duration": transcript.seconds,
        "segments": [_segment(index, one) for index, one in enumerate(transcript.segments)],
    }
    if transcript.remarks:
        values["remarks"] = list(transcript.remarks)
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def _segment(index: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": index,
        "start": segment.start_seconds,
        "end": segment.end_seconds,
        "text": segment.text,
        "temperature": segment.temperature,
        "avg_logprob": segment.mean_log_probability,
        "no_speech_prob": segment.no_speech_probability,
        "words": [
            {
                "word": word.text,
                "start": word.start_seconds,
                "end": word.end_seconds,
                "probability": word.probability,
            }
            for word in segment.words
        ],
    }


def _milliseconds(segment: Segment) -> tuple[int, int]:
    return round(1000 * segment.start_seconds), round(1000 * segment.end_seconds)


WRITERS: Mapping[str, Callable[[Transcript], str]] = {
    "text": _text,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
    "json": _json,
}
