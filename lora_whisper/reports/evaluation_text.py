"""What is said of an evaluation, in words: the same on the page, in the terminal and on a card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora_whisper.evaluation.results import (
    Comparison,
    EvaluatedSet,
    EvaluationResults,
    Rate,
    Score,
    leading,
)
from lora_whisper.evaluation.scored_words import cautions
from lora_whisper.reports.capabilities import losses as lost
from lora_whisper.terminal import counted, percent

SMALLEST_P = 0.001


# ── what stands where ─────────────────────────────────────────────────────────────────────────


def sets_of(results: EvaluationResults, *roles: str) -> list[str]:
    """Names of the sets in these roles, in order."""
    return [one.name for one in results.sets if one.role in roles]


def first_score(results: EvaluationResults, name: str) -> Score | None:
    """What all scores of a set have in common stands in the first."""
    return next(iter(results.scored(name).values()), None)


def leading_on(results: EvaluationResults, name: str) -> Rate:
    """`wer` or `cer`: the rate that comes first on this set."""
    return leading(first_score(results, name))


def last_model(results: EvaluationResults, name: str) -> str | None:
    """The model that a set's tables and utterances are sorted by."""
    return next(reversed(results.scored(name)), None)


def speed(score: Score) -> str:
    """RTFx, seconds of audio a second; empty where it is not known."""
    if not score.decode_seconds or score.audio_seconds is None:
        return ""
    rtfx = score.audio_seconds / score.decode_seconds
    return f"{rtfx:.1f}" + (" (cached)" if score.cached else "")


# ── wording ───────────────────────────────────────────────────────────────────────────────────


def p_value(probability: float) -> str:
    """`p < 0.001`, `p = 0.043` or `p = 0.62`"""
    if probability < SMALLEST_P:
        return f"p < {SMALLEST_P}"
    return f"p = {probability:.{3 if probability < 0.1 else 2}f}"


def verdict(comparison: Comparison) -> str:
    """`better (p < 0.001)`, `no difference shown (p = 0.62)`, `too few utterances to tell`"""
    if comparison.verdict == "too few to tell":
        return f"too few {comparison.resampled} to tell"
    return f"{comparison.verdict} ({p_value(comparison.p_value)})"


def points(comparison: Comparison) -> str:
    """`-4.1 points (-6.0 to -2.2)`: the difference of the WER and its interval."""
    difference = f"{100 * comparison.difference:+.1f} points"
    if comparison.ci95 is None:
        return difference
    low, high = comparison.ci95
    return f"{difference} ({100 * low:+.1f} to {100 * high:+.1f})"


def size(results: EvaluationResults, one: EvaluatedSet) -> str:
    """`100 utterances of 12 speakers, 412 words, 0.07 h, normalizer whisper-english,
    padded sound`
    """
    speakers = f" of {counted(one.speakers, 'speaker')}" if one.speakers else ""
    facts = [f"{counted(one.utterances, 'utterance')}{speakers}"]
    score = first_score(results, one.name)
    if score:
        facts.append(f"{score.reference_words:,} {score.units}")
    facts.append(f"{one.hours:.2f} h")
    if score:
        facts += [f"normalizer {score.normalizer}", f"padded {score.padding}"]
    return ", ".join(facts)


def method(results: EvaluationResults) -> str:
    """How text was normalized, and what the intervals and verdicts are made of."""
    all_scores = [score for name in results.scores for score in results.scored(name).values()]
    text = how_scored(all_scores)
    if any(results.comparisons.values()):
        text += (
            " Verdicts and the intervals of differences are by approximate randomization, paired "
            "and two-sided, at 5 %."
        )
    if any(score.leading == "cer" for score in all_scores):
        text += " Where CER comes first, WER and verdicts are of graphemes."
    return text


def how_scored(scores: Sequence[Score]) -> str:
    """How text was normalized and clips were padded, and what intervals are made of."""
    normalizers, paddings, drawn = (
        " and ".join(dict.fromkeys(getattr(score, name) for score in scores))
        for name in ("normalizer", "padded_as", "resampled")
    )
    return (
        f"Text is normalized by {normalizers}; {paddings}. "
        f"95 % intervals are by drawing {drawn} anew."
    )


