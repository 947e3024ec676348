"""Which transcripts are wrong, by what a model said of all of them: each rule is a pure function.

Whether a clip is hard says nothing of its transcript, so that nothing is held against a fixed
limit of likelihood. A transcript is held against itself on other clips; what these comparisons
come to, against all other rows of the set; and a changed transcript against the one that is there.
The constants were chosen by errors that were planted, see `benchmarks/label_doctor.py`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from lora_whisper.labels.alignment import letters_of
from lora_whisper.labels.evidence import Edit, Evidence, Hypothesis, Levels, Place
from lora_whisper.labels.listening import Clip
from lora_whisper.model.tokenizer import code_of

Kind = Literal[
    "other_clip", "wrong_language", "text_without_speech", "speech_without_text", "cut_ends"
]
CERTAIN = 0.5  # from which on something is a finding

# ── what a transcript gains by its own clip ──
FREEDOM = 4  # degrees of it, of Student's t: real sets have more outliers than a normal one
PRIOR = 0.05  # share of transcripts that are of another clip, before anything is heard
SPREAD_FLOOR = 0.15  # nats a token
SUSPECT = -3.0  # logarithm of the odds, from which on others' clips are tried
CONFIRMED = 6.0  # added to the logarithm of the odds where another clip is found that fits
FITS_SHARE = 0.5  # of the set's usual gain, by which another clip has to fit better
CANDIDATES = 3  # clips whose hypothesis resembles a transcript, which it is forced on

# ── no speech ──
NO_SPEECH = 0.5  # probability of <|nospeech|>
FEW_LETTERS = 0.2  # of what clips of this length have
STEADY_DB = 8.0  # between the quietest and the loudest tenth; speech comes and goes
UNSURE = 3.0  # robust deviations of the hypothesis' own nats
SPEECHLESS = 3.0  # added to the logarithm of the odds where there seems to be no speech

# ── language ──
DETECTED = 0.7  # probability of a language that is neither the row's nor usual in the set
USUAL_SHARE = 0.1  # of the rows, whose clips are taken for a language
STRANGE_TEXT = 3.0  # robust deviations of what a text has that no other text has

# ── parts ──
# Of 184 right transcripts of Swahili, whisper-base finds none by more than 2 nats likelier with
# words added at an end; of 49 that lack their last words, all by 5.7 or more.
SAVED_NATS = 5.0  # by which what both texts have is likelier in the changed one
WORD_NATS = 10.0  # the same, by a single word
STEP_NATS = 2.0  # for each of which the logarithm of the odds rises by 1
UNSURE_NATS = 2.0  # a token, that added words may cost more than the hypothesis and count for it
UNSPOKEN_NATS = 16.0  # what words cost at least that nobody speaks
UNSPOKEN_GAIN = 0.3  # of the row's other words' gain
LEAST_LEFT = 0.35  # of the tokens; a transcript of which less is right is wrong as a whole
LOUD_EDGE = 0.4  # of the clip's range, below its speech: nearer to it than to its pauses
LEAST_RANGE_DB = 15.0  # with less there is noise, which is at the ends, too
CLICK_DB = 8.0  # above the clip's speech: no word that is cut
USUAL_EDGES = 0.15  # of the set's clips that begin or end in sound: from here on it says nothing
CUT_WORDS = 2  # at an end, that may be missing because the clip is cut
DEAR_WORD = 4.0  # robust deviations of what a first or last word costs


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


@dataclass(frozen=True)
class Heard:
    """All rows that were listened to, with figures of the set that each is held against."""

    clips: Sequence[Clip]
    evidence: Sequence[Evidence]
    usual_gains: np.ndarray  # (rows,) nats a token, the median of those with the same model
    mismatch: np.ndarray  # (rows,) logarithm of the odds that a transcript is of another clip
    letters_per_second: float
    strangeness: np.ndarray  # (rows,) robust deviations of the text from the set's
    unsureness: np.ndarray  # (rows,) robust deviations of the hypothesis' own nats
    dearness: np.ndarray  # (rows, 2) robust deviations of what the first and last word cost
    loud_edges: np.ndarray  # (2,) share of the clips that begin and end in sound
    usual_languages: Mapping[str, frozenset[str]]

    @cached_property
    def resembling(self) -> Resembling:
        return Resembling([one.hypothesis.text for one in self.evidence], self.clips)

    @property
    def suspects(self) -> list[int]:
        """Rows whose whole transcript may be wrong."""
        return np.flatnonzero(self.mismatch > SUSPECT).tolist()


def compare(
    clips: Sequence[Clip], evidence: Sequence[Evidence], models: np.ndarray | None = None
) -> Heard:
    """What is to be known of a set before one of its rows is judged.

    Args:
        models: (rows,) which model listened to each, if several did: each has its own scale.
    """
    models = np.zeros(len(clips), int) if models is None else models
    usual, mismatch = np.zeros(len(clips)), np.zeros(len(clips))
    for model in np.unique(models):
        rows = np.flatnonzero(models == model)
        some = [evidence[row] for row in rows.tolist()]
        gains = np.array([one.gain if len(one.others) else math.nan for one in some])
        usual[rows] = np.nanmedian(gains) if np.isfinite(gains).any() else 0.0
        mismatch[rows] = _mismatch(some, gains, usual[rows[0]])
    rates = [
        len(letters_of(one.hypothesis.text)) / clip.seconds
        for clip, one in zip(clips, evidence, strict=True)
    ]
    return Heard(
        clips,
        evidence,
        usual,
        mismatch,
        float(np.median(rates)) if rates else 0.0,
        _strangeness(clips, evidence),
        deviations(np.array([one.hypothesis.nats for one in evidence])),
        np.stack([deviations(_word_costs(evidence, side)) for side in (0, 1)], axis=1),
        np.array([np.mean([_is_loud(one, side) for one in evidence]) for side in (0, 1)]),
        _usual_languages(clips, evidence),
    )


def deviations(values: np.ndarray, least: float = 0.05) -> np.ndarray:
    """(rows,) robust standard deviations from the median, the deviation being `least` or more."""
    middle = np.median(values) if len(values) else 0.0
    spread = 1.4826 * np.median(np.abs(values - middle)) if len(values) else 0.0
    return (values - middle) / max(float(spread), least)


def _word_costs(evidence: Sequence[Evidence], side: int) -> np.ndarray:
    """(rows,) nats a token of the first or the last word, given its clip."""
    return np.array([one.own[_word_at(one, side)].mean() for one in evidence])


def _word_at(evidence: Evidence, side: int) -> slice:
    """The tokens of the first or the last word."""
    last = len(evidence.own) - 1
    count = evidence.words[-side][1] if evidence.words else last
    return slice(0, count) if side == 0 else slice(last - count, last)


def knows(clips: Sequence[Clip], evidence: Sequence[Evidence]) -> tuple[float, float]:
    """How well a model knows what is spoken: two shares of the clips.

    Those whose transcript costs less with its own clip than with each other one, and those whose
    hypothesis resembles its own transcript more than the others.
    """
    fits = [
        bool(len(one.others)) and one.own.mean() < one.others.mean(axis=1).min() for one in evidence
    ]
    resembling = Resembling([one.hypothesis.text for one in evidence], clips)
    alike = [
        row in resembling.texts_like(one.hypothesis.text)[:1] for row, one in enumerate(evidence)
    ]
    return float(np.mean(fits)), float(np.mean(alike))


def _mismatch(evidence: Sequence[Evidence], gains: np.ndarray, usual: float) -> np.ndarray:
    """Log-odds of another clip's transcript, by two distributions of the gain.

    That of transcripts on clips that are not theirs has its middle at 0, and its width is known:
    from what they differ by between two such clips. It is the wider the shorter a text is.
    """
    tokens = np.array([len(one.own) for one in evidence])
    differences = [
        (one.others[0].mean() - one.others[1].mean()) * math.sqrt(len(one.own))
        for one in evidence
        if len(one.others) > 1
    ]
    spread = 1.4826 * float(np.median(np.abs(differences))) if differences else 1.0
    # Of one clip beside the mean of two, and not beside one: √(3/4) of it.
    foreign = np.maximum(spread * math.sqrt(0.75) / np.sqrt(tokens), SPREAD_FLOOR)
    below = usual - gains[gains < usual]
    own = max(1.4826 * float(np.median(below)) if len(below) else 1.0, SPREAD_FLOOR)
    odds = _log_density(gains / foreign) - np.log(foreign)
    odds -= _log_density(np.minimum(gains - usual, 0.0) / own) - math.log(own)
    odds += math.log(PRIOR / (1 - PRIOR))
    return np.where(np.isnan(gains), -np.inf, odds)


def _log_density(deviations: np.ndarray) -> np.ndarray:
    """Of Student's t, but for what does not depend on the deviation."""
    return -(FREEDOM + 1) / 2 * np.log1p(deviations**2 / FREEDOM)


