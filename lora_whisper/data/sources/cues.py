"""Cues of SubRip (.srt) and WebVTT (.vtt) files, strictly: what cannot be read is reported.

pysubs2 and other players' readers skip or join what they do not understand: a timing line with a
typo becomes part of the text before it. For training that is a wrong transcript, so here it is an
error. https://www.w3.org/TR/webvtt1/; SubRip has no standard.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lora_whisper.data.sources.rows import Problems, RowError, is_encodable, shown

ARROW = "-->"
_TIME = r"(?:(\d{1,4}):)?([0-5]\d):([0-5]\d[.,]\d{3})"
TIMING = re.compile(rf"\s*{_TIME}\s*{ARROW}\s*{_TIME}(?:\s.*)?", re.ASCII)
MARKUP = re.compile(
    r"</?(?:i|b|u|s|font|c|v|lang|ruby|rt)(?:[.\s][^>]*)?>"  # tags of HTML and WebVTT
    r"|<(?:\d+:)?\d\d:\d\d\.\d{3}>"  # WebVTT: when the next word is shown
    r"|\{\\[^}]*\}",  # SubStation: {\an8}
    re.IGNORECASE,
)
VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")  # WebVTT: who speaks
EXAMPLE = "00:00:01,500 --> 00:00:02,900"
NO_CUES = ("NOTE", "STYLE", "REGION")  # blocks of WebVTT that are not shown


@dataclass(frozen=True)
class Cue:
    """What is shown from `start` to `end`."""

    line: int  # of its timing
    start: float  # seconds
    end: float
    text: str  # as it stands, in one line or several

    @property
    def lines(self) -> list[str]:
        """Its lines without markup; dashes, notes and all else stay."""
        plain = html.unescape(MARKUP.sub("", self.text)).splitlines()
        return [" ".join(line.split()) for line in plain if line.strip()]

    @property
    def spoken(self) -> str:
        return " ".join(self.lines)

    @property
    def speaker(self) -> str | None:
        """Who speaks, if that is said and it is one."""
        voices = {html.unescape(voice).strip() for voice in VOICE.findall(self.text)}
        return voices.pop() if len(voices) == 1 else None


def read_cues(lines: Iterable[str], problems: Problems) -> list[Cue]:
    """All cues, in the order of the file; whatever else stands there is a problem."""
    cues = []
    for first, block in _blocks(lines):
        try:
            cues += _cues(first, block)
        except RowError as error:
            problems.add(first, error)
    return cues


def _blocks(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines between blank ones, with the number of the first.

    Automatic captions have a line of one space right below a timing, which ends no block.
    """
    block: list[str] = []
    number = 0
    for number, line in enumerate(lines, start=1):
        if line.strip() or (line.startswith(" ") and block and ARROW in block[-1]):
            block.append(line.rstrip("\r\n"))
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield number + 1 - len(block), block


def _cues(first: int, block: list[str]) -> list[Cue]:
    """The cue of a block; none of a heading or a note."""
    timings = [index for index, line in enumerate(block) if ARROW in line]
    if not timings:
        if (first == 1 and block[0].startswith("WEBVTT")) or block[0].split()[0] in NO_CUES:
            return []
        raise RowError(f"found {shown(block[0])} outside of any cue, expected {EXAMPLE} above it")
    if len(timings) > 1:
        raise RowError(f"found {len(timings)} timings in one cue, expected a blank line between")
    if timings[0] > 1:  # one line above may be the cue's number or name
        raise RowError(f"found {shown(block[1])} above the timing, expected a blank line between")
    text = "\n".join(block[timings[0] + 1 :])
    if not is_encodable(text) or "\0" in text:
        found = shown(text.encode("utf-8", "surrogateescape"))
        raise RowError(f"found {found}, expected text in UTF-8")
    return [Cue(first + timings[0], *_times(block[timings[0]]), text)]


def _times(timing: str) -> tuple[float, float]:
    match = TIMING.fullmatch(timing)
    if match is None:
        raise RowError(f"found {shown(timing)}, expected {EXAMPLE}")
    start, end = _seconds(*match.groups()[:3]), _seconds(*match.groups()[3:])
    if end <= start:
        raise RowError(f"found {shown(timing)}, expected an end after the start")
    return start, end


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60
    return round(whole + float(seconds.replace(",", ".")), 3)