def share(part: float | None) -> str:
    """`12.3 %`, or a dash where there was nothing to divide by."""
    return "–" if part is None else percent(part)


# ── what has to be said beside the scores ─────────────────────────────────────────────────────


def remarks(results: EvaluationResults) -> list[tuple[str, str]]:
    """A "warning" or a "note", and its text."""
    failures = [
        f"the model {one.name} failed: {one.failed}" for one in results.models if one.failed
    ]
    warnings = [*failures, *results.warnings, *_leaks(results), *cautions_of(results)]
    return [("warning", text) for text in warnings] + [("note", text) for text in _notes(results)]


def cautions_of(results: EvaluationResults) -> Iterator[str]:
    """Sets whose scored words are not those that were spoken."""
    for name in results.scores:
        if text := cautions(results.scored(name)):
            yield f"{name}: {text}"


def _leaks(results: EvaluationResults) -> Iterator[str]:
    for one in results.sets:
        for leaks in one.leaks:
            counts = {
                "recording": leaks.recordings,
                "text": leaks.texts,
                "speaker": leaks.speakers,
            }
            shared = [counted(count, noun) for noun, count in counts.items() if count]
            if shared:
                occur = "occurs" if sum(counts.values()) == 1 else "occur"
                what = " and ".join(shared)
                yield f"{what} of {one.name} {occur} in what {leaks.run} learnt from"


def _notes(results: EvaluationResults) -> Iterator[str]:
    for one in results.sets:
        score = first_score(results, one.name)
        if score and score.bad_audio:
            audio = counted(score.bad_audio, "utterance")
            yield f"{audio} of {one.name} did not decode: scored as an empty text"
        if score and score.no_reference:
            texts = counted(score.no_reference, "reference")
            yield f"{texts} of {one.name} without a word: what is written there counts as inserted"
    for one in results.sets:
        if one.left_out:
            reasons = (f"{count:,} {reason}" for reason, count in one.left_out.items())
            yield f"left out of {one.name}: {'; '.join(reasons)}"


@dataclass(frozen=True)
class Judgement:
    """The verdict on a model on a set, and how it is said."""

    model: str
    set: str
    is_retention: bool  # whether it must not get worse there
    comparison: Comparison
    text: str


def judgements(results: EvaluationResults) -> list[Judgement]:
    """Of test sets first, then of retention."""
    retained = sets_of(results, "retention")
    judged = []
    for name in [*sets_of(results, "test"), *retained]:
        rate, scores = leading_on(results, name), results.scored(name)
        for model, comparison in results.comparisons.get(name, {}).items():
            own, other = (percent(scores[one].rate(rate)) for one in (model, results.against))
            text = (
                f"{own} {rate.upper()} against {other} of {results.against}: {verdict(comparison)}"
            )
            judged.append(Judgement(model, name, name in retained, comparison, text))
    return judged


def losses(results: EvaluationResults) -> list[tuple[str, str]]:
    """Forgetting, models that are worse at what they were made for, prompts that mislead them."""
    return (
        _misled(results)
        + [
            (
                "warning",
                f"{'forgetting' if one.is_retention else 'a loss'}: {one.model} on {one.set}, "
                f"{one.text}",
            )
            for one in judgements(results)
            if one.comparison.verdict == "worse"
        ]
        + [
            ("warning", f"lost for certain by {model}: {lost(card)}")
            for model, card in results.cards.items()
            if card.having("lost")
        ]
    )


def _misled(results: EvaluationResults) -> list[tuple[str, str]]:
    """Models that write worse with the word list as a prompt than without."""
    found = []
    for name, models in results.prompted.items():
        for model, one in models.items():
            score = results.scores[name][model]
            if one.comparison.verdict == "worse" and score is not None:
                rate = leading_on(results, name)
                own, other = (percent(each.rate(rate)) for each in (one.score, score))
                text = f"{own} {rate.upper()} against {other} without: {verdict(one.comparison)}"
                found.append(("warning", f"the prompt misleads {model} on {name}, {text}"))
    return found