# ── the whole of a transcript ────────────────────────────────────────────────────────────────


Fits = Mapping[tuple[str, str], float]  # see `wanted`


def wanted(heard: Heard) -> list[tuple[Clip, Clip]]:
    """Clips, and others' transcripts that may be theirs, to be forced on them."""
    pairs = []
    for row in heard.suspects:
        clip, hypothesis = heard.clips[row], heard.evidence[row].hypothesis
        pairs += [(heard.clips[other], clip) for other in _clips_like(heard, row)]
        pairs += [
            (clip, heard.clips[other])
            for other in heard.resembling.texts_like(hypothesis.text, row)[:CANDIDATES]
        ]
    return list({pair_of(*pair): pair for pair in pairs}.values())


def pair_of(sound: Clip, text: Clip) -> tuple[str, str]:
    return sound.clip_key, text.pair_key


def _clips_like(heard: Heard, row: int) -> list[int]:
    return heard.resembling.clips_like(heard.clips[row].utterance.text, row)[:CANDIDATES]


def find(heard: Heard, fits: Fits) -> list[LabelFinding]:
    """All findings, the surest first; at most one of a row's whole, or some of its parts.

    Args:
        fits: nats a token of the `wanted` pairs' transcripts, by `pair_of`.
    """
    suspects, found = set(heard.suspects), []
    for row in range(len(heard.clips)):
        whole = _whole(heard, row, fits) if row in suspects else None
        if whole is None and row in suspects:  # languages that it knows badly are often taken wrong
            whole = _other_language(heard, row)
        found += [whole] if whole else _parts(heard, row)
    return sorted(found, key=lambda one: -one.certainty)


