"""Clips longer than the model's window, cut into pieces whose text is known. Never a guess.

What a row says of its boundaries goes first: timestamp tokens in its text, or the columns
`segments` or `words` as Whisper and WhisperX write them. Else the clip is cut where a pause and the
end of a clause are each other's only likely partner. `benchmarks/data_long_audio.py` measures how
many pieces of real speech so cut have exactly their own text.
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite
from typing import Any

import numpy as np

from lora_whisper.data.audio import SHORTEST_SECONDS, read_audio, read_header, slice_seconds
from lora_whisper.data.dataset import Utterance
from lora_whisper.model.published import SAMPLING_RATE

TIMESTAMP = re.compile(r"<\|(\d+(?:\.\d+)?)\|>")
# The end of a clause, with the brackets and quotation marks that close behind it. Latin marks stand
# in numbers and abbreviations too: theirs need a space.
CLOSING = r"[\"'»”’)\]」』）]*"  # noqa: RUF001
CLAUSE_END = re.compile(
    rf"[.,;:?!…،؛؟۔।॥።፣፤၊။]+{CLOSING}(?=\s)|[。，、；：？！]+{CLOSING}"  # noqa: RUF001
)
SENTENCE_MARKS = set(".?!…؟۔।॥።။。？！")  # noqa: RUF001
PADDING_SECONDS = 0.2  # of the silence between two segments that stays with a piece
ROUNDING_SECONDS = 0.02  # the resolution of Whisper's timestamps
DIGIT_LETTERS = 3.7  # a digit takes as long to say; fitted, as below, to 150 clips of real speech

# How far speech is from its text's even share: after t of T seconds, by a standard deviation of
# DRIFT · √(t · (T - t) / T). Real: 0.27, measured on 594 ends of sentences in joined clips.
DRIFT = 0.3
DETECTION_SECONDS = 0.15
PAUSE_AFTER_SENTENCE = 0.95  # probability that it is long enough to be found
PAUSE_AFTER_CLAUSE = 0.3
# A sentence's pause is longer than those inside of it (real: 0.8 s against 0.4 s, of which there
# are 4.5 a sentence), so longer ones are the likelier partners; beyond 1.5 s, all are.
TYPICAL_PAUSE_SECONDS = 0.4
LONGEST_PAUSE_SECONDS = 1.5
LENGTH_EXPONENT = 3
CERTAIN = 0.95  # with it 96 … 100 % of the pieces are right; see the benchmark

FRAME_SAMPLES = 160  # 10 ms
SHORTEST_PAUSE_SECONDS = 0.3
SHORTEST_SOUND_SECONDS = 0.1  # shorter ones are clicks, and do not end a pause
QUIET_SHARE = 0.35  # of the way from the floor to the level of speech, in dB
DEEPEST_FLOOR_DB = 40.0  # below speech: the zeros of an edited clip are not its floor
LOWEST_RANGE_DB = 15.0  # with a floor nearer to speech, energy does not tell them apart


@dataclass(frozen=True)
class Piece:
    """A piece of a clip; seconds are counted from the clip's beginning."""

    text: str
    start_seconds: float
    end_seconds: float

    @property
    def seconds(self) -> float:
        return self.end_seconds - self.start_seconds


def split_long(
    utterance: Utterance, window_seconds: float, by_pauses: bool = True
) -> list[Utterance] | None:
    """Cut a clip into pieces of at most `window_seconds`, in order; None where no cut is certain.

    Args:
        by_pauses: where the row states no boundaries, look for cuts in the sound.

    Raises:
        AudioError: the clip does not decode (it is decoded only to find pauses in it).
    """
    duration_seconds = utterance.duration_seconds
    if duration_seconds <= 0:
        times = utterance.start_seconds, utterance.end_seconds
        start, end = slice_seconds(utterance.audio, read_header(utterance.audio), *times)
        duration_seconds = end - start
    parts: Sequence[Piece] | None
    if not utterance.text.strip():  # where nothing is said, any cut is right
        count = ceil(duration_seconds / window_seconds)
        edges = np.linspace(0.0, duration_seconds, count + 1).tolist()
        parts = [Piece("", start, end) for start, end in pairwise(edges)]
    else:
        parts = _by_boundaries(utterance, duration_seconds, window_seconds)
        if parts is None and by_pauses and not TIMESTAMP.search(utterance.text):
            parts = _by_pauses(utterance, duration_seconds, window_seconds)
    if parts is None or any(part.seconds < SHORTEST_SECONDS for part in parts):
        return None
    return list(_pieces(utterance, parts))


