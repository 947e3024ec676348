"""What is wrong with a part of a transcript: words too many, words missing, clips that are cut.

A changed transcript is held against the one that is there: with words that are spoken, and without
words that are not, what both have is likelier. The constants were chosen by errors that were
planted in a training set of Swahili, see `benchmarks/label_doctor.py`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_whisper.labels.comparison import (
    CERTAIN,
    FITS_SHARE,
    SUSPECT,
    Heard,
    is_loud,
    probability,
    word_at,
)
from lora_whisper.labels.evidence import Edit, Evidence, Place

SAVED_NATS = 5.0  # by which what both texts have is likelier in the changed one
WORD_NATS = 10.0  # the same, by a single word
STEP_NATS = 2.0  # for each of which the logarithm of the odds rises by 1
UNSURE_NATS = 2.0  # a token, that added words may cost more than the hypothesis and count for it
UNSPOKEN_NATS = 16.0  # what words cost at least that nobody speaks
UNSPOKEN_GAIN = 0.3  # of the row's other words' gain
LEAST_LEFT = 0.35  # of the tokens; a transcript of which less is right is wrong as a whole
USUAL_EDGES = 0.15  # of the set's clips that begin or end in sound: from here on it says nothing
CUT_WORDS = 2  # at an end, that may be missing because the clip is cut
DEAR_WORD = 4.0  # robust deviations of what a first or last word costs


@dataclass(frozen=True)
class PartFinding:
    """Something that is wrong at one place of a transcript, and how sure that is."""

    kind: Literal["text_without_speech", "speech_without_text", "cut_ends"]
    place: Place
    certainty: float  # 0 … 1
    detail: str
    start_seconds: float | None = None  # of what is spoken and not written
    end_seconds: float | None = None


def find_parts(heard: Heard, row: int) -> list[PartFinding]:
    """The surest finding of each kind at each place."""
    edits = heard.evidence[row].edits
    found = [_spoken(heard, row, edit) for edit in edits if edit.adds]
    found += [_written(heard, row, edit) for edit in edits if not edit.adds]
    found += [_cut(heard, row, side) for side in (0, 1)]
    some = sorted(filter(None, found), key=lambda one: one.certainty)
    return list({(one.kind, one.place): one for one in some}.values())


def cost_mended(heard: Heard, row: int) -> float | None:
    """Nats a token of what is left of a transcript where a change makes it one of this clip.

    None where no change does.
    """
    evidence = heard.evidence[row]
    mended = [_nats_after(evidence, edit) for edit in evidence.edits if _explains(heard, row, edit)]
    return min(mended, default=None)


def _nats_after(evidence: Evidence, edit: Edit) -> float:
    """Nats a token of what the changed transcript shares with the one that is there."""
    return edit.shared_nats / (len(evidence.own) - (edit.last_token - edit.first_token))


def _explains(heard: Heard, row: int, edit: Edit) -> bool:
    """Whether the change makes a transcript of this clip of one that is none."""
    evidence = heard.evidence[row]
    if not len(evidence.others) or _saved(evidence, edit) + _removed(evidence, edit) < SAVED_NATS:
        return False
    left = 1 - (edit.last_token - edit.first_token) / max(len(evidence.own) - 1, 1)
    gain = float(evidence.others.mean()) - _nats_after(evidence, edit)
    return left >= LEAST_LEFT and gain > FITS_SHARE * heard.usual_gains[row]


def _removed(evidence: Evidence, edit: Edit) -> float:
    """Nats that the words cost which a change takes out."""
    return float(evidence.own[edit.first_token : edit.last_token].sum())


def _saved(evidence: Evidence, edit: Edit) -> float:
    """Nats by which the tokens that both texts have are likelier in the changed one.

    What words cost that are added or taken out is left out of it: in a language that a model half
    knows, each costs something, spoken or not.
    """
    return float(evidence.own.sum()) - _removed(evidence, edit) - edit.shared_nats


def _gains(evidence: Evidence, part: slice) -> tuple[float, float]:
    """Nats a token that the own clip saves beside others: of some words, and of the rest."""
    gains = evidence.others.mean(axis=0) - evidence.own
    return float(gains[part].mean()), float(np.delete(gains, part).mean())


def _is_unspoken(heard: Heard, row: int, part: slice) -> bool:
    """Whether words cost as much with the clip as with others, beside words that do not."""
    if not len(heard.evidence[row].others):
        return False
    inside, outside = _gains(heard.evidence[row], part)
    return outside > FITS_SHARE * heard.usual_gains[row] and inside < UNSPOKEN_GAIN * outside


# ── words missing, and words too many ────────────────────────────────────────────────────────


def _spoken(heard: Heard, row: int, edit: Edit) -> PartFinding | None:
    """Words that are heard, and missed: without them, what follows comes as a surprise."""
    evidence = heard.evidence[row]
    needed = SAVED_NATS if len(edit.words.split()) > 1 else WORD_NATS
    unsure = edit.added_nats / max(edit.added_tokens, 1) - evidence.hypothesis.nats
    odds = (_saved(evidence, edit) - needed) / STEP_NATS - min(max(unsure, 0.0), UNSURE_NATS) / 2
    certainty = probability(odds)
    if certainty < CERTAIN or _is_number(evidence, edit):
        return None
    detail = f"“{brief(edit.words)}” is spoken, and not written"
    times = edit.start_seconds, edit.end_seconds
    return PartFinding("speech_without_text", edit.place, certainty, detail, *times)


def _is_number(evidence: Evidence, edit: Edit) -> bool:
    """Whether added words stand beside digits, which the model may have spelled."""
    ends = list(itertools.accumulate(count for _, count in evidence.words))
    before = bisect.bisect_left(ends, edit.first_token)
    beside = evidence.words[max(before, 0) : before + 2]
    return any(character.isdigit() for word, _ in beside for character in word)


def _written(heard: Heard, row: int, edit: Edit) -> PartFinding | None:
    """Words that cost as if they were not spoken, and whose absence surprises nobody."""
    evidence, words = heard.evidence[row], len(edit.words.split())
    saved, cost = _saved(evidence, edit), _removed(evidence, edit)
    is_wrong = heard.mismatch[row] > SUSPECT and _explains(heard, row, edit)
    if not (is_wrong or _is_unspoken(heard, row, slice(edit.first_token, edit.last_token))):
        return None
    if saved < -cost / 2:  # some of it is spoken, and missed
        return None
    certainty = probability((saved + cost - UNSPOKEN_NATS) / STEP_NATS)
    if certainty < CERTAIN:
        return None
    side = {"beginning": 0, "end": 1}.get(edit.place)
    if side is not None and words <= CUT_WORDS and is_loud(evidence, side):
        detail = f"the clip {('begins', 'ends')[side]} in or behind “{brief(edit.words)}”"
        return PartFinding("cut_ends", edit.place, certainty, detail)
    if words < 2:
        return None
    detail = f"“{brief(edit.words)}” is written, and not spoken"
    return PartFinding("text_without_speech", edit.place, certainty, detail)


# ── clips that are cut ───────────────────────────────────────────────────────────────────────


def _cut(heard: Heard, row: int, side: int) -> PartFinding | None:
    """The clip begins or ends in the middle of sound, as others do not; or as they do, and its
    first or last word hardly fits it.
    """
    evidence = heard.evidence[row]
    if not (evidence.words and len(evidence.others) and is_loud(evidence, side)):
        return None
    dearness, odds = float(heard.dearness[row, side]), [-math.inf]
    if heard.loud_edges[side] <= USUAL_EDGES:
        odds.append(0.5 + min(max(dearness, -2.0), 4.0) / 2)
    if _is_unspoken(heard, row, word_at(evidence, side)):
        odds.append(dearness - DEAR_WORD)
    certainty = probability(max(odds))
    if certainty < CERTAIN:
        return None
    word = evidence.words[-side][0]
    detail = f"the clip {('begins', 'ends')[side]} in the middle of sound, at “{word}”"
    return PartFinding("cut_ends", "end" if side else "beginning", certainty, detail)


def brief(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