def of_silence(clip: Clip) -> LabelFinding:
    """A text on a clip in which nobody can be heard: whatever a model makes of it."""
    hypothesis = Hypothesis((), "", 0.0, 1.0, {})
    none = np.zeros(len(clip.tokens) + 1)
    evidence = Evidence(hypothesis, none, none[None][:0], (), Levels(0.0, 0.0, 0.0))
    detail = f"silence: nothing is louder than {clip.loudest_dbfs:.0f} dBFS"
    return LabelFinding(clip, evidence, "text_without_speech", 1.0, detail)


def _whole(heard: Heard, row: int, fits: Fits) -> LabelFinding | None:
    clip, evidence = heard.clips[row], heard.evidence[row]
    odds = float(heard.mismatch[row])
    if _is_speechless(heard, row):
        certainty = _share(odds + SPEECHLESS)
        if certainty < CERTAIN:
            return None
        detail = f"nobody speaks: “{_brief(evidence.hypothesis.text)}” is all that is heard"
        return LabelFinding(clip, evidence, "text_without_speech", certainty, detail)
    usual = heard.usual_gains[row]
    mended = [_nats_after(evidence, edit) for edit in evidence.edits if _explains(heard, row, edit)]
    text_of = _fitting(
        usual,
        (
            (other, fits[pair_of(heard.clips[other], clip)], evidence.own.mean())
            for other in _clips_like(heard, row)
        ),
    )
    better_text = _fitting(
        usual,
        (
            (other, fits[pair_of(clip, heard.clips[other])], heard.evidence[other].others.mean())
            for other in heard.resembling.texts_like(evidence.hypothesis.text, row)[:CANDIDATES]
        ),
    )
    certainty = _share(odds + (CONFIRMED if text_of is not None else 0.0))
    if text_of is not None and mended:  # what fits best is what it is
        elsewhere = fits[pair_of(heard.clips[text_of], clip)]
        text_of = text_of if elsewhere < min(mended) else None
    if certainty < CERTAIN or (mended and text_of is None):
        return None
    is_strange = heard.strangeness[row] > STRANGE_TEXT and text_of is None
    own, others = evidence.own.mean(), evidence.others.mean()
    figures = f"{own:.2f} nats a token, {others:.2f} on other clips"
    if is_strange:
        detail = f"the text is unlike all others: {figures}"
        return LabelFinding(clip, evidence, "wrong_language", certainty, detail)
    fitting = None if text_of is None else heard.clips[text_of]
    where = (
        f"it fits this clip no better than others: {figures}"
        if fitting is None
        else f"it fits the clip of {fitting.split}, {fitting.utterance.row}; here {figures}"
    )
    return LabelFinding(
        clip,
        evidence,
        "other_clip",
        certainty,
        where,
        text_of=fitting,
        fits=None if better_text is None else heard.clips[better_text],
    )


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


