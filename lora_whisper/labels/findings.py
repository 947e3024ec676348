"""Which transcripts are wrong, by what a model said of all of them: each rule is a pure function.

The constants were chosen by errors that were planted, see `benchmarks/label_doctor.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_whisper.labels import parts
from lora_whisper.labels.alignment import letters_of
from lora_whisper.labels.comparison import (
    CERTAIN,
    FITS_SHARE,
    PRIOR,
    Heard,
    named_language,
    probability,
)
from lora_whisper.labels.evidence import Evidence, Hypothesis, Levels, Place
from lora_whisper.labels.listening import Clip
from lora_whisper.labels.parts import brief

Kind = Literal[
    "other_clip", "wrong_language", "text_without_speech", "speech_without_text", "cut_ends"
]

# ── another clip ──
CONFIRMED = 6.0  # added to the logarithm of the odds where another clip is found that fits
CANDIDATES = 3  # clips whose hypothesis resembles a transcript, which it is forced on

# ── no speech ──
NO_SPEECH = 0.5  # probability of <|nospeech|>
FEW_LETTERS = 0.2  # of what clips of this length have
STEADY_DB = 8.0  # between the quietest and the loudest tenth; speech comes and goes
UNSURE = 3.0  # robust deviations of the hypothesis' own nats
SPEECHLESS = 3.0  # added to the logarithm of the odds where there seems to be no speech

# ── language ──
DETECTED = 0.7  # probability of a language that is neither the row's nor usual in the set
STRANGE_TEXT = 3.0  # robust deviations of what a text has that no other text has


@dataclass(frozen=True)
class LabelFinding:
    """Something that is wrong with a transcript, and how sure that is."""

    clip: Clip
    evidence: Evidence
    kind: Kind
    certainty: float  # 0 … 1
    detail: str
    place: Place | None = None  # None: the whole row
    text_of: Clip | None = None  # the clip that this row's transcript belongs to
    fits: Clip | None = None  # the row whose transcript belongs to this clip
    start_seconds: float | None = None  # of what is spoken and not written
    end_seconds: float | None = None


Fits = Mapping[tuple[str, str], float]  # see `wanted`


def wanted(heard: Heard) -> list[tuple[Clip, Clip]]:
    """Clips, and others' transcripts that may be theirs, to be forced on them."""
    pairs = []
    for row in heard.suspects:
        clip = heard.clips[row]
        pairs += [(heard.clips[other], clip) for other in _clips_like(heard, row)]
        pairs += [(clip, heard.clips[other]) for other in _texts_like(heard, row)]
    return list({pair_of(*pair): pair for pair in pairs}.values())


def pair_of(sound: Clip, text: Clip) -> tuple[str, str]:
    return sound.clip_key, text.pair_key


def _clips_like(heard: Heard, row: int) -> list[int]:
    return heard.resembling.clips_like(heard.clips[row].utterance.text, row)[:CANDIDATES]


def _texts_like(heard: Heard, row: int) -> list[int]:
    return heard.resembling.texts_like(heard.evidence[row].hypothesis.text, row)[:CANDIDATES]


def find(heard: Heard, fits: Fits) -> list[LabelFinding]:
    """All findings, the surest first; at most one of a row's whole, or some of its parts.

    Args:
        fits: nats a token of the `wanted` pairs' transcripts, by `pair_of`.
    """
    suspects, found = set(heard.suspects), []
    for row in range(len(heard.clips)):
        whole = _whole(heard, row, fits) if row in suspects else None
        whole = whole or _other_language(heard, row, row in suspects)
        found += [whole] if whole else _parts(heard, row)
    return sorted(found, key=lambda one: -one.certainty)


def of_silence(clip: Clip) -> LabelFinding:
    """A text on a clip in which nobody can be heard: whatever a model makes of it."""
    hypothesis = Hypothesis((), "", 0.0, 1.0, {})
    none = np.zeros(len(clip.tokens) + 1)
    evidence = Evidence(hypothesis, none, none[None][:0], (), Levels(0.0, 0.0, 0.0))
    detail = f"silence: nothing is louder than {clip.loudest_dbfs:.0f} dBFS"
    return LabelFinding(clip, evidence, "text_without_speech", 1.0, detail)


def _parts(heard: Heard, row: int) -> list[LabelFinding]:
    return [
        LabelFinding(
            heard.clips[row],
            heard.evidence[row],
            one.kind,
            one.certainty,
            one.detail,
            one.place,
            start_seconds=one.start_seconds,
            end_seconds=one.end_seconds,
        )
        for one in parts.find_parts(heard, row)
    ]


# ── the whole of a transcript ────────────────────────────────────────────────────────────────