def _pieces(utterance: Utterance, parts: Sequence[Piece]) -> Iterator[Utterance]:
    begin_seconds = utterance.start_seconds or 0.0
    previous_text = utterance.previous_text
    columns = {
        name: value
        for name, value in utterance.columns.items()
        if name not in ("segments", "words")
    }
    for number, part in enumerate(parts):
        yield dataclasses.replace(
            utterance,
            text=part.text,
            start_seconds=begin_seconds + part.start_seconds,
            end_seconds=begin_seconds + part.end_seconds,
            duration_seconds=part.seconds,
            row=f"{utterance.row}[{number}]",
            columns=columns,
            previous_text=previous_text,
        )
        previous_text = part.text


# ── boundaries that the row states ───────────────────────────────────────────────────────────


def _by_boundaries(
    utterance: Utterance, duration_seconds: float, window_seconds: float
) -> list[Piece] | None:
    """As few pieces as the boundaries allow, by the first column whose boundaries can be used."""
    text = TIMESTAMP.sub("", utterance.text)
    for parts in (
        _of_tokens(utterance.text),
        _of_column(utterance.columns.get("segments")),
        _of_column(utterance.columns.get("words")),
    ):
        if parts and _is_sound(parts, text, duration_seconds):
            # No cut is between parts that overlap; others are joined as far as the window goes.
            whole = _joined(
                parts,
                lambda last, part: part.start_seconds < last.end_seconds - ROUNDING_SECONDS,
            )
            groups = _joined(
                whole,
                lambda last, part: part.end_seconds - last.start_seconds <= window_seconds,
            )
            if all(group.seconds <= window_seconds for group in groups):
                return _padded(_with_text_of(groups, text), duration_seconds, window_seconds)
    return None


def _of_tokens(text: str) -> list[Piece]:
    """`<|0.00|> one <|2.40|><|2.40|> two <|5.00|>`; what no pair encloses spoils them all."""
    pieces = TIMESTAMP.split(text)
    texts, times = pieces[::2], [float(time) for time in pieces[1::2]]
    if texts[0].strip() or texts[-1].strip():
        return []
    between = zip(texts[1:-1], pairwise(times), strict=True)
    return [Piece(text, start, end) for text, (start, end) in between if text.strip()]


def _of_column(value: Any) -> list[Piece]:
    """The parts of a list of {start, end, text or word}; nothing where it is something else.

    WhisperX gives no time to words that it cannot place, as "2014": they join both sides.
    """
    parts: list[Piece] = []
    waiting = ""
    try:
        for row in map(dict, json.loads(value) if isinstance(value, str) else value):
            text = str(row["word"] if "word" in row else row["text"])
            if row.get("start") is None or row.get("end") is None:
                waiting += f" {text}"
                continue
            text = f"{waiting} {text}"
            if waiting and parts:
                before = parts.pop()
                parts.append(Piece(before.text + text, before.start_seconds, float(row["end"])))
            else:
                parts.append(Piece(text, float(row["start"]), float(row["end"])))
            waiting = ""
    except (TypeError, ValueError, KeyError):
        return []
    if waiting and parts:
        parts[-1] = dataclasses.replace(parts[-1], text=parts[-1].text + waiting)
    return parts


def _is_sound(parts: Sequence[Piece], text: str, duration_seconds: float) -> bool:
    """Boundaries of this very text, in order, inside the clip."""
    latest = duration_seconds + ROUNDING_SECONDS
    in_time = all(
        isfinite(part.seconds) and 0 <= part.start_seconds <= part.end_seconds <= latest
        for part in parts
    )
    in_order = all(
        one.start_seconds <= two.start_seconds and one.end_seconds <= two.end_seconds
        for one, two in pairwise(parts)
    )
    return in_time and in_order and _letters("".join(part.text for part in parts)) == _letters(text)


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _joined(parts: Sequence[Piece], belongs: Callable[[Piece, Piece], bool]) -> list[Piece]:
    """Each part joined to what is before it, where it belongs to that."""
    joined = [parts[0]]
    for part in parts[1:]:
        last = joined[-1]
        if belongs(last, part):
            joined[-1] = Piece(last.text + part.text, last.start_seconds, part.end_seconds)
        else:
            joined.append(part)
    return joined


def _with_text_of(parts: Sequence[Piece], text: str) -> list[Piece]:
    """The same parts with the row's own writing: its spaces, marks and capitals."""
    letters = np.cumsum([len(_letters(part.text)) for part in parts])
    ends = [_end_of_words(text, int(count)) for count in letters[:-1]]
    edges = [0, *ends, len(text)]
    return [
        dataclasses.replace(part, text=text[first:last].strip())
        for part, (first, last) in zip(parts, pairwise(edges), strict=True)
    ]