def _other_language(heard: Heard, row: int) -> LabelFinding | None:
    """The clip sounds like a language that is neither the row's nor usual among such rows.

    Whisper often takes a language that it knows badly for another, so that this alone says nothing.
    """
    clip, evidence = heard.clips[row], heard.evidence[row]
    languages = evidence.hypothesis.languages
    if not languages or _is_speechless(heard, row):
        return None
    detected, share = max(languages.items(), key=lambda item: item[1])
    usual = heard.usual_languages[_named_language(clip)]
    known = sum(languages.get(name, 0.0) for name in usual)
    if detected in usual or share < DETECTED or known > 1 - DETECTED:
        return None
    detail = (
        f"sounds like {detected} ({100 * share:.0f} %), and the row says {clip.utterance.language}"
    )
    return LabelFinding(clip, evidence, "wrong_language", share, detail)


def _usual_languages(
    clips: Sequence[Clip], evidence: Sequence[Evidence]
) -> dict[str, frozenset[str]]:
    """By the language that rows name, those that their clips are often taken for."""
    taken: dict[str, Counter[str]] = {}
    for clip, one in zip(clips, evidence, strict=True):
        counts = taken.setdefault(_named_language(clip), Counter())
        counts.update(
            [max(one.hypothesis.languages, key=one.hypothesis.languages.__getitem__)]
            if one.hypothesis.languages
            else []
        )
    return {
        language: frozenset(
            {
                language,
                *(one for one, count in counts.items() if count >= USUAL_SHARE * counts.total()),
            }
        )
        for language, counts in taken.items()
    }


def _named_language(clip: Clip) -> str:
    return code_of(clip.utterance.language or "")


def _strangeness(clips: Sequence[Clip], evidence: Sequence[Evidence]) -> np.ndarray:
    """(rows,) how unlike the set's other texts each is, in robust deviations.

    By the share of its trigrams that no other text of its language has; or by what it costs the
    model with clips that are not its own, if that is more.
    """
    found = np.zeros(len(clips))
    languages = [clip.language or "" for clip in clips]
    for language in set(languages):
        rows = [row for row, one in enumerate(languages) if one == language]
        grams = [set(trigrams(clips[row].utterance.text)) for row in rows]
        texts = Counter(gram for some in grams for gram in some)
        unknown = [sum(texts[gram] == 1 for gram in some) / max(len(some), 1) for some in grams]
        found[rows] = deviations(np.array(unknown))
    costs = np.array([one.others.mean() if len(one.others) else math.nan for one in evidence])
    is_known = np.isfinite(costs)
    found[is_known] = np.maximum(found[is_known], deviations(costs[is_known]))
    return found


def trigrams(text: str) -> list[str]:
    spaced = f" {' '.join(filter(None, map(letters_of, text.split())))} "
    return [spaced[at : at + 3] for at in range(len(spaced) - 2)]


# ── parts of a transcript ────────────────────────────────────────────────────────────────────


def _nats_after(evidence: Evidence, edit: Edit) -> float:
    """Nats a token of what the changed transcript shares with the one that is there."""
    return edit.shared_nats / (len(evidence.own) - (edit.last_token - edit.first_token))


