"""What a score is of: weights, rows, texts and decoding, which stand in it as `of`.

Scores are compared, in a table or by a person, as what models made of the same speech. Whatever
puts two side by side asks `differences` whether they are; figures alone do not show it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lora_whisper.config import CLEAN, DECODING, EvaluationConfig
from lora_whisper.data.contents import speech_hashes
from lora_whisper.data.dataset import Utterances, written_language
from lora_whisper.evaluation.normalizers import normalizer_for
from lora_whisper.evaluation.results import Provenance, Score
from lora_whisper.model.tokenizer import SpecialTokens

Weights = Mapping[str, Any]  # sha256 of "checkpoint" and "adapter", and how they are stored

BEFORE = {"padding": "sound"}  # what older versions did, and had no name for


def provenance(
    weights: Weights,
    utterances: Utterances,
    special_tokens: SpecialTokens,
    settings: EvaluationConfig,
    seed: int,
    condition: str = CLEAN,
    prompt: str = "",
) -> Provenance:
    """What a score of these utterances is of, known before anything is decoded."""
    hashes = speech_hashes(utterances)
    normalized = (
        normalizer_for(written_language(special_tokens, one))(one.text) for one in utterances
    )
    return Provenance(
        weights=dict(weights),
        rows=hashes.rows,
        texts=hashes.texts,
        references=texts_hash(normalized),  # the texts as they are compared
        decoding=decoding_of(settings, seed, condition, prompt),
    )


def decoding_of(
    settings: EvaluationConfig, seed: int, condition: str = CLEAN, prompt: str = ""
) -> dict[str, object]:
    """What decides on a text beside model and speech; the seed where something is drawn."""
    decoding = {name: getattr(settings, name) for name in DECODING}
    is_drawn = settings.temperature_fallback or condition != CLEAN
    decoding |= {"condition": condition, "seed": seed if is_drawn else None}
    return decoding | ({"prompt": prompt} if prompt else {})


def texts_hash(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def differences(one: Score, other: Score) -> list[str]:
    """In what two scores are not of the same speech and decoding; empty where they compare.

    Of older scores that do not say what they are of, sizes and normalizer are all that is known.
    """
    if one.of is None or other.of is None:
        return _differing_sizes(one, other)
    return between(one.of, other.of) or _differing_sizes(one, other)


def between(ours: Provenance, theirs: Provenance) -> list[str]:
    """The same of what two scores are of."""
    changes = []
    if ours.rows != theirs.rows:
        changes.append("other rows")
    if ours.texts != theirs.texts:
        changes.append("other texts")
    elif ours.references != theirs.references and ours.rows == theirs.rows:
        changes.append("texts that were normalized otherwise")
    before, now = dict(ours.decoding), dict(theirs.decoding)
    for name in before | now:
        was, is_now = (one.get(name, BEFORE.get(name)) for one in (before, now))
        if was != is_now:
            shown = [
                str(value).lower() if isinstance(value, bool) else str(value or "none")
                for value in (was, is_now)
            ]
            changes.append(f"{name} {' and '.join(shown)}")
    return changes


def _differing_sizes(one: Score, other: Score) -> list[str]:
    changes = []
    for name in ("utterances", "reference_words", "normalizer"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours != theirs:
            changes.append(f"{name.replace('_', ' ')} {ours} and {theirs}")
    return changes


def groups_that_compare(scores: Sequence[tuple[str, Score]]) -> list[list[str]]:
    """The names of scores that are of one speech and decoding, together."""
    groups: list[tuple[Score, list[str]]] = []
    for name, score in scores:
        for first, names in groups:
            if not differences(first, score):
                names.append(name)
                break
        else:
            groups.append((score, [name]))
    return [names for _, names in groups]


def is_of(score: Score, weights: Weights) -> bool:
    """Whether a score is of weights that are there now; older ones do not say, and are believed."""
    known = score.of.weights if score.of else {}
    return all(known.get(name, value) == value for name, value in weights.items())
