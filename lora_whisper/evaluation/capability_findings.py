"""What a model does beside writing words: found, kept, and of the texts that are scored.

Each finding counts, clip by clip or recording by recording, so that two models can be compared on
the same ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_whisper.config import EvaluationConfig, Padding
from lora_whisper.evaluation.capability_material import Material
from lora_whisper.evaluation.capability_questions import NO_CLIPS, Counted, Finding, Questions
from lora_whisper.evaluation.decoding.cache import keep, read_kept, transcriptions_key
from lora_whisper.evaluation.decoding.decoder import Decoder
from lora_whisper.evaluation.provenance import decoding_of
from lora_whisper.evaluation.results import ScoredUtterance
from lora_whisper.evaluation.text_style import (
    MARKS,
    capitals_of,
    f1,
    looks_like_a_sentence,
    marks_of,
)
from lora_whisper.terminal import work

WORDS = "words"
LEAST_WITH_MARKS = 0.5  # of the references, which else say nothing about them

Progress = Callable[[int], None]  # windows decoded so far
Findings = dict[tuple[str, str], Finding]  # by capability and set


def find(
    decoder: Decoder,
    material: Material,
    written: Mapping[str, Sequence[ScoredUtterance]],
    padding: Padding,
    on_progress: Progress = lambda done: None,
) -> Findings:
    """All that a card asks of a model.

    Args:
        written: by set, what the model wrote of each utterance, as it was scored.

    Raises:
        BrokenModel: the model gives values that are not finite numbers.
    """
    done = 0

    def advance(windows: int) -> None:
        nonlocal done
        done += windows
        on_progress(min(done, material.windows))

    found: Findings = {}

    def note(name: str, findings: Mapping[str, Finding]) -> None:
        found.update({(key, name): finding for key, finding in findings.items()})

    asked = Questions(decoder, material, padding, advance)
    test = next(iter(material.sets))
    with decoder.inference():
        for name, clips in material.sets.items():
            note(name, asked.first_tokens(clips))
        note(test, asked.without_speech())
        if not material.is_brief:
            note(test, asked.long({row.row: row for row in written.get(test, ())}))
            note(test, asked.prompts())
            for name, clips in material.sets.items():
                note(name, asked.translations(clips))
    for name, rows in written.items():
        note(name, {WORDS: words_of(rows), **of_texts(rows)})
    return found


def find_or_reuse(
    model: str,
    decoder: Callable[[], Decoder],
    material: Material,
    written: Mapping[str, Sequence[ScoredUtterance]],
    settings: EvaluationConfig,
    title: str,
    reuse: bool = True,
) -> Findings:
    """The same with a progress bar, or what was found before.

    Args:
        model: names the model exactly, see `loading.identity`.
        decoder: called where something has to be decoded.
    """
    decoding = decoding_of(settings, material.seed) | {"card": material.is_brief}
    rows = repr([(name, [row.hypothesis for row in of]) for name, of in written.items()])
    decoding |= {"sets": list(material.sets), "written": hashlib.sha256(rows.encode()).hexdigest()}
    clips = [clip.utterance for clips in material.sets.values() for clip in clips]
    key = transcriptions_key(model, clips, decoding)
    if reuse and (known := read_kept(key, _from_json)) is not None:
        return known
    with work(title, material.windows) as bar:
        findings = find(decoder(), material, written, settings.padding, bar.update)
    keep(key, _to_json(findings))
    return findings


def _to_json(findings: Findings) -> list[list[Any]]:
    return [
        [*names, finding if isinstance(finding, str) else dataclasses.asdict(finding)]
        for names, finding in findings.items()
    ]


def _from_json(values: list[list[Any]]) -> Findings:
    return {
        (key, name): finding if isinstance(finding, str) else Counted(**finding)
        for key, name, finding in values
    }


# ── words, punctuation and capitals: of the texts as they are scored ─────────────────────────


def words_of(rows: Sequence[ScoredUtterance]) -> Counted:
    """The errors of a scored set."""
    errors, words = ([getattr(row, key) for row in rows] for key in ("errors", "reference_words"))
    return Counted(errors, words, [row.speaker for row in rows], "utterance")


def of_texts(rows: Sequence[ScoredUtterance]) -> dict[str, Finding]:
    """F1 of marks and of capitals; without either in the references, what a sentence looks like."""
    rows = [row for row in rows if row.reference.strip() and row.bad_audio is None]
    if not rows:
        return {"punctuation": NO_CLIPS}
    speakers = [row.speaker for row in rows]
    spellings = [(row.reference, row.reference.upper(), row.reference.lower()) for row in rows]
    is_cased = [upper != lower for _, upper, lower in spellings]
    mixed = [text not in (upper, lower) for text, upper, lower in spellings]
    found: dict[str, Finding] = {}
    if _share([bool(MARKS.search(row.reference)) for row in rows]) >= LEAST_WITH_MARKS:
        scores = [f1(*map(marks_of, (row.reference, row.hypothesis))) for row in rows]
        found["punctuation"] = Counted(scores, [1] * len(rows), speakers)
    if _share(mixed) >= LEAST_WITH_MARKS:
        scores = [f1(*map(capitals_of, (row.reference, row.hypothesis))) for row in rows]
        found["capitals"] = Counted(scores, [1] * len(rows), speakers)
    elif any(is_cased):
        sentences = [int(looks_like_a_sentence(row.hypothesis)) for row in rows]
        found["sentences"] = Counted(sentences, [1] * len(rows), speakers)
    return found or {"punctuation": "the references have neither marks nor capitals"}


def _share(holds: Sequence[bool]) -> float:
    return sum(holds) / len(holds)