def _explains(heard: Heard, row: int, edit: Edit) -> bool:
    """Whether the change makes a transcript of this clip of one that is none."""
    evidence = heard.evidence[row]
    removed = float(evidence.own[edit.first_token : edit.last_token].sum())
    if not len(evidence.others) or _saved(evidence, edit) + removed < SAVED_NATS:
        return False
    left = 1 - (edit.last_token - edit.first_token) / max(len(evidence.own) - 1, 1)
    gain = float(evidence.others.mean()) - _nats_after(evidence, edit)
    return left >= LEAST_LEFT and gain > FITS_SHARE * heard.usual_gains[row]


def _saved(evidence: Evidence, edit: Edit) -> float:
    """Nats by which the tokens that both texts have are likelier in the changed one.

    What words cost that are added or taken out is left out of it: in a language that a model half
    knows, each costs something, spoken or not.
    """
    own = float(np.delete(evidence.own, slice(edit.first_token, edit.last_token)).sum())
    return own - edit.shared_nats


def _parts(heard: Heard, row: int) -> list[LabelFinding]:
    """The surest finding of each kind at each place."""
    found = [_part(heard, row, edit) for edit in heard.evidence[row].edits]
    found += [_cut(heard, row, side) for side in (0, 1)]
    some = sorted(filter(None, found), key=lambda one: one.certainty)
    return list({(one.kind, one.place): one for one in some}.values())


def _part(heard: Heard, row: int, edit: Edit) -> LabelFinding | None:
    """Words with or without which the rest of the transcript is likelier."""
    return _spoken(heard, row, edit) if edit.adds else _written(heard, row, edit)


def _spoken(heard: Heard, row: int, edit: Edit) -> LabelFinding | None:
    """Words that are heard, and missed: without them, what follows comes as a surprise."""
    clip, evidence = heard.clips[row], heard.evidence[row]
    words = len(edit.words.split())
    needed = SAVED_NATS if words > 1 else WORD_NATS
    unsure = edit.added_nats / max(edit.added_tokens, 1) - evidence.hypothesis.nats
    odds = (_saved(evidence, edit) - needed) / STEP_NATS - min(max(unsure, 0.0), UNSURE_NATS) / 2
    certainty = _share(odds)
    if certainty < CERTAIN or _is_number(evidence, edit):
        return None
    detail = f"“{_brief(edit.words)}” is spoken, and not written"
    times = edit.start_seconds, edit.end_seconds
    return LabelFinding(
        clip, evidence, "speech_without_text", certainty, detail, edit.place, None, None, *times
    )


def _is_number(evidence: Evidence, edit: Edit) -> bool:
    """Whether added words stand beside digits, which the model may have spelled."""
    ends = list(itertools.accumulate(count for _, count in evidence.words))
    before = bisect.bisect_left(ends, edit.first_token)
    beside = evidence.words[max(before, 0) : before + 2]
    return any(character.isdigit() for word, _ in beside for character in word)


def _written(heard: Heard, row: int, edit: Edit) -> LabelFinding | None:
    """Words that cost as if they were not spoken, and whose absence surprises nobody."""
    clip, evidence = heard.clips[row], heard.evidence[row]
    saved, words = _saved(evidence, edit), len(edit.words.split())
    cost = float(evidence.own[edit.first_token : edit.last_token].sum())
    is_wrong = heard.mismatch[row] > SUSPECT and _explains(heard, row, edit)
    if not (is_wrong or _is_unspoken(heard, row, edit)):
        return None
    if saved < -cost / 2:  # some of it is spoken, and missed
        return None
    certainty = _share((saved + cost - UNSPOKEN_NATS) / STEP_NATS)
    if certainty < CERTAIN:
        return None
    side = {"beginning": 0, "end": 1}.get(edit.place)
    if side is not None and words <= CUT_WORDS and _is_loud(evidence, side):
        detail = f"the clip {('begins', 'ends')[side]} in or behind “{_brief(edit.words)}”"
        return LabelFinding(clip, evidence, "cut_ends", certainty, detail, edit.place)
    if words < 2:
        return None
    detail = f"“{_brief(edit.words)}” is written, and not spoken"
    return LabelFinding(clip, evidence, "text_without_speech", certainty, detail, edit.place)


