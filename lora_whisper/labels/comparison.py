"""What is to be known of a set of transcripts before one of them is judged.

Whether a clip is hard says nothing of its transcript, so that nothing is held against a fixed
limit of likelihood. A transcript is held against itself on other clips, and what these comparisons
come to against all other rows of the set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lora_whisper.labels.alignment import letters_of
from lora_whisper.labels.evidence import Evidence
from lora_whisper.labels.listening import Clip
from lora_whisper.model.tokenizer import code_of

CERTAIN = 0.5  # from which on something is a finding

# ── what a transcript gains by its own clip ──
FREEDOM = 4  # degrees of it, of Student's t: real sets have more outliers than a normal one
PRIOR = 0.05  # share of transcripts that are of another clip, before anything is heard
SPREAD_FLOOR = 0.15  # nats a token
SUSPECT = -3.0  # logarithm of the odds, from which on others' clips are tried
FITS_SHARE = 0.5  # of the set's usual gain, by which something has to fit better to count

USUAL_SHARE = 0.1  # of the rows, whose clips are taken for a language
LOUD_EDGE = 0.4  # of the clip's range, below its speech: nearer to it than to its pauses
LEAST_RANGE_DB = 15.0  # with less there is noise, which is at the ends, too
CLICK_DB = 8.0  # above the clip's speech: no word that is cut


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
        np.array([np.mean([is_loud(one, side) for one in evidence]) for side in (0, 1)]),
        _usual_languages(clips, evidence),
    )


def deviations(values: np.ndarray, least: float = 0.05) -> np.ndarray:
    """(rows,) robust standard deviations from the median, the deviation being `least` or more."""
    middle = np.median(values) if len(values) else 0.0
    spread = 1.4826 * np.median(np.abs(values - middle)) if len(values) else 0.0
    return (values - middle) / max(float(spread), least)


def _word_costs(evidence: Sequence[Evidence], side: int) -> np.ndarray:
    """(rows,) nats a token of the first or the last word, given its clip."""
    return np.array([one.own[word_at(one, side)].mean() for one in evidence])


def word_at(evidence: Evidence, side: int) -> slice:
    """The tokens of the first or the last word."""
    last = len(evidence.own) - 1
    count = evidence.words[-side][1] if evidence.words else last
    return slice(0, count) if side == 0 else slice(last - count, last)


def is_loud(evidence: Evidence, side: int) -> bool:
    """Whether a clip begins (0) or ends (1) in the middle of sound."""
    levels = evidence.levels
    level = levels.ends if side else levels.begins
    return levels.range > LEAST_RANGE_DB and -LOUD_EDGE * levels.range < level < CLICK_DB


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


# ── language ─────────────────────────────────────────────────────────────────────────────────


def _usual_languages(
    clips: Sequence[Clip], evidence: Sequence[Evidence]
) -> dict[str, frozenset[str]]:
    """By the language that rows name, those that their clips are often taken for."""
    taken: dict[str, Counter[str]] = {}
    for clip, one in zip(clips, evidence, strict=True):
        counts = taken.setdefault(named_language(clip), Counter())
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


def named_language(clip: Clip) -> str:
    """The language of a row, as the manifest has it."""
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
        different = set(map(frozenset, grams))  # a text that stands twice is not another one
        texts = Counter(gram for some in different for gram in some)
        unknown = [sum(texts[gram] == 1 for gram in some) / max(len(some), 1) for some in grams]
        found[rows] = deviations(np.array(unknown))
    costs = np.array([one.others.mean() if len(one.others) else math.nan for one in evidence])
    is_known = np.isfinite(costs)
    found[is_known] = np.maximum(found[is_known], deviations(costs[is_known]))
    return found


def trigrams(text: str) -> list[str]:
    spaced = f" {' '.join(filter(None, map(letters_of, text.split())))} "
    return [spaced[at : at + 3] for at in range(len(spaced) - 2)]


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


def probability(odds: float) -> float:
    """Of the logarithm of the odds."""
    return 1 / (1 + math.exp(-max(min(odds, 50.0), -50.0)))
