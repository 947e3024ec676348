"""What is said of an evaluation: in one wording for the terminal, the page and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lora_whisper.evaluation import results as stored
from lora_whisper.evaluation.results import (
    Comparison,
    EvaluatedSet,
    EvaluationResults,
    Rate,
    Score,
    Verdict,
)
from lora_whisper.terminal import counted, percent

SMALLEST_P = 0.001
ROLES = {
    "test": "",
    "retention": "must not get worse",
    "training": "a sample of what was trained on",
}


# ── what stands where ────────────────────────────────────────────────────────────────────────


def sets_of(results: EvaluationResults, *roles: str) -> list[str]:
    """Names of the sets in these roles, in order."""
    return [one.name for one in results.sets if one.role in roles]


def first_score(results: EvaluationResults, name: str) -> Score | None:
    """What all scores of a set have in common stands in the first."""
    return next(iter(results.scored(name).values()), None)


def leading(results: EvaluationResults, name: str) -> Rate:
    """`wer` or `cer`: the rate that comes first on this set."""
    return stored.leading(first_score(results, name))


def rates(results: EvaluationResults, name: str) -> tuple[Rate, Rate]:
    """Both rates, the leading one first."""
    return stored.both_rates(leading(results, name))


def last_model(results: EvaluationResults, name: str) -> str | None:
    """The model that a set's tables and utterances are sorted by."""
    return next(reversed(results.scored(name)), None)


def speed(score: Score) -> str:
    """RTFx, seconds of audio a second; empty where it is not known."""
    if not score.decode_seconds or score.audio_seconds is None:
        return ""
    rtfx = score.audio_seconds / score.decode_seconds
    return f"{rtfx:.1f}" + (" (cached)" if score.cached else "")


# ── wording ──────────────────────────────────────────────────────────────────────────────────


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


def against(results: EvaluationResults, name: str, model: str) -> str:
    """The verdict on a model; empty for the one that the others are compared with."""
    found = results.comparisons.get(name, {}).get(model)
    return verdict(found) if found else ""


def sentence(results: EvaluationResults, name: str, model: str) -> str:
    """`13.5 % WER against 103.2 % of base`"""
    rate, found = leading(results, name), results.scored(name)
    own, others = percent(found[model].rate(rate)), percent(found[results.against].rate(rate))
    return f"{own} {rate.upper()} against {others} of {results.against}"


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
    normalizers = _listed(score.normalizer for score in all_scores)
    drawn = _listed(score.resampled for score in all_scores)
    padded = _listed(score.padded_as for score in all_scores)
    said = (
        f"Text is normalized by {normalizers}; {padded}. "
        f"95 % intervals are by drawing {drawn} anew."
    )
    if any(results.comparisons.values()):
        said += (
            " Verdicts and the intervals of differences are by approximate randomization, paired "
            "and two-sided, at 5 %."
        )
    if any(score.leading == "cer" for score in all_scores):
        said += " Where CER comes first, WER and verdicts are of graphemes."
    return said


def _listed(names: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(names))


def share(part: float | None) -> str:
    """`12.3 %`, or a dash where there was nothing to divide by."""
    return "–" if part is None else percent(part)


# ── what has to be said beside the scores ────────────────────────────────────────────────────


def remarks(results: EvaluationResults) -> list[tuple[str, str]]:
    """A "warning" or a "note", and its text."""
    warnings = [*_failures(results), *results.warnings, *_leaks(results), *cautions_of(results)]
    notes = [*_unheard(results), *_left_out(results)]
    return [("warning", text) for text in warnings] + [("note", text) for text in notes]


def _failures(results: EvaluationResults) -> Iterator[str]:
    for model in results.models:
        if model.failed:
            yield f"the model {model.name} failed: {model.failed}"


def cautions_of(results: EvaluationResults) -> Iterator[str]:
    """Sets whose scored words are not those that were spoken."""
    from lora_whisper.evaluation.scored_words import cautions

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
            found = [counted(count, noun) for noun, count in counts.items() if count]
            if found:
                occur = "occurs" if sum(counts.values()) == 1 else "occur"
                yield f"{' and '.join(found)} of {one.name} {occur} in what {leaks.run} learnt from"


def _unheard(results: EvaluationResults) -> Iterator[str]:
    for one in results.sets:
        score = first_score(results, one.name)
        if score and score.bad_audio:
            audio = counted(score.bad_audio, "utterance")
            yield f"{audio} of {one.name} did not decode: scored as if nothing was heard"
        if score and score.no_reference:
            texts = counted(score.no_reference, "reference")
            yield f"{texts} of {one.name} without a word: what was heard there is inserted"


def _left_out(results: EvaluationResults) -> Iterator[str]:
    for one in results.sets:
        if one.left_out:
            reasons = (f"{count:,} {reason}" for reason, count in one.left_out.items())
            yield f"left out of {one.name}: {'; '.join(reasons)}"


def verdicts(results: EvaluationResults) -> list[tuple[str, str, Verdict, str]]:
    """Model, set, verdict's word and the whole sentence; of test sets first, then retention."""
    return [
        (model, name, found.verdict, f"{sentence(results, name, model)}: {verdict(found)}")
        for name in sets_of(results, "test") + sets_of(results, "retention")
        for model, found in results.comparisons.get(name, {}).items()
    ]


def losses(results: EvaluationResults) -> list[tuple[str, str]]:
    """Forgetting, and models that are worse at what they were made for."""
    retained = sets_of(results, "retention")
    return [
        ("warning", f"{'forgetting' if name in retained else 'a loss'}: {model} on {name}, {text}")
        for model, name, word, text in verdicts(results)
        if word == "worse"
    ]
