"""From transcriptions to a score: error rates, their intervals, and the same for each group."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_whisper.config import CLEAN, EvaluationConfig
from lora_whisper.data.dataset import Utterance, Utterances, written_language
from lora_whisper.data.sources.rows import USUAL_NAMES
from lora_whisper.evaluation.decoding.transcribe import Transcriptions
from lora_whisper.evaluation.metrics import (
    Counts,
    character_error_counts,
    error_counts,
    sentence_error_counts,
    total,
)
from lora_whisper.evaluation.normalizers import as_written, characters_of, normalizer_for
from lora_whisper.evaluation.provenance import Weights, provenance
from lora_whisper.evaluation.results import Interval, Score, ScoredSet, ScoredUtterance, to_json
from lora_whisper.evaluation.scored_words import is_off, is_unspaced, written_words
from lora_whisper.evaluation.significance import (
    BOOTSTRAP_SAMPLES,
    Units,
    bootstrap_interval,
    sampling_units,
)
from lora_whisper.evaluation.test_sets import group_labels
from lora_whisper.model.tokenizer import SPACELESS_LANGUAGES, SpecialTokens

Align = Callable[[str, str], Counts]


def score_utterance(
    row: str,
    language: str | None,
    reference: str,
    hypothesis: str,
    *,
    speaker: str | None = None,
    seconds: float = 0.0,
    bad_audio: str | None = None,
    columns: Mapping[str, Any] | None = None,
) -> ScoredUtterance:
    """Normalize both texts by their language, and count. Either text may be empty."""
    normalize = normalizer_for(language)
    expected, written = normalize(reference), normalize(hypothesis)
    counts = error_counts(expected, written)
    return ScoredUtterance(
        row=row,
        language=language,
        speaker=speaker,
        reference=reference,
        hypothesis=hypothesis,
        reference_normalized=expected,
        hypothesis_normalized=written,
        errors=counts.errors,
        substitutions=counts.substitutions,
        insertions=counts.insertions,
        deletions=counts.deletions,
        reference_words=counts.reference_length,
        wer=counts.rate,
        seconds=seconds,
        bad_audio=bad_audio,
        columns=columns or {},
    )


def hypotheses_jsonl(rows: Iterable[ScoredUtterance]) -> bytes:
    """One JSON object a line, UTF-8."""
    lines = (json.dumps(to_json(row), ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode()


def score_transcriptions(
    utterances: Sequence[Utterance],
    transcriptions: Transcriptions,
    special_tokens: SpecialTokens,
    settings: EvaluationConfig,
    seed: int,
) -> tuple[Score, list[ScoredUtterance]]:
    """Score transcriptions. The same ones and seed give the same figures.

    Audio that does not decode is counted in the score, and scored as an empty text.

    Args:
        transcriptions: of these utterances, in their order.

    Raises:
        UserError: no row has a column of `evaluation.group_by`.
    """
    reasons = {bad.row: bad.reason for bad in transcriptions.bad}
    rows = [
        score_utterance(
            utterance.row,
            written_language(special_tokens, utterance),
            utterance.text,
            text,
            speaker=utterance.speaker,
            seconds=seconds,
            bad_audio=reasons.get(utterance.row),
            columns=_other_columns(utterance),
        )
        for utterance, text, seconds in zip(
            utterances, transcriptions.texts, transcriptions.seconds, strict=True
        )
    ]
    groups = group_labels(utterances, settings.group_by)
    result = score(rows, BOOTSTRAP_SAMPLES, seed, groups)
    return dataclasses.replace(result, decode_seconds=transcriptions.decode_seconds), rows


def score_set(
    utterances: Utterances,
    transcriptions: Transcriptions,
    special_tokens: SpecialTokens,
    settings: EvaluationConfig,
    seed: int,
    weights: Weights,
    condition: str = CLEAN,
    prompt: str = "",
) -> ScoredSet:
    """Score transcriptions, and say what the score is of; see `evaluation.provenance`."""
    score, scored = score_transcriptions(utterances, transcriptions, special_tokens, settings, seed)
    of = provenance(weights, utterances, special_tokens, settings, seed, condition, prompt)
    return ScoredSet(dataclasses.replace(score, of=of), scored)


def score(
    rows: Sequence[ScoredUtterance],
    bootstrap_samples: int,
    seed: int,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Score:
    """Score a test set, and with labels each group of it apart, by the same rules.

    Rates are total errors over total reference words (or characters), so that long utterances
    weigh more. What is odd has these results:

    - A reference that is empty, or normalizes to nothing (only punctuation, only "[music]"), adds
      no word below the line; what is written there is inserted and counts as errors. The sentence
      is right where nothing is written. `no_reference` counts such utterances.
    - With no reference word at all, the rate is the number of insertions: 0 is right, and 2 are two
      words made up. It never divides by zero.
    - A model that generates nothing has every word deleted: WER and CER are 1, the interval is
      [1, 1], and a sentence is right only where nothing was said.
    - Audio that does not decode has an empty text, with its words deleted; `bad_audio` counts it.

    Args:
        groups: for each column that the set is broken down by, a label an utterance.
    """
    assert rows, "nothing to score"
    counted = _count(rows)
    whole = _score(rows, counted, bootstrap_samples, seed)
    if not groups:
        return whole
    worst_first: dict[str, dict[str, Score]] = {}
    for column, labels in groups.items():
        chosen: dict[str, list[int]] = {}
        for index, label in sorted(enumerate(labels), key=lambda one: one[1]):
            chosen.setdefault(label, []).append(index)
        parts = {
            label: _score(
                [rows[index] for index in indices], counted.only(indices), bootstrap_samples, seed
            )
            for label, indices in chosen.items()
        }
        ranked = sorted(parts.items(), key=lambda one: -one[1].rate(whole.leading))
        worst_first[column] = dict(ranked)
    return dataclasses.replace(whole, groups=worst_first)


@dataclass(frozen=True)
class _Counted:
    """The edits of each utterance, by what is compared."""

    words: list[Counts]
    words_written: list[Counts]
    characters: list[Counts]
    characters_written: list[Counts]
    sentences: list[Counts]

    def only(self, rows: Sequence[int]) -> _Counted:
        columns = (getattr(self, each.name) for each in dataclasses.fields(self))
        return _Counted(*([column[row] for row in rows] for column in columns))


def _count(rows: Sequence[ScoredUtterance]) -> _Counted:
    languages = [row.language for row in rows]
    normalized = [(row.reference_normalized, row.hypothesis_normalized) for row in rows]
    written = [
        (as_written(row.reference, row.language), as_written(row.hypothesis, row.language))
        for row in rows
    ]
    return _Counted(
        words=_edits(error_counts, normalized),
        words_written=_edits(error_counts, written),
        characters=_edits(character_error_counts, _characters(normalized, languages)),
        characters_written=_edits(character_error_counts, _characters(written, languages)),
        sentences=_edits(sentence_error_counts, normalized),
    )


def _edits(align: Align, pairs: Sequence[tuple[str, str]]) -> list[Counts]:
    return [align(reference, hypothesis) for reference, hypothesis in pairs]


def _characters(
    pairs: Sequence[tuple[str, str]], languages: Sequence[str | None]
) -> list[tuple[str, str]]:
    return [
        (characters_of(reference, language), characters_of(hypothesis, language))
        for (reference, hypothesis), language in zip(pairs, languages, strict=True)
    ]


def _score(rows: Sequence[ScoredUtterance], counted: _Counted, samples: int, seed: int) -> Score:
    units = sampling_units([row.speaker for row in rows])
    words, characters = total(counted.words), total(counted.characters)
    written = sum(written_words(row.reference, row.language) for row in rows)
    is_other = is_off(written, words.reference_length) or (
        is_unspaced(characters.reference_length, words.reference_length)
    )
    # Without any space, no joining of words changes a rate.
    unspaced = [
        (row.reference_normalized.replace(" ", ""), row.hypothesis_normalized.replace(" ", ""))
        for row in (rows if is_other else ())
    ]
    normalizers = {normalizer_for(row.language) for row in rows}
    return Score(
        wer=words.rate,
        wer_orthographic=total(counted.words_written).rate,
        cer=characters.rate,
        cer_orthographic=total(counted.characters_written).rate,
        wer_ci95=_interval(counted.words, units, samples, seed),
        cer_ci95=_interval(counted.characters, units, samples, seed),
        substitutions=words.substitutions,
        insertions=words.insertions,
        deletions=words.deletions,
        sentence_error_rate=total(counted.sentences).rate,
        utterances=len(rows),
        reference_words=words.reference_length,
        no_reference=sum(not row.reference_normalized for row in rows),
        leading="cer" if any(row.language in SPACELESS_LANGUAGES for row in rows) else "wer",
        normalizer="+".join(sorted({one.name for one in normalizers})),
        units=" and ".join(sorted({one.units for one in normalizers})),
        resampled=units.resampled,
        bad_audio=sum(row.bad_audio is not None for row in rows),
        written_words=written,
        emptied=sum(bool(row.reference.strip()) and not row.reference_normalized for row in rows),
        cer_unspaced=total(_edits(character_error_counts, unspaced)).rate if is_other else None,
        audio_seconds=sum(row.seconds for row in rows),
    )


def _interval(counts: Sequence[Counts], units: Units, samples: int, seed: int) -> Interval:
    errors = units.sums([utterance.errors for utterance in counts])
    lengths = units.sums([utterance.reference_length for utterance in counts])
    return bootstrap_interval(errors, lengths, samples, seed)


def _other_columns(utterance: Utterance) -> dict[str, object]:
    """The row as it stands in its source, but for the text, and the audio in whatever column."""
    usual = {*USUAL_NAMES.audio, *USUAL_NAMES.text}
    audio = utterance.audio

    def is_audio(value: object) -> bool:
        if not (isinstance(audio, Path) and isinstance(value, str)):
            return False
        return Path(value).name == audio.name

    return {
        name: value
        for name, value in utterance.columns.items()
        if name not in usual and value != utterance.text and not is_audio(value)
    }
