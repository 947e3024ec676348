"""Long recordings with subtitles beside them: each cue is an utterance with its own boundaries.

`talk.mp4` goes with `talk.srt` or `talk.vtt`, or with `talk.sw.srt`, where a part of the name is
the language that the subtitles are in. Cues that overlap become one utterance, since neither text
alone is what is heard; empty ones are left out. Both are logged.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lora_whisper.data.dataset import Row, folder_split, table_key
from lora_whisper.data.sources.records import open_text
from lora_whisper.data.sources.rows import (
    READERS_VERSION,
    BadRows,
    Part,
    RowError,
    excerpt,
    is_encodable,
)
from lora_whisper.errors import UserError, listing

log = logging.getLogger("lora_whisper")

SUBTITLES = (".srt", ".vtt")
RECORDINGS = (
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".m4a", ".aac", ".wma", ".aif", ".aiff"),
    *(".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ts", ".3gp", ".amr"),
)
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-\w+)*", re.IGNORECASE)  # "sw", "en-US"
OVERLAP_SECONDS = 0.2  # of two cues, less than a word; where it is more, they are joined
GAP_SECONDS = 30.0  # a window of Whisper: what was said longer ago is no prompt for what follows
ROLLING_SHARE = 0.5  # of the cues that repeat the line before, from which on it is no accident


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
class Pair:
    """A recording and its subtitles."""

    recording: Path
    subtitles: Path
    language: str | None  # "sw" of talk.sw.srt
    split: str | None  # that a folder above them is called like


def rows(
    folder: Path, pairs: tuple[Pair, ...], alone: tuple[str, ...] = (), drop_bad: bool = False
) -> Iterator[Row]:
    """The cues of one file of subtitles after the other; `alone` are files with no counterpart.

    Raises:
        UserError: one cannot be read, or has cues that cannot be used, where these are not dropped:
            all of them.
    """
    changes: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        label = pair.subtitles.relative_to(folder).as_posix()
        before: Cue | None = None
        for cue in _usable(_cues_of(pair, label, drop_bad), label, changes):
            yield _row(cue, before, pair, label)
            before = cue
    for change, places in changes.items():
        log.warning("%-11s %d cues %s: %s", "subtitles", len(places), change, _few(places))
    if alone:
        log.warning(
            "%-11s %d files are left out, recordings without subtitles or subtitles without a "
            "recording: %s",
            *("subtitles", len(alone), _few(alone)),
        )


def parts(
    folder: Path, language: str | None = None, task: str = "transcribe", drop_bad: bool = False
) -> list[Part]:
    """All recordings of a folder, and of its sub-folders, that have subtitles.

    Args:
        language: what is spoken, by code or name; None: what the files' names say.
        task: to translate, subtitles are English.
        drop_bad: leave out cues that cannot be used.

    Raises:
        UserError: no such folder, no subtitles in it, or not clear which belong to a recording.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "is missing"
        raise UserError(f"data.path={folder} {found}. Expected a folder with {_kinds()}.")
    folder = folder.absolute()
    pairs, alone = _pairs(folder, language, task)
    files = [each.subtitles for each in pairs]
    key = table_key("subtitles", READERS_VERSION, files, (pairs, drop_bad))
    return [Part("", str(folder), key, partial(rows, folder, pairs, alone, drop_bad))]


# ── cues ─────────────────────────────────────────────────────────────────────────────────────


def _cues_of(pair: Pair, label: str, drop_bad: bool) -> list[Cue]:
    problems = BadRows(label)
    with open_text(pair.subtitles, f"Expected {_kinds()}.") as file:
        cues = read_cues(file, problems)
    if drop_bad:
        problems.warn(f"The file {pair.subtitles}", "block", "and are left out")
    else:
        problems.refuse(
            f"The file {pair.subtitles}",
            "block",
            "A cue is its number, its times, and its text; a blank line stands between two of "
            "them. data.bad_audio=drop leaves out what is none.",
        )
    rolling = sum(map(_repeats, cues, cues[1:]))
    if rolling > 2 and rolling >= ROLLING_SHARE * (len(cues) - 1):
        raise UserError(
            f"The subtitles {pair.subtitles} roll: {rolling} of {len(cues)} cues repeat the line "
            "before, as automatic captions do, so that the text is not what is said in their "
            "time. Expected subtitles that were made for reading, each line in one cue."
        )
    return cues


def _repeats(before: Cue, cue: Cue) -> bool:
    """Whether a line goes on from one to the other: it is still shown, but not said again.

    Of two cues of one line each, the second one may well be said again.
    """
    longer = max(len(before.lines), len(cue.lines))
    return longer > 1 and before.lines[-1:] == cue.lines[:1]


def _usable(cues: list[Cue], label: str, changes: dict[str, list[str]]) -> Iterator[Cue]:
    """Cues with text, in the order of time, none in another; notes what was done for that."""
    in_order = sorted(cues, key=lambda cue: cue.start)
    for cue, sorted_cue in zip(cues, in_order, strict=True):
        if cue is not sorted_cue:
            changes["out of order, sorted by time"].append(f"{label}:{cue.line}")
    current: Cue | None = None
    for cue in in_order:
        if not cue.spoken:
            changes["without text, left out"].append(f"{label}:{cue.line}")
        elif current is not None and current.end - cue.start > OVERLAP_SECONDS:
            changes["joined with those they overlap"].append(f"{label}:{cue.line}")
            text = f"{current.text}\n{cue.text}"
            current = replace(current, end=max(current.end, cue.end), text=text)
        else:
            if current is not None:
                yield current
            current = cue
    if current is not None:
        yield current


