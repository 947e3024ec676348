"""What an evaluation gives, typed from the transcriptions to page, table, JSON and model card.

Nothing heavy is imported: what people are shown of a score needs no model. What older versions did
not write has the default that stands at its field here, and nowhere else; a key that this version
does not know is left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter

from lora_whisper.terminal import percent

FORMAT = 1  # of evaluation.json; raised when a key of it changes its meaning

Rate = Literal["wer", "cer"]
Interval = tuple[float, float]
Resampled = Literal["speakers", "utterances"]  # what is drawn as a whole
Role = Literal["test", "retention", "training"]
Verdict = Literal["better", "worse", "no difference shown", "too few to tell"]
Json = dict[str, Any]  # a JSON object, on its way to a file or from it
Result = TypeVar("Result")

SEEN_AND_UNSEEN = ("seen", "unseen")  # parts of a word list
# Keys that are not written where nothing is known, or nothing was asked for.
OMITTED = ("of", "cached", "asked", "false_alarm_rate", "false_alarm_ci95")
OMITTED_EMPTY = ("parts", "prompted", "prompt_words", "asked_words", "cards")
PADDED_AS = {
    "sound": "Transformers and whisper.cpp",
    "log-mel": "openai-whisper and faster-whisper",
}


def to_json(result: Any) -> Json:
    """A result as it is written: by its fields' names."""
    return dataclasses.asdict(result, dict_factory=_object)


def _object(pairs: Sequence[tuple[str, Any]]) -> Json:
    values = {
        key: value
        for key, value in pairs
        if (value is not None or key not in OMITTED) and (value or key not in OMITTED_EMPTY)
    }
    for labels in values.get("groups", {}).values():
        for group in labels.values():
            del group["groups"]  # it has none
    return values


def from_json(kind: type[Result], values: Mapping[str, Any]) -> Result:
    """A result as this or an older version wrote it.

    Raises:
        ValueError: a value is missing that every version wrote, or is of another type.
    """
    if kind not in READERS:
        READERS[kind] = TypeAdapter(kind)
    result: Result = READERS[kind].validate_python(values)
    return result


READERS: dict[type[Any], TypeAdapter[Any]] = {}  # made when they are asked for


# ── scores ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Provenance:
    """What a score is of; see `evaluation.provenance`."""

    weights: Mapping[str, Any]  # sha256 of "checkpoint" and "adapter", and how they are stored
    rows: str  # hash of the utterances' places and audio
    texts: str  # hash of the references as written
    references: str  # hash of the references as they are compared
    decoding: Mapping[str, Any]  # settings, condition and seed

    @property
    def padding(self) -> str:
        """How clips are padded: "sound" (all that older versions did) or "log-mel"."""
        return str(self.decoding.get("padding", "sound"))


class Rates:
    """Both error rates as fractions, with their intervals: 0.25 is one error to four reference
    words; above 1 is possible.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)  # such a rate was edited, or damaged
    wer: float
    wer_ci95: Interval
    cer: float
    cer_ci95: Interval
    leading: Rate
    of: Provenance | None

    def rate(self, name: Rate) -> float:
        return self.cer if name == "cer" else self.wer

    def ci95(self, name: Rate) -> Interval:
        return self.cer_ci95 if name == "cer" else self.wer_ci95

    @property
    def padding(self) -> str:
        return self.of.padding if self.of else "sound"

    @property
    def padded_as(self) -> str:
        """`clips are padded as in Transformers and whisper.cpp`"""
        return f"clips are padded as in {PADDED_AS[self.padding]}"


@dataclass(frozen=True, kw_only=True)
class BriefScore(Rates):
    """What is kept of a score in a condition."""

    wer: float
    wer_ci95: Interval
    cer: float
    cer_ci95: Interval
    leading: Rate = "wer"
    utterances: int = 0
    of: Provenance | None = None


@dataclass(frozen=True, kw_only=True)
class Score(Rates):
    """One model's score on a test set, or on a group of it."""

    wer: float  # of normalized words; of graphemes or syllables where the normalizer's name says so
    wer_orthographic: float  # of words (or graphemes) as written; only spaces are folded
    cer: float  # of normalized characters
    cer_orthographic: float  # of characters as written
    wer_ci95: Interval
    cer_ci95: Interval
    substitutions: int  # normalized words, here and below: the errors that `wer` counts
    insertions: int
    deletions: int
    sentence_error_rate: float  # share of utterances with an error in their normalized text
    utterances: int
    reference_words: int  # what `wer` is divided by
    no_reference: int = 0  # utterances whose reference is empty, or normalizes to nothing
    leading: Rate = "wer"  # the rate to look at: CER as soon as one text has no spaces
    normalizer: str  # its name; several, joined by "+", where languages are mixed
    units: str = "words"  # or what stands for them in the texts: "graphemes and words"
    resampled: Resampled = "utterances"  # what is drawn for the intervals
    bad_audio: int = 0  # utterances whose audio did not decode; scored as an empty text
    written_words: int | None = None  # of the references as written: what was spoken
    emptied: int = 0  # references with a text of which nothing is left to score
    cer_unspaced: float | None = None  # of normalized characters without spaces, where words are
    # not those that were spoken (`scored_words`); else None
    audio_seconds: float | None = None
    decode_seconds: float | None = None  # known of the whole, not of its groups
    groups: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)  # column → label, worst
    # first; a group has none
    cached: bool | None = None  # whether an earlier command had decoded it
    of: Provenance | None = None

    def brief(self) -> BriefScore:
        """What is kept of a score in a condition."""
        return BriefScore(
            **{one.name: getattr(self, one.name) for one in dataclasses.fields(BriefScore)}
        )


