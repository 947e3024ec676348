"""One test set's score: error rates, their interval, and the same for each group."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_whisper.data.vocabulary import SPACELESS_LANGUAGES
from lora_whisper.evaluation.metrics import CharacterErrorRate, Counts, WordErrorRate, total
from lora_whisper.evaluation.normalizers import Normalizer, normalizer_for

INTERVAL_PERCENTILES = (2.5, 97.5)  # of 95 %


@dataclass(frozen=True)
class Score:
    """Error rates as fractions: 0.25 is one error to four reference words; above 1 is possible."""

    wer: float  # of normalized words; of graphemes where the normalizer's name says so
    wer_orthographic: float  # of words as written; only spaces are folded
    cer: float  # of normalized characters
    wer_ci95: tuple[float, float]
    cer_ci95: tuple[float, float]
    utterances: int
    reference_words: int  # normalized, what `wer` is divided by
    normalizer: str  # its name; several, joined by "+", where languages are mixed
    bad_audio: int = 0  # utterances whose audio did not decode; scored as if nothing was heard
    audio_seconds: float | None = None
    decode_seconds: float | None = None
    groups: dict[str, Score] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self) | {
            "wer_ci95": list(self.wer_ci95),
            "cer_ci95": list(self.cer_ci95),
            "groups": {name: group.to_dict() for name, group in self.groups.items()},
        }


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    language: str | Sequence[str | None] | None,
    bootstrap_samples: int,
    seed: int,
    groups: Sequence[str] | None = None,
) -> Score:
    """Score hypotheses against references, all together and, with labels, each group apart.

    Rates are total errors over total reference words (or characters), so that long utterances
    weigh more. A reference that is empty, or that normalizes to nothing, adds no word below the
    line; what was heard there is inserted and counts as errors. With no reference word at all the
    rate is the number of insertions.

    Args:
        language: Whisper's code, `None` for an English-only model, or one of these an utterance;
            it chooses the normalizer.
        groups: a label an utterance, e.g. the speaker.
    """
    assert references, "nothing to score"
    languages = _each(language, len(references))
    normalizers = [normalizer_for(code) for code in languages]
    expected = _apply(normalizers, references)
    heard = _apply(normalizers, hypotheses)
    words = WordErrorRate().compute(references=expected, predictions=heard)
    written = WordErrorRate().compute(
        references=_canonical(references), predictions=_canonical(hypotheses)
    )
    characters = CharacterErrorRate().compute(
        references=_characters(expected, languages), predictions=_characters(heard, languages)
    )
    return Score(
        wer=words["wer"],
        wer_orthographic=written["wer"],
        cer=characters["cer"],
        wer_ci95=bootstrap_interval(words["counts"], bootstrap_samples, seed),
        cer_ci95=bootstrap_interval(characters["counts"], bootstrap_samples, seed),
        utterances=len(references),
        reference_words=total(words["counts"]).reference_length,
        normalizer="+".join(sorted({normalizer.name for normalizer in normalizers})),
        groups={
            label: score(
                [references[row] for row in rows],
                [hypotheses[row] for row in rows],
                [languages[row] for row in rows],
                bootstrap_samples,
                seed,
            )
            for label, rows in _rows_by_label(groups or ()).items()
        },
    )


def bootstrap_interval(counts: Sequence[Counts], samples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the error rate when utterances are drawn anew, with replacement.

    Utterances, not words, are drawn: errors within one come together. Bisani and Ney 2004,
    https://doi.org/10.1109/ICASSP.2004.1326009.
    """
    errors = np.array([utterance.errors for utterance in counts])
    lengths = np.array([utterance.reference_length for utterance in counts])
    generator = np.random.default_rng(seed)
    rates = np.empty(samples)
    for sample in range(samples):  # one at a time: 1,000 draws of 10,000 at once would take 160 MB
        drawn = generator.integers(len(counts), size=len(counts))
        rates[sample] = errors[drawn].sum() / max(lengths[drawn].sum(), 1)
    low, high = np.percentile(rates, INTERVAL_PERCENTILES)
    return float(low), float(high)


def _each(language: str | Sequence[str | None] | None, utterances: int) -> list[str | None]:
    if language is None or isinstance(language, str):
        return [language] * utterances
    return list(language)


def _apply(normalizers: Iterable[Normalizer], texts: Iterable[str]) -> list[str]:
    return [normalize(text) for normalize, text in zip(normalizers, texts, strict=True)]


def _canonical(texts: Iterable[str]) -> list[str]:
    """One encoding for what is written the same: NFC, as the training texts have it."""
    return [unicodedata.normalize("NFC", text) for text in texts]


def _characters(texts: Iterable[str], languages: Iterable[str | None]) -> list[str]:
    """Texts for the character error rate: no spaces where the script has none."""
    pairs = zip(texts, languages, strict=True)
    return ["".join(text.split()) if code in SPACELESS_LANGUAGES else text for text, code in pairs]


def _rows_by_label(labels: Iterable[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return dict(sorted(rows.items()))