def _end_of_words(text: str, letters: int) -> int:
    """Where a text is cut after so many letters: what closes the words stays with them."""
    position = seen = 0
    while seen < letters:
        seen += len(_letters(text[position]))
        position += 1
    for character in text[position:]:
        opens = unicodedata.category(character) in ("Ps", "Pi")  # brackets, quotation marks
        if opens or character.isalnum() or character.isspace():
            break
        position += 1
    return position


def _padded(parts: Sequence[Piece], duration_seconds: float, window_seconds: float) -> list[Piece]:
    """Each part with a little of the silence around it, at most half of it."""
    starts = [part.start_seconds for part in parts] + [2 * duration_seconds]
    ends = [-parts[0].start_seconds] + [part.end_seconds for part in parts]
    padded = []
    for number, part in enumerate(parts):
        room = min(PADDING_SECONDS, (window_seconds - part.seconds) / 2)
        before = min(room, max(part.start_seconds - ends[number], 0.0) / 2)
        after = min(room, max(starts[number + 1] - part.end_seconds, 0.0) / 2)
        end_seconds = min(part.end_seconds + after, duration_seconds)
        padded.append(Piece(part.text, max(part.start_seconds - before, 0.0), end_seconds))
    return padded


# ── pauses that fit the text ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Clauses:
    """Ends of clauses in a text, in characters, and as the share of it that is said by then."""

    text: str
    characters: np.ndarray  # (ends,)
    shares: np.ndarray  # (ends,) 0 … 1
    paused: np.ndarray  # (ends,) probability that the speaker pauses there


@dataclass(frozen=True)
class Pauses:
    """Pauses inside a clip; `speech_seconds` is the time of speech before each."""

    middles: np.ndarray  # (pauses,) seconds
    lengths: np.ndarray  # (pauses,) seconds
    speech_seconds: np.ndarray  # (pauses,)
    total_speech_seconds: float


@dataclass(frozen=True)
class Edge:
    """A cut, or an end of the clip: in the text, in time, and in the time of speech."""

    character: int
    share: float
    seconds: float
    speech_seconds: float


def _by_pauses(
    utterance: Utterance, duration_seconds: float, window_seconds: float
) -> list[Piece] | None:
    """Pieces cut in pauses that fit a clause's end; None where not all can be made so."""
    text = utterance.text.strip()
    clauses = _clauses(text)
    if len(clauses.shares) == 0:
        return None
    samples = read_audio(utterance.audio, utterance.start_seconds, utterance.end_seconds)
    pauses = _inner_pauses(find_pauses(samples), duration_seconds)
    first = Edge(0, 0.0, 0.0, 0.0)
    last = Edge(len(text), 1.0, duration_seconds, pauses.total_speech_seconds)
    cuts = _cuts(first, last, clauses, pauses, window_seconds)
    if cuts is None:
        return None
    return [
        Piece(text[one.character : two.character].strip(), one.seconds, two.seconds)
        for one, two in pairwise([first, *cuts, last])
    ]


def _clauses(text: str) -> Clauses:
    ends = [match for match in CLAUSE_END.finditer(text) if match.end() < len(text)]
    letters = [DIGIT_LETTERS if one.isdigit() else float(one.isalnum()) for one in text]
    spoken = np.cumsum(letters)
    characters = np.array([end.end() for end in ends], dtype=np.int64)
    paused = [
        PAUSE_AFTER_SENTENCE if SENTENCE_MARKS & set(end.group()) else PAUSE_AFTER_CLAUSE
        for end in ends
    ]
    return Clauses(
        text, characters, spoken[characters - 1] / max(spoken[-1], 1.0), np.array(paused)
    )


def _inner_pauses(pauses: np.ndarray, duration_seconds: float) -> Pauses:
    """Those that have speech on both sides, and the time of speech before them."""
    lengths = pauses[:, 1] - pauses[:, 0]
    speech_seconds = pauses[:, 0] - (np.cumsum(lengths) - lengths)
    total_speech_seconds = duration_seconds - float(lengths.sum())
    inner = (speech_seconds > 0.05) & (speech_seconds < total_speech_seconds - 0.05)
    return Pauses(
        pauses[inner].mean(axis=1), lengths[inner], speech_seconds[inner], total_speech_seconds
    )