def leading(score: Rates | None) -> Rate:
    """The rate to look at: "wer", or "cer" where the script has no spaces."""
    return score.leading if score else "wer"


def units_of(score: Score | None) -> str:
    """What stands for words in the texts."""
    return score.units if score else "words"


def with_interval(score: Rates, rate: Rate) -> str:
    """`13.5 % (9.3 – 18.1 %)`"""
    return f"{percent(score.rate(rate))} ({interval(score.ci95(rate))})"


def rate_name(score: Score | None, rate: Rate) -> str:
    """`WER` of words only; of what it is where a text has no words between spaces."""
    if rate == "cer":
        return "CER"
    units = units_of(score)
    return "WER" if units == "words" else f"error rate of {units}"


def groups_of(score: Score) -> Iterator[tuple[str, Score]]:
    """Each group's name and scores, the worst first; of several columns, each is named."""
    for column, groups in score.groups.items():
        for label, group in groups.items():
            yield f"{column}: {label}" if len(score.groups) > 1 else label, group


def both_rates(first: Rate) -> tuple[Rate, Rate]:
    """The leading rate, and the other one."""
    return ("cer", "wer") if first == "cer" else ("wer", "cer")


def interval(bounds: Sequence[float]) -> str:
    """`9.3 – 18.1 %`"""
    low, high = bounds
    return f"{100 * low:.1f} – {100 * high:.1f} %"


@dataclass(frozen=True)
class ScoredUtterance:
    """Texts as they were written and as they are compared, and the edits between the latter.

    A line of `hypotheses.jsonl`. Words are what the normalizer parts by spaces: graphemes where the
    script has no spaces.
    """

    row: str  # of the manifest, "test.jsonl:17"
    language: str | None  # Whisper's code of what the text is in, which chose the normalizer
    speaker: str | None
    reference: str
    hypothesis: str
    reference_normalized: str
    hypothesis_normalized: str
    errors: int  # normalized words substituted, inserted or deleted
    substitutions: int
    insertions: int
    deletions: int
    reference_words: int  # normalized
    wer: float  # errors over reference words; of an empty reference, the number of insertions
    seconds: float  # of audio that was decoded
    bad_audio: str | None  # why it did not decode
    columns: Mapping[str, Any] = field(default_factory=dict)  # of the manifest: no audio, no text


@dataclass(frozen=True)
class ScoredSet:
    """A model's score on a set, and the utterances behind it."""

    score: Score
    utterances: Sequence[ScoredUtterance]


# ── beyond the rate ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Comparison:
    """One model beside another; the verdict is on the former."""

    difference: float  # its WER less that of the other, as a fraction: below 0 it has fewer errors
    ci95: Interval | None  # of the difference; None: too few to tell
    p_value: float  # two-sided
    verdict: Verdict
    resampled: Resampled
    against: str = ""  # the other model's name


@dataclass(frozen=True)
class HallucinatedText:
    row: str
    hypothesis: str
    why: str  # the signs


@dataclass(frozen=True)
class Hallucination:
    """In how many utterances there is a sign; one may show several."""

    utterances: int
    looping: int  # the same words at least four times in a row
    compression: int  # text that gzip shrinks by more than 2.4
    too_long: int  # more letters than the audio has time for
    on_silence: int  # any text where the reference has none
    any: int
    examples: tuple[HallucinatedText, ...]


@dataclass(frozen=True)
class WordRecall:
    """How a model does on a list of words and phrases; None where there is nothing to divide by."""

    recall: float | None  # found / said
    ci95: Interval | None  # of the recall
    said: int  # times that a word of the list stands in a reference
    found: int  # those that the hypothesis has, too
    written: int  # times that one stands in a hypothesis, said or not
    precision: float | None  # found / written
    resampled: Resampled
    words: tuple[tuple[str, int, int], ...]  # word, said, found: most often missed first
    false_alarm_rate: float | None = None  # false alarms / words of the references
    false_alarm_ci95: Interval | None = None
    parts: Mapping[str, WordRecall] = field(default_factory=dict)  # the same of "seen" words, which
    # a run among the models was trained on, and of "unseen" ones; empty where all are the same

    @property
    def false_alarms(self) -> int:
        """Times that a word was written and not said."""
        return self.written - self.found