def _row(cue: Cue, before: Cue | None, pair: Pair, label: str) -> Row:
    has_context = before is not None and cue.start - before.end <= GAP_SECONDS
    columns = {
        "audio": str(pair.recording),
        "text": cue.spoken,
        "start": cue.start,
        "end": cue.end,
        "speaker": cue.speaker,
        "subtitles": label,
    }
    return Row(
        place=f"{label}:{cue.line}",
        audio=str(pair.recording),
        text=cue.spoken,
        language=pair.language,
        task=None,
        start=cue.start,
        end=cue.end,
        speaker=cue.speaker,
        previous_text=before.spoken if before is not None and has_context else None,
        split=pair.split,
        columns=json.dumps(columns, ensure_ascii=False),
    )


# ── which subtitles belong to which recording ────────────────────────────────────────────────


def _pairs(
    folder: Path, language: str | None, task: str
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Each recording with its subtitles; and the names of all files without a counterpart."""
    recordings, subtitles = _files(folder)
    beside: dict[str, dict[Path, str | None]] = defaultdict(dict)  # stem → files, their language
    for path in subtitles:
        stem = str(path.with_suffix(""))  # "talk", or "talk.sw"
        shorter, _, code = stem.rpartition(".")
        if stem not in recordings and LANGUAGE.fullmatch(code):
            beside[shorter][path] = code.lower().partition("-")[0]
        else:
            beside[stem][path] = None
    is_code = language is not None and LANGUAGE.fullmatch(language)
    wanted = "en" if task == "translate" else language.lower() if language and is_code else None
    pairs, problems = [], []
    for stem in filter(recordings.__contains__, beside):
        try:
            recording, file = _pair(recordings[stem], beside[stem], wanted)
        except RowError as error:
            problems.append(str(error))
        else:
            named = beside[stem][file] if language is None else None
            pairs.append(Pair(recording, file, named, folder_split(recording.parent, folder)))
    if problems:
        raise UserError(f"The subtitles in {folder} are not clear:\n{listing(problems)}")
    if not pairs:
        raise UserError(
            f"The folder {folder} has {len(recordings)} recordings and {len(subtitles)} subtitles, "
            f"but none that belong together. Expected {_kinds()}."
        )
    alone = [path for stem, found in beside.items() if stem not in recordings for path in found]
    alone += [same[0] for stem, same in recordings.items() if stem not in beside]
    return tuple(pairs), tuple(path.relative_to(folder).as_posix() for path in alone)


def _files(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Recordings by path without suffix, and subtitles; in the order of their names."""
    recordings: dict[str, list[Path]] = defaultdict(list)
    subtitles = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(root, name) for name in sorted(names)):
            if path.suffix.lower() in RECORDINGS:
                recordings[str(path.with_suffix(""))].append(path)
            elif path.suffix.lower() in SUBTITLES:
                subtitles.append(path)
    return dict(recordings), subtitles


def _pair(
    recordings: list[Path], candidates: dict[Path, str | None], wanted: str | None
) -> tuple[Path, Path]:
    """The recording and the one file of subtitles that is in the language asked for."""
    names = ", ".join(path.name for path in candidates)
    if len(recordings) > 1:
        both = " and ".join(path.name for path in recordings)
        raise RowError(f"{both} both go with {names}; expected one recording")
    fitting = [path for path, language in candidates.items() if wanted in (None, language)]
    fitting = fitting or [path for path, language in candidates.items() if language is None]
    if len(fitting) != 1:
        raise RowError(
            f"{recordings[0].name} has {names}; expected one, in the language "
            f"{wanted or 'asked for'} (data.language=CODE)"
        )
    return recordings[0], fitting[0]


def _kinds() -> str:
    return "recordings with subtitles of the same name: talk.mp4 and talk.srt, or talk.vtt"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


# ── cues of SubRip (.srt) and WebVTT (.vtt) files ────────────────────────────────────────────────

# Strictly: what cannot be read is reported. pysubs2 and other players' readers skip or join what
# they do not understand: a timing line with a typo becomes part of the text before it. For
# training that is a wrong transcript. https://www.w3.org/TR/webvtt1/; SubRip has no standard.


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


def read_cues(lines: Iterable[str], problems: BadRows) -> list[Cue]:
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
        raise RowError(f"found {excerpt(block[0])} outside of any cue, expected {EXAMPLE} above it")
    if len(timings) > 1:
        raise RowError(f"found {len(timings)} timings in one cue, expected a blank line between")
    if timings[0] > 1:  # one line above may be the cue's number or name
        raise RowError(f"found {excerpt(block[1])} above the timing, expected a blank line between")
    text = "\n".join(block[timings[0] + 1 :])
    if not is_encodable(text) or "\0" in text:
        found = excerpt(text.encode("utf-8", "surrogateescape"))
        raise RowError(f"found {found}, expected text in UTF-8")
    return [Cue(first + timings[0], *_times(block[timings[0]]), text)]


def _times(timing: str) -> tuple[float, float]:
    match = TIMING.fullmatch(timing)
    if match is None:
        raise RowError(f"found {excerpt(timing)}, expected {EXAMPLE}")
    start, end = _seconds(*match.groups()[:3]), _seconds(*match.groups()[3:])
    if end <= start:
        raise RowError(f"found {excerpt(timing)}, expected an end after the start")
    return start, end


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60
    return round(whole + float(seconds.replace(",", ".")), 3)