def _cuts(
    first: Edge, last: Edge, clauses: Clauses, pauses: Pauses, window_seconds: float
) -> list[Edge] | None:
    """Cut at the most certain place, and go on with both sides until they fit into the window."""
    if last.seconds - first.seconds <= window_seconds:
        return []
    cut = _most_certain(first, last, clauses, pauses)
    if cut is None:
        return None
    before = _cuts(first, cut, clauses, pauses, window_seconds)
    after = None if before is None else _cuts(cut, last, clauses, pauses, window_seconds)
    return None if before is None or after is None else [*before, cut, *after]


def _most_certain(first: Edge, last: Edge, clauses: Clauses, pauses: Pauses) -> Edge | None:
    """The clause's end and the pause that are most surely each other's; None if none are."""
    ends = np.flatnonzero((clauses.shares > first.share) & (clauses.shares < last.share))
    inside = np.flatnonzero(
        (pauses.speech_seconds > first.speech_seconds)
        & (pauses.speech_seconds < last.speech_seconds)
    )
    if not len(ends) or not len(inside):
        return None
    odds = _odds(first, last, clauses, pauses)[np.ix_(ends, inside)]
    of_pauses = odds / (1 + odds.sum(axis=1, keepdims=True))
    of_ends = odds / (1 + odds.sum(axis=0, keepdims=True))
    certainty = np.minimum(of_pauses, of_ends)
    best = np.unravel_index(certainty.argmax(), certainty.shape)
    if certainty[best] < CERTAIN:
        return None
    end, pause = ends[best[0]], inside[best[1]]
    return Edge(
        int(clauses.characters[end]),
        float(clauses.shares[end]),
        float(pauses.middles[pause]),
        float(pauses.speech_seconds[pause]),
    )


def _odds(first: Edge, last: Edge, clauses: Clauses, pauses: Pauses) -> np.ndarray:
    """(ends, pauses): how much likelier each pause is an end's than one inside a clause.

    An end is expected at its share of the speech between the two edges, off by what a random walk
    tied down at both (a Brownian bridge) is off there. Other pauses lie anywhere, as densely as
    the clip has them.
    """
    total_seconds = last.speech_seconds - first.speech_seconds
    spoken = np.clip((clauses.shares - first.share) / (last.share - first.share), 0, 1)
    deviation = np.sqrt(DRIFT**2 * spoken * (1 - spoken) * total_seconds + DETECTION_SECONDS**2)
    errors = pauses.speech_seconds - first.speech_seconds - (spoken * total_seconds)[:, None]
    density = np.exp(-((errors / deviation[:, None]) ** 2) / 2)
    density /= np.sqrt(2 * np.pi) * deviation[:, None]
    of_others = len(pauses.lengths) / pauses.total_speech_seconds
    lengths = np.minimum(pauses.lengths, LONGEST_PAUSE_SECONDS) / TYPICAL_PAUSE_SECONDS
    prior = clauses.paused / (1 - clauses.paused)
    return np.asarray(prior[:, None] * density / of_others * lengths**LENGTH_EXPONENT)


# ── silence detection ────────────────────────────────────────────────────────────────────────────

# By the short-time energy of a clip, relative to its own level.


def find_pauses(samples: np.ndarray) -> np.ndarray:
    """Pauses of (samples,) at 16 kHz as (pauses, 2): beginning and end in seconds."""
    frames = len(samples) // FRAME_SAMPLES
    if not frames:
        return np.empty((0, 2))
    power = samples[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES).astype(np.float64)
    smooth = np.convolve((power**2).mean(axis=1), np.ones(3) / 3, "same")  # over three frames
    levels_db = 10 * np.log10(smooth + 1e-10)  # of full scale
    speech_db = np.percentile(levels_db, 90)
    floor_db = max(np.percentile(levels_db, 5), speech_db - DEEPEST_FLOOR_DB)
    if speech_db - floor_db < LOWEST_RANGE_DB:
        return np.empty((0, 2))
    quiet = levels_db < floor_db + QUIET_SHARE * (speech_db - floor_db)
    for first, last in _runs(~quiet):
        if (last - first) * FRAME_SAMPLES < SHORTEST_SOUND_SECONDS * SAMPLING_RATE:
            quiet[first:last] = True
    seconds = _runs(quiet) * (FRAME_SAMPLES / SAMPLING_RATE)
    return seconds[seconds[:, 1] - seconds[:, 0] >= SHORTEST_PAUSE_SECONDS]


def _runs(mask: np.ndarray) -> np.ndarray:
    """(runs, 2) first and last+1 index of each stretch of True."""
    changes = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return np.flatnonzero(changes).reshape(-1, 2)