@dataclass(frozen=True)
class PromptedScore:
    """What a model made of a set with the word list as a prompt."""

    recall: WordRecall
    score: BriefScore
    comparison: Comparison  # with the same model without the prompt


@dataclass(frozen=True)
class WordScores:
    """What is kept of a word list in a run's summary."""

    listed: int  # words
    recall: WordRecall
    prompted: WordRecall | None = None  # with the list as a prompt


@dataclass(frozen=True)
class ErrorAnalysis:
    """The most frequent errors first. Words are normalized; graphemes where there are no spaces."""

    confusions: tuple[tuple[str, str, int], ...]  # reference, hypothesis, how often
    lost: tuple[tuple[str, int, int], ...]  # word, how often it is missing, how often it was said
    inserted: tuple[tuple[str, int], ...]  # word, how often nobody said it


@dataclass(frozen=True)
class NoSpeechTest:
    """What a model wrote about one kind of sound without speech."""

    clips: int
    with_text: int  # in how many of them anything was written
    texts: tuple[str, ...]  # some of what was


@dataclass(frozen=True)
class ScalePoint:
    """Both rates of every set with so much of the adapter."""

    scale: float
    scores: Mapping[str, BriefScore]  # by set


@dataclass(frozen=True)
class Leaks:
    """What of a test set a run was trained on; a shared recording is a fault, a speaker a limit."""

    run: str
    recordings: int  # utterances of the test set
    texts: int  # utterances, too
    speakers: int


# ── what is kept of what the base could ──────────────────────────────────────────────────────

Kept = Literal["kept", "not lost", "lost", "gained", "not certain", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What a base does, and its adapter after it. Shares and rates are fractions."""

    name: str
    how: str  # it was measured, in a sentence
    unit: Literal["share", "rate", "seconds"]
    is_better_higher: bool
    tolerance: float  # what may be lost where it counts as kept
    base: float | None = None  # None: not measured
    adapter: float | None = None
    ci95: Interval | None = None  # of the difference, adapter less base; None: too few to tell
    counted: str = ""  # what was drawn: "32 clips"
    verdict: Kept
    why: str = ""  # it was not measured, or is not certain


@dataclass(frozen=True, kw_only=True)
class CapabilityCard:
    """One model beside the one that it was made of."""

    against: str
    rows: tuple[Capability, ...]
    seconds: float  # that both took to decode, beside the scores

    def having(self, verdict: Kept) -> list[Capability]:
        return [row for row in self.rows if row.verdict == verdict]


# ── evaluation.json ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class EvaluatedModel:
    name: str
    what: str  # as it was given
    kind: str
    quantization: str
    failed: str | None  # why
    dtype: str
    fingerprint: str


@dataclass(frozen=True)
class EvaluatedSet:
    name: str
    role: Role
    utterances: int
    hours: float
    speakers: int
    languages: tuple[str, ...]
    left_out: Mapping[str, int]  # reason → rows
    leaks: tuple[Leaks, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationResults:
    """Every model on every set; what is by set and model is in the order of `sets` and `models`."""

    format: int = FORMAT
    name: str
    models: tuple[EvaluatedModel, ...]
    against: str  # the model that the others are compared with
    sets: tuple[EvaluatedSet, ...]
    scores: Mapping[str, Mapping[str, Score | None]]  # None: the model failed
    comparisons: Mapping[str, Mapping[str, Comparison]]
    mistakes: Mapping[str, Mapping[str, ErrorAnalysis]]
    keywords: Mapping[str, Mapping[str, WordRecall]]  # of the word list
    prompted: Mapping[str, Mapping[str, PromptedScore]] = field(default_factory=dict)
    prompt_words: tuple[str, ...] = ()  # of the list, those that the prompt has room for
    asked_words: int = 0  # of the list, all
    hallucination: Mapping[str, Mapping[str, Hallucination]]
    probes: Mapping[str, Mapping[str, NoSpeechTest]]  # by model and kind
    conditions: Mapping[str, Mapping[str, Mapping[str, BriefScore]]]  # by set, condition and model
    scales: Mapping[str, tuple[ScalePoint, ...]]  # by model
    warnings: tuple[str, ...]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    versions: Mapping[str, str]
    asked: Mapping[str, Any] | None = None  # what was typed and decides on it
    cards: Mapping[str, CapabilityCard] = field(default_factory=dict)  # by model

    def word_scores(self, name: str) -> dict[str, WordScores]:
        """By model, without the single words."""
        found, listed = {}, self.asked_words
        for model, recall in self.keywords.get(name, {}).items():
            prompted = self.prompted.get(name, {}).get(model)
            found[model] = WordScores(
                listed, _brief(recall), _brief(prompted.recall) if prompted else None
            )
        return found

    def scored(self, name: str) -> dict[str, Score]:
        """The models with a score on a set, in order."""
        return {model: score for model, score in self.scores[name].items() if score is not None}


def _brief(recall: WordRecall) -> WordRecall:
    parts = {name: _brief(part) for name, part in recall.parts.items()}
    return dataclasses.replace(recall, words=(), parts=parts)