def _is_unspoken(heard: Heard, row: int, edit: Edit) -> bool:
    """Whether words cost as much with the clip as with others, beside words that do not."""
    evidence = heard.evidence[row]
    if not len(evidence.others):
        return False
    gains = evidence.others.mean(axis=0) - evidence.own
    part = slice(edit.first_token, edit.last_token)
    inside, outside = float(gains[part].mean()), float(np.delete(gains, part).mean())
    return outside > FITS_SHARE * heard.usual_gains[row] and inside < UNSPOKEN_GAIN * outside


def _is_loud(evidence: Evidence, side: int) -> bool:
    levels = evidence.levels
    level = levels.ends if side else levels.begins
    return levels.range > LEAST_RANGE_DB and -LOUD_EDGE * levels.range < level < CLICK_DB


def _cut(heard: Heard, row: int, side: int) -> LabelFinding | None:
    """The clip begins or ends in the middle of sound, as others do not; or as they do, and its
    first or last word hardly fits it.
    """
    clip, evidence = heard.clips[row], heard.evidence[row]
    if not (evidence.words and len(evidence.others) and _is_loud(evidence, side)):
        return None
    gains = evidence.others.mean(axis=0) - evidence.own
    part = _word_at(evidence, side)
    inside, outside = float(gains[part].mean()), float(np.delete(gains, part).mean())
    dearness, odds = float(heard.dearness[row, side]), [-math.inf]
    if heard.loud_edges[side] <= USUAL_EDGES:
        odds.append(0.5 + min(max(dearness, -2.0), 4.0) / 2)
    if FITS_SHARE * heard.usual_gains[row] < outside and inside < UNSPOKEN_GAIN * outside:
        odds.append(dearness - DEAR_WORD)
    certainty = _share(max(odds))
    if certainty < CERTAIN:
        return None
    word = evidence.words[-side][0]
    detail = f"the clip {('begins', 'ends')[side]} in the middle of sound, at “{word}”"
    place: Place = "beginning" if side == 0 else "end"
    return LabelFinding(clip, evidence, "cut_ends", certainty, detail, place)


# ── which texts and hypotheses are alike ─────────────────────────────────────────────────────


class Resembling:
    """Finds clips by trigrams of what was heard, and transcripts by theirs."""

    def __init__(self, hypotheses: Sequence[str], clips: Sequence[Clip]):
        self._heard = _Index(hypotheses)
        self._written = _Index([clip.utterance.text for clip in clips])

    def clips_like(self, text: str, but: int | None = None) -> list[int]:
        """Rows whose hypothesis resembles a transcript, the most alike first."""
        return self._heard.nearest(text, but)

    def texts_like(self, hypothesis: str, but: int | None = None) -> list[int]:
        """Rows whose transcript resembles a hypothesis."""
        return self._written.nearest(hypothesis, but)


class _Index:
    """Texts by their trigrams; rare ones count for more."""

    def __init__(self, texts: Sequence[str]):
        self._grams = [frozenset(trigrams(text)) for text in texts]
        self._rows: dict[str, list[int]] = {}
        for row, grams in enumerate(self._grams):
            for gram in grams:
                self._rows.setdefault(gram, []).append(row)

    def nearest(self, text: str, but: int | None) -> list[int]:
        scores: dict[int, float] = {}
        for gram in set(trigrams(text)):
            rows = self._rows.get(gram, ())
            for row in rows:
                weight = math.log(1 + len(self._grams) / len(rows))
                scores[row] = scores.get(row, 0.0) + weight
        likeness = {
            row: score / math.sqrt(len(self._grams[row]))
            for row, score in scores.items()
            if row != but
        }
        return sorted(likeness, key=lambda row: -likeness[row])


def _share(odds: float) -> float:
    """Logarithm of odds → probability."""
    return 1 / (1 + math.exp(-max(min(odds, 50.0), -50.0)))


def _brief(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def settings() -> dict[str, float]:
    """The limits, as check.json has them."""
    return {
        "certain": CERTAIN,
        "prior": PRIOR,
        "saved_nats": SAVED_NATS,
        "unspoken_gain": UNSPOKEN_GAIN,
        "no_speech": NO_SPEECH,
        "detected_language": DETECTED,
        "usual_edges": USUAL_EDGES,
    }