def _whole(heard: Heard, row: int, fits: Fits) -> LabelFinding | None:
    """What the transcript of a suspect is, if it is not this clip's."""
    odds = float(heard.mismatch[row])
    if _is_speechless(heard, row):
        return _nobody_speaks(heard, row, odds)
    text_of = _clip_of_text(heard, row, fits)
    certainty = probability(odds + (CONFIRMED if text_of is not None else 0.0))
    mended = parts.cost_mended(heard, row)
    if mended is not None and text_of is not None:  # what fits best is what it is
        elsewhere = fits[pair_of(heard.clips[text_of], heard.clips[row])]
        text_of = text_of if elsewhere < mended else None
    if certainty < CERTAIN or (mended is not None and text_of is None):
        return None
    clip, evidence = heard.clips[row], heard.evidence[row]
    figures = f"{evidence.own.mean():.2f} nats a token, {evidence.others.mean():.2f} on other clips"
    if heard.strangeness[row] > STRANGE_TEXT and text_of is None:
        detail = f"the text is unlike all others: {figures}"
        return LabelFinding(clip, evidence, "wrong_language", certainty, detail)
    detail, fitting, better = f"it fits this clip no better than others: {figures}", None, None
    if text_of is not None:
        fitting = heard.clips[text_of]
        detail = f"it fits the clip of {fitting.split}, {fitting.utterance.row}; here {figures}"
    if (better_text := _text_of_clip(heard, row, fits)) is not None:
        better = heard.clips[better_text]
    return LabelFinding(
        clip, evidence, "other_clip", certainty, detail, text_of=fitting, fits=better
    )


def _nobody_speaks(heard: Heard, row: int, odds: float) -> LabelFinding | None:
    certainty, evidence = probability(odds + SPEECHLESS), heard.evidence[row]
    if certainty < CERTAIN:
        return None
    detail = f"nobody speaks: “{brief(evidence.hypothesis.text)}” is all that is heard"
    return LabelFinding(heard.clips[row], evidence, "text_without_speech", certainty, detail)


def _clip_of_text(heard: Heard, row: int, fits: Fits) -> int | None:
    """The row whose clip the transcript of `row` fits far better."""
    clip, nats = heard.clips[row], float(heard.evidence[row].own.mean())
    candidates = [
        (other, fits[pair_of(heard.clips[other], clip)], nats) for other in _clips_like(heard, row)
    ]
    return _fitting(heard.usual_gains[row], candidates)


def _text_of_clip(heard: Heard, row: int, fits: Fits) -> int | None:
    """The row whose transcript fits the clip of `row` far better than clips do that say another."""
    candidates = [
        (
            other,
            fits[pair_of(heard.clips[row], heard.clips[other])],
            float(heard.evidence[other].others.mean()),
        )
        for other in _texts_like(heard, row)
    ]
    return _fitting(heard.usual_gains[row], candidates)


def _fitting(usual_gain: float, candidates: Iterable[tuple[int, float, float]]) -> int | None:
    """The one of (row, nats with the clip, nats before) that fits best, and far better."""
    better = [
        (nats, row) for row, nats, before in candidates if before - nats > FITS_SHARE * usual_gain
    ]
    return min(better)[1] if better else None


def _is_speechless(heard: Heard, row: int) -> bool:
    hypothesis, seconds = heard.evidence[row].hypothesis, heard.clips[row].seconds
    letters = len(letters_of(hypothesis.text))
    is_steady = heard.evidence[row].levels.range < STEADY_DB and heard.unsureness[row] > UNSURE
    return (
        is_steady
        or hypothesis.no_speech > NO_SPEECH
        or letters < FEW_LETTERS * heard.letters_per_second * seconds
    )


# ── language ─────────────────────────────────────────────────────────────────────────────────


def _other_language(heard: Heard, row: int, is_suspect: bool) -> LabelFinding | None:
    """The clip sounds like a language that is neither the row's nor usual among such rows.

    Whisper often takes a language that it knows badly for another, so that this alone says nothing:
    the transcript has to fit its clip worse than others, or to be unlike all others itself.
    """
    clip, evidence = heard.clips[row], heard.evidence[row]
    is_strange = heard.strangeness[row] > STRANGE_TEXT
    languages = evidence.hypothesis.languages
    if not languages or not (is_suspect or is_strange) or _is_speechless(heard, row):
        return None
    detected, share = max(languages.items(), key=lambda item: item[1])
    usual = heard.usual_languages[named_language(clip)]
    known = sum(languages.get(name, 0.0) for name in usual)
    if detected in usual or share < DETECTED or known > 1 - DETECTED:
        return None
    detail = (
        f"sounds like {detected} ({100 * share:.0f} %), and the row says {clip.utterance.language}"
    )
    if not is_suspect:
        detail += "; its text, unlike all others, fits it"
    return LabelFinding(clip, evidence, "wrong_language", share, detail)


def settings() -> dict[str, float]:
    """The limits, as check.json has them."""
    return {
        "certain": CERTAIN,
        "prior": PRIOR,
        "saved_nats": parts.SAVED_NATS,
        "unspoken_gain": parts.UNSPOKEN_GAIN,
        "no_speech": NO_SPEECH,
        "detected_language": DETECTED,
        "usual_edges": parts.USUAL_EDGES,
    }
